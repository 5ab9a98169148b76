"""Taking a snapshot: read it, compare it with the counts before and after, and publish it, whole or not at all.

Here: the order of the steps and the verdict. Not here: the audit row (`attempt`, `auditing`), plans
(`snapshot_planner`), and what the counts say (`snapshots`).

Nobody sees a row of it before one append to the ledger publishes all of them. A snapshot that does not agree with the
counts is given up and taken once more, since a table that is being written looks like that; then the attempt fails.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.migration.audit import Tally
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.errors import (
    DeadLetterError,
    SnapshotMismatchError,
    SnapshotNotTodayError,
    TableChangedError,
)
from defender_adx_pipeline.migration.extraction import Extraction
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.loading import ProgressCallback, SliceDriver
from defender_adx_pipeline.migration.plan import Plan
from defender_adx_pipeline.migration.planner import Clock
from defender_adx_pipeline.migration.sizes import Sizes
from defender_adx_pipeline.migration.slices import DeadLetter, Slice
from defender_adx_pipeline.migration.snapshot_planner import SnapshotPlanner
from defender_adx_pipeline.migration.snapshots import Verdict, judge
from defender_adx_pipeline.migration.state import StateStore
from defender_adx_pipeline.migration.windows import Window, bin_floor

_DAY = timedelta(days=1)

_TRIES = 2
"""How often a snapshot is taken within one attempt before it is given up."""


class SnapshotTaker:
    """Takes snapshots for one process step.

    Args:
        planner: plans and counts.
        driver: loads slices.
        state: the state of the migration.
        clock: the present of this machine.
        count: brings the calls of the attempt up to now.
    """

    def __init__(
        self,
        *,
        planner: SnapshotPlanner,
        driver: SliceDriver,
        state: StateStore,
        clock: Clock,
        count: Callable[[Tally], None],
    ) -> None:
        self._planner = planner
        self._driver = driver
        self._state = state
        self._clock = clock
        self._count = count

    @property
    def sizes(self) -> Sizes:
        """What the run learns about answers."""
        return self._planner.sizes

    def plan(self, configuration: TableConfiguration, asked: Window | None, run: RunIdentity, tally: Tally) -> Plan:
        """A plan for today's snapshot; nothing is read yet.

        Args:
            configuration: the table.
            asked: the day that is asked for, or None for today.
            run: who takes it.
            tally: the numbers of the attempt.

        Raises:
            SnapshotNotTodayError: another day than today is asked for.
            HuntingError, AdxError: as `SnapshotPlanner.plan`.
        """
        now = self._now()
        if asked is not None and asked != _day_of(now):
            raise SnapshotNotTodayError(_not_today(configuration, asked, now))
        plan = self._planner.plan(configuration, run, now)
        _count_in(tally, plan)
        return plan

    def load(self, extraction: Extraction, tell: ProgressCallback) -> None:
        """Read, load, compare and publish.

        Raises:
            SnapshotMismatchError: what was read is not what was counted, twice.
            DeadLetterError: records that ADX cannot hold.
            MigrationError, HuntingError, AdxError: what stopped it; the next run of the day goes on.
        """
        tally = extraction.tally
        for attempt in range(1, _TRIES + 1):
            plan = extraction.plan
            tally.loaded_rows += sum(item.received_rows or item.expected_rows for item in plan.landed)
            objection = self._drive(extraction, tell) or self._compare(plan, tally)
            if not objection:
                return
            self._planner.record(plan, "Failed", Reason=objection)
            now = self._now()
            if attempt == _TRIES or now.date() != plan.window.start.date():
                raise SnapshotMismatchError(_mismatch(plan, objection, attempt))
            tally.notes.append(f"{plan.snapshot} was given up and is taken anew: {objection}")
            again = self._planner.begin(plan.configuration, plan.run, now)
            _count_in(tally, again)
            extraction = extraction.with_plan(again)

    def _drive(self, extraction: Extraction, tell: ProgressCallback) -> str:
        """Load the slices; what is wrong with a page of them, if one is not what was counted."""
        try:
            dead_letters = self._driver.drive(extraction, tell)
        except TableChangedError as error:
            return str(error)
        if dead_letters:
            self._keep_dead_letters(extraction.plan, dead_letters)
        return ""

    def _now(self) -> datetime:
        """The present, never later than ADX's, so that a day has begun by both clocks."""
        return min(self._clock(), self._state.present())

    def _compare(self, plan: Plan, tally: Tally) -> str:
        """Publish the snapshot if it is what was counted.

        Returns:
            What is wrong with it; empty when it is published.
        """
        slices = self._planner.slices(plan)
        still_open = [item for item in slices if item.state != "Confirmed"]
        if still_open:
            return f"{len(still_open)} buckets that were sent before gave no rows any more ({still_open[0]})"
        planned = sum(item.expected_rows for item in slices)
        if plan.snapshot is not None and planned != plan.snapshot.expected_rows:
            return f"the ledger has buckets of {planned} rows, and {plan.snapshot.expected_rows} were counted"
        verdict = self._verdict(plan, slices)
        tally.expected_rows = sum(item.before for item in verdict.counts)
        tally.queryable_rows = self._planner.count_destination(plan, verdict.received)
        tally.rows_by_day = {plan.window.start.date().isoformat(): tally.queryable_rows}
        if verdict.unexplained:
            shown = "; ".join(map(str, verdict.unexplained[:5]))
            return f"in {len(verdict.unexplained)} buckets other rows were read than were counted ({shown})"
        if verdict.is_rewritten:
            return verdict.drift()
        if tally.queryable_rows != verdict.received:
            return f"{verdict.received} rows were read, and ADX has {tally.queryable_rows} of them"
        self._publish(plan, verdict, tally)
        return ""

    def _verdict(self, plan: Plan, slices: list[Slice]) -> Verdict:
        before = {item.bucket.number if item.bucket else 0: item.expected_rows for item in slices}
        received = {item.bucket.number if item.bucket else 0: item.received_rows for item in slices}
        # A single count of zero is too little to show a table as empty, so that it is counted again.
        if received and plan.pages is not None:
            # Every page was held to its count when it was read: this is the table as it was then, whatever came after.
            return judge(before, received, before)
        if received == before and received and plan.snapshot is not None and plan.snapshot.buckets == 1:
            # One answer holds the table as it was at one moment: equal to the count, there was nothing in between.
            return judge(before, received, before)
        return judge(before, received, self._planner.count(plan))

    def _publish(self, plan: Plan, verdict: Verdict, tally: Tally) -> None:
        size = self._planner.sizes.of(plan.table).bytes_per_row or 0.0
        drift = verdict.drift()
        if drift:
            tally.notes.append(drift)
        self._count(tally)
        costs = tally.unrecorded()
        self._planner.record(
            plan,
            "Published",
            ReceivedRows=verdict.received,
            QueryableRows=tally.queryable_rows,
            Bytes=round(size * verdict.received),
            Reason=drift,
            **costs,
        )
        tally.record(costs)
        tally.complete_until = plan.window.start
        taken_at = to_text(plan.window.start)
        if taken_at > plan.configuration.watermark:
            self._state.advance_watermark(plan.configuration, taken_at)
            tally.watermark = taken_at

    def _keep_dead_letters(self, plan: Plan, dead_letters: list[DeadLetter]) -> None:
        self._state.append_dead_letters(dead_letters, now=self._clock())
        reason = f"{len(dead_letters)} records are larger than ADX holds"
        self._planner.record(plan, "Failed", Reason=reason)
        raise DeadLetterError(
            f"{plan.snapshot}: {len(dead_letters)} records are larger than the dynamic column of"
            f" {plan.configuration.destination_table} holds, where they would silently become null. They are listed in"
            " MigrationDeadLetter. The snapshot is not whole without them, so it is not published, and the one before"
            f" is still served. The first: {dead_letters[0].reason}"
        )


def _count_in(tally: Tally, plan: Plan) -> None:
    tally.window = plan.window
    tally.expected_rows = plan.counts.source_rows
    tally.queryable_rows = 0
    tally.watermark = plan.configuration.watermark


def _day_of(moment: datetime) -> Window:
    start = bin_floor(moment, _DAY)
    return Window(start, start + _DAY)


def _not_today(configuration: TableConfiguration, asked: Window, now: datetime) -> str:
    name, day = configuration.table.name, asked.start.date().isoformat()
    return (
        f"{name} {asked}: a snapshot can be taken of today ({now.date().isoformat()}, UTC) alone: Defender has the"
        " state of now and keeps none of another day, so a past one that was not taken cannot be had any more. Nothing"
        f" was read, and what ADX has of that day stays: Vw{name}At(datetime({day})) shows it, if it was published."
        " Run today's partition."
    )


def _mismatch(plan: Plan, objection: str, tries: int) -> str:
    return (
        f"{plan.snapshot}: it was read {tries} times and is not what Defender counted: {objection}. It is not"
        " published, the rows that were loaded are seen by nobody, and the snapshot before is still served by"
        f" Vw{plan.table}Latest(). The table may be rewritten at this hour: run the partition again later today."
    )
