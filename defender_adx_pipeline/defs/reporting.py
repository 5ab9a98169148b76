"""What an attempt shows in Dagster: the audit row as an observation, the numbers as metadata.

Not here: the numbers themselves (`migration.audit`).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import dagster as dg

from defender_adx_pipeline.adx.kql import RECORDS
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, DefenderTable
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.audit import AuditRow, Tally
from defender_adx_pipeline.migration.health import lag_of
from defender_adx_pipeline.migration.plan import Plan
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline.settings import is_loopback

EventContext = dg.AssetExecutionContext | dg.OutputContext

COLUMNS = "columns"
"""Metadata of a materialization that has the columns of the table as they were then.

Not `dagster/column_schema`, which the definition has: of an asset with both, the page of Dagster 1.13 shows all names
in lower case (`buildConsolidatedColumnSchema`), and in KQL they are other names then.
"""

AuditMetadata = Mapping[str, dg.MetadataValue]

RAW_SCHEMA = dg.TableSchema(
    columns=[dg.TableColumn(RECORDS, "dynamic", "One record of Defender, whole, under Defender's column names.")]
)
"""The one column of every raw table."""


def observation(asset_key: dg.AssetKey, row: AuditRow, tally: Tally, partition: str | None) -> dg.AssetObservation:
    """The audit row, field by field, and the numbers behind it."""
    return dg.AssetObservation(
        asset_key=asset_key,
        partition=partition,
        description=f"{row.status}: {row.record_count} rows"
        + (f"; {row.failure_reason}" if row.failure_reason else ""),
        metadata={
            "TableName": row.table_name,
            "Timestamp": dg.MetadataValue.timestamp(row.timestamp),
            "Status": row.status,
            "FailureReason": dg.MetadataValue.text(row.failure_reason),
            "RecordCount": row.record_count,
            **numbers(tally),
        },
    )


def audited(seen: dg.AssetObservation) -> AuditRow:
    """The audit row that an observation of `observation` shows."""
    values = {name: value.value for name, value in seen.metadata.items()}
    return AuditRow(
        table_name=str(values["TableName"]),
        timestamp=datetime.fromtimestamp(float(str(values["Timestamp"])), UTC),
        status="Failed" if values["Status"] == "Failed" else "Skipped" if values["Status"] == "Skipped" else "Success",
        failure_reason=str(values["FailureReason"]),
        record_count=int(str(values["RecordCount"])),
    )


def numbers(tally: Tally) -> dict[str, dg.MetadataValue]:
    """The numbers of an attempt under the names that the UI plots: a name that changes begins a new plot."""
    window = str(tally.window) if tally.window else "none"
    behind = lag_of(tally.complete_until, utc_now())
    per_row = {} if not tally.received_rows else {"bytes_per_row": tally.bytes / tally.received_rows}
    lag = {} if behind is None else {"lag_seconds": behind.total_seconds()}
    return {
        "rows_loaded": dg.MetadataValue.int(tally.loaded_rows),
        "rows_expected": dg.MetadataValue.int(tally.expected_rows),
        "rows_received": dg.MetadataValue.int(tally.received_rows),
        "rows_queryable": dg.MetadataValue.int(tally.queryable_rows),
        "bytes": dg.MetadataValue.int(tally.bytes),
        "slices": dg.MetadataValue.int(tally.slices),
        "slices_resumed": dg.MetadataValue.int(tally.slices_resumed),
        "calls": dg.MetadataValue.int(tally.calls),
        "calls_repeated": dg.MetadataValue.int(tally.retries),
        "seconds": dg.MetadataValue.float(round(tally.seconds, 3)),
        "quota_wait_seconds": dg.MetadataValue.float(round(tally.quota_wait, 3)),
        **{name: dg.MetadataValue.float(round(value, 1)) for name, value in {**per_row, **lag}.items()},
        "window": dg.MetadataValue.text(window),
        "watermark": dg.MetadataValue.text(tally.watermark),
        **({"notes": dg.MetadataValue.text("; ".join(tally.notes))} if tally.notes else {}),
    }


def rows_query(plan: Plan, tally: Tally) -> str:
    """A query for some rows of what was loaded."""
    if plan.snapshot is not None:
        return f"Vw{plan.table}At(datetime({plan.snapshot.day})) | take 1000"
    query = f"['{plan.configuration.destination_table}']"
    if tally.window is not None:
        query += _within(f'todatetime(Records["{plan.configuration.table.time_column}"])', tally.window)
    return query


def typed_rows_query(table: DefenderTable, window: Window) -> str:
    """A query for some typed rows of a window; of a snapshot table for the published ones among its snapshots."""
    if table.kind == "snapshot":
        return f"{table.name}History{_within(SNAPSHOT_TIME, window)}"
    return f"{table.name}{_within(table.time_column or '', window)}"


def _within(field: str, window: Window) -> str:
    start, end = (bound.isoformat().replace("+00:00", "Z") for bound in (window.start, window.end))
    return f" | where {field} >= datetime({start}) and {field} < datetime({end}) | take 1000"


def web_ui_link(cluster_uri: str, database: str, query: str) -> str | None:
    """An address that opens a query in the ADX web UI ("Deep link" in the Kusto docs); None on loopback."""
    if is_loopback(urlsplit(cluster_uri).hostname or ""):
        return None
    host = cluster_uri.split("//", 1)[-1]
    return f"https://dataexplorer.azure.com/clusters/{host}/databases/{quote(database)}?query={quote(query)}"
