"""Which parts a backfill replaces one by one, out of how many rows lie where and when they came. Pure arithmetic.

Here: bins into parts. Not here: counting (`backfill`), and the statements of a part (`adx.typed_backfill`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import reduce

from defender_adx_pipeline.adx.typed_backfill import Ingested, Part

GRAINS = (
    timedelta(days=1),
    timedelta(hours=1),
    timedelta(minutes=1),
    timedelta(seconds=1),
    timedelta(milliseconds=1),
    timedelta(microseconds=1),
)
"""Bin sizes, each for the bins that are too full in the one before."""

_LATEST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of both tables that lie together in time."""

    part: Part
    raw: int
    typed: int

    @property
    def rows(self) -> int:
        """Rows that a command over it deletes or appends, whichever are more."""
        return max(self.raw, self.typed)


def bin_part(first: datetime, grain: timedelta, start: datetime | None, end: datetime | None) -> Part:
    """The part of a bin that begins at `first`, inside the bounds; the last bin of all time has no end."""
    after = first + grain if first <= _LATEST - grain else None
    ends = [moment for moment in (after, end) if moment is not None]
    return Part(first if start is None else max(first, start), min(ends) if ends else None)


def packed(bins: Iterable[Bin], most: int) -> list[Part]:
    """Parts of as many neighbouring bins as have no more than `most` rows together; a fuller bin in buckets.

    Args:
        bins: in the order of time, without overlap; the one of the rows without a time is a part of its own.
        most: rows that a part may have.

    Returns:
        Parts in the order of time; each bin lies in one of them, or in its own buckets.
    """
    parts: list[Part] = []
    taken: list[Bin] = []

    def close() -> None:
        if taken:
            when = together(one.part.ingested for one in taken)
            parts.append(Part(taken[0].part.start, taken[-1].part.end, ingested=when))
            taken.clear()

    for one in bins:
        if one.part.timeless:
            close()
            parts += bucketed(one, most)
            continue
        if sum(other.rows for other in taken) + one.rows > most:
            close()
        if one.rows > most:
            parts += bucketed(one, most)
        else:
            taken.append(one)
    close()
    return parts


def together(times: Iterable[Ingested | None]) -> Ingested | None:
    """When the rows of several bins were ingested; not known where it is not of one of them."""
    found = list(times)
    known = [one for one in found if one is not None]
    return reduce(Ingested.and_, known) if known and len(known) == len(found) else None


def bucketed(one: Bin, most: int) -> list[Part]:
    """A bin in as few parts as have about `most` rows each, by hash; the bin itself when it has no more than that."""
    buckets = max(1, -(-one.rows // most))
    return [replace(one.part, bucket=bucket, buckets=buckets) for bucket in range(buckets)]
