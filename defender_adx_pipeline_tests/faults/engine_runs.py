"""The engine alone as a pipeline of the bench: what Dagster's assets and IO manager drive, without Dagster.

Here: one run of some tables in this process, and the same as a process of its own, for runs that are killed or go on
at the same time: `python -m defender_adx_pipeline_tests.faults.engine_runs DAY TABLE ...`.
"""

import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.connections import open_engine
from defender_adx_pipeline.migration.errors import MigrationError
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.windows import Window

if TYPE_CHECKING:
    from defender_adx_pipeline_tests.faults.bench import Bench

RUN_SECONDS = 90.0


def engine_run(
    bench: "Bench", tables: Sequence[str], first: str, last: str, tags: Mapping[str, str]
) -> tuple[bool, str]:
    """One attempt at each table in this process."""
    del tags
    bench.snapshots.attempts += len(tables)
    failures = sync_all(tables, first, last)
    return not failures, "\n".join(failures)


def launched_run(
    bench: "Bench", tables: Sequence[str], first: str, last: str, tags: Mapping[str, str]
) -> tuple[bool, str]:
    """One attempt at each table in a process of its own."""
    del tags
    bench.snapshots.attempts += len(tables)
    with launched(tables, first, last) as process:
        said, _ = process.communicate(timeout=RUN_SECONDS)
    return process.returncode == 0, said[-2000:]


@contextmanager
def launched(tables: Sequence[str], first: str, last: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the engine; it is over afterwards."""
    command = [sys.executable, "-m", __name__, first, last, *tables]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def sync_all(tables: Sequence[str], first: str, last: str) -> list[str]:
    """Bring some tables up to Defender for a range of days.

    Returns:
        What failed.
    """
    run, failures = uuid.uuid4().hex, []
    start = datetime.fromisoformat(first).replace(tzinfo=UTC)
    window = Window(start, datetime.fromisoformat(last).replace(tzinfo=UTC) + timedelta(days=1))
    with open_engine() as engine:
        for table in tables:
            try:
                engine.sync(Asked(table, RunIdentity(run, first), window))
            except (MigrationError, HuntingError, AdxError) as error:
                failures.append("\n".join((f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ()))))
    return failures


if __name__ == "__main__":
    FAILURES = sync_all(sys.argv[3:], *sys.argv[1:3])
    sys.stdout.write("\n".join(FAILURES))
    sys.exit(1 if FAILURES else 0)
