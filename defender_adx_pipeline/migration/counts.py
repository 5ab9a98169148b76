"""Row counts per time bin on the two sides, and what they say is missing. Pure arithmetic.

Not here: the queries that count (`defender.hunting`, `adx.kql`) and the slices that follow from it (`planning`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from defender_adx_pipeline.migration.windows import Window, bin_floor


@dataclass(frozen=True, slots=True)
class BinCount:
    """One bin of a window, as both sides count it."""

    window: Window
    source_rows: int
    destination_rows: int

    @property
    def missing(self) -> int:
        """Rows that Defender has and ADX has not."""
        return max(0, self.source_rows - self.destination_rows)

    @property
    def surplus(self) -> int:
        """Rows that ADX has beyond those of Defender."""
        return max(0, self.destination_rows - self.source_rows)


def compare(
    window: Window, grain: timedelta, source: Mapping[datetime, int], destination: Mapping[datetime, int]
) -> tuple[BinCount, ...]:
    """The bins of the window in which either side has rows, in order.

    Args:
        window: the window that was counted.
        grain: the bin size that both counts used.
        source: rows by bin start as `bin()` gives it, in Defender.
        destination: the same in ADX.

    Raises:
        ValueError: a count lies outside the window, so it cannot be the answer to this question.
    """
    bins: list[BinCount] = []
    seen: set[datetime] = set()
    for part in window.bins(grain):
        # A bin that the window cuts is still named by the start that bin() gives it.
        key = bin_floor(part.start, grain)
        seen.add(key)
        if key not in source and key not in destination:
            continue
        bins.append(BinCount(part, source.get(key, 0), destination.get(key, 0)))
    strangers = (set(source) | set(destination)) - seen
    if strangers:
        raise ValueError(f"counts outside {window}: {', '.join(sorted(map(str, strangers)))}")
    return tuple(bins)
