"""Whether the audit log adds up after killed runs: what Dagster knows of them against it. For `kills`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from defender_adx_pipeline.adx.state_kql import AUDIT
from defender_adx_pipeline.defs.assets import raw_key
from defender_adx_pipeline.migration.audit import audit_id
from defender_adx_pipeline.migration.connections import Database

BEGAN, SUCCEEDED = dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS


def audit_rows(database: Database, table: str) -> list[dict[str, Any]]:
    """The audit rows of a table, the oldest first."""
    return [row for row in database.adx.query(f"{AUDIT} | order by Timestamp asc") if row["TableName"] == table]


def runs_of(instance: dg.DagsterInstance, label: str) -> Sequence[dg.DagsterRun]:
    """The runs that were launched with a label."""
    return instance.get_runs(filters=dg.RunsFilter(tags={"defender_adx/label": label}))


def objections(
    instance: dg.DagsterInstance, database: Database, label: str, rows_there: Mapping[str, int]
) -> Iterator[str]:
    """What does not add up after all runs of a label have ended.

    One audit row and one observation for each run in which the table's step began, under the name of that attempt, and
    none besides; `Success` for each step that succeeded; and together the rows that ADX has.

    Args:
        instance: Dagster's records; no other runs of the tables since the audit log was emptied.
        database: the audit log.
        label: of the runs.
        rows_there: rows in ADX by table.
    """
    runs = runs_of(instance, label)
    for run in runs:
        if not run.is_finished:
            yield f"run {run.run_id} is {run.status.value} although its process is gone"
    events = {run.run_id: instance.all_logs(run.run_id, of_type={BEGAN, SUCCEEDED}) for run in runs}
    for table, there in rows_there.items():
        key = raw_key(database.catalogue[table])
        step = key.to_python_identifier()
        seen = {
            run_id: {entry.dagster_event_type for entry in entries if entry.step_key == step}
            for run_id, entries in events.items()
        }
        began = [run_id for run_id, types in seen.items() if BEGAN in types]
        succeeded = sum(SUCCEEDED in types for types in seen.values())
        rows = audit_rows(database, table)
        statuses = [row["Status"] for row in rows]
        if len(rows) != len(began):
            yield f"{table}: {len(began)} attempts have the audit rows {statuses}"
        nameless = [run_id for run_id in began if not database.state.has_audit(audit_id(run_id, table))]
        if nameless:
            yield f"{table}: no audit row of the attempts of {', '.join(nameless)}"
        if statuses.count("Success") < succeeded:
            yield f"{table}: {succeeded} attempts succeeded, and the audit rows are {statuses}"
        loaded = sum(row["RecordCount"] for row in rows)
        if loaded != there:
            counts = [(row["Status"], row["RecordCount"]) for row in rows]
            yield f"{table}: ADX has {there} rows, and the audit rows say {loaded}: {counts}"
        yield from _unobserved(instance, key, rows)


def _unobserved(instance: dg.DagsterInstance, key: dg.AssetKey, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    records = instance.fetch_observations(key, limit=1000).records
    fields = ("Status", "RecordCount", "FailureReason")
    observed = Counter(
        tuple(record.asset_observation.metadata[field].value for field in fields)
        for record in records
        if record.asset_observation
    )
    audited = Counter(tuple(row[field] for field in fields) for row in rows)
    for status, count, reason in (audited - observed).elements():
        yield f"{key.to_user_string()}: not observed: {status}, {count} rows: {reason}"
    for status, count, reason in (observed - audited).elements():
        yield f"{key.to_user_string()}: observed, but not in the audit log: {status}, {count} rows: {reason}"


def forget(instance: dg.DagsterInstance, label: str, database: Database, tables: Sequence[str]) -> None:
    """Remove the runs of a label, and the observations of the tables, from Dagster's records."""
    for run in runs_of(instance, label):
        instance.delete_run(run.run_id)
    instance.wipe_assets([raw_key(database.catalogue[table]) for table in tables])
