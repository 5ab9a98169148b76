"""What an attempt is going to do, as a value: the window, the counts on both sides, and the slices.

Not here: making it (`planner`) and doing it (`loading`).
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from defender_adx_pipeline.catalogue import Column
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.counts import BinCount
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.paging import Pages
from defender_adx_pipeline.migration.slices import Slice
from defender_adx_pipeline.migration.snapshots import Snapshot
from defender_adx_pipeline.migration.windows import Window, bin_floor


@dataclass(frozen=True, slots=True)
class Counts:
    """A window counted on both sides."""

    window: Window
    grain: timedelta
    bins: tuple[BinCount, ...]

    @property
    def source_rows(self) -> int:
        """Rows in Defender."""
        return sum(item.source_rows for item in self.bins)

    @property
    def destination_rows(self) -> int:
        """Rows in ADX."""
        return sum(item.destination_rows for item in self.bins)

    @property
    def missing(self) -> int:
        """Rows that ADX lacks, bin by bin: a surplus elsewhere does not hide them."""
        return sum(item.missing for item in self.bins)

    @property
    def surplus(self) -> tuple[BinCount, ...]:
        """Bins in which ADX has more rows than Defender."""
        return tuple(item for item in self.bins if item.surplus)

    def source_by_bin(self) -> dict[datetime, int]:
        """Rows in Defender by bin start, as `bin()` names bins."""
        return {bin_floor(item.window.start, self.grain): item.source_rows for item in self.bins if item.source_rows}

    def destination_rows_by_day(self) -> dict[str, int]:
        """Rows in ADX by UTC day; bins are never longer than a day."""
        days: Counter[str] = Counter()
        for item in self.bins:
            days[item.window.start.date().isoformat()] += item.destination_rows
        return dict(days)


@dataclass(frozen=True, slots=True)
class Plan:
    """One round of an attempt."""

    configuration: TableConfiguration
    run: RunIdentity
    counts: Counts
    slices: tuple[Slice, ...]
    """To be read and queued, in order of time; those of earlier attempts first."""
    resumed: frozenset[str] = frozenset()
    """Ids of slices that an earlier attempt had planned."""
    landed: tuple[Slice, ...] = ()
    """Slices of earlier attempts whose tag ADX already has: confirmed without reading."""
    with_present_rows: frozenset[str] = frozenset()
    """Ids of slices in whose window ADX already has rows: those are subtracted by identity."""
    columns: tuple[Column, ...] = ()
    """Columns of the table in this tenant, in their order."""
    key_columns: tuple[str, ...] = ()
    """Columns of the table in this tenant that place a row in its bucket."""
    snapshot: Snapshot | None = None
    """What the slices are buckets of; None for a window of an event table."""
    pages: Pages | None = None
    """What the slices are instead, where the snapshot is read by row number."""

    @property
    def dynamic_columns(self) -> tuple[str, ...]:
        """Columns that are asked for as text."""
        return tuple(column.name for column in self.columns if column.type == "dynamic")

    def expects_nothing(self, item: Slice) -> bool:
        """Whether nothing being left to load in a slice agrees with the counts: ADX has rows of it, or nobody has.

        An answer without rows where Defender counted some is no ground to close a slice: a blob of it that an earlier
        attempt queued may still land, beside those of another slice over the same rows.
        """
        if self.snapshot is not None:
            # Its rows may be gone meanwhile, and the count after it tells. Not so one that was sent before.
            return item.slice_id not in self.resumed
        if item.slice_id in self.with_present_rows:
            return True
        if not any(part.source_rows for part in self.counts.bins if part.window.overlaps(item.window)):
            return True
        # Other buckets of the window may have all of its rows; this one was counted by itself.
        return item.bucket is not None and not item.expected_rows

    @property
    def table(self) -> str:
        """The Defender table."""
        return self.configuration.table.name

    @property
    def window(self) -> Window:
        """The window of the attempt."""
        return self.counts.window
