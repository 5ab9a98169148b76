"""From counts to slices: which parts of a window are loaded, packed so that each slice fits into one answer.

Pure functions. Not here: counting (`planner`), reading (`reading`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

from defender_adx_pipeline.instants import MICROSECOND
from defender_adx_pipeline.migration.counts import BinCount
from defender_adx_pipeline.migration.slices import Slice, slice_id
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


def make_slices(
    groups: Iterable[Sequence[BinCount]],
    *,
    source_table: str,
    destination_table: str,
    confirmed: Collection[str],
    attempts: Mapping[str, int],
) -> list[Slice]:
    """One slice for each group of bins.

    Args:
        groups: as `choose` gives them.
        source_table: the Defender table.
        destination_table: the table in ADX.
        confirmed: ids that the ledger already has as confirmed.
        attempts: latest attempt by id, of slices that the ledger has: one that was taken back is attempted again.
    """
    slices: list[Slice] = []
    for group in groups:
        window = Window(group[0].window.start, group[-1].window.end)
        destination_rows = sum(item.destination_rows for item in group)
        identities = (
            slice_id(
                source_table=source_table,
                destination_table=destination_table,
                window=window,
                destination_rows=destination_rows,
                generation=generation,
            )
            for generation in count()
        )
        identity = next(identity for identity in identities if identity not in confirmed)
        missing = sum(item.missing for item in group)
        attempt = attempts.get(identity, 0) + 1
        slices.append(Slice(identity, source_table, destination_table, window, missing, attempt=attempt))
    return slices
