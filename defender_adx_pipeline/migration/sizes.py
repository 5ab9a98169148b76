"""How many rows of a table fit into one answer of Defender, learned while a run reads.

Here: what answers and refusals teach, for the rest of the run. Not here: cutting slices (`planning`, which the next
round's slices come from) and reading them in parts (`reading`). Slices that the ledger has keep their bounds for ever;
what is learned changes only in how many answers they are read.

The ceilings: 100,000 rows in all APIs, and about 50 MB ("Microsoft Graph security API overview"; the true byte limit of
Graph has been seen by nobody, so the service's own refusals count more than the number).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from defender_adx_pipeline.defender.client import ROW_CAP, HuntingClient

ANSWER_BYTES = 50_000_000
MARGIN = 0.8
"""Part of the ceiling that a part of a slice is cut for: rows of one table differ in size."""

SMALL = 1_000
"""A part with so few rows is asked for whatever was refused before.

No hunting row reaches 50 KB on average, so that a refusal of fewer rows was not about their number: a gateway that
fails for a moment answers like one that meets too large an answer. Remembering it would cut everything into crumbs.
"""

_TELLING = 20
"""Rows that an answer needs to teach the size of a row; below, its schema weighs more than they do."""
_FADING = 0.5
"""What earlier answers still count when the next one comes: the size of rows drifts with the hours of the day."""


class TableSizes:
    """What is known of one table.

    Args:
        rows: what a slice of it has at most.
        answer_bytes: the ceiling of an answer.
        small: rows that are asked for whatever was refused.
        margin: part of the ceiling that may be asked for.
    """

    def __init__(
        self, *, rows: int, answer_bytes: int = ANSWER_BYTES, small: int = SMALL, margin: float = MARGIN
    ) -> None:
        self._slice_rows = rows
        self._answer_bytes = answer_bytes
        self._small = small
        self._margin = margin
        self._rows = 0.0
        self._bytes = 0.0
        self._limit = float("inf")
        self._cap = ROW_CAP

    @property
    def bytes_per_row(self) -> float | None:
        """Of answers, the latest counting most; None until one has told."""
        return self._bytes / self._rows if self._rows else None

    @property
    def most_rows(self) -> int:
        """The most rows that should be asked for at once; at least one."""
        most = min(self._limit, self._cap - 1)
        if self._rows:
            most = min(most, self._margin * self._answer_bytes * self._rows / self._bytes)
        return max(1, math.floor(most))

    def fits(self, rows: int) -> bool:
        """Whether so many rows may be asked for at once."""
        return rows <= self.most_rows

    def answered(self, rows: int, size: int) -> None:
        """An answer came: its rows, and its bytes uncompressed."""
        if rows >= _TELLING:
            self._rows = self._rows * _FADING + rows
            self._bytes = self._bytes * _FADING + size

    def truncated(self, rows: int) -> None:
        """An answer was as long as answers can be."""
        self._cap = max(1, min(self._cap, rows))

    def refused(self, rows: int) -> None:
        """So many rows were refused as too large: from now on, at most half of them are asked for."""
        if rows > self._small:
            self._lower(rows / 2)

    def preempted(self) -> None:
        """The tenant's share of CPU was spent on our account: from now on, half of what was asked for before."""
        self._lower(min(self.most_rows, self._slice_rows) / 2)

    @contextmanager
    def watching(self, client: HuntingClient) -> Iterator[None]:
        """Learn from calls that are refused for CPU; the client waits and asks again by itself."""
        before = client.usage.preempted
        try:
            yield
        finally:
            if client.usage.preempted > before:
                self.preempted()

    def _lower(self, limit: float) -> None:
        self._limit = min(self._limit, max(limit, self._small))


class Sizes:
    """What one process step has learned, table by table.

    Args:
        rows: what a slice has at most.
        answer_bytes: the ceiling of an answer.
        small: rows that are asked for whatever was refused.
        margin: part of the ceiling that may be asked for.
    """

    def __init__(
        self,
        *,
        rows: int = ROW_CAP,
        answer_bytes: int = ANSWER_BYTES,
        small: int = SMALL,
        margin: float = MARGIN,
    ) -> None:
        self._new = partial(TableSizes, rows=rows, answer_bytes=answer_bytes, small=small, margin=margin)
        self._tables: dict[str, TableSizes] = {}

    def of(self, table: str) -> TableSizes:
        """What is known of a table."""
        if table not in self._tables:
            self._tables[table] = self._new()
        return self._tables[table]
