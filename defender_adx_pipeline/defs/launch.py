"""Real Dagster runs without the daemon: `python -m defender_adx_pipeline.defs.launch`, one JSON line per attempt.

Here: one run of a job over a range of partitions on the persistent instance of DAGSTER_HOME, and what came of it. It
is a process of its own, so that a caller needs no Dagster, can show progress, and can kill it. Not here: schedules.
"""

import argparse
import logging
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import orjson

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.defs.abandoned import Worker
from defender_adx_pipeline.defs.partitions import PARTITION, RANGE_END, RANGE_START
from defender_adx_pipeline.defs.tables import loaded_keys
from defender_adx_pipeline.defs.unaudited import settle_ended_runs
from defender_adx_pipeline.migration.connections import open_database
from defender_adx_pipeline.settings import load_settings

LAUNCH_TAG = "defender_adx/launch"
_POLL_SECONDS = 0.5
_LOG = logging.getLogger(__name__)


def event_tables() -> dg.JobDefinition:
    """The job, as each step's process builds it again."""
    from defender_adx_pipeline.definitions import defs  # noqa: PLC0415 - definitions loads this module

    return defs().resolve_job_def("event_tables")


def snapshot_tables() -> dg.JobDefinition:
    """The job of snapshot tables, likewise."""
    from defender_adx_pipeline.definitions import defs  # noqa: PLC0415 - definitions loads this module

    return defs().resolve_job_def("snapshot_tables")


def run(tables: Sequence[str], first: str, last: str, *, label: str, out: Any = sys.stdout.buffer) -> bool:
    """Run the raw and typed assets of some tables over a range of daily partitions, telling each attempt as it ends.

    Returns:
        Whether every step succeeded.

    Raises:
        ValueError: event tables and snapshot tables, which belong to different jobs.
    """
    catalogue = load_catalogue(load_settings().defender_tables_file)
    kinds = {catalogue[name].kind for name in tables}
    if len(kinds) != 1:
        raise ValueError(f"{label}: one run has either event tables or snapshot tables, not {len(kinds)} kinds")
    job = snapshot_tables if "snapshot" in kinds else event_tables
    launch = uuid.uuid4().hex[:8]
    _print(out, {"event": "run", "label": label, "tables": len(tables)})
    with dg.DagsterInstance.get() as instance:
        _settle(instance)
        # A range of one day is no partition to Dagster: a check's result would be of none.
        days = {PARTITION: first} if first == last else {RANGE_START: first, RANGE_END: last}
        tags = {**days, LAUNCH_TAG: launch, "defender_adx/label": label}
        done = threading.Event()
        teller = threading.Thread(target=_tell, args=(instance, launch, done, out), daemon=True)
        teller.start()
        try:
            result = dg.execute_job(
                dg.reconstructable(job),
                instance=instance,
                asset_selection=loaded_keys(catalogue[name] for name in tables),
                tags={**tags, **Worker.here().tags()},
                run_config={"loggers": {"console": {"config": {"log_level": "WARNING"}}}},
                raise_on_error=False,
            )
        finally:
            done.set()
            teller.join()
        if not result.success:
            _settle(instance)
        return result.success


def _settle(instance: dg.DagsterInstance) -> None:
    """What the sensor does where a daemon runs: end what was killed, and write the audit rows that it could not."""
    try:
        with open_database() as database:
            settle_ended_runs(instance, database.state, database.catalogue)
    except AdxError:
        _LOG.exception("the audit rows of runs that were killed could not be written; the next run tries again")


def _tell(instance: dg.DagsterInstance, launch: str, done: threading.Event, out: Any) -> None:
    """Print every observation and every failure of the run, while it goes on."""
    told = 0
    while True:
        last_look = done.wait(_POLL_SECONDS)
        lines = list(_attempts(instance, launch))
        for line in lines[told:]:
            _print(out, line)
        told = len(lines)
        if last_look:
            return


def _print(out: Any, line: dict[str, Any]) -> None:
    out.write(orjson.dumps(line) + b"\n")
    out.flush()


def _attempts(instance: dg.DagsterInstance, launch: str) -> Iterator[dict[str, Any]]:
    types = {dg.DagsterEventType.ASSET_OBSERVATION, dg.DagsterEventType.STEP_FAILURE}
    for run_ in instance.get_runs(filters=dg.RunsFilter(tags={LAUNCH_TAG: launch})):
        for entry in instance.all_logs(run_.run_id, of_type=types):
            event = entry.dagster_event
            if event is None:
                continue
            if event.event_type == dg.DagsterEventType.ASSET_OBSERVATION:
                seen = event.asset_observation_data.asset_observation
                values = {name: getattr(value, "value", None) for name, value in seen.metadata.items()}
                yield {"event": "attempt", "asset": seen.asset_key.to_user_string(), **values}
            else:
                error = event.step_failure_data.error
                yield {"event": "failure", "step": event.step_key, "error": error.message if error else ""}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when every step succeeded, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", required=True, help="first partition, YYYY-MM-DD")
    parser.add_argument("--last", required=True, help="last partition")
    parser.add_argument("runs", nargs="+", metavar="LABEL=TABLE,TABLE", help="one run after the other")
    chosen = parser.parse_args(arguments)
    ok = True
    for text in chosen.runs:
        label, _, tables = text.partition("=")
        ok = run(tables.split(","), chosen.first, chosen.last, label=label) and ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
