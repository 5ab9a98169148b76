"""One attempt at a window of a table, from counting to the audit row. `sync` is the whole of it.

Here: the order of the steps and the verdict: success means that Defender's count is ADX's count. Every attempt leaves
exactly one audit row, also when it fails. Not here: the steps themselves (`planner`, `loading`, `state`), and those of
a snapshot (`snapshot_attempt`).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from defender_adx_pipeline.adx import kql
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.ingestion import SliceLoader
from defender_adx_pipeline.catalogue import Catalogue
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.instants import sort_key, utc_now
from defender_adx_pipeline.migration import watermark
from defender_adx_pipeline.migration.audit import Tally
from defender_adx_pipeline.migration.auditing import INACTIVE, AuditCallback, Auditor, no_observer
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.destination import CLOCK_SKEW
from defender_adx_pipeline.migration.errors import (
    CountMismatchError,
    DeadLetterError,
    LostRowsError,
    SurplusError,
)
from defender_adx_pipeline.migration.extraction import Extraction
from defender_adx_pipeline.migration.ledger import RunIdentity, window_row
from defender_adx_pipeline.migration.loading import ProgressCallback, SliceDriver, no_progress
from defender_adx_pipeline.migration.plan import Counts, Plan
from defender_adx_pipeline.migration.planner import Clock, EngineOptions, Planner
from defender_adx_pipeline.migration.scope import KEPT, readable, readable_since, tick_window
from defender_adx_pipeline.migration.slices import DeadLetter
from defender_adx_pipeline.migration.snapshot_attempt import SnapshotTaker
from defender_adx_pipeline.migration.snapshot_planner import SnapshotPlanner
from defender_adx_pipeline.migration.state import StateStore
from defender_adx_pipeline.migration.windows import Window


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run wants of a table: a window, or with None what a tick takes."""

    source_table: str
    run: RunIdentity
    window: Window | None


class Migration:
    """Moves windows of Defender tables into ADX. One per process step; not for several threads at once.

    Args:
        hunting_client: the source.
        adx: the cluster, for queries and commands.
        loader: queued ingestion into it.
        catalogue: the known tables.
        options: sizes and times.
        observe: is told of every audit row, with the attempt's numbers, after the row was written.
        clock: the present.
        audit_id: names the one audit row of this attempt (`audit.audit_id`), where somebody else may have to write it.
    """

    def __init__(
        self,
        *,
        hunting_client: HuntingClient,
        adx: AdxClient,
        loader: SliceLoader,
        catalogue: Catalogue,
        options: EngineOptions,
        observe: AuditCallback = no_observer,
        clock: Clock = utc_now,
        audit_id: str | None = None,
    ) -> None:
        self.state = StateStore(adx, catalogue)
        self._hunting = hunting_client
        self._adx = adx
        self._options = options
        self._clock = clock
        self._planner = Planner(
            hunting_client=hunting_client, adx=adx, loader=loader, state=self.state, options=options, clock=clock
        )
        self._driver = SliceDriver(
            adx=adx, loader=loader, state=self.state, confirm_timeout=options.confirm_timeout, clock=clock
        )
        self._auditor = Auditor(
            state=self.state, hunting_client=hunting_client, observe=observe, clock=clock, audit_id=audit_id
        )
        self._snapshots = SnapshotTaker(
            planner=SnapshotPlanner(
                hunting_client=hunting_client, adx=adx, loader=loader, state=self.state, options=options, clock=clock
            ),
            driver=self._driver,
            state=self.state,
            clock=clock,
            count=self._auditor.count,
        )

    def sync(self, asked: Asked, tell: ProgressCallback = no_progress) -> Tally | None:
        """Bring ADX up to Defender for a window. Idempotent.

        Returns:
            The numbers of the attempt, or None when the table is inactive and was left alone.

        Raises:
            MigrationError, HuntingError, AdxError: what is missing or could not be done; the audit row says it, too.
        """
        extraction = self.extract(asked)
        return None if extraction is None else self.load(extraction, tell)

    def extract(self, asked: Asked) -> Extraction | None:
        """Count both sides and write the plan to the ledger; nothing is read yet.

        Returns:
            The extraction, or None when the table is inactive: then the audit row says `Skipped`.

        Raises:
            As `sync`.
        """
        tally = Tally(window=asked.window)
        with self._auditor.failure(asked.source_table, asked.run, tally):
            configuration = self.state.configuration(asked.source_table)
            if configuration.is_active:
                return self._extraction(asked, configuration, tally)
        self._auditor.write(asked.source_table, "Skipped", INACTIVE, tally)
        return None

    def _extraction(self, asked: Asked, configuration: TableConfiguration, tally: Tally) -> Extraction:
        tally.watermark = configuration.watermark
        if configuration.table.kind == "snapshot":
            plan = self._snapshots.plan(configuration, asked.window, asked.run, tally)
            return Extraction(plan, self._hunting, tally, sizes=self._snapshots.sizes)
        window, lost = self._window(configuration, asked.window, tally)
        tally.window = window
        plan = self._planner.plan(configuration, window, asked.run)
        self._count_in(tally, plan.counts)
        return Extraction(plan, self._hunting, tally, lost, self._planner.sizes)

    def load(self, extraction: Extraction, tell: ProgressCallback = no_progress) -> Tally:
        """Read, load, confirm and record what was planned.

        Raises:
            As `sync`.
        """
        plan, tally = extraction.plan, extraction.tally
        with self._auditor.failure(plan.table, plan.run, tally):
            if plan.snapshot is not None:
                self._snapshots.load(extraction, tell)
            else:
                counts = self._load_until_equal(extraction, tell)
                self._complete(plan, counts, tally)
                self._object(plan, counts, extraction.lost)
        self._auditor.write(plan.table, "Success", "", tally)
        return tally

    def _now(self) -> datetime:
        """The present, never later than ADX's: a clock ahead would complete windows whose rows are still to come."""
        return min(self._clock(), self.state.present())

    def _window(self, configuration: TableConfiguration, asked: Window | None, tally: Tally) -> tuple[Window, str]:
        """The window to take, and what can no longer be had before it."""
        now, options = self._now(), self._options
        table = configuration.table.name
        since = min(readable_since(now), max(configuration.watermark_instant, now - timedelta(days=365)))
        coverage = self.state.coverage(configuration, since)
        covered = tally.complete_until = watermark.complete_until(configuration, coverage, now=now)
        if asked is None:
            asked = tick_window(covered=covered, now=now, settle=options.settle, overlap=options.overlap, table=table)
        window = readable(asked, now=now, settle=options.settle, table=table)
        if window.start > asked.start:
            before = Window(asked.start, window.start)
            tally.notes.append(f"{before} is no longer kept by Defender, or only for minutes, and was not compared")
        lost = watermark.lost_window(configuration, coverage, now=now)
        reaches_edge = window.start <= readable_since(now)
        return window, _lost(table, lost) if lost is not None and reaches_edge else ""

    def _load_until_equal(self, extraction: Extraction, tell: ProgressCallback) -> Counts:
        plan, tally = extraction.plan, extraction.tally
        for _ in range(self._options.rounds):
            tally.loaded_rows += sum(item.received_rows or item.expected_rows for item in plan.landed)
            dead_letters = self._driver.drive(extraction, tell)
            counts = self._count_again(plan)
            self._count_in(tally, counts)
            if dead_letters:
                self._keep_dead_letters(plan, dead_letters)
            if not counts.missing:
                return counts
            plan = self._planner.plan(plan.configuration, plan.window, plan.run)
            self._count_in(tally, plan.counts)
            if not plan.counts.missing and not plan.slices:
                return plan.counts
            extraction = extraction.with_plan(plan)
        raise CountMismatchError(_mismatch(plan, self._options.rounds))

    def _count_again(self, plan: Plan) -> Counts:
        """Both sides after a round; Defender is asked again only if its first count no longer explains ADX's."""
        if not plan.slices and not plan.landed:
            return plan.counts
        window, grain = plan.window, plan.counts.grain
        source = plan.counts.source_by_bin()
        counts = self._planner.destination.compared(plan.configuration, window, grain, source)
        if counts.missing or counts.surplus:
            return self._planner.count(plan.configuration, window, grain)
        return counts

    def _keep_dead_letters(self, plan: Plan, dead_letters: list[DeadLetter]) -> None:
        self.state.append_dead_letters(dead_letters, now=self._clock())
        first = dead_letters[0].reason
        raise DeadLetterError(
            f"{plan.table} {plan.window}: {len(dead_letters)} records are larger than the dynamic column of"
            f" {plan.configuration.destination_table} holds, where they would silently become null. They were kept"
            " out and are listed in MigrationDeadLetter; every other row was loaded; the watermark stays where it is."
            f" The first: {first}"
        )

    def _complete(self, plan: Plan, counts: Counts, tally: Tally) -> None:
        """Record that the window is complete, and move the watermark over what is complete without a hole."""
        configuration, now = plan.configuration, self._now()
        self._auditor.count(tally)
        costs = tally.unrecorded()
        row = window_row(
            plan.run,
            source_table=plan.table,
            destination_table=configuration.destination_table,
            window=plan.window,
            source_rows=counts.source_rows,
            received_rows=tally.received_rows,
            destination_rows=counts.destination_rows,
            now=now,
            **costs,
        )
        self.state.append_ledger([row])
        tally.record(costs)
        earliest = readable_since(now)
        since = max(configuration.watermark_instant, earliest) if configuration.loaded_before else earliest
        until = watermark.complete_until(configuration, self.state.coverage(configuration, earliest), now=now)
        tally.complete_until = until
        reached = until or earliest
        if reached < plan.window.start:
            hole = Window(reached, plan.window.start)
            tally.notes.append(f"the watermark stays at {configuration.watermark}: {hole} is not complete yet")
        if until is None:
            return
        latest = (
            self._latest_time(configuration, Window(min(since, plan.window.start), until)) if until > since else None
        )
        moved = watermark.advanced(configuration, latest)
        if moved is not None:
            self.state.advance_watermark(configuration, moved)
            tally.watermark = moved

    def _latest_time(self, configuration: TableConfiguration, window: Window) -> str | None:
        query = kql.latest_times(
            configuration.destination_table,
            configuration.table.time_column or "",
            window.start,
            window.end,
            ingested_since=window.start - CLOCK_SKEW,
        )
        texts = [sort_key(str(row["Text"])) for row in self._adx.query(query)]
        return max(texts, default=None)

    def _object(self, plan: Plan, counts: Counts, lost: str) -> None:
        """Raise what is wrong although nothing that can be had is missing."""
        # Rows at the edge of what Defender keeps may have fallen out of it between their load and the last count.
        edge = readable_since(self._clock())
        surplus = [item for item in counts.surplus if item.window.start >= edge]
        if surplus:
            shown = "; ".join(f"{b.window}: {b.source_rows} and {b.destination_rows}" for b in surplus[:5])
            raise SurplusError(
                f"{plan.table} {plan.window}: ADX has more rows than Defender in {len(surplus)} bins (Defender and ADX:"
                f" {shown}). Nothing is missing, and nothing was deleted. Rows that something else loaded twice, or"
                " that Defender has taken back, look like this; compare them in"
                f" {plan.configuration.destination_table}."
            )
        if lost:
            raise LostRowsError(lost)

    @staticmethod
    def _count_in(tally: Tally, counts: Counts) -> None:
        tally.expected_rows = counts.source_rows
        tally.queryable_rows = counts.destination_rows
        tally.rows_by_day = counts.destination_rows_by_day()


def _lost(table: str, lost: Window) -> str:
    return (
        f"{table} {lost}: this window was not loaded while Defender still had it, and is older than the {KEPT.days}"
        " days that Defender keeps: its rows, if there were any, cannot be had any more. Everything since was"
        " loaded and the watermark goes on, so this is told once. Run the pipeline at least once in 30 days."
    )


def _mismatch(plan: Plan, rounds: int) -> str:
    counts = plan.counts
    bins = [item for item in counts.bins if item.missing]
    shown = "; ".join(f"{b.window}: {b.source_rows} and {b.destination_rows}" for b in bins[:5])
    return (
        f"{plan.table} {counts.window}: after {rounds} rounds Defender has {counts.source_rows} rows and"
        f" {plan.configuration.destination_table} has {counts.destination_rows}; {counts.missing} are missing in"
        f" {len(bins)} bins (Defender and ADX: {shown}). What was loaded is kept, the watermark stays where it"
        " is, and the next run goes on from here."
    )
