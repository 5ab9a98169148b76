"""Rows of MigrationLedger: what was planned, queued and confirmed. Values and how they follow from each other.

Not here: reading and writing rows (`state`). Kinds of row: `Slice` for each state of a slice, and `Window` when a whole
window was found equal on both sides; the union of those is the table's coverage. `Snapshot` is told in `snapshots`.
`Calls` only says what an attempt has cost beyond what its other rows count.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from defender_adx_pipeline.instants import parse_instant, to_text
from defender_adx_pipeline.migration.slices import Bucket, Slice, SliceState
from defender_adx_pipeline.migration.windows import Window

_WINDOWS = uuid.UUID("b3f7f1d6-a115-4f0c-9c3e-6a574a0e9c55")

ALL_TABLES = "*"
"""The SourceTable of calls that ask about several tables at once."""


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Which run and partition an attempt belongs to, as the ledger names them."""

    run_id: str
    partition_key: str


def slice_row(item: Slice, run: RunIdentity, *, state: SliceState, now: datetime, **facts: Any) -> dict[str, Any]:
    """A ledger row for one state of a slice; `facts` are further columns by name."""
    return {
        "RunId": run.run_id,
        "PartitionKey": run.partition_key,
        "SourceTable": item.source_table,
        "DestinationTable": item.destination_table,
        "SliceId": item.slice_id,
        "Kind": "Slice",
        "WindowStart": to_text(item.window.start),
        "WindowEnd": to_text(item.window.end),
        "Bucket": item.bucket.number if item.bucket else None,
        "Buckets": item.bucket.of if item.bucket else None,
        "State": state,
        "ExpectedRows": item.expected_rows,
        "ReceivedRows": item.received_rows,
        "Bytes": item.bytes,
        "Attempt": item.attempt,
        "RecordedAt": to_text(now),
        **facts,
    }


def window_row(
    run: RunIdentity,
    *,
    source_table: str,
    destination_table: str,
    window: Window,
    source_rows: int,
    received_rows: int,
    destination_rows: int,
    now: datetime,
    **costs: Any,
) -> dict[str, Any]:
    """A ledger row that says: this whole window is in ADX. Empty windows have one, too.

    `costs` are `Calls` and `QuotaWaitSeconds`, where the window took any.
    """
    bounds = f"{window.start.isoformat()}/{window.end.isoformat()}"
    return {
        "RunId": run.run_id,
        "PartitionKey": run.partition_key,
        "SourceTable": source_table,
        "DestinationTable": destination_table,
        "SliceId": uuid.uuid5(_WINDOWS, f"{source_table}/{destination_table}/{bounds}").hex,
        "Kind": "Window",
        "WindowStart": to_text(window.start),
        "WindowEnd": to_text(window.end),
        "State": "Confirmed",
        "ExpectedRows": source_rows,
        "ReceivedRows": received_rows,
        "QueryableRows": destination_rows,
        "RecordedAt": to_text(now),
        **costs,
    }


def calls_row(
    run: RunIdentity, *, source_table: str, state: Literal["Confirmed", "Failed"], now: datetime, **costs: Any
) -> dict[str, Any]:
    """A ledger row for hunting calls that no window or snapshot counts: of a failed attempt, or of a probe."""
    return {
        "RunId": run.run_id,
        "PartitionKey": run.partition_key,
        "SourceTable": source_table,
        "SliceId": uuid.uuid4().hex,
        "Kind": "Calls",
        "State": state,
        "RecordedAt": to_text(now),
        **costs,
    }


def slice_from_row(row: Mapping[str, Any]) -> Slice:
    """A slice as the ledger last recorded it; the row's times are text (`tostring`)."""
    buckets = row.get("Buckets")
    return Slice(
        slice_id=row["SliceId"],
        source_table=row["SourceTable"],
        destination_table=row["DestinationTable"],
        window=window_of_row(row),
        expected_rows=int(row["ExpectedRows"] or 0),
        state=row["State"],
        received_rows=int(row["ReceivedRows"] or 0),
        bytes=int(row["Bytes"] or 0),
        attempt=int(row["Attempt"] or 1),
        bucket=Bucket(int(row["Bucket"] or 0), int(buckets)) if buckets else None,
        source_rows=int(row["ExpectedRows"] or 0),
    )


def window_of_row(row: Mapping[str, Any]) -> Window:
    """The window of a ledger row."""
    return Window(parse_instant(row["WindowStart"]), parse_instant(row["WindowEnd"]))
