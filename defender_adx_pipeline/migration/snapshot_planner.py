"""Plans for snapshots: which one is gone on with, or how many buckets a new one is read in.

Here: asking Defender for counts and the ledger for what is under way, and writing the plan down. Not here: windows of
event tables (`planner`), and what the counts say afterwards (`snapshots`).

Calls of Defender besides those that read buckets: the columns, the rows by bucket before and after, and for a table
without a published snapshot its size. A table that fits into one answer is counted once, and then only read.
Pages of a table without a key are counted before alone: each is compared while it is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.ingestion import SliceLoader
from defender_adx_pipeline.catalogue import Column, DefenderTable
from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.defender.errors import QueryContext
from defender_adx_pipeline.instants import MICROSECOND, parse_instant
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.counts import BinCount
from defender_adx_pipeline.migration.destination import Destination
from defender_adx_pipeline.migration.ledger import RunIdentity, slice_from_row, slice_row
from defender_adx_pipeline.migration.paging import Pages, pages_of
from defender_adx_pipeline.migration.plan import Counts, Plan
from defender_adx_pipeline.migration.planner import Clock, EngineOptions, bucket_key
from defender_adx_pipeline.migration.sizes import Sizes
from defender_adx_pipeline.migration.slices import OPEN_STATES, Slice
from defender_adx_pipeline.migration.snapshots import (
    RESUMED_WITHIN,
    Snapshot,
    SnapshotState,
    choose_buckets,
    fitting_rows,
    row_bytes,
    snapshot_from_row,
    snapshot_row,
)
from defender_adx_pipeline.migration.state import StateStore
from defender_adx_pipeline.migration.windows import bin_floor


class SnapshotPlanner:
    """Makes plans for snapshots of one process step.

    Attributes:
        sizes: what the run learns about answers.
    """

    def __init__(
        self,
        *,
        hunting_client: HuntingClient,
        adx: AdxClient,
        loader: SliceLoader,
        state: StateStore,
        options: EngineOptions,
        clock: Clock,
    ) -> None:
        self._hunting = hunting_client
        self._destination = Destination(adx)
        self._loader = loader
        self._state = state
        self._options = options
        self._clock = clock
        # Buckets are cut with their margin already, and cut once.
        self.sizes = Sizes(rows=options.snapshot_rows, margin=1.0)

    def plan(self, configuration: TableConfiguration, run: RunIdentity, now: datetime) -> Plan:
        """Go on with the open snapshot of today, or begin one; written to the ledger as `Planned`.

        Args:
            configuration: the table.
            run: who takes it.
            now: the present, which becomes the SnapshotTime of a new one, unless one of today is later.

        Raises:
            PagingLimitError: a table that is read by row number has too many pages.
            HuntingError: Defender could not be asked; a count that failed is never zero.
            AdxError: ADX could not be asked or written to.
        """
        self._loader.check_destination(configuration.destination_table)
        today = self._of_today(configuration, now)
        if today and today[0]["State"] == "Planned":
            snapshot, pages = self._open(configuration.table, today[0])
            # By another key, rows would be in other buckets than those that were read; so in pages of other rows.
            if snapshot.snapshot_id == today[0]["SliceId"] and now - RESUMED_WITHIN <= snapshot.taken_at:
                return self._resume(configuration, snapshot.taken_up_again(snapshot.attempt + 1), run, pages)
        return self.begin(configuration, run, now)

    def begin(self, configuration: TableConfiguration, run: RunIdentity, now: datetime) -> Plan:
        """A new snapshot; those that are open are given up, also of other days, and nobody will see their rows.

        Raises:
            As `plan`.
        """
        table = configuration.table
        columns = self._hunting.schema(table.name)
        today = self._of_today(configuration, now)
        # The clock of this machine may be behind that of another one, and the later snapshot is the one that is seen.
        taken_at = max([now, *(parse_instant(row["WindowStart"]) + MICROSECOND for row in today)])
        pages = None
        if table.paging == "row_number":
            pages = self._count_pages(table.name, columns, self._rows_of_page(table.name, columns, now))
            pages.check_number()
            key = tuple(column.name for column in columns)
            by_bucket, buckets = pages.rows_by_page, len(pages.rows_by_page)
        else:
            key = bucket_key(table, columns)
            by_bucket, buckets = self._count_in_buckets(table.name, columns, key, now)
        snapshot = Snapshot(
            source_table=table.name,
            destination_table=configuration.destination_table,
            taken_at=taken_at,
            key=key,
            buckets=buckets,
            expected_rows=sum(by_bucket.values()),
            content=pages.content if pages else "",
        )
        slices = snapshot.slices(by_bucket)
        present = self._clock()
        rows = self._given_up(table.name, run, f"given up for the one of {taken_at.isoformat()}")
        rows.append(snapshot_row(snapshot, run, state="Planned", now=present))
        rows += [slice_row(item, run, state="Planned", now=present) for item in slices]
        self._state.append_ledger(rows)
        return self._as_plan(configuration, snapshot, run, slices, pages)

    def count(self, plan: Plan) -> Mapping[int, int]:
        """Rows that Defender has now, by bucket of the plan's snapshot; all in bucket 0 where there is one.

        Raises:
            HuntingError: Defender could not be asked.
        """
        buckets = plan.snapshot.buckets if plan.snapshot else 1
        return self._by_bucket(plan.table, plan.key_columns, buckets)

    def count_destination(self, plan: Plan, expected: int) -> int:
        """Rows of the plan's snapshot that can be queried in ADX; `expected` were read."""
        return self._destination.snapshot_rows(plan.configuration, plan.window.start, expected)

    def slices(self, plan: Plan) -> list[Slice]:
        """The slices of the plan's snapshot as the ledger has them: what other runs read of it, too."""
        return [slice_from_row(row) for row in self._state.snapshot_slices(plan.table, plan.window.start)]

    def record(self, plan: Plan, state: SnapshotState, **facts: Any) -> None:
        """Write down what became of a plan's snapshot, in one append, there as a whole or not at all."""
        if plan.snapshot is None:
            return
        rows = [snapshot_row(plan.snapshot, plan.run, state=state, now=self._clock(), **facts)]
        if state == "Failed":
            rows += self._dropped(plan.table, plan.window.start, plan.run, str(facts.get("Reason", "")))
        self._state.append_ledger(rows)

    def _given_up(self, table: str, run: RunIdentity, reason: str) -> list[dict[str, Any]]:
        """Rows that give up every open snapshot of a table."""
        rows: list[dict[str, Any]] = []
        for row in self._state.open_snapshots(table):
            known = snapshot_from_row(row, ())
            facts = {"SliceId": row["SliceId"], "Reason": reason}
            rows.append(snapshot_row(known, run, state="Failed", now=self._clock(), **facts))
            rows += self._dropped(table, known.taken_at, run, reason)
        return rows

    def _dropped(self, table: str, taken_at: datetime, run: RunIdentity, reason: str) -> list[dict[str, Any]]:
        """Rows for the slices of a given-up snapshot that nobody will drive on."""
        known = map(slice_from_row, self._state.snapshot_slices(table, taken_at))
        return [
            slice_row(item, run, state="Failed", now=self._clock(), Reason=reason)
            for item in known
            if item.state in OPEN_STATES
        ]

    def _of_today(self, configuration: TableConfiguration, now: datetime) -> list[dict[str, Any]]:
        """The row in force of every snapshot of today in this destination, the latest first."""
        rows = self._state.snapshots_of_day(configuration.table.name, bin_floor(now, timedelta(days=1)))
        return [row for row in rows if row["DestinationTable"] == configuration.destination_table]

    def _open(self, table: DefenderTable, row: Mapping[str, Any]) -> tuple[Snapshot, Pages | None]:
        """The snapshot of a ledger row as it would be now, and its pages as they are now."""
        columns = self._hunting.schema(table.name)
        if table.paging == "hash":
            return snapshot_from_row(row, bucket_key(table, columns)), None
        snapshot = snapshot_from_row(row, [column.name for column in columns])
        # All pages but the last have as many rows as a page may have.
        known = map(slice_from_row, self._state.snapshot_slices(table.name, snapshot.taken_at))
        size = max((item.expected_rows for item in known), default=1)
        pages = self._count_pages(table.name, columns, size)
        return replace(snapshot, content=pages.content), pages

    def _resume(
        self, configuration: TableConfiguration, snapshot: Snapshot, run: RunIdentity, pages: Pages | None
    ) -> Plan:
        rows = self._state.snapshot_slices(snapshot.source_table, snapshot.taken_at)
        under_way = [item for item in map(slice_from_row, rows) if item.state in OPEN_STATES]
        landed_ids = self._loader.landed(snapshot.destination_table, [item.slice_id for item in under_way])
        # One that was killed between queueing and recording it has no row count of its own; its tag says it is there.
        landed = tuple(
            replace(item, received_rows=item.received_rows or item.expected_rows)
            for item in under_way
            if item.slice_id in landed_ids
        )
        resumed = tuple(item.planned_again() for item in under_way if item.slice_id not in landed_ids)
        now = self._clock()
        written = [snapshot_row(snapshot, run, state="Planned", now=now)]
        written += [slice_row(item, run, state="Planned", now=now) for item in resumed]
        written += [slice_row(item, run, state="Confirmed", now=now, Reason="tag already there") for item in landed]
        self._state.append_ledger(written)
        plan = self._as_plan(configuration, snapshot, run, resumed, pages)
        return replace(plan, resumed=frozenset(item.slice_id for item in resumed), landed=landed)

    def _as_plan(
        self,
        configuration: TableConfiguration,
        snapshot: Snapshot,
        run: RunIdentity,
        slices: Sequence[Slice],
        pages: Pages | None,
    ) -> Plan:
        window = snapshot.window
        counted = BinCount(window, snapshot.expected_rows, 0)
        return Plan(
            configuration=configuration,
            run=run,
            counts=Counts(window, window.length, (counted,)),
            slices=tuple(slices),
            columns=self._hunting.schema(snapshot.source_table),
            key_columns=snapshot.key,
            snapshot=snapshot,
            pages=pages,
        )

    def _count_in_buckets(
        self, table: str, columns: Sequence[Column], key: Sequence[str], now: datetime
    ) -> tuple[Mapping[int, int], int]:
        """Rows by bucket, and how many buckets. The latest snapshot is the first guess: tables change slowly."""
        rows, size = self._last(table, now)
        if not size:
            rows, size = self._size(table, columns)
            buckets = self._choose(rows, size)
            return ({0: rows}, 1) if buckets == 1 else (self._by_bucket(table, key, buckets), buckets)
        buckets = self._choose(rows, size)
        by_bucket = self._by_bucket(table, key, buckets)
        if all(self._choose(count, size) == 1 for count in by_bucket.values()):
            return by_bucket, buckets
        more = max(buckets + 1, self._choose(sum(by_bucket.values()), size))
        return self._by_bucket(table, key, more), more

    def _last(self, table: str, now: datetime) -> tuple[int, float]:
        """Rows of the snapshot that was published last, and what one took in an answer; zeros without any."""
        before = self._state.published_before(table, now)
        rows = int((before or {}).get("QueryableRows") or 0)
        return rows, int((before or {}).get("Bytes") or 0) / rows if rows else 0.0

    def _rows_of_page(self, table: str, columns: Sequence[Column], now: datetime) -> int:
        """How many rows of a table fit into an answer."""
        _, size = self._last(table, now)
        if not size:
            _, size = self._size(table, columns)
        return fitting_rows(
            most_rows=self._options.snapshot_rows, most_bytes=self._options.snapshot_bytes, bytes_per_row=size
        )

    def _count_pages(self, table: str, columns: Sequence[Column], size: int) -> Pages:
        """The pages of a table as they are now."""
        counted = self._ask(table, hunting.page_contents(table, columns, size), "count rows by page")
        return pages_of(table, columns, size, counted)

    def _choose(self, rows: int, size: float) -> int:
        options = self._options
        return choose_buckets(
            rows, most_rows=options.snapshot_rows, most_bytes=options.snapshot_bytes, bytes_per_row=size
        )

    def _size(self, table: str, columns: Sequence[Column]) -> tuple[int, float]:
        """Rows of the table, and about what one takes in an answer."""
        query = hunting.table_size(table, [column.name for column in columns])
        row = self._ask(table, query, "size of the table")[0]
        # Without rows there is no mean, and Defender leaves columns without a value out of its answers.
        return int(row["Rows"]), row_bytes(columns, float(row.get("TextLength") or 0.0))

    def _by_bucket(self, table: str, key: Sequence[str], buckets: int) -> Mapping[int, int]:
        if buckets == 1:
            return {0: int(self._ask(table, hunting.table_count(table), "count rows")[0]["Rows"])}
        rows = self._ask(table, hunting.table_bucket_counts(table, key=key, buckets=buckets), "count rows by bucket")
        return {int(row["Bucket"]): int(row["Rows"]) for row in rows}

    def _ask(self, table: str, query: str, purpose: str) -> list[dict[str, Any]]:
        # Its answer is small whatever the table: a gateway that gives up on it is asked again: nothing splits it.
        context = QueryContext(table=table, purpose=purpose, splittable=False)
        with self.sizes.of(table).watching(self._hunting):
            answer = self._hunting.run(query, timespan=self._hunting.longest_timespan, context=context)
        return list(answer.take_records())
