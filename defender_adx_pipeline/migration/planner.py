"""Making plans: both sides are counted, the ledger tells what is under way, and slices are chosen and recorded.

Not here: the choice itself (`planning`, pure), and doing a plan (`loading`).
"""

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.ingestion import SliceLoader
from defender_adx_pipeline.catalogue import Column, DefenderTable
from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.defender.errors import QueryContext, TooLargeError
from defender_adx_pipeline.instants import parse_instant, sort_key, utc_now
from defender_adx_pipeline.migration import planning
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.counts import BinCount
from defender_adx_pipeline.migration.destination import Destination
from defender_adx_pipeline.migration.errors import ContentionError
from defender_adx_pipeline.migration.ledger import RunIdentity, slice_from_row, slice_row
from defender_adx_pipeline.migration.plan import Counts, Plan
from defender_adx_pipeline.migration.sizes import Sizes
from defender_adx_pipeline.migration.slices import OPEN_STATES, Slice
from defender_adx_pipeline.migration.state import StateStore
from defender_adx_pipeline.migration.windows import Window, bin_floor
from defender_adx_pipeline.settings import Settings

_TRIES = 5
_LONGEST_PAUSE = 5.0
"""Seconds between two tries to plan beside another run, at random below this."""

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Sizes and times of the engine; defaults are those of the settings."""

    settle: timedelta = timedelta(minutes=10)
    overlap: timedelta = timedelta(hours=4)
    slice_rows: int = 50_000
    slice_bytes: int = 16 * 1024 * 1024
    snapshot_rows: int = 95_000
    """Rows of one bucket of a snapshot: 5 % below what an answer holds, since hashing does not spread rows evenly."""
    snapshot_bytes: int = 47_500_000
    confirm_timeout: timedelta = timedelta(minutes=30)
    """How long a queued slice may take to become queryable. ADX batches a tagged blob alone, so mostly a minute."""
    rounds: int = 3
    """How often a window is compared again within one attempt before it is given up."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The options that the settings give."""
        return cls(
            settle=settings.defender_settle,
            overlap=settings.defender_overlap,
            slice_rows=settings.defender_slice_rows,
            slice_bytes=settings.defender_slice_bytes,
            snapshot_rows=settings.defender_snapshot_rows,
            snapshot_bytes=settings.defender_snapshot_bytes,
        )


class Planner:
    """Makes plans: asks both sides for counts and the ledger for what is under way.

    Attributes:
        sizes: what the run learns about answers; whoever reads tells it, and later plans follow.
        destination: counts of ADX.
    """

    def __init__(
        self,
        *,
        hunting_client: HuntingClient,
        adx: AdxClient,
        loader: SliceLoader,
        state: StateStore,
        options: EngineOptions,
        clock: Clock = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sleep = sleep
        self._hunting = hunting_client
        self._loader = loader
        self._state = state
        self._options = options
        self._clock = clock
        self.sizes = Sizes(rows=options.slice_rows)
        self.destination = Destination(adx)

    def plan(self, configuration: TableConfiguration, window: Window, run: RunIdentity) -> Plan:
        """Count both sides, choose slices, and write them to the ledger as `Planned`.

        Two runs of one table at once cannot both keep slices over the same rows: each looks at the ledger again after
        it has written its slices, so that the later of the two sees the other's, takes its own back, and plans anew.
        Slices that overlap are seen while that goes on: neither is resumed before it is settled which one stays.

        Raises:
            ContentionError: another run kept planning the same windows.
            HuntingError: Defender could not be asked; a count that failed is never zero.
            AdxError: ADX could not be asked or written to.
        """
        for attempt in range(_TRIES):
            planned = self._plan_once(configuration, window, run, patient=attempt < _TRIES - 1)
            if planned is not None:
                plan, known = planned
                rivals = self._rivals(plan, known)
                if not rivals:
                    return plan
                self._withdraw(plan, rivals)
            self._sleep(random.uniform(0, _LONGEST_PAUSE * (attempt + 1) / _TRIES))  # noqa: S311 - no secret
        raise ContentionError(
            f"{configuration.table.name} {window}: another run planned the same rows {_TRIES} times in a row, so this"
            " one stepped back and loaded nothing. Let the other run end; a table should have one writer at a time."
        )

    def _plan_once(
        self, configuration: TableConfiguration, window: Window, run: RunIdentity, *, patient: bool = True
    ) -> tuple[Plan, frozenset[str]] | None:
        """A plan, written to the ledger, and the ids of the slices that were in force before.

        Those that had been taken back are not among them: whoever plans the same again gives them the same ids.

        Returns:
            Or None, with nothing written: `patient`, and slices under way overlap, so one of them is about to be taken
            back. Impatient, those whose run seems to have died before it did so wait for a later round, in which the
            rows of the others are subtracted from them.
        """
        table = configuration.table
        self._loader.check_destination(configuration.destination_table)
        rows = self._state.ledger_slices(table.name, window)
        known = [slice_from_row(row) for row in rows if row["DestinationTable"] == configuration.destination_table]
        under_way = [item for item in known if item.state in OPEN_STATES]
        landed_ids = self._loader.landed(configuration.destination_table, [item.slice_id for item in under_way])
        landed = tuple(item for item in under_way if item.slice_id in landed_ids)
        open_rows = [row for row in rows if row["SliceId"] in {item.slice_id for item in under_way} - landed_ids]
        settled = _settled(open_rows)
        if patient and len(settled) < len(open_rows):
            return None
        resumed = tuple(item.planned_again() for item in settled)
        columns = self._hunting.schema(table.name)
        counts = self.count(configuration, window)
        key = bucket_key(table, columns)
        busy = [item.window for item in under_way if item.slice_id not in landed_ids]
        fresh = self._choose(configuration, counts, known, busy, key)
        plan = Plan(
            configuration=configuration,
            run=run,
            counts=counts,
            slices=(*resumed, *fresh),
            resumed=frozenset(item.slice_id for item in resumed),
            landed=landed,
            with_present_rows=self._with_present_rows(configuration, counts, resumed, fresh),
            columns=columns,
            key_columns=key,
        )
        self._record(plan)
        return plan, frozenset(item.slice_id for item in known if item.state != "Failed")

    def _rivals(self, plan: Plan, known: Collection[str]) -> list[Slice]:
        """Slices that another run has put over the same rows since the ledger was read for this plan."""
        if not plan.slices:
            return []
        mine = {item.slice_id for item in plan.slices}
        others = (slice_from_row(row) for row in self._state.ledger_slices(plan.table, plan.window))
        return [
            other
            for other in others
            if other.slice_id not in mine
            and other.slice_id not in known
            and other.state != "Failed"
            and other.destination_table == plan.configuration.destination_table
            and any(other.overlaps(item) for item in plan.slices)
        ]

    def _withdraw(self, plan: Plan, rivals: Sequence[Slice]) -> None:
        """Take back the slices of this plan that rivals overlap; nothing of them was read.

        The others stay planned and are resumed. Another run may have the same ones, under the same ids, and be at work
        on them: taken back, they would look as if nobody were.
        """
        now = self._clock()
        reason = f"taken back: another run planned {rivals[0]}"
        fresh = [item for item in plan.slices if item.slice_id not in plan.resumed]
        crossed = [item for item in fresh if any(item.overlaps(rival) for rival in rivals)]
        if crossed:
            self._state.append_ledger(
                [slice_row(item, plan.run, state="Failed", now=now, Reason=reason) for item in crossed]
            )

    def count(self, configuration: TableConfiguration, window: Window, grain: timedelta | None = None) -> Counts:
        """Rows per bin on both sides."""
        grain = grain or planning.GRAINS[0]
        source = self.count_source(configuration, window, grain)
        return self.destination.compared(configuration, window, grain, source)

    def count_source(self, configuration: TableConfiguration, window: Window, grain: timedelta) -> dict[datetime, int]:
        """Rows per bin in Defender. A count that is refused as too large a query is taken in halves, cut between bins.

        Raises:
            TooLargeError: a single bin was refused.
        """
        try:
            return self._count_source_once(configuration, window, grain)
        except TooLargeError:
            middle = bin_floor(window.start + window.length / 2, grain)
            if middle <= window.start:
                raise
        halves = Window(window.start, middle), Window(middle, window.end)
        first, second = (self.count_source(configuration, half, grain) for half in halves)
        return first | second

    def _count_source_once(
        self, configuration: TableConfiguration, window: Window, grain: timedelta
    ) -> dict[datetime, int]:
        table = configuration.table
        query = hunting.time_counts(table.name, table.time_column or "", window.start, window.end, grain)
        # Its answer is small whatever the window: a gateway that gives up on it is asked again; nothing splits it.
        context = QueryContext(table=table.name, purpose="count rows", window=str(window), splittable=False)
        with self.sizes.of(table.name).watching(self._hunting):
            answer = self._hunting.run(query, context=context)
        return {parse_instant(row["Bin"]): int(row["Rows"]) for row in answer.take_records()}

    def count_buckets(self, table: DefenderTable, key: Sequence[str], window: Window, buckets: int) -> dict[int, int]:
        """Rows per bucket of a window in Defender; empty buckets are left out."""
        query = hunting.bucket_counts(
            table.name, table.time_column or "", window.start, window.end, key=key, buckets=buckets
        )
        context = QueryContext(table=table.name, purpose="count rows by bucket", window=str(window), splittable=False)
        answer = self._hunting.run(query, context=context)
        return {int(row["Bucket"]): int(row["Rows"]) for row in answer.take_records()}

    def _choose(
        self,
        configuration: TableConfiguration,
        counts: Counts,
        known: Sequence[Slice],
        busy: Sequence[Window],
        key: Sequence[str],
    ) -> list[Slice]:
        if not counts.missing:
            return []

        table = configuration.table

        def count(window: Window, grain: timedelta) -> Sequence[BinCount]:
            return self.count(configuration, window, grain).bins

        def count_buckets(window: Window, buckets: int) -> Mapping[int, int]:
            return self.count_buckets(table, key, window, buckets)

        target = planning.SliceTarget.for_table(
            rows=min(self._options.slice_rows, self.sizes.of(table.name).most_rows),
            byte_limit=self._options.slice_bytes,
            bytes_per_row=self._state.bytes_per_row(table.name),
        )
        groups = planning.choose(counts.bins, busy=busy, target=target, count_window=count)
        return planning.make_slices(
            planning.portions(groups, target=target, count_buckets=count_buckets),
            source_table=table.name,
            destination_table=configuration.destination_table,
            confirmed={item.slice_id for item in known if item.state == "Confirmed"},
            attempts={item.slice_id: item.attempt for item in known},
        )

    def _with_present_rows(
        self,
        configuration: TableConfiguration,
        counts: Counts,
        resumed: Sequence[Slice],
        fresh: Sequence[Slice],
    ) -> frozenset[str]:
        """Slices whose window has rows in ADX. A resumed one may reach beyond the counted window."""
        present = []
        for item in (*resumed, *fresh):
            if counts.window.start <= item.window.start and item.window.end <= counts.window.end:
                overlapping = (b for b in counts.bins if b.window.overlaps(item.window))
                if any(b.destination_rows for b in overlapping):
                    present.append(item.slice_id)
            elif self.destination.rows(configuration, item.window, planning.GRAINS[0]):
                present.append(item.slice_id)
        return frozenset(present)

    def _record(self, plan: Plan) -> None:
        now = self._clock()
        rows = [slice_row(item, plan.run, state="Planned", now=now) for item in plan.slices]
        # One that was killed between queueing and recording it has no row count of its own; its tag says it is there.
        landed = [replace(item, received_rows=item.received_rows or item.expected_rows) for item in plan.landed]
        rows += [slice_row(item, plan.run, state="Confirmed", now=now, Reason="tag already there") for item in landed]
        if rows:
            self._state.append_ledger(rows)


def _settled(rows: Sequence[Mapping[str, Any]]) -> list[Slice]:
    """Of the rows of slices under way, those that may be resumed together: no two overlap.

    Where two do, the one that was queued stays, else the one that was recorded first: whoever wrote the other saw it.
    """
    first = sorted(rows, key=lambda row: (row["State"] != "Queued", sort_key(str(row["RecordedAt"]))))
    kept: list[Slice] = []
    for item in map(slice_from_row, first):
        if not any(item.overlaps(other) for other in kept):
            kept.append(item)
    return sorted(kept, key=lambda item: (item.window, item.bucket or (0, 0)))


def bucket_key(table: DefenderTable, columns: Sequence[Column]) -> tuple[str, ...]:
    """The columns that place a row in its bucket: its identity, as far as the tenant has the columns.

    Rows of one identity share a bucket, and so both sides can be compared bucket by bucket. Fewer columns only put more
    rows together. Where the tenant has none of them, every column counts that Defender leaves as it is.
    """
    here = [column.name for column in columns]
    key = tuple(name for name in table.identity_columns if name in here)
    return key or tuple(name for name in here if name not in table.mutable_columns)
