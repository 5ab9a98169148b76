"""From counts to slices: which parts of a window are loaded, packed so that each slice fits into one answer.

Pure functions. Not here: counting (`planner`), reading (`reading`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count

from defender_adx_pipeline.instants import MICROSECOND
from defender_adx_pipeline.migration.counts import BinCount
from defender_adx_pipeline.migration.slices import Bucket, Slice, slice_id
from defender_adx_pipeline.migration.windows import Window

GRAINS: tuple[timedelta, ...] = (
    timedelta(hours=1),
    timedelta(minutes=1),
    timedelta(seconds=1),
    timedelta(milliseconds=1),
    MICROSECOND,
)
"""Bin sizes from coarse to fine; a bin with more rows than a slice may have is counted again at the next."""

DEFAULT_BYTES_PER_ROW = 1_500
"""Until an answer has shown better. Device tables have 40 to 70 columns and were seen at 1 to 2 KB."""


CountWindow = Callable[[Window, timedelta], Sequence[BinCount]]
CountBuckets = Callable[[Window, int], Mapping[int, int]]
"""Rows of a window in Defender by bucket, split into so many."""


@dataclass(frozen=True, slots=True)
class SliceTarget:
    """How large a slice should be."""

    rows: int

    @classmethod
    def for_table(cls, *, rows: int, byte_limit: int, bytes_per_row: float | None) -> "SliceTarget":
        """The rows that stay below both limits, given what a row of the table was seen to need."""
        size = max(bytes_per_row or DEFAULT_BYTES_PER_ROW, 1.0)
        return cls(max(1, min(rows, int(byte_limit / size))))


def choose(
    bins: Sequence[BinCount], *, busy: Sequence[Window], target: SliceTarget, count_window: CountWindow
) -> list[tuple[BinCount, ...]]:
    """The bins to load, grouped so that each group becomes one slice.

    Args:
        bins: the window as counted, in order; bins without rows on either side may be left out.
        busy: windows of slices that are still under way: nothing new is planned over them.
        target: the size that a slice should stay below.
        count_window: counts a window at a grain on both sides, to look into bins that are too large.

    Returns:
        Groups in order. The span of a group overlaps no other group, no busy window, and no bin that is complete.
        Every bin with missing rows is in a group, unless a busy window overlaps it.
    """
    fine: list[BinCount] = []
    for item in bins:
        fine.extend(_refine(item, busy, target, count_window))
    groups: list[list[BinCount]] = []
    rows = 0
    closed = True
    for item in fine:
        if _is_busy(item, busy) or not item.missing:
            closed = True
            continue
        fits = bool(groups) and rows + item.source_rows <= target.rows
        # Bins that ADX has in part cost a comparison by identity; those it has nothing of are loaded as they are.
        alike = bool(groups) and bool(groups[-1][0].destination_rows) == bool(item.destination_rows)
        if closed or not fits or not alike or _is_crossed(groups[-1][-1], item, busy):
            groups.append([item])
            rows = item.source_rows
        else:
            groups[-1].append(item)
            rows += item.source_rows
        closed = False
    return [tuple(group) for group in groups]


def _refine(
    item: BinCount, busy: Sequence[Window], target: SliceTarget, count_window: CountWindow
) -> Iterator[BinCount]:
    grain = next((grain for grain in GRAINS if grain < item.window.length), None)
    if not item.missing or _is_busy(item, busy) or item.source_rows <= target.rows or grain is None:
        yield item
        return
    for part in count_window(item.window, grain):
        yield from _refine(part, busy, target, count_window)


def _is_busy(item: BinCount, busy: Sequence[Window]) -> bool:
    return any(item.window.overlaps(window) for window in busy)


def _is_crossed(before: BinCount, after: BinCount, busy: Sequence[Window]) -> bool:
    """Whether a busy window lies between two bins, in a stretch without rows."""
    if before.window.end >= after.window.start:
        return False
    gap = Window(before.window.end, after.window.start)
    return any(gap.overlaps(window) for window in busy)


@dataclass(frozen=True, slots=True)
class Portion:
    """What becomes one slice, as counted: a window, or one bucket of it."""

    window: Window
    source_rows: int
    missing: int
    destination_rows: int
    """Rows that ADX has in the whole window, whatever their bucket: it hashes no rows as Defender does."""
    bucket: Bucket | None = None


def portions(
    groups: Iterable[Sequence[BinCount]], *, target: SliceTarget, count_buckets: CountBuckets
) -> Iterator[Portion]:
    """One portion for each group of bins; for one that is a single microsecond with too many rows, buckets by hash.

    A bucket without rows is left out. Rows that get there later are missing from the bin and found by its next count.

    Args:
        groups: as `choose` gives them.
        target: the size that a slice should stay below.
        count_buckets: counts a microsecond by bucket; asked once for each one that is too large.
    """
    for group in groups:
        window = Window(group[0].window.start, group[-1].window.end)
        whole = Portion(
            window,
            source_rows=sum(item.source_rows for item in group),
            missing=sum(item.missing for item in group),
            destination_rows=sum(item.destination_rows for item in group),
        )
        if whole.source_rows <= target.rows or window.length > MICROSECOND:
            yield whole
            continue
        buckets = -(-whole.source_rows // target.rows)
        rows = count_buckets(window, buckets)
        shares = _shares(whole, rows)
        for number in sorted(rows):
            yield replace(whole, source_rows=rows[number], missing=shares[number], bucket=Bucket(number, buckets))


def _shares(whole: Portion, rows: Mapping[int, int]) -> dict[int, int]:
    """The missing rows by bucket: all of its rows where ADX has none of the window, else in proportion."""
    if not whole.destination_rows:
        return dict(rows)
    total, before, shares = sum(rows.values()), 0, {}
    for number, count_ in sorted(rows.items()):
        shares[number] = whole.missing * (before + count_) // total - whole.missing * before // total
        before += count_
    return shares


def make_slices(
    cut: Iterable[Portion],
    *,
    source_table: str,
    destination_table: str,
    confirmed: Collection[str],
    attempts: Mapping[str, int],
) -> list[Slice]:
    """One slice for each portion.

    Args:
        cut: as `portions` gives them.
        source_table: the Defender table.
        destination_table: the table in ADX.
        confirmed: ids that the ledger already has as confirmed.
        attempts: latest attempt by id, of slices that the ledger has: one that was taken back is attempted again.
    """
    slices: list[Slice] = []
    for portion in cut:
        identities = (
            slice_id(
                source_table=source_table,
                destination_table=destination_table,
                window=portion.window,
                destination_rows=portion.destination_rows,
                generation=generation,
                bucket=portion.bucket,
            )
            for generation in count()
        )
        identity = next(identity for identity in identities if identity not in confirmed)
        slices.append(
            Slice(
                identity,
                source_table,
                destination_table,
                portion.window,
                portion.missing,
                attempt=attempts.get(identity, 0) + 1,
                bucket=portion.bucket,
                source_rows=portion.source_rows,
            )
        )
    return slices
