"""A snapshot: the state of one table at one moment, as a value, and what its counts say of it. Pure functions.

Here: its identity, its buckets, its ledger rows, and the verdict over the counts before and after it was read. Not
here: asking for those (`snapshot_planner`) and the steps from counting to publishing (`snapshot_attempt`).

A snapshot is read in disjoint buckets, one after the other, while the table may change. A row stays in its bucket, so
none can be missed or doubled by moving; but one that comes or goes between two counts is drift, and is told.
"""

import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from defender_adx_pipeline.catalogue import Column
from defender_adx_pipeline.instants import MICROSECOND, parse_instant, to_text
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.slices import Bucket, Slice
from defender_adx_pipeline.migration.windows import Window

SnapshotState = Literal["Planned", "Published", "Failed"]

RESUMED_WITHIN = timedelta(hours=2)
"""How old a snapshot may be and still be gone on with. Defender refreshes most of these tables once or several times a
day: buckets from before and after that, with equal counts, would look like one state."""

MOST_DRIFT = 0.25
"""The part of a table that may come or go while it is read. More is a table that is emptied or filled anew just then:
its counts would explain whatever was read of it, also a half."""

_NAMESPACE = uuid.UUID("8d1f0c3e-2a57-4a0e-9c55-7f3f7f1d6a22")

_PUNCTUATION = 6
"""Characters of JSON around the name and the value of a field: four quotation marks, colon, comma."""
_BOOLEAN_SIDECAR = len('"@odata.type":"#SByte",')
"""Graph tells the type of a boolean beside it, in a field of its own."""
_SNAPSHOT_FIELD = len('"SnapshotTime":"2026-01-01T00:00:00.0000000Z",')


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of one table at one moment."""

    source_table: str
    destination_table: str
    taken_at: datetime
    """Its SnapshotTime, which every row of it carries: UTC, a whole microsecond."""
    key: tuple[str, ...]
    """The columns that place a row in its bucket."""
    buckets: int
    expected_rows: int
    """Rows that Defender counted before it was read."""
    content: str = ""
    """Of one that is read in pages by row number: what the pages held when they were counted."""
    attempt: int = 1
    """How often a run has taken it up."""

    @property
    def snapshot_id(self) -> str:
        """32 hexadecimal digits. Other buckets or pages, or pages of other rows, would be another snapshot."""
        name = f"{self.source_table}/{self.destination_table}/{self.taken_at.isoformat()}/{self.buckets}"
        return uuid.uuid5(_NAMESPACE, "/".join((name, *self.key, *filter(None, (self.content,))))).hex

    @property
    def day(self) -> str:
        """Its UTC day, which is its partition."""
        return self.taken_at.date().isoformat()

    @property
    def window(self) -> Window:
        """Its moment, as ledger and slices have it."""
        return Window(self.taken_at, self.taken_at + MICROSECOND)

    def __str__(self) -> str:
        return f"{self.source_table} {self.day}, snapshot of {to_text(self.taken_at)}"

    def taken_up_again(self, attempt: int) -> Self:
        """The same snapshot for another run."""
        return replace(self, attempt=attempt)

    def slices(self, rows: Mapping[int, int]) -> tuple[Slice, ...]:
        """A slice for every bucket with rows, in their order.

        Args:
            rows: what Defender counted, by bucket; all are in bucket 0 of one.
        """
        return tuple(
            Slice(
                slice_id=uuid.uuid5(_NAMESPACE, f"{self.snapshot_id}/{number}").hex,
                source_table=self.source_table,
                destination_table=self.destination_table,
                window=self.window,
                expected_rows=rows[number],
                bucket=Bucket(number, self.buckets) if self.buckets > 1 else None,
                source_rows=rows[number],
            )
            for number in sorted(rows)
            if rows[number]
        )


def snapshot_row(
    snapshot: Snapshot, run: RunIdentity, *, state: SnapshotState, now: datetime, **facts: Any
) -> dict[str, Any]:
    """A ledger row for one state of a snapshot; `facts` are further columns by name.

    Of a published one, `Bytes` is about what its rows took in Defender's answers: the next one is cut by it.
    """
    return {
        "RunId": run.run_id,
        "PartitionKey": snapshot.day,
        "SourceTable": snapshot.source_table,
        "DestinationTable": snapshot.destination_table,
        "SliceId": snapshot.snapshot_id,
        "Kind": "Snapshot",
        "WindowStart": to_text(snapshot.window.start),
        "WindowEnd": to_text(snapshot.window.end),
        "Buckets": snapshot.buckets,
        "State": state,
        "ExpectedRows": snapshot.expected_rows,
        "Attempt": snapshot.attempt,
        "RecordedAt": to_text(now),
        **facts,
    }


def snapshot_from_row(row: Mapping[str, Any], key: Sequence[str]) -> Snapshot:
    """A snapshot as the ledger has it, if its buckets were made by this key; else one with another id."""
    return Snapshot(
        source_table=row["SourceTable"],
        destination_table=row["DestinationTable"],
        taken_at=parse_instant(row["WindowStart"]),
        key=tuple(key),
        buckets=int(row["Buckets"] or 1),
        expected_rows=int(row["ExpectedRows"] or 0),
        attempt=int(row["Attempt"] or 1),
    )


def row_bytes(columns: Iterable[Column], text_length: float) -> float:
    """About what a row takes in an answer.

    Args:
        columns: those that the answer has.
        text_length: the mean length of its values, as `hunting.table_size` measures it.
    """
    names = 0
    for column in columns:
        names += len(column.name) + _PUNCTUATION
        if column.type == "bool":
            names += len(column.name) + _BOOLEAN_SIDECAR
    return text_length + names + _SNAPSHOT_FIELD


def choose_buckets(rows: int, *, most_rows: int, most_bytes: int, bytes_per_row: float) -> int:
    """How many buckets a table is read in; at least one.

    Args:
        rows: what the table has.
        most_rows: what a bucket should have at most.
        most_bytes: what the answer with a bucket should have at most.
        bytes_per_row: what a row takes in it.
    """
    fitting = min(float(most_rows), most_bytes / max(bytes_per_row, 1.0))
    return max(1, math.ceil(rows / max(1.0, fitting)))


def fitting_rows(*, most_rows: int, most_bytes: int, bytes_per_row: float) -> int:
    """How many rows a page has at most; at least one. Arguments as for `choose_buckets`."""
    return max(1, math.floor(min(float(most_rows), most_bytes / max(bytes_per_row, 1.0))))


@dataclass(frozen=True, slots=True)
class BucketCounts:
    """One bucket as it was counted before, read, and counted after."""

    bucket: int
    before: int
    received: int
    after: int

    @property
    def drifted(self) -> bool:
        """Whether its rows changed in number meanwhile."""
        return not self.before == self.received == self.after

    @property
    def is_explained(self) -> bool:
        """Whether coming and going rows explain what was received: it lies between the two counts."""
        return min(self.before, self.after) <= self.received <= max(self.before, self.after)

    def __str__(self) -> str:
        return f"bucket {self.bucket}: {self.before} before, {self.received} read, {self.after} after"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the counts say of a snapshot that was read."""

    counts: tuple[BucketCounts, ...]

    @property
    def received(self) -> int:
        """Rows read."""
        return sum(item.received for item in self.counts)

    @property
    def after(self) -> int:
        """Rows that Defender counted after it was read."""
        return sum(item.after for item in self.counts)

    @property
    def drifted(self) -> tuple[BucketCounts, ...]:
        """Buckets whose rows changed in number while the snapshot was taken."""
        return tuple(item for item in self.counts if item.drifted)

    @property
    def unexplained(self) -> tuple[BucketCounts, ...]:
        """Buckets of which other rows were received than coming and going ones explain."""
        return tuple(item for item in self.counts if not item.is_explained)

    @property
    def is_rewritten(self) -> bool:
        """Whether so many rows came or went that what was read is no state of the table."""
        moved = sum(abs(item.after - item.before) for item in self.counts)
        return moved > MOST_DRIFT * sum(item.before for item in self.counts)

    def drift(self) -> str:
        """The drift in words; empty without any."""
        drifted = self.drifted
        if not drifted:
            return ""
        before = sum(item.before for item in self.counts)
        shown = "; ".join(map(str, drifted[:5])) + (f"; and {len(drifted) - 5} more" if len(drifted) > 5 else "")
        return (
            f"the table changed while it was read: {before} rows before, {self.received} read, {self.after} after;"
            f" {len(drifted)} of {len(self.counts)} buckets differ ({shown})"
        )


def judge(before: Mapping[int, int], received: Mapping[int, int], after: Mapping[int, int]) -> Verdict:
    """The verdict over every bucket that has rows in any of the three."""
    numbers = sorted({*before, *received, *after})
    return Verdict(
        tuple(
            BucketCounts(number, before.get(number, 0), received.get(number, 0), after.get(number, 0))
            for number in numbers
        )
    )
