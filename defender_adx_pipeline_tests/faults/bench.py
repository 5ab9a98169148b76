"""The bench of the fault matrix: a local tenant, a bootstrapped database, and a Dagster instance in a temporary home.

Here: emptying it, putting rows into Defender, one run of a pipeline under test, and reading what both sides hold, past
every API that can fail. Not here: what goes wrong (`calls` and the tenant's fault script), the cases, and whether what
came of one is right (`judging`).
"""

import logging
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import dagster as dg
import orjson
import pytest

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.adx.state_kql import AUDIT, LEDGER_VIEW
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME
from defender_adx_pipeline.cli.tenancy import dagster_environment
from defender_adx_pipeline.defs.assets import SCOPE_TAG
from defender_adx_pipeline.defs.launch import event_tables, snapshot_tables
from defender_adx_pipeline.defs.partitions import RANGE_END, RANGE_START
from defender_adx_pipeline.defs.tables import raw_key
from defender_adx_pipeline.defs.unaudited import settle_ended_runs
from defender_adx_pipeline.instants import sort_key, to_text, utc_now
from defender_adx_pipeline.local.ingest_endpoint import READY
from defender_adx_pipeline.local.limits import HuntingLimits
from defender_adx_pipeline.local.source import quoted
from defender_adx_pipeline.local.tenant import LocalTenant
from defender_adx_pipeline.migration.connections import Database, open_database
from defender_adx_pipeline.migration.scope import readable_since
from defender_adx_pipeline_tests.faults.calls import HuntingCalls
from defender_adx_pipeline_tests.faults.launching import LABEL
from defender_adx_pipeline_tests.faults.pace import Pace, hurried
from defender_adx_pipeline_tests.faults.served import Watched
from defender_adx_pipeline_tests.faults.watching import SnapshotWatch
from defender_adx_pipeline_tests.migration.world import World

CLOCK = 2000.0
"""How much faster than real time the quota's windows and the waits of the hunting client go."""
SLICE_ROWS = 100
SNAPSHOT_ROWS = 80
RUN_SECONDS = 90.0
"""A run that takes longer hangs, unless its case says that it is a large one."""
DRAIN_SECONDS = 60.0
MEMORY = Path("/dev/shm")
"""Where files lie in memory: Dagster's SQLite waits for the disk at every event."""

Digest = bytes
Rows = dict[str, Counter[tuple[str, Digest]]]


@dataclass(slots=True)
class Ran:
    """One run, and what it left behind at once."""

    success: bool
    message: str = ""
    """What Dagster has of the failures."""
    seconds: float = 0.0
    hung: bool = False
    past_hole: int = 0
    """Rows that Defender had when the run began, that its watermark has passed, and that ADX does not have."""
    rows_there: int = 0
    audits: list[dict[str, Any]] = field(default_factory=list)
    """Audit rows that are there since the run before."""
    watched: list[Watched] = field(default_factory=list)
    """The snapshot tables among the tables of the run."""


class Pipeline(Protocol):
    """What is under test: one run of some tables over a range of daily partitions."""

    def __call__(
        self, bench: "Bench", tables: Sequence[str], first: str, last: str, tags: Mapping[str, str]
    ) -> tuple[bool, str]:
        """Whether the run succeeded, and what it said of its failures."""


def dagster_run(
    bench: "Bench", tables: Sequence[str], first: str, last: str, tags: Mapping[str, str]
) -> tuple[bool, str]:
    """A Dagster run of the project's job in this process: assets, IO manager, event log and pools as they are."""
    job = snapshot_tables() if bench.snapshots.of(tables) else event_tables()
    result = job.execute_in_process(
        instance=bench.instance,
        asset_selection=[raw_key(bench.world.catalogue[name]) for name in tables],
        tags={RANGE_START: first, RANGE_END: last, **tags},
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )
    messages = []
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None:
                messages.append(error.message.strip())
                error = error.cause
    return result.success, "\n".join(messages)


class Bench:
    """Puts rows into Defender, runs the pipeline, and looks at both sides.

    Args:
        world: the tenant, the database and what asks them.
        database: the state of the migration.
        instance: Dagster's records.
        calls: what goes wrong at hunting calls.
        pace: bounds of the runs in this process.
        pipeline: what is under test.
    """

    def __init__(
        self,
        *,
        world: World,
        database: Database,
        instance: dg.DagsterInstance,
        calls: HuntingCalls,
        pace: Pace,
        pipeline: Pipeline,
    ) -> None:
        self.world = world
        self.tenant = world.tenant
        self.database = database
        self.instance = instance
        self.calls = calls
        self.pace = pace
        self.pipeline = pipeline
        self.label = "none"
        self.run_seconds = RUN_SECONDS
        self.tables: tuple[str, ...] = ()
        self.runs: list[Ran] = []
        self.logged: list[str] = []
        self.hits = 0
        """How often something went wrong or happened at a call."""
        self.snapshots = SnapshotWatch(self)
        self._arranged = 0, 0
        self._number = 0
        self._lock = threading.Lock()

    # Before a case.

    def reset(self, tables: Sequence[str]) -> None:
        """Empty both sides, the state and Dagster's records of the last case; no fault is armed any more."""
        self.calm()
        self.drain()
        for run in self.instance.get_runs(filters=dg.RunsFilter(tags={LABEL: self.label})):
            self.instance.delete_run(run.run_id)
        used = sorted({*self.tables, *tables})
        self.instance.wipe_assets([raw_key(self.world.catalogue[table]) for table in used])
        for table in used:
            self.tenant.source.clear(table)
        self.tenant.worker.stop()
        self.tenant.worker.inbox.clear()
        self.tenant.worker.start()
        self.tenant.adx.clear_rows()
        self.tables = tuple(tables)
        self.world.bootstrap(self.tables)
        self.tenant.log.clear()
        self._number += 1
        self.label = f"case-{self._number}"
        self.runs, self.logged[:], self.hits = [], [], 0
        self.snapshots.reset()
        self._arranged = 0, 0
        self.world.now = utc_now()

    def arranged(self) -> None:
        """What is in ADX and in the audit log by now belongs to the rows of the case, not to its runs."""
        self._arranged = len(self._audits()), sum(self.loaded(table).total() for table in self.tables)

    def calm(self) -> None:
        """No fault is armed, and limits, delays and bounds are those of a quiet tenant."""
        self.hits += self.calls.fired() + self.tenant.faults.fired()
        self.calls.clear()
        self.tenant.faults.clear()
        self.limit(**{name: getattr(HuntingLimits(), name) for name in HuntingLimits.__slots__})
        self.tenant.worker.batching_delay = _QUICK
        for name, value in ((name, getattr(Pace(), name)) for name in Pace.__slots__):
            setattr(self.pace, name, value)

    def limit(self, **limits: Any) -> None:
        """Change limits of Defender's answers."""
        for name, value in limits.items():
            setattr(self.tenant.limits, name, value)

    # Rows.

    def rows(
        self, table: str, count: int, *, ago: timedelta, step: timedelta = timedelta(minutes=5), number: int = 0
    ) -> None:
        """Put rows into Defender: the first one `ago` before now, the others after it.

        Args:
            table: the table.
            count: how many.
            ago: of the first.
            step: between one and the next; zero: all at one time.
            number: of the first; rows of one table with the same number are the same but for their time.
        """
        column, start = self.world.catalogue[table].time_column or "", self.world.now - ago
        self.tenant.source.insert_rows(
            table,
            [
                {
                    column: to_text(start + place * step)[:-2] + f"{(number + place) % 10}Z",
                    **self.world.key(table, number + place, start),
                }
                for place in range(count)
            ],
        )

    # Runs.

    def run(
        self,
        tables: Sequence[str] = (),
        first: str = "",
        last: str = "",
        *,
        scope: str | None = None,
        pipeline: Pipeline | None = None,
    ) -> Ran:
        """One run, bounded in time.

        Args:
            tables: those of the case unless said otherwise.
            first: first partition; the oldest that Defender keeps unless said otherwise.
            last: last partition; today unless said otherwise.
            scope: value of the tag that makes it a tick or a sweep.
            pipeline: another one than that of the bench.
        """
        return self.start(tables, first, last, scope=scope, pipeline=pipeline)()

    def start(
        self,
        tables: Sequence[str] = (),
        first: str = "",
        last: str = "",
        *,
        scope: str | None = None,
        pipeline: Pipeline | None = None,
    ) -> Callable[[], Ran]:
        """Begin a run in a thread; what is given back waits for its end. Arguments as for `run`."""
        tables = tables or self.tables
        now = utc_now()
        back = timedelta(days=0 if self.snapshots.of(tables) else 30)
        bounds = first or (now - back).date().isoformat(), last or now.date().isoformat()
        tags = {LABEL: self.label, **({SCOPE_TAG: scope} if scope else {})}
        before, audits = {table: self._before(table) for table in tables}, len(self._audits())
        end = self.snapshots.begin(tables)
        ran = Ran(False)
        began = time.monotonic()

        def work() -> None:
            try:
                self.settle()
                ran.success, ran.message = (pipeline or self.pipeline)(self, tables, *bounds, tags)
                if not ran.success:
                    self.settle()
            except Exception as error:  # noqa: BLE001 - whatever comes out of a run belongs to its verdict
                ran.message = f"{type(error).__name__} out of the run: {error}"

        thread = threading.Thread(target=work, name="run", daemon=True)
        thread.start()

        def wait() -> Ran:
            thread.join(self.run_seconds - (time.monotonic() - began))
            ran.hung, ran.seconds = thread.is_alive(), time.monotonic() - began
            ran.past_hole = sum(self._past_hole(table, rows) for table, rows in before.items())
            ran.rows_there = sum(self.loaded(table).total() for table in tables)
            ran.audits = self._audits()[audits:]
            ran.watched = end(ran.success and not any(row["Status"] == "Skipped" for row in ran.audits))
            with self._lock:
                self.runs.append(ran)
            return ran

        return wait

    def settle(self) -> None:
        """What the launcher and the sensor do: audit rows for attempts that could not write their own."""
        try:
            settle_ended_runs(self.instance, self.database.state, self.database.catalogue)
        except AdxError as error:
            self.logged.append(f"settling: {error}")

    # Afterwards.

    def drain(self) -> bool:
        """Wait until nothing is queued any more; whether that came true in time."""
        return self.when(lambda: not any(map(self.tenant.storage.message_count, READY)), DRAIN_SECONDS)

    def when(self, condition: Callable[[], bool], seconds: float = 20.0) -> bool:
        """Wait until something is so; whether that came true in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def requests(self, service: str, method: str = "", match: str = "") -> int:
        """How many requests of a kind the case has made so far."""
        entries = self.tenant.log.entries(service=service)
        return sum(method in ("", entry.method) and match in (entry.statement or entry.path) for entry in entries)

    def truth(self, table: str) -> Counter[tuple[str, Digest]]:
        """What Defender has of a table, as time and content, past its API."""
        return self.counted(table, (orjson.loads(line) for line in self.tenant.source.rows(table)))

    def loaded(self, table: str) -> Counter[tuple[str, Digest]]:
        """What ADX has of a table, as time and content, past its API; nothing where somebody dropped its raw table."""
        if f"{table}Raw" not in self.tenant.adx.tables():
            return Counter()
        cursor = self.tenant.adx.cursor()
        cursor.execute(f"SELECT CAST(Records AS VARCHAR) FROM adx.data.{quoted(f'{table}Raw')}")
        return self.counted(table, (orjson.loads(text) for text in _fetched(cursor)))

    def watermark(self, table: str) -> str:
        """The watermark in force."""
        return self.database.state.configuration(table).watermark

    def audits(self) -> list[dict[str, Any]]:
        """All audit rows of the case's runs, the oldest first."""
        return self._audits()[self._arranged[0] :]

    def loaded_by_runs(self) -> int:
        """Rows in ADX of all tables, without those that the case begins with."""
        return sum(self.loaded(table).total() for table in self.tables) - self._arranged[1]

    def open_slices(self) -> int:
        """Slices that the ledger has neither confirmed nor given up."""
        query = f"{LEDGER_VIEW} | where Kind == 'Slice' and State in ('Planned', 'Queued')"
        return len(self.database.adx.query(query))

    def _audits(self) -> list[dict[str, Any]]:
        # Past the API, where a case may have armed faults that are still in force.
        cursor = self.tenant.adx.cursor()
        cursor.execute(
            "SELECT TableName, CAST(Timestamp AS VARCHAR), Status, FailureReason, RecordCount"
            f" FROM adx.data.{quoted(AUDIT)} ORDER BY Timestamp"
        )
        names = ("TableName", "Timestamp", "Status", "FailureReason", "RecordCount")
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _before(self, table: str) -> Counter[tuple[str, Digest]]:
        """What Defender keeps of a table beyond its watermark: what a run may not pass; of a snapshot, nothing."""
        if self.snapshots.is_snapshot(table):
            return Counter()
        beyond = max(sort_key(self._stored_watermark(table)), sort_key(to_text(readable_since(utc_now()) + _MARGIN)))
        return Counter({row: count for row, count in self.truth(table).items() if row[0] > beyond})

    def _past_hole(self, table: str, before: Counter[tuple[str, Digest]]) -> int:
        watermark = sort_key(self._stored_watermark(table))
        missing = before - self.loaded(table)
        return sum(count for (moment, _), count in missing.items() if moment <= watermark)

    def _stored_watermark(self, table: str) -> str:
        cursor = self.tenant.adx.cursor()
        found = cursor.execute(
            'SELECT max(LastRefreshedTimeInString) FROM adx.data."MigrationConfiguration" WHERE SourceTable = ?',
            [table],
        ).fetchone()
        return str(found[0]) if found and found[0] else "1900-01-01T00:00:00Z"

    def counted(self, table: str, rows: Iterable[dict[str, Any]]) -> Counter[tuple[str, Digest]]:
        """Rows by time and content; those of a snapshot table without any time."""
        known = self.world.catalogue[table]
        if known.kind == "snapshot":
            return Counter(("", _digest(row, (SNAPSHOT_TIME,))) for row in rows)
        return Counter(
            (sort_key(str(row[known.time_column or ""])), _digest(row, known.mutable_columns)) for row in rows
        )


_SIZES = {"DEFENDER_SLICE_ROWS": str(SLICE_ROWS), "DEFENDER_SNAPSHOT_ROWS": str(SNAPSHOT_ROWS)}
_QUICK = 0.05
_MARGIN = timedelta(minutes=1)
"""Rows that fall out of what is read while the run begins are no hole."""


def _digest(row: Mapping[str, Any], mutable: Sequence[str]) -> Digest:
    kept = {name: value for name, value in row.items() if value is not None and name not in mutable}
    return blake2b(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def _fetched(cursor: Any) -> Iterator[str]:
    while batch := cursor.fetchmany(5_000):
        for (text,) in batch:
            yield text


class _Logged(logging.Handler):
    """Keeps what is logged, so that it can be searched for secrets, and keeps it off the table."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


@contextmanager
def open_bench(
    pipeline: Pipeline = dagster_run,
    opened: Callable[..., Any] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Bench]:
    """A bench over a tenant of its own, its settings in the environment.

    Args:
        pipeline: what is under test.
        opened: what makes the tenant; tests give the one that records statements.
        variables: further settings.
    """
    with ExitStack() as stack:
        memory = MEMORY if MEMORY.is_dir() else None
        made = tempfile.TemporaryDirectory(dir=memory, prefix="faults-", ignore_cleanup_errors=True)
        home = Path(stack.enter_context(made))
        tenant = stack.enter_context(
            (opened or LocalTenant)(home, scale=0, quota_clock_scale=CLOCK, batching_delay=_QUICK)
        )
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        settings = {**tenant.environment(), **dagster_environment(home), **_SIZES}
        for name, value in {**settings, **(variables or {})}.items():
            patch.setenv(name, value)
        pace = Pace()
        stack.enter_context(hurried(pace))
        database = stack.enter_context(open_database())
        instance = stack.enter_context(dg.DagsterInstance.get())
        world = World(tenant, database.settings, stack)
        calls = stack.enter_context(HuntingCalls(tenant))
        bench = Bench(world=world, database=database, instance=instance, calls=calls, pace=pace, pipeline=pipeline)
        handler = _Logged(bench.logged)
        logging.getLogger().addHandler(handler)
        stack.callback(logging.getLogger().removeHandler, handler)
        yield bench
