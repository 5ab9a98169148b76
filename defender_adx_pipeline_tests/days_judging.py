"""Whether the simulated days went right: rows, partitions, snapshots, steps, audits, failures, lag.

Here: the verdict, which trusts nothing that the pipeline says of itself where the two sides or Dagster's event log can
be asked. Not here: what happened (`days`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from defender_adx_pipeline.adx.state_kql import LEDGER_VIEW
from defender_adx_pipeline.cli.comparing import compare_snapshot, compare_table
from defender_adx_pipeline.defs.tables import raw_key
from defender_adx_pipeline.instants import parse_instant
from defender_adx_pipeline.local.tenant import LocalTenant
from defender_adx_pipeline.migration.agenda import complete_until, read_agenda
from defender_adx_pipeline.migration.connections import Database
from defender_adx_pipeline.migration.ledger import window_of_row
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.days_data import BEFORE, EVENTS, SNAPSHOTS
from defender_adx_pipeline_tests.days_outcome import Course, Outcome
from defender_adx_pipeline_tests.kill_audits import audit_rows

LAG = timedelta(hours=1)
"""The largest that is right when nothing has been wrong for hours: two ticks, and the run between."""

_TICK = timedelta(minutes=15)
_DAY = timedelta(days=1)
_BEGINS = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}
_ENDS = {dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_SKIPPED}

_CONFIRMED = f"""{LEDGER_VIEW}
| where Kind == 'Window' and State == 'Confirmed'
| project SourceTable, WindowStart, WindowEnd"""

Interval = tuple[float, float, str]
"""Begin and end of a step in seconds since 1970, and its run."""


class Judge:
    """Looks at both sides, the state and Dagster's records, after the last run has ended."""

    def __init__(
        self, tenant: LocalTenant, database: Database, instance: dg.DagsterInstance, course: Course, outcome: Outcome
    ) -> None:
        self._tenant = tenant
        self._database = database
        self._instance = instance
        self._course = course
        self._outcome = outcome

    def judge(self, now: datetime) -> None:
        """All of it, into the outcome."""
        self._rows()
        self._partitions(now)
        self._snapshots()
        self._steps_and_audits()
        self._failures()
        self._ticks(now)

    def lags(self, now: datetime) -> dict[str, timedelta]:
        """How far each active event table is behind: up to where it is complete, against the present."""
        state = self._database.state
        items = read_agenda(state, self._database.catalogue).active()
        complete = complete_until(state, items, now=now)
        return {item.table.name: now - (complete[item] or self._course.begin - BEFORE) for item in items}

    def _rows(self) -> None:
        outcome, url = self._outcome, self._tenant.url("admin")
        window = Window(self._course.begin - 2 * BEFORE, self._course.end + _DAY)
        for table in EVENTS:
            _, there, missing, doubled = compare_table(self._database, url, table, f"{table}Raw", window)
            self._count(table, there, missing, doubled)
            typed = self._database.adx.query(f"{table} | summarize Rows = count()")[0]["Rows"]
            if typed != there:
                outcome.blame(f"{table}: {there} raw rows and {typed} typed ones")
        for table in SNAPSHOTS:
            row = self._database.state.published_before(table, self._course.end + _DAY)
            taken = None if row is None else parse_instant(row["WindowStart"])
            moment = None if taken is None else Window(taken, taken + timedelta(microseconds=1))
            counted = compare_snapshot(self._database, url, table, f"{table}Raw", moment)
            self._count(table, *counted[1:])

    def _count(self, table: str, there: int, missing: int, doubled: int) -> None:
        outcome = self._outcome
        outcome.rows += there
        outcome.missing += missing
        outcome.duplicates += doubled
        if missing or doubled:
            outcome.reasons.append(f"{table}: {missing} rows missing and {doubled} doubled of {there} in ADX")

    def _partitions(self, now: datetime) -> None:
        """Every instant from the first day on is in a confirmed window, up to what settled before the last tick."""
        state = self._database.state
        items = read_agenda(state, self._database.catalogue).active()
        if {item.table.name for item in items} != set(EVENTS):
            self._outcome.blame(f"not every event table is active at the end: {[item.table.name for item in items]}")
        first = self._course.begin.replace(hour=0, minute=0, second=0, microsecond=0)
        covered: defaultdict[str, list[Window]] = defaultdict(list)
        for row in self._database.adx.query(_CONFIRMED):
            covered[row["SourceTable"]].append(window_of_row(row))
        for item in items:
            for day in _days(first, self._course.end):
                since = hole(covered[item.table.name], Window(day, min(day + _DAY, now - LAG)))
                if since is not None:
                    self._outcome.forgotten += 1
                    self._outcome.reasons.append(f"{item.table.name} {day.date()}: not covered from {since} on")
        lags = self.lags(now)
        self._outcome.lag_minutes = round(max(lags.values(), default=LAG * 99) / timedelta(minutes=1))
        for table, lag in lags.items():
            if lag > LAG:
                self._outcome.blame(f"{table} is complete up to {lag} before the end, and {LAG} is the most")

    def _snapshots(self) -> None:
        published: Counter[tuple[str, str]] = Counter()
        for row in self._database.adx.query("VwPublishedSnapshots | project SourceTable, SnapshotDay"):
            published[row["SourceTable"], parse_instant(str(row["SnapshotDay"])).date().isoformat()] += 1
        for table in SNAPSHOTS:
            for day in _days(self._course.begin, self._course.end):
                if published[table, day.date().isoformat()] != 1:
                    self._outcome.forgotten += 1
                    self._outcome.reasons.append(f"{table} {day.date()}: no published snapshot")

    def _steps_and_audits(self) -> None:
        tables = {self._step(table): table for table in (*EVENTS, *SNAPSHOTS)}
        steps: defaultdict[str, list[Interval]] = defaultdict(list)
        attempts: Counter[str] = Counter()
        for record in self._instance.get_run_records():
            for step, interval in self._intervals(record):
                steps[step].append(interval)
                attempts[step] += 1
        for step, table in tables.items():
            for first, second in overlapping(steps[step]):
                self._outcome.overlaps += 1
                self._outcome.reasons.append(f"{table}: runs {first} and {second} worked on it at the same time")
            rows = audit_rows(self._database, table)
            self._outcome.attempts += attempts[step]
            if len(rows) != attempts[step]:
                counted = dict(Counter(row["Status"] for row in rows))
                self._outcome.blame(f"{table}: {attempts[step]} attempts have {len(rows)} audit rows: {counted}")
            there, loaded = self._tenant.adx.row_count(f"{table}Raw"), sum(row["RecordCount"] for row in rows)
            if there != loaded:
                self._outcome.blame(f"{table}: ADX has {there} rows, and the audit rows say {loaded}")

    def _step(self, table: str) -> str:
        return str(raw_key(self._database.catalogue[table]).to_python_identifier())

    def _intervals(self, record: dg.RunRecord) -> Iterator[tuple[str, Interval]]:
        run_id = record.dagster_run.run_id
        killed = self._course.killed.get(run_id)
        over = killed.timestamp() if killed else record.end_time or float("inf")
        begun: dict[str, float] = {}
        for entry in self._instance.all_logs(run_id, of_type=_BEGINS | _ENDS):
            step, kind = str(entry.step_key), entry.dagster_event_type
            if kind in _BEGINS:
                if step in begun:
                    yield step, (begun[step], entry.timestamp, run_id)
                begun[step] = entry.timestamp
            elif step in begun:
                yield step, (begun.pop(step), entry.timestamp, run_id)
        yield from ((step, (start, over, run_id)) for step, start in begun.items())

    def _failures(self) -> None:
        outcome = self._outcome
        records = self._instance.get_run_records()
        outcome.runs = dict(Counter(record.dagster_run.status.value for record in records))
        for record in records:
            run = record.dagster_run
            if run.status is dg.DagsterRunStatus.SUCCESS or run.run_id in self._course.killed:
                continue
            first, last = _instant(record.start_time or 0.0), _instant(record.end_time or 4e9)
            if run.is_finished and self._course.is_disturbed(first, last):
                continue
            outcome.blame(f"run {run.run_id} is {run.status.value}, {first} to {last}: {_why(self._instance, run)}")

    def _ticks(self, now: datetime) -> None:
        for state in self._instance.all_instigator_state():
            ticks = self._instance.get_ticks(state.instigator_origin_id, state.selector_id)
            name = state.instigator_name
            self._outcome.ticks[name] = dict(Counter(tick.status.value for tick in ticks))
            for tick in ticks:
                moment, error = _instant(tick.timestamp), tick.error
                if error is not None and not self._course.is_disturbed(moment, moment + _TICK):
                    self._outcome.blame(f"{name} failed at {moment}: {error.message.strip()[:500]}")
            if name == "event_tables_tick" and ticks:
                due = (now - _instant(min(tick.timestamp for tick in ticks))) // _TICK
                self._outcome.ticks_missed = max(0, due - len(ticks))


def _days(first: datetime, end: datetime) -> Iterator[datetime]:
    day = first
    while day < end:
        yield day
        day += _DAY


def hole(coverage: Sequence[Window], asked: Window) -> datetime | None:
    """The first instant of a window that no confirmed one has, or None."""
    reached = asked.start
    for window in sorted(coverage, key=lambda window: window.start):
        if window.start > reached:
            break
        reached = max(reached, window.end)
    return None if reached >= asked.end else reached


def overlapping(intervals: Sequence[Interval]) -> Iterator[tuple[str, str]]:
    latest: Interval | None = None
    for interval in sorted(intervals):
        if latest is not None and interval[0] < latest[1]:
            yield latest[2], interval[2]
        if latest is None or interval[1] > latest[1]:
            latest = interval


def _why(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    said = []
    failures = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    for entry in instance.all_logs(run.run_id, of_type=failures):
        event = entry.dagster_event
        error = getattr(event.event_specific_data, "error", None) if event else None
        while error is not None and error.cause is not None:
            error = error.cause
        said.append(f"{entry.step_key or 'run'}: {error.message.strip() if error else entry.user_message}"[:600])
    return "; ".join(said)


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def longest(seen: Mapping[str, int], now: Mapping[str, timedelta]) -> dict[str, int]:
    """The larger one of what was seen before and what there is now, in minutes."""
    minutes = {table: round(lag / timedelta(minutes=1)) for table, lag in now.items()}
    return {table: max(seen.get(table, 0), minutes.get(table, 0)) for table in {**seen, **minutes}}
