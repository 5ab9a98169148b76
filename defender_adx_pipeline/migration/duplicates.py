"""Rows that ADX has more often than Defender: looked for on the days to which rows came.

Here: which days, the numbers of both sides, and their difference. Not here: the statements (`adx.duplicates_kql`,
`defender.hunting`), and what is made of the difference (`defs.no_duplicates`).

Defender repeats rows itself, also such with one documented identity, and every one of them is moved, since counts are
compared. So a row that is there twice says nothing: Defender is asked how often it has them, in the same window.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from defender_adx_pipeline.adx import duplicates_kql, snapshot_kql
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.duplicates_kql import Rows
from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.defender.errors import QueryContext
from defender_adx_pipeline.instants import MICROSECOND, parse_instant
from defender_adx_pipeline.migration.scope import readable_since
from defender_adx_pipeline.migration.windows import Window

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Doubled:
    """Rows of one day that ADX has more than once."""

    window: Window
    """From the first of them to the last; of a snapshot its instant."""
    keys: int
    """How many different rows they are."""
    extra: int
    """How many rows ADX has beyond one of each."""
    in_defender: int | None
    """How many Defender has beyond one of each in that window; None where it has the window no longer."""

    @property
    def ours(self) -> int:
        """How many rows ADX has more often than Defender, as far as that is known."""
        return self.extra if self.in_defender is None else max(self.extra - self.in_defender, 0)


def windows_to_look_at(adx: AdxClient, asked: Sequence[Rows], since: datetime) -> Mapping[str, Sequence[Window]]:
    """The days of each event table to which rows came since an instant, and the last snapshot, if it came since.

    Raises:
        AdxError: ADX could not be asked.
    """
    windows: defaultdict[str, list[Window]] = defaultdict(list)
    events = [one for one in asked if one.table.kind == "event"]
    if events:
        for row in adx.query(duplicates_kql.days_with_new_rows(events, since)):
            if row["Day"] is not None:
                start = parse_instant(str(row["Day"]))
                windows[str(row["SourceTable"])].append(Window(start, start + _DAY))
    if len(events) < len(asked):
        snapshots = {one.table.name for one in asked if one.table.kind == "snapshot"}
        for row in adx.query(snapshot_kql.latest_days()):
            taken_at = parse_instant(str(row["SnapshotTime"]))
            if row["SourceTable"] in snapshots and taken_at >= since:
                windows[str(row["SourceTable"])].append(Window(taken_at, taken_at + snapshot_kql.INSTANT))
    return {name: sorted(found) for name, found in windows.items()}


def find_doubled(
    hunting_client: HuntingClient, adx: AdxClient, rows: Rows, windows: Iterable[Window], *, now: datetime
) -> Iterator[Doubled]:
    """Rows of some windows that ADX has more than once; Defender is asked only where there are such.

    Raises:
        AdxError: ADX could not be asked.
        HuntingError: Defender could not be asked.
    """
    for window in windows:
        (row,) = adx.query(duplicates_kql.doubled_rows(rows, window.start, window.end))
        if not row["Keys"]:
            continue
        first, last = (parse_instant(str(row[name])) for name in ("First", "Last"))
        met = Window(first, last + MICROSECOND)
        yield Doubled(met, int(row["Keys"]), int(row["Extra"]), _in_defender(hunting_client, rows, met, now))


def _in_defender(hunting_client: HuntingClient, rows: Rows, window: Window, now: datetime) -> int | None:
    table = rows.table
    if table.kind == "event" and window.start < readable_since(now):
        return None
    left_out = set(table.mutable_columns)
    key = table.identity or tuple(
        column.name for column in hunting_client.schema(table.name) if column.name not in left_out
    )
    bounds = (
        None if table.time_column is None or table.kind == "snapshot" else (table.time_column, window.start, window.end)
    )
    asked = hunting.repeated_rows(table.name, key, bounds)
    context = QueryContext(table.name, "count repeated rows", str(window), splittable=False)
    (row,) = hunting_client.run(asked, context=context).take_records()
    return int(row["Extra"] or 0)
