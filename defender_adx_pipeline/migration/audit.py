"""One row of MigrationAuditLog for every attempt, also when it fails.

Here: the row and the numbers of an attempt. Not here: writing it (`state`) and showing it in Dagster (`defs`).
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from defender_adx_pipeline.instants import parse_instant, to_text
from defender_adx_pipeline.migration.windows import Window

AuditStatus = Literal["Success", "Failed", "Skipped"]

_ATTEMPTS = uuid.UUID("0f7f3c8e-6d0b-4c53-9b8e-5b1f0e0f4a7d")

_REASON_LIMIT = 8_000
"""Characters of a reason that are kept: enough for a list of windows, far below Kusto's 1 MB for a string."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One attempt, in the columns of `MigrationAuditLog`."""

    table_name: str
    timestamp: datetime
    status: AuditStatus
    failure_reason: str
    record_count: int
    """Rows that this attempt brought into ADX and saw confirmed."""

    def columns(self) -> dict[str, Any]:
        """The row by column name."""
        return {
            "TableName": self.table_name,
            "Timestamp": to_text(self.timestamp),
            "Status": self.status,
            "FailureReason": _writable(self.failure_reason[:_REASON_LIMIT]),
            "RecordCount": self.record_count,
        }


def audit_from_row(row: Mapping[str, Any]) -> AuditRow:
    """A row of `MigrationAuditLog` as a value."""
    return AuditRow(
        table_name=row["TableName"],
        timestamp=parse_instant(row["Timestamp"]),
        status=row["Status"],
        failure_reason=row["FailureReason"] or "",
        record_count=int(row["RecordCount"] or 0),
    )


def audit_id(run_id: str, source_table: str, tries: int = 1) -> str:
    """The name of the one audit row of an attempt: whoever knows the run can tell it, and write the row once.

    Args:
        run_id: the run.
        source_table: the Defender table.
        tries: how often the run has begun with the table, this time included.
    """
    return uuid.uuid5(_ATTEMPTS, f"{run_id}/{source_table}/{tries}").hex


def _writable(text: str) -> str:
    """The text without lone surrogates, which UTF-8 cannot carry: a message may have been cut inside a pair."""
    return text.encode(errors="replace").decode()


@dataclass(frozen=True, slots=True)
class RunSlices:
    """What the ledger has of the slices of one table that a run worked on."""

    slices: int
    confirmed: int
    rows: int
    """Rows of the confirmed ones."""
    window: Window | None
    """From the first slice's start to the last one's end; None without a slice."""


@dataclass(slots=True)
class Tally:
    """The numbers of an attempt while it runs."""

    expected_rows: int = 0
    """Rows of the window in Defender, as last counted."""
    received_rows: int = 0
    """Rows that were read from Defender for loading."""
    loaded_rows: int = 0
    """Rows of slices that this attempt saw confirmed, those that an earlier one had queued among them."""
    queryable_rows: int = 0
    """Rows of the window in ADX, as last counted."""
    bytes: int = 0
    """Uncompressed bytes of the blobs that were queued."""
    slices: int = 0
    slices_resumed: int = 0
    """Of these, the ones that an earlier attempt had planned."""
    window: Window | None = None
    calls: int = 0
    retries: int = 0
    answer_bytes: int = 0
    quota_wait: float = 0.0
    """Seconds."""
    calls_recorded: int = 0
    """Of the calls, those that a row of the ledger counts."""
    quota_wait_recorded: float = 0.0
    """Of the seconds, those that a row of the ledger counts."""
    seconds: float = 0.0
    watermark: str = ""
    complete_until: datetime | None = None
    """Up to where the table is complete, by what the attempt knew last; None where it is complete up to nowhere."""
    notes: list[str] = field(default_factory=list)
    """What somebody should know of an attempt that is no failure: a window that Defender no longer has in full, say."""
    rows_by_day: Mapping[str, int] = field(default_factory=dict)
    """Rows in ADX by UTC day, where the attempt counted them."""
    error: BaseException | None = None
    """What the attempt failed with."""

    def unrecorded(self) -> dict[str, Any]:
        """What no row of the ledger counts yet, as its columns `Calls` and `QuotaWaitSeconds`."""
        waited = max(self.quota_wait - self.quota_wait_recorded, 0.0)
        return {"Calls": self.calls - self.calls_recorded, "QuotaWaitSeconds": round(waited, 3)}

    def record(self, costs: Mapping[str, Any]) -> None:
        """Note that a row of the ledger has these costs."""
        self.calls_recorded += int(costs["Calls"])
        self.quota_wait_recorded += float(costs["QuotaWaitSeconds"])
