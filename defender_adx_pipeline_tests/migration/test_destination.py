"""Counts of ADX come from the typed table, which saves reading JSON; what to load is decided on the raw one alone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.adx import kql
from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.adx.typed_tables import typed_table_name
from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.instants import parse_instant, to_text
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.counts import compare
from defender_adx_pipeline.migration.destination import Destination
from defender_adx_pipeline.migration.windows import Window, bin_floor
from defender_adx_pipeline.quoting import kql_datetime
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world

LOGONS, FILES, NETWORK, IMAGES, INFO = (
    "DeviceLogonEvents",
    "DeviceFileEvents",
    "DeviceNetworkEvents",
    "DeviceImageLoadEvents",
    "DeviceTvmInfoGathering",
)
HOURS = timedelta(hours=20)
JSON_READ = "todatetime(Records["


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    """Raw tables; the typed ones are made by each test, when it wants them."""
    with bootstrapped_world(open_tenant, [LOGONS, FILES, NETWORK, IMAGES, INFO]) as world:
        for name in (LOGONS, FILES, NETWORK, IMAGES, INFO):
            world.adx.command(f".drop table {typed_table_name(world.catalogue[name])} ifexists", idempotent=True)
        yield world


def make_typed(world: World, name: str) -> None:
    tables = (world.catalogue[name],)
    bootstrap(world.adx, client_id=None, tenant_id=None, grants=False, tables=tables, typed=True)


def counts(world: World, name: str) -> tuple[int, int]:
    """Rows of the raw table and of the typed one."""
    raw, typed = f"{name}Raw", typed_table_name(world.catalogue[name])
    (row,) = world.adx.query(f"print Raw = toscalar({raw} | count), Typed = toscalar({typed} | count)")
    return row["Raw"], row["Typed"]


def asked(world: World, since: int) -> list[str]:
    """Queries and commands that ADX got since so many."""
    return [entry.statement for entry in world.tenant.log.entries(service="engine")[since:] if entry.statement]


def seen(world: World) -> int:
    return len(world.tenant.log.entries(service="engine"))


def null_of(kind: str) -> str:
    return '""' if kind == "string" else f"{kind}(null)"


# --- against the local tenant -------------------------------------------------------------------


def test_where_the_typed_table_has_every_row_no_record_is_read_to_count(world: World) -> None:
    make_typed(world, LOGONS)
    world.rows(LOGONS, 30, ago=HOURS)
    world.sync(LOGONS, world.last(24))
    assert counts(world, LOGONS) == (30, 30)
    before = seen(world)
    tally = world.sync(LOGONS, world.last(24))
    assert tally is not None
    assert (tally.expected_rows, tally.queryable_rows, tally.loaded_rows) == (30, 30, 0)
    counted = [text for text in asked(world, before) if "summarize Rows" in text]
    assert counted
    assert not [text for text in counted if JSON_READ in text]


def test_rows_from_before_the_typed_table_are_not_loaded_again(world: World) -> None:
    world.rows(FILES, 20, ago=HOURS)
    world.sync(FILES, world.last(24))
    make_typed(world, FILES)
    world.rows(FILES, 7, ago=HOURS / 2)
    tally = world.sync(FILES, world.last(24))
    assert tally is not None
    assert (tally.expected_rows, tally.queryable_rows, tally.loaded_rows) == (27, 27, 7)
    assert world.difference(FILES) == (0, 0)
    assert counts(world, FILES) == (27, 7)


def test_a_typed_table_with_as_many_rows_but_others_leads_to_no_load(world: World) -> None:
    world.rows(NETWORK, 5, ago=HOURS)
    world.sync(NETWORK, world.last(24))
    make_typed(world, NETWORK)
    # Five rows that are not those of the raw table, at another time of the window.
    moment = kql_datetime(world.now - HOURS / 4)
    columns = world.adx.query(kql.table_columns(NETWORK))
    values = ", ".join(
        f"{row['ColumnName']} = {moment if row['ColumnName'] == 'Timestamp' else null_of(row['ColumnType'])}"
        for row in columns
    )
    made = f"range Number from 1 to 5 step 1 | project {values}"
    world.adx.command(f".set-or-append {NETWORK} <| {made}", idempotent=True)
    assert counts(world, NETWORK) == (5, 5)
    tally = world.sync(NETWORK, world.last(24))
    assert tally is not None
    assert (tally.queryable_rows, tally.loaded_rows) == (5, 0)
    assert world.difference(NETWORK) == (0, 0)


def test_rows_that_are_gone_from_the_raw_table_alone_are_loaded_again(world: World) -> None:
    make_typed(world, IMAGES)
    world.rows(IMAGES, 9, ago=HOURS)
    world.sync(IMAGES, world.last(24))
    world.adx.command(f".clear table {IMAGES}Raw data", idempotent=True)
    tally = world.sync(IMAGES, world.last(24))
    assert tally is not None
    assert (tally.queryable_rows, tally.loaded_rows) == (9, 9)
    assert world.difference(IMAGES) == (0, 0)


def test_a_snapshot_is_counted_in_its_typed_table(world: World) -> None:
    make_typed(world, INFO)
    moment = to_text(world.now - HOURS)
    rows = [{"Timestamp": moment, "DeviceId": f"{number}"} for number in range(12)]
    world.tenant.source.insert_rows(INFO, rows)
    before = seen(world)
    tally = world.sync(INFO)
    assert tally is not None
    assert (tally.expected_rows, tally.queryable_rows) == (12, 12)
    counted = [text for text in asked(world, before) if "summarize Rows" in text]
    assert [text.splitlines()[0] for text in counted] == [f"{INFO}Snapshots"]


# --- any counts ---------------------------------------------------------------------------------

START = datetime(2026, 11, 1, 0, 20, tzinfo=UTC)
GRAIN = timedelta(hours=1)
WINDOW = Window(START, START + 6 * GRAIN)
BINS = [datetime(2026, 11, 1, hour, tzinfo=UTC) for hour in range(7)]
Rows = st.dictionaries(st.sampled_from(BINS), st.integers(1, 3))


class Recording:
    """A database of given counts that answers the questions of `Destination` and keeps them."""

    def __init__(self, raw: Mapping[datetime, int], typed: Mapping[datetime, int]) -> None:
        self.raw = raw
        self.typed = typed
        self.recounts = 0

    def command(self, text: str, *, idempotent: bool) -> Sequence[Mapping[str, Any]]:
        assert idempotent
        return [{"TableName": LOGONS}] if LOGONS in text else []

    def query(self, text: str) -> Sequence[Mapping[str, Any]]:
        if text.startswith("print"):
            return [{"RawRows": 1, "TypedRows": 1}]
        if JSON_READ not in text:
            return [{"Bin": to_text(start), "Rows": rows} for start, rows in self.typed.items()]
        low, high = map(parse_instant, re.findall(r"Bin [>=<]+ datetime\(([^)]*)\)", text))
        self.recounts += 1
        first = bin_floor(low, GRAIN)
        return [{"Bin": to_text(bin_), "Rows": rows} for bin_, rows in self.raw.items() if first <= bin_ < high]


@given(source=Rows, raw=Rows, typed=Rows)
def test_whatever_is_missing_is_missing_in_the_raw_table(
    source: dict[datetime, int], raw: dict[datetime, int], typed: dict[datetime, int]
) -> None:
    table = load_catalogue()[LOGONS]
    configuration = TableConfiguration(table, table.raw_table, "1900-01-01T00:00:00.0000000Z", "Incr", is_active=True)
    adx = Recording(raw, typed)
    found = Destination(adx).compared(configuration, WINDOW, GRAIN, source)  # type: ignore[arg-type]
    truth = {item.window: item for item in compare(WINDOW, GRAIN, source, raw)}
    for item in found.bins:
        if item.missing or item.surplus:
            assert truth[item.window] == item
    assert bool(adx.recounts) == any(source.get(start, 0) != typed.get(start, 0) for start in BINS)
