"""A slice: the unit that is read, loaded as one blob under one tag, and confirmed. Values only.

Not here: how slices are chosen (`planning`), read (`reading`) or recorded (`ledger`).
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

from defender_adx_pipeline.migration.windows import Window

SliceState = Literal["Planned", "Queued", "Confirmed", "Failed"]

OPEN_STATES: frozenset[str] = frozenset({"Planned", "Queued"})
"""States of a slice that the next run has to drive on."""

_NAMESPACE = uuid.UUID("5f0c1c3e-6a57-4a0e-9c55-2f3f7f1d6a11")


class Bucket(NamedTuple):
    """The rows whose hash gives `number` modulo `of`: number and count, as ledger and queries have them."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"bucket {self.number} of {self.of}"

    def halves(self) -> "tuple[Bucket, Bucket]":
        """Two buckets that share its rows out between them: h mod T == n is h mod 2T == n or n + T, and never both."""
        return Bucket(self.number, 2 * self.of), Bucket(self.number + self.of, 2 * self.of)


@dataclass(frozen=True, slots=True)
class Slice:
    """A window of one table, or one bucket of a window, that becomes one blob.

    The id is the blob's `ingest-by:` tag and its `ingestIfNotExists` value, so ADX takes it once, however often it is
    sent. Whatever a slice is sent with, its bounds stay those it was planned with.
    """

    slice_id: str
    source_table: str
    destination_table: str
    window: Window
    expected_rows: int
    """Rows that Defender counted in it minus those that ADX had, when the slice was planned."""
    state: SliceState = "Planned"
    received_rows: int = 0
    bytes: int = 0
    attempt: int = 1
    bucket: Bucket | None = None
    """Which of the window's rows; None for all of them."""
    source_rows: int = 0
    """Rows that reading it is expected to give, as last counted: a guess for one that the ledger gave back."""

    def __str__(self) -> str:
        return f"{self.window}" if self.bucket is None else f"{self.window} {self.bucket}"

    def overlaps(self, other: "Slice") -> bool:
        """Whether a row could be in both.

        Buckets of one window are disjoint when the window was split into equally many; otherwise they may share rows.
        """
        if not self.window.overlaps(other.window):
            return False
        if self.bucket is None or other.bucket is None or self.window != other.window:
            return True
        return self.bucket.of != other.bucket.of or self.bucket.number == other.bucket.number

    def planned_again(self) -> Self:
        """The same slice for another attempt."""
        return replace(self, attempt=self.attempt + 1)


def slice_id(
    *,
    source_table: str,
    destination_table: str,
    window: Window,
    destination_rows: int,
    generation: int = 0,
    bucket: Bucket | None = None,
) -> str:
    """The id of a slice: 32 hexadecimal digits, one term for Kusto's `has`.

    It is made from what the planner saw and nothing else, so that two runs that see the same state make the same id and
    ADX takes only one of their blobs. `destination_rows`, the rows that ADX already had in the window, tells a later
    slice with late rows from the first one over the same window. `generation` tells slices apart where even that is
    equal: the ledger already has this id as confirmed, but the rows are gone.
    """
    bounds = f"{window.start.isoformat()}/{window.end.isoformat()}"
    name = f"{source_table}/{destination_table}/{bounds}/{destination_rows}/{generation}"
    if bucket is not None:
        # Only then: the ids of whole windows stay as databases have them.
        name += f"/{bucket.number}/{bucket.of}"
    return uuid.uuid5(_NAMESPACE, name).hex


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that ADX cannot hold, by its identity; the record itself stays in Defender alone."""

    slice: Slice
    identity: Mapping[str, Any]
    size: int
    """Bytes of its JSON."""
    reason: str
