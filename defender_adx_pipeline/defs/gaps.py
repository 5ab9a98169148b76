"""The sensor `gap_finder`: partitions in which Defender and ADX differ get a run, some tables at each look.

A round goes over all active event tables; each look takes as many as its time allows, and the cursor has the last one.
Not here: comparing (`migration.gaps`). Snapshot tables have no days that could be mended.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import dagster as dg
import orjson

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defender.errors import HuntingError, TooLargeError, UnresolvedNameError
from defender_adx_pipeline.defs.jobs import event_tables_job
from defender_adx_pipeline.defs.partitions import daily
from defender_adx_pipeline.defs.readable import readable
from defender_adx_pipeline.defs.requests import (
    GAP_PRIORITY,
    HISTORY_TAG,
    partition_run,
    sensor_status,
    tables_under_way,
)
from defender_adx_pipeline.defs.resources import AdxResource, DefenderResource
from defender_adx_pipeline.defs.tables import raw_key
from defender_adx_pipeline.instants import parse_instant, to_text, utc_now
from defender_adx_pipeline.migration.agenda import complete_until, read_agenda
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.destination import Destination
from defender_adx_pipeline.migration.gaps import TABLES_AT_ONCE, Compared, DayGap, comparable_window, find_gaps
from defender_adx_pipeline.migration.probe import shared_calls_row
from defender_adx_pipeline.migration.windows import Window

ROUND = timedelta(hours=6)
"""From the beginning of a round to that of the next: what a run could not mend is asked for no more often."""

BUDGET = 15.0
"""Seconds after which a look begins with no further tables: Dagster gives it a minute, and one call may take half."""

Compare = Callable[[Mapping[TableConfiguration, Window]], Compared]


@dataclass(frozen=True, slots=True)
class Round:
    """How far a round is; as the sensor's cursor, JSON."""

    began: datetime
    done: str = ""
    """The last table that was compared, in the order of names."""
    over: bool = False

    @classmethod
    def of(cls, cursor: str | None, now: datetime) -> "Round":
        """The round to go on with: the one of the cursor, or a new one."""
        if not cursor:
            return cls(now)
        kept = orjson.loads(cursor)
        current = cls(parse_instant(kept["began"]), kept["done"], kept["over"])
        return cls(now) if current.over and now >= current.began + ROUND else current

    def cursor(self) -> str:
        """As text."""
        return orjson.dumps({"began": to_text(self.began), "done": self.done, "over": self.over}).decode()


@dg.sensor(
    job=event_tables_job,
    minimum_interval_seconds=300,
    default_status=sensor_status(),
    description=(
        "Compares the active event tables with Defender hour by hour over all days that Defender keeps, and starts runs"
        " of the partitions in which rows are missing. A round over all tables begins every"
        f" {ROUND // timedelta(hours=1)} hours; each look takes {TABLES_AT_ONCE} tables with one hunting call, and more"
        " while it has time."
    ),
)
@readable
def gap_finder(
    context: dg.SensorEvaluationContext, adx: AdxResource, defender: DefenderResource
) -> dg.SensorResult | dg.SkipReason:
    """One run for each day of the tables at hand; what ADX has beyond Defender is told in the log."""
    state = adx.migration_state()
    now = min(utc_now(), state.present())
    current = Round.of(context.cursor, now)
    if current.over:
        following = to_text(current.began + ROUND)
        return dg.SkipReason(f"the round of {to_text(current.began)} is over; the next begins at {following}")
    agenda = read_agenda(state, adx.catalogue)
    for problem in agenda.problems.values():
        context.log.error(problem)
    # What a run is about to load is compared in the next round.
    busy = tables_under_way(context.instance)
    items = [item for item in agenda.active() if item.table.name > current.done and raw_key(item.table) not in busy]
    complete = complete_until(state, items, now=now)
    windows = {item: window for item in items if (window := comparable_window(complete[item], now)) is not None}
    with closing(defender.impatient_client()) as client:
        destination = Destination(adx.client)
        gaps, done = _look(context, windows, lambda some: find_gaps(client, destination, some))
        if client.usage.calls:
            state.append_ledger([shared_calls_row(client.usage, f"gap_finder {to_text(current.began)}", now)])
    over = len(done) == len(windows)
    following_round = Round(current.began, done[-1] if done else current.done, over)
    requests = _requests(context, gaps, current)
    reason = None if requests else _said(done, over=over)
    return dg.SensorResult(run_requests=requests, skip_reason=reason, cursor=following_round.cursor())


def _look(
    context: dg.SensorEvaluationContext, windows: Mapping[TableConfiguration, Window], compare: Compare
) -> tuple[list[DayGap], list[str]]:
    """The gaps of as many tables as there is time for, and the names of these.

    Raises:
        HuntingError, AdxError: nothing could be compared; the next look begins with the same tables.
    """
    began, items = time.monotonic(), list(windows)
    gaps: list[DayGap] = []
    done: list[str] = []
    for first in range(0, len(items), TABLES_AT_ONCE):
        if done and time.monotonic() - began > BUDGET:
            break
        some = items[first : first + TABLES_AT_ONCE]
        try:
            gaps += _compared(context, {item: windows[item] for item in some}, compare)
        except (HuntingError, AdxError) as error:
            if not done:
                raise
            context.log.warning("the look ends before %s, which is taken up by the next: %s", some[0].table.name, error)
            break
        done += [item.table.name for item in some]
    return gaps, done


def _compared(
    context: dg.SensorEvaluationContext, windows: Mapping[TableConfiguration, Window], compare: Compare
) -> list[DayGap]:
    """The gaps of some tables; one by one where Defender refuses to count them in one call."""
    try:
        compared = compare(windows)
    except (TooLargeError, UnresolvedNameError) as error:
        if len(windows) > 1:
            return [gap for item, window in windows.items() for gap in _compared(context, {item: window}, compare)]
        (item,) = windows
        context.log.warning("%s is not compared in this round, but in the daily sweep: %s", item.table.name, error)
        return []
    for item in compared.not_there:
        context.log.warning("%s is not compared: the tenant does not have it. Its next run says more", item.table.name)
    return list(compared.gaps)


def _requests(context: dg.SensorEvaluationContext, gaps: Sequence[DayGap], current: Round) -> list[dg.RunRequest]:
    """A run for each day, over the tables that lack rows of it."""
    days: defaultdict[date, list[DefenderTable]] = defaultdict(list)
    partitions = set(daily.get_partition_keys())
    for gap in gaps:
        context.log.warning(
            "%s%s", gap, "" if gap.missing else ". Nothing is deleted; a run of the partition says more"
        )
        if gap.missing and gap.day.isoformat() in partitions:
            days[gap.day].append(gap.item.table)
    return [
        partition_run(
            day.isoformat(),
            day.isoformat(),
            tables,
            run_key=f"gap/{to_text(current.began)}/{day}/{tables[0].name}",
            priority=GAP_PRIORITY,
            tags={HISTORY_TAG: "gap"},
        )
        for day, tables in sorted(days.items())
    ]


def _said(done: Sequence[str], *, over: bool) -> str:
    compared = f"{done[0]} to {done[-1]} lack no row" if done else "no table can be compared"
    return f"{compared}; {'the round is over' if over else 'the next look goes on from there'}"
