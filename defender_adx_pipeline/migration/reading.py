"""Reading a slice from Defender, in as many answers as it takes.

A slice is one blob; an answer is one call. Where a slice is or turns out larger than one answer may be, it is halved,
by time down to a microsecond and then by hash, and read in parts that still go into the same blob, so that a slice's
bounds and its tag never change. Not here: what fits (`sizes`), and cutting windows into slices (`planning`).

The calls are bounded. A part is asked for once; halves of a refused part are other queries. Parts of one depth are
disjoint, and one that is refused holds more than an answer may, so at most rows / answer of them are refused at each
depth; each refusal leads to two parts more. Depths: 31 halvings make an hour a microsecond, and `DOUBLINGS` follow.
A page of a table without a key is halved by row number instead, down to a row.
Parts that are split without asking have half the expected rows each, so they come to what fits in a few steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.defender.errors import QueryContext, TooLargeError
from defender_adx_pipeline.defender.wire import Answer
from defender_adx_pipeline.migration.errors import UnsplittableError
from defender_adx_pipeline.migration.paging import Pages, Span
from defender_adx_pipeline.migration.sizes import TableSizes
from defender_adx_pipeline.migration.slices import Bucket, Slice
from defender_adx_pipeline.migration.windows import Window

DOUBLINGS = 16
"""How often a microsecond of a slice is halved by hash. 65,536 parts would hold 6.5 billion rows: what is still too
large then are rows that share one identity, which no number of buckets sets apart."""


@dataclass(slots=True)
class _Part:
    """A part of a slice, and what is known of it."""

    window: Window
    bucket: Bucket | None
    rows: int
    """Expected ones."""
    doublings: int = 0
    whole: "_Part | None" = None
    """What it is a half of."""
    cause: TooLargeError | None = None
    """Why it was split, where Defender refused it."""
    span: Span | None = None
    """Which rows by number, where the table is read so."""
    received: int = 0
    is_split: bool = False

    def __str__(self) -> str:
        if self.span is not None:
            return f"{self.window} {self.span}"
        return f"{self.window}" if self.bucket is None else f"{self.window} {self.bucket}"

    @property
    def expected(self) -> int:
        """Rows to be expected now: no more than the other half has left over, once that was read."""
        if self.whole is None:
            return self.rows
        return min(self.rows, max(0, self.whole.rows - self.whole.received))

    @property
    def can_be_split(self) -> bool:
        if self.span is not None:
            return self.span.halves() is not None
        return self.doublings < DOUBLINGS or self.window.halves() is not None

    def halves(self) -> "tuple[_Part, _Part]":
        """Two parts that share its rows out between them."""
        self.is_split = True
        spans = self.span.halves() if self.span else None
        if spans is not None:
            first, second = (_Part(self.window, self.bucket, span.rows, whole=self, span=span) for span in spans)
            return first, second
        # Their best guess is half: which half has more, only its answer tells.
        rows = (self.expected + 1) // 2
        windows = self.window.halves()
        if windows is not None:
            one, two = windows
            return _Part(one, self.bucket, rows, whole=self), _Part(two, self.bucket, rows, whole=self)
        low, high = (self.bucket or Bucket(0, 1)).halves()
        deeper = self.doublings + 1
        return _Part(self.window, low, rows, deeper, self), _Part(self.window, high, rows, deeper, self)

    def receive(self, rows: int) -> None:
        """Count rows in, here and in all that it is a part of."""
        part: _Part | None = self
        while part is not None:
            part.received += rows
            part = part.whole


class SliceReader:
    """Reads slices of one table as records.

    Args:
        client: the hunting client.
        table: the table.
        dynamic_columns: columns of KQL type dynamic, asked for as text so that no layer in between alters them.
        key: columns that place a row in its bucket, where a microsecond has to be split.
        sizes: what is known of the table; learns from every answer.
        taken_at: of a snapshot, whose slices are buckets of the table as it is; None for rows by their time.
        pages: of a snapshot that is read by row number, what its slices are.
    """

    def __init__(
        self,
        client: HuntingClient,
        table: DefenderTable,
        *,
        dynamic_columns: Sequence[str],
        key: Sequence[str],
        sizes: TableSizes,
        taken_at: datetime | None = None,
        pages: Pages | None = None,
    ) -> None:
        self._client = client
        self._table = table
        self._dynamic = tuple(dynamic_columns)
        self._key = tuple(key)
        self._sizes = sizes
        self._taken_at = taken_at
        self._pages = pages

    def records(self, item: Slice) -> Iterator[dict[str, Any]]:
        """Every record of the slice, once, in no particular order. One answer is held at a time.

        Raises:
            UnsplittableError: more rows of one identity at one microsecond than an answer may hold.
            TableChangedError: after the last record of a page, when it is not what was counted.
            HuntingError: Defender refused or failed, after the client's own tries.
        """
        if self._pages is None:
            yield from self._read(_Part(item.window, item.bucket, item.source_rows))
        else:
            span = self._pages.span(item)
            yield from self._pages.verified(item, self._read(_Part(item.window, item.bucket, span.rows, span=span)))

    def _read(self, whole: _Part) -> Iterator[dict[str, Any]]:
        parts = [whole]
        while parts:
            part = parts.pop()
            if part.is_split:
                # Only now it is known how many rows were refused; before, halves are guesses.
                if part.cause is not None:
                    self._sizes.refused(part.received)
                continue
            answer = None
            if self._sizes.fits(part.expected) or not part.can_be_split:
                answer = self._ask(part)
            if answer is None:
                one, two = part.halves()
                parts += [part, two, one]
            else:
                part.receive(len(answer.rows))
                yield from answer.take_records()

    def _ask(self, part: _Part) -> Answer | None:
        """The answer, or None when the part has to be split."""
        try:
            answer = self._run(part)
        except TooLargeError as error:
            if not part.can_be_split:
                raise UnsplittableError(self._table.name, str(part)) from error
            part.cause = error
            return None
        if answer.maybe_truncated:
            # As many rows as the cap: there may be more, and no flag would tell.
            self._sizes.truncated(len(answer.rows))
            if not part.can_be_split:
                raise UnsplittableError(self._table.name, str(part))
            return None
        self._sizes.answered(len(answer.rows), answer.bytes)
        return answer

    def _run(self, part: _Part) -> Answer:
        context = QueryContext(table=self._table.name, purpose="read rows", window=str(part))
        timespan = self._client.longest_timespan if self._taken_at else None
        with self._sizes.watching(self._client):
            return self._client.run(
                self._query(part), timespan=timespan, context=context, tostring_columns=self._dynamic
            )

    def _query(self, part: _Part) -> str:
        name, time_column = self._table.name, self._table.time_column
        if self._taken_at is not None:
            if self._pages is not None and part.span is not None:
                return hunting.page_rows(name, self._taken_at, self._pages.columns, *part.span)
            return hunting.snapshot_rows(name, self._taken_at, self._dynamic, bucket=part.bucket, key=self._key)
        if time_column is None:
            raise ValueError(f"{name} has no time column to read it by")
        start, end = part.window.start, part.window.end
        return hunting.window_rows(name, time_column, start, end, self._dynamic, bucket=part.bucket, key=self._key)
