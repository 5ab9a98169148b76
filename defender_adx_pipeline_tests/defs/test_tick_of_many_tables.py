"""A tick over sixty active tables of which five have something new: what it asks, what it starts, what it records."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest

from defender_adx_pipeline.adx import state_kql
from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.instants import parse_instant, to_text, utc_now
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, settings_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]  # sixty tables to make, in ADX as in Dagster

TABLES, BUSY = 60, 5
COLUMNS = {"Timestamp": "datetime", "ReportId": "long", "DeviceId": "string", "Detail": "dynamic"}
ROWS, NEW = 3, 2
"""Rows that a table has from before, and those that are new."""


def described(count: int) -> list[dict[str, Any]]:
    """Records of DEFENDER_TABLES_FILE for tables that no catalogue has."""
    shape = {
        "category": "devices",
        "kind": "event",
        "time_column": "Timestamp",
        "identity": ["DeviceId", "ReportId"],
        "identity_source": "documented",
        "columns": COLUMNS,
    }
    return [{"name": f"DeviceFurther{number:02}Events", **shape} for number in range(count)]


@dataclass
class Ticked:
    """What one tick did."""

    world: World
    tables: tuple[str, ...]
    busy: tuple[str, ...]
    probes: list[str]
    """Hunting queries of the tick itself."""
    calls: list[tuple[str, str]]
    """Hunting queries of the runs that it asked for: table and text."""
    runs: list[dict[str, Any]]
    began: datetime

    def quiet(self) -> set[str]:
        return set(self.tables) - set(self.busy)


@pytest.fixture(scope="module")
def ticked(open_tenant: OpenTenant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ticked]:
    file = tmp_path_factory.mktemp("tables") / "tables.json"
    events = len(load_catalogue().events())
    file.write_bytes(orjson.dumps(described(TABLES - events)))
    catalogue = load_catalogue(file)
    with ExitStack() as stack:
        tenant = stack.enter_context(
            open_tenant(scale=0, quota_clock_scale=2000.0, batching_delay=0.05, catalogue=catalogue)
        )
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("DEFENDER_TABLES_FILE", str(file))
        world = World(tenant, settings_of(tenant, patch), stack)
        world.catalogue = catalogue
        tables = tuple(table.name for table in catalogue.events())
        world.bootstrap(tables)
        # One of every twelve is busy, the further tables among them; each has a quiet neighbour that has rows, too.
        busy = tables[5 :: TABLES // BUSY]
        complete(world, [*busy, *(tables[tables.index(name) - 1] for name in busy)], tables)
        for name in busy:
            world.rows(name, NEW, ago=timedelta(minutes=50))
        began, since = utc_now(), tenant.log.last_number()
        told = orjson.loads(one_tick())
        between = datetime.fromisoformat(told["between"])
        queries = tenant.log.entries(service="hunting", since=since)
        yield Ticked(
            world=world,
            tables=tables,
            busy=busy,
            probes=[str(query.statement) for query in queries if query.started < between],
            calls=[(str(query.table), str(query.statement)) for query in queries if query.started >= between],
            runs=told["runs"],
            began=began,
        )


def complete(world: World, with_rows: list[str], tables: tuple[str, ...]) -> None:
    """Load some rows of some tables, and give every table a watermark at what has settled."""
    for name in with_rows:
        world.rows(name, ROWS, ago=timedelta(hours=2))
        world.sync(name, world.last(3))
    moment = to_text(world.now - world.settings.defender_settle)
    state = world.migration().state
    state._append(
        state_kql.CONFIGURATION,
        [
            {**row, "LastRefreshedTime": moment, "LastRefreshedTimeInString": moment}
            for row in state.configuration_rows()
            if row["SourceTable"] in tables
        ],
    )


def one_tick() -> str:
    module = "defender_adx_pipeline_tests.defs.one_tick"
    done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_sixty_tables_are_active(ticked: Ticked) -> None:
    active = [row for row in ticked.world.migration().state.configuration_rows() if row["IsActive"]]
    assert {row["SourceTable"] for row in active} == set(ticked.tables)
    assert (len(ticked.tables), len(ticked.busy)) == (TABLES, BUSY)
    assert any(name.startswith("DeviceFurther") for name in ticked.busy)


def test_the_tick_asks_defender_at_most_twice_whatever_the_number_of_tables(ticked: Ticked) -> None:
    assert 1 <= len(ticked.probes) <= 2
    assert all(any(f'"{name}"' in probe for probe in ticked.probes) for name in ticked.tables)


def test_its_runs_are_of_the_tables_with_new_rows_alone(ticked: Ticked) -> None:
    assets = {asset for run in ticked.runs for asset in run["assets"]}
    assert assets == {f"adx/{name}{suffix}" for name in ticked.busy for suffix in ("Raw", "")}
    assert all(run["success"] for run in ticked.runs)


def test_no_other_table_has_a_step(ticked: Ticked) -> None:
    steps = [step for run in ticked.runs for step in run["steps"]]
    assert sorted(steps) == sorted(f"adx__{name}Raw" for name in ticked.busy)


def test_every_other_hunting_call_is_about_one_of_those_tables(ticked: Ticked) -> None:
    assert {table for table, _ in ticked.calls} == set(ticked.busy)
    for name in ticked.quiet():
        assert not any(name in text.replace('"', " ").split() for _, text in ticked.calls)


def test_their_rows_are_there_once(ticked: Ticked) -> None:
    for name in ticked.busy:
        assert ticked.world.truth(name).total() == ROWS + NEW
        assert ticked.world.difference(name) == (0, 0)


def test_the_quiet_tables_are_recorded_as_complete_up_to_what_had_settled(ticked: Ticked) -> None:
    rows = ticked.world.adx.query(
        f"{state_kql.LEDGER_VIEW} | where Kind == 'Window' and State == 'Confirmed' and RunId startswith 'tick '"
        " | project SourceTable, WindowStart = tostring(WindowStart), WindowEnd = tostring(WindowEnd)"
    )
    settled = ticked.began - ticked.world.settings.defender_settle
    assert {row["SourceTable"] for row in rows} == ticked.quiet()
    assert len(rows) == TABLES - BUSY
    for row in rows:
        assert parse_instant(row["WindowStart"]) <= settled - ticked.world.settings.defender_overlap
        assert parse_instant(row["WindowEnd"]) >= settled
