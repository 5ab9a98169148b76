"""Defender in pure Python for what depends on counts and caps alone: it takes the real hunting queries of one table.

Here: counting by bin and by bucket, reading with a silent row cap and a byte limit, and a record of every call. Not
here: the wire and its errors, which the local tenant has.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

from defender_adx_pipeline.catalogue import Column, DefenderTable
from defender_adx_pipeline.defender.client import CallUsage
from defender_adx_pipeline.defender.errors import QueryContext, TooLargeError
from defender_adx_pipeline.defender.wire import Answer
from defender_adx_pipeline.instants import parse_instant
from defender_adx_pipeline.migration.windows import Window, bin_floor

BASE = datetime(2026, 11, 1, tzinfo=UTC)
TICKS = 10_000_000
"""Of 100 ns, the seventh digit, in a second."""
TABLE = DefenderTable(
    name="Rows",
    category="Test",
    kind="event",
    time_column="Timestamp",
    columns=(Column("Timestamp", "datetime"), Column("Id", "long")),
    identity=("Id",),
)

_WINDOW = r"Rows \| where Timestamp >= datetime\((\S+)\) and Timestamp < datetime\((\S+)\)"
_HASH = r"hash_xxhash64\(tostring\(Id\), (\d+)\)"
_QUERY = re.compile(
    rf"{_WINDOW}(?: \| where {_HASH} == (\d+))?"
    rf"(?: \| summarize Rows = count\(\) by Bucket = {_HASH})?"
)


_HASHES: list[int] = []


def hashes(most: int) -> list[int]:
    """64 bits for each identity up to one, which depend on nothing but the identity."""
    new = range(len(_HASHES), most + 1)
    _HASHES.extend(int.from_bytes(blake2b(str(identity).encode(), digest_size=8).digest()) for identity in new)
    return _HASHES


@dataclass(frozen=True, slots=True)
class Tie:
    """Rows of one instant, each with an identity; the same one twice is two rows."""

    tick: int
    """100 ns since BASE."""
    ids: Sequence[int]

    @property
    def moment(self) -> datetime:
        """Its microsecond."""
        return BASE + timedelta(microseconds=self.tick // 10)


@dataclass
class Defender:
    """A hunting client and the service behind it.

    Args:
        ties: the rows.
        row_cap: rows of one answer; more are cut off without a word.
        byte_limit: bytes of one answer; a larger one is refused.
        row_bytes: what each row needs.
    """

    ties: Sequence[Tie]
    row_cap: int = 100_000
    byte_limit: int = 50_000_000
    row_bytes: int = 1_000
    status: int = 400
    usage: CallUsage = field(default_factory=CallUsage)
    reads: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    """Rows of the answers that were whole."""
    counts: list[str] = field(default_factory=list)

    def run(
        self,
        query: str,
        *,
        timespan: str | None = None,
        context: QueryContext,
        tostring_columns: Sequence[str] = (),
    ) -> Answer:
        """What `HuntingClient.run` does."""
        assert timespan is None, "rows of a window are those that the query names"
        del tostring_columns
        match = _QUERY.fullmatch(query)
        assert match, f"not a query of the pipeline: {query}"
        start, end, buckets, bucket, split = match.groups()
        window = Window(parse_instant(start), parse_instant(end))
        ids = [identity for tie in self._within(window) for identity in tie.ids]
        known = hashes(max(ids, default=0))
        if split:
            self.counts.append(query)
            numbers = Counter(known[identity] % int(split) for identity in ids)
            return Answer((), [{"Bucket": number, "Rows": rows} for number, rows in numbers.items()], 0)
        if buckets:
            of, number = int(buckets), int(bucket)
            ids = [identity for identity in ids if known[identity] % of == number]
        return self._rows(query, ids, context)

    def by_bin(self, window: Window, grain: timedelta) -> dict[datetime, int]:
        """Rows per bin."""
        return counted(self._within(window), grain)

    def _within(self, window: Window) -> list[Tie]:
        return [tie for tie in self.ties if tie.moment in window]

    def _rows(self, query: str, ids: Sequence[int], context: QueryContext) -> Answer:
        self.reads.append(query)
        if min(len(ids), self.row_cap) * self.row_bytes > self.byte_limit:
            self.refused.append(query)
            raise TooLargeError("too large", context=context, status=self.status)
        rows: list[dict[str, Any]] = [{"Id": identity} for identity in ids[: self.row_cap]]
        cut = len(rows) >= self.row_cap
        if cut:
            self.cut.append(query)
        else:
            self.answered.append(len(rows))
        return Answer((), rows, len(rows) * self.row_bytes, maybe_truncated=cut)


def counted(ties: Iterable[Tie], grain: timedelta) -> dict[datetime, int]:
    """Rows per bin, as `summarize count() by bin()` gives them."""
    bins: Counter[datetime] = Counter()
    for tie in ties:
        bins[bin_floor(tie.moment, grain)] += len(tie.ids)
    return {moment: rows for moment, rows in bins.items() if rows}
