"""The situations in which the flow that this project replaces loses rows, for both flows: same rows, same faults.

Here: the rows of each situation, what goes wrong at which call, and what both flows leave in ADX. Not here: the older
flow itself (`benchmarks/older_flow.py`) and the other faults (the modules beside this one).

Each flow gets a tenant and a database of its own per situation, through which nothing but real clients over sockets
goes. Rows are told apart by their ReportId. Row numbers are a tenth of those that the older scripts used, and so is
Defender's cap on the rows of an answer.
"""

import math
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

import pytest

from benchmarks.older_flow import CHUNK_ROWS, PAGE_ROWS, OlderFlow
from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.adx.ingestion import SliceLoader
from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.adx.state_kql import AUDIT
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.defender.retrying import RetryPolicy
from defender_adx_pipeline.instants import to_text, utc_now
from defender_adx_pipeline.local.faults import Fault
from defender_adx_pipeline.local.ingest_endpoint import READY
from defender_adx_pipeline.local.limits import HuntingLimits
from defender_adx_pipeline.local.tenant import LocalTenant
from defender_adx_pipeline.migration.attempt import Asked, Migration
from defender_adx_pipeline.migration.connections import Database, open_database
from defender_adx_pipeline.migration.errors import MigrationError
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.planner import EngineOptions
from defender_adx_pipeline.migration.windows import Window

TABLE = "DeviceLogonEvents"
SCALE = 10
"""By how much numbers of rows are smaller than those that the older scripts were measured with."""

CLOCK = 2000.0
"""How much faster than real time the quota's windows and the pipeline's waiting go."""

SPREAD = timedelta(hours=15)
"""Between the times of the first and the last row of a situation."""

Place = int | Literal["count", "last"]

TOO_MANY_CALLS = Fault(
    "status",
    429,
    headers={"Retry-After": "1"},
    body='{"error":{"code":"429","message":"API calls quota exceeded! maximum allowed 45 per 00:01:00"}}',
)
TOO_LARGE = Fault(
    "status",
    400,
    body='{"error":{"code":"BadRequest","message":"Query execution has exceeded the allowed result size. Optimize your'
    ' query by limiting the number of results and try again."}}',
)
SERVER_ERROR = Fault("status", 500, body='{"error":{"code":"InternalServerError","message":"An error has occurred."}}')
RESET = Fault("reset")


@dataclass(frozen=True, slots=True)
class Situation:
    """One row of the comparison. Row numbers are those of the older scripts, before scaling."""

    name: str
    variant: Literal["sequential", "parallel"]
    rows: int
    times: int = 0
    """How many instants the rows share between them, rows of one instant side by side; 0: each has its own."""
    fault: Fault | None = None
    at: Place = 2
    """The call that goes wrong: the count, or a page by its number."""
    repeated: int = 1
    """How many tries of that call go wrong."""
    arriving: int = 0
    """Rows that arrive before each page, newer than all others; before four pages at most."""
    late: int = 0
    """Rows that arrive after the first run with times that lie between those of the others."""
    runs: int = 1

    @property
    def page(self) -> int:
        """Rows of a page or chunk of the older flow, before scaling."""
        return PAGE_ROWS if self.variant == "sequential" else CHUNK_ROWS


SITUATIONS = (
    Situation("quiet table", "sequential", 25_000),
    Situation("one 429 on page 2", "sequential", 25_000, fault=TOO_MANY_CALLS),
    Situation("400 (result too large) on page 2", "sequential", 25_000, fault=TOO_LARGE),
    Situation("the same, then a clean second run", "sequential", 25_000, fault=TOO_LARGE, runs=2),
    Situation("200 rows arrive before each page", "sequential", 25_000, arriving=200),
    Situation("300 late rows, then a second run", "sequential", 25_000, late=300, runs=2),
    Situation("quiet table", "parallel", 110_000),
    Situation("three rows share each time", "parallel", 110_000, times=36_667),
    Situation("all rows share three times", "parallel", 110_000, times=3),
    Situation("all rows share one time", "parallel", 110_000, times=1),
    Situation("one 500 on chunk 2, then a second run", "parallel", 110_000, fault=SERVER_ERROR, runs=2),
    Situation(
        "chunk 2 gets 429 five times, then a second run", "parallel", 110_000, fault=TOO_MANY_CALLS, repeated=5, runs=2
    ),
    Situation("the count gets one 429", "parallel", 110_000, fault=TOO_MANY_CALLS, at="count"),
    Situation("connection reset on chunk 2, then a second run", "parallel", 110_000, fault=RESET, runs=2),
    Situation("500 on the last chunk, then a second run", "parallel", 110_000, fault=SERVER_ERROR, at="last", runs=2),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a flow left in ADX."""

    source_rows: int
    loaded: int
    missing: int
    duplicates: int
    audit: str
    """Status and RecordCount of each audit row, and what else the flow said."""

    @property
    def exact(self) -> bool:
        """Whether every row is there once."""
        return not self.missing and not self.duplicates


class Interference:
    """Rows of one situation in Defender, and what happens while a flow reads them.

    Args:
        tenant: a started tenant without rows of the table.
        situation: what happens.
        scale: divides all its row numbers.
    """

    def __init__(self, tenant: LocalTenant, situation: Situation, scale: int) -> None:
        self.source_rows = 0
        self._tenant = tenant
        self._situation = situation
        self._scale = scale
        self._start = utc_now().replace(microsecond=0) - timedelta(days=2)
        self._pages: dict[str, int] = {}
        self._lock = threading.Lock()
        self._take = tenant.faults.take
        count = situation.rows // scale
        times = -(-situation.times // (scale if situation.times > 10 else 1)) or count
        self._step = SPREAD / times
        self._add(self._start + self._step * (number * times // count) for number in range(count))
        self._newest = self._start + self._step * (times - 1)

    def __enter__(self) -> Self:
        self._tenant.faults.take = self._watched  # type: ignore[method-assign]
        return self

    def __exit__(self, *exc: object) -> None:
        self._tenant.faults.take = self._take  # type: ignore[method-assign]

    @property
    def window(self) -> Window:
        """All that the situation puts rows into."""
        return Window(self._start - timedelta(hours=1), self._start + timedelta(days=1))

    def after_run(self) -> None:
        """What happens between the first run and the second."""
        late = self._situation.late // self._scale
        self._add(self._start + self._step * (7 * number) + self._step / 2 for number in range(late))

    def _add(self, times: Iterator[datetime]) -> None:
        rows = [
            {"Timestamp": to_text(time), "ReportId": self.source_rows + number, "DeviceName": "host"}
            for number, time in enumerate(times)
        ]
        self._tenant.source.insert_rows(TABLE, rows)
        self.source_rows += len(rows)

    def _watched(self, service: str, *texts: str | None, method: str = "") -> Fault | None:
        statement = texts[0] if texts else None
        if service == "hunting" and statement and TABLE in statement and "getschema" not in statement:
            with self._lock:
                if statement not in self._pages:
                    self._first_try(statement)
        return self._take(service, *texts, method=method)

    def _first_try(self, statement: str) -> None:
        situation, number = self._situation, self._number(statement)
        self._pages[statement] = number
        if situation.fault is not None and self._is_hit(statement, number):
            armed = {"match": statement, "times": situation.repeated}
            self._tenant.faults.add("hunting", situation.fault, **armed)
        if number and number <= 4 and situation.arriving:
            count = situation.arriving // self._scale
            self._add(self._newest + self._step * (1 + number) for number in range(count))
            self._newest += self._step * count

    def _number(self, statement: str) -> int:
        """Which page a query asks for, from 1; 0 for a count."""
        if re.search(r"\bsummarize\b|\|\s*count\b", statement):
            return 0
        row = re.search(r"rownum between \((\d+)", statement)
        if row:
            return 1 + (int(row[1]) - 1) * self._scale // self._situation.page
        return 1 + sum(number > 0 for number in self._pages.values())

    def _is_hit(self, statement: str, number: int) -> bool:
        situation = self._situation
        if self._tenant.faults.as_json():
            return False  # it has been hit
        if situation.at == "count":
            return number == 0
        if situation.at != "last" or not number:
            return number == situation.at
        end = re.search(r"< datetime\(([^)]+)\)", statement)
        if end:
            return datetime.fromisoformat(end[1]) > self._newest
        return number == math.ceil(situation.rows / situation.page)


class Side:
    """A tenant and a bootstrapped database, for one flow and one situation."""

    def __init__(self, tenant: LocalTenant, database: Database, situation: Situation, scale: int) -> None:
        self.tenant = tenant
        self.database = database
        self.situation = situation
        self.scale = scale
        self.interference = Interference(tenant, situation, scale)
        self.remarks: list[str] = []

    def outcome(self) -> Outcome:
        """Wait until nothing is queued any more, then count."""
        deadline = time.monotonic() + 60.0
        while any(map(self.tenant.storage.message_count, READY)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.situation.name}: the queue of the ingestion worker does not become empty")
            time.sleep(0.02)
        rows = self.database.adx.query(f"['{TABLE}Raw'] | project Id = tolong(Records.ReportId)")
        there = Counter(int(row["Id"]) for row in rows)
        audits = self.database.adx.query(f"{AUDIT} | order by Timestamp asc")
        configuration = self.database.state.configuration_rows()[0]
        if not configuration["IsActive"]:
            self.remarks.append("the table is inactive")
        if configuration["LastRefreshedTime"] is None:
            self.remarks.append("its watermark is null")
        source_rows = self.interference.source_rows
        return Outcome(
            source_rows=source_rows,
            loaded=there.total(),
            missing=sum(number not in there for number in range(source_rows)),
            duplicates=there.total() - len(there),
            audit="; ".join([*(f"{row['Status']} {row['RecordCount']:,}" for row in audits), *self.remarks]),
        )


@contextmanager
def side(situation: Situation, scale: int = SCALE, opened: Callable[..., Any] | None = None) -> Iterator[Side]:
    """A new tenant with the rows of a situation, its settings in the environment.

    Args:
        situation: what happens.
        scale: divides all row numbers.
        opened: what makes the tenant; tests give the one that records statements.
    """
    with ExitStack() as stack:
        options = {
            "scale": 0,
            "quota_clock_scale": CLOCK,
            "batching_delay": 0.05,
            "limits": HuntingLimits(rows=100_000 // scale),
        }
        if opened is None:
            home = stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True))
            tenant = stack.enter_context(LocalTenant(Path(home), **options))
        else:
            tenant = stack.enter_context(opened(**options))
        variables = {**tenant.environment(), "DEFENDER_SLICE_ROWS": str(situation.page // scale)}
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in variables.items():
            patch.setenv(name, value)
        database = stack.enter_context(open_database())
        bootstrap(
            database.adx,
            client_id=database.settings.azure_client_id,
            tenant_id=database.settings.azure_tenant_id,
            tables=(database.catalogue[TABLE],),
        )
        there = Side(tenant, database, situation, scale)
        stack.enter_context(there.interference)
        yield there


def run_older_flow(there: Side) -> Outcome:
    """The older flow through a situation, as often as it was run there."""
    situation = there.situation
    for number in range(situation.runs):
        if number == 1:
            there.interference.after_run()
        with OlderFlow(there.tenant.environment(), scale=there.scale, sleep=lambda seconds: None) as flow:
            try:
                getattr(flow, situation.variant)(TABLE)
            except KeyError as error:
                there.remarks.append(f"run {number + 1} ended with {error!r}")
    return there.outcome()


def run_pipeline(there: Side) -> Outcome:
    """The pipeline through the same; where a run failed loudly, once more."""
    situation, database = there.situation, there.database
    with ExitStack() as stack:
        retries = RetryPolicy.scaled(CLOCK)
        hunting = stack.enter_context(HuntingClient.from_settings(database.settings, retries=retries))
        migration = Migration(
            hunting_client=hunting,
            adx=database.adx,
            loader=stack.enter_context(SliceLoader(database.adx)),
            catalogue=database.catalogue,
            options=EngineOptions.from_settings(database.settings),
        )
        failures = 0
        for number in range(situation.runs):
            if number == 1:
                there.interference.after_run()
            failures += not _synced(migration, there, number + 1)
        if failures:
            _synced(migration, there, situation.runs + 1)
    return there.outcome()


def _synced(migration: Migration, there: Side, number: int) -> bool:
    try:
        migration.sync(Asked(TABLE, RunIdentity(f"run-{number}", "none"), there.interference.window))
    except (MigrationError, HuntingError, AdxError) as error:
        there.remarks.append(f"run {number} failed loudly: {type(error).__name__}")
        return False
    return True


@dataclass(frozen=True, slots=True)
class Compared:
    """Both flows through one situation."""

    situation: Situation
    pipeline: Outcome
    older_flow: Outcome


def compared(situation: Situation, scale: int = SCALE, opened: Callable[..., Any] | None = None) -> Compared:
    """Run both flows through a situation, one after the other; arguments as for `side`."""
    with side(situation, scale, opened) as there:
        pipeline = run_pipeline(there)
    with side(situation, scale, opened) as there:
        return Compared(situation, pipeline, run_older_flow(there))


def lines(number: int, both: Compared) -> list[str]:
    """Two lines of the table: the pipeline's and the older flow's."""
    rows = (("pipeline", both.pipeline), ("older flow", both.older_flow))
    names = (f"{number:2} {both.situation.variant:10} {both.situation.name}", "")
    return [
        f"{name:66} {flow:10} {one.source_rows:7,} {one.loaded:7,} {one.missing:7,} {one.duplicates:7,}  {one.audit}"
        for name, (flow, one) in zip(names, rows, strict=True)
    ]


HEADING = f"{'   variant    situation':66} {'flow':10} {'source':>7} {'loaded':>7} {'missing':>7} {'doubled':>7}  audit"


def facts(results: Sequence[Compared]) -> dict[str, Any]:
    """The sums over all situations, for the last line."""

    def sums(outcomes: Sequence[Outcome]) -> dict[str, int]:
        return {name: sum(getattr(item, name) for item in outcomes) for name in ("missing", "duplicates")}

    older = [both.older_flow for both in results]
    return {
        "rows": len(results),
        "ours": sums([both.pipeline for both in results]),
        "reference": {**sums(older), "rows_with_losses": sum(not item.exact for item in older)},
    }
