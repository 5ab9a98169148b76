"""Which days of which tables differ between Defender and ADX, asked for several tables at once.

A tick looks back over some hours and the sweep runs every table over thirty days; this asks for counts alone, hour by
hour, of what the ledger has as complete: rows that came later than the overlap, rows that somebody deleted in ADX.
Here: asking and comparing. Not here: runs that mend it (`defs.gaps`), and what has never been loaded.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.defender.errors import QueryContext
from defender_adx_pipeline.instants import parse_instant
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.destination import Destination
from defender_adx_pipeline.migration.scope import readable_since
from defender_adx_pipeline.migration.windows import Window, bin_floor

GRAIN = timedelta(hours=1)
TABLES_AT_ONCE = 8
"""Tables in one call: 8 x 720 bins are far below what an answer holds."""


@dataclass(frozen=True, slots=True)
class DayGap:
    """A day of a table in which the two sides differ in some hour."""

    item: TableConfiguration
    day: date
    source_rows: int
    destination_rows: int
    missing: int
    """Rows that ADX lacks, summed over the hours in which it lacks any."""
    surplus: int
    """Rows that ADX has beyond Defender's, summed likewise."""

    def __str__(self) -> str:
        said = f"{self.item.table.name} {self.day}: Defender has {self.source_rows} rows, ADX {self.destination_rows}"
        return f"{said}; {self.missing} are missing, {self.surplus} too many"


def comparable_window(complete: datetime | None, now: datetime) -> Window | None:
    """The whole hours that Defender still has of what the ledger has as complete; None where there are none.

    Args:
        complete: up to where the table is complete; None for one that was never loaded.
        now: the present.
    """
    start = bin_floor(readable_since(now), GRAIN) + GRAIN
    end = bin_floor(complete, GRAIN) if complete is not None else start
    return Window(start, end) if start < end else None


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of comparing some tables."""

    gaps: tuple[DayGap, ...] = ()
    not_there: tuple[TableConfiguration, ...] = ()
    """Tables that Defender did not count, since the tenant does not have them: nothing is known of these."""


def find_gaps(
    hunting_client: HuntingClient, destination: Destination, windows: Mapping[TableConfiguration, Window]
) -> Compared:
    """Compare some event tables, with one call to Defender.

    Defender is asked first: what a run loads in between can only look like a surplus.

    Args:
        hunting_client: the source.
        destination: counts of ADX.
        windows: the tables, each with whole hours.

    Raises:
        HuntingError: Defender could not be asked.
        AdxError: ADX could not be asked.
    """
    source = _source_rows(hunting_client, windows)
    gaps: list[DayGap] = []
    for item, window in windows.items():
        if item.table.name in source:
            gaps += _gaps(item, destination, window, source[item.table.name])
    return Compared(tuple(gaps), tuple(item for item in windows if item.table.name not in source))


def _source_rows(
    hunting_client: HuntingClient, windows: Mapping[TableConfiguration, Window]
) -> Mapping[str, Mapping[datetime, int]]:
    """Rows by hour of each table that Defender has, also of one without any."""
    asked = [(item.table.name, item.table.time_column or "", one.start, one.end) for item, one in windows.items()]
    context = QueryContext(purpose=f"count rows of {len(windows)} tables by hour", splittable=False)
    answer = hunting_client.run(hunting.several_time_counts(asked, GRAIN), context=context)
    found: defaultdict[str, dict[datetime, int]] = defaultdict(dict)
    for row in answer.take_records():
        hours = found[str(row["SourceTable"])]
        if row.get("Bin") is not None:
            hours[parse_instant(str(row["Bin"]))] = int(row["Rows"])
    return found


def _gaps(
    item: TableConfiguration, destination: Destination, window: Window, source: Mapping[datetime, int]
) -> Sequence[DayGap]:
    days: defaultdict[date, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for part in destination.compared(item, window, GRAIN, source).bins:
        sums = days[part.window.start.date()]
        for place, number in enumerate((part.source_rows, part.destination_rows, part.missing, part.surplus)):
            sums[place] += number
    return [DayGap(item, day, *sums) for day, sums in sorted(days.items()) if sums[2] or sums[3]]
