"""The monitoring functions over what the real engine left behind, against numbers made in Python from the same rows."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import orjson
import pytest

from defender_adx_pipeline.adx import monitoring_kql, state_kql
from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.adx.scripts import MONITORING, SchemaScriptError, kql_folder
from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.instants import parse_instant, utc_now
from defender_adx_pipeline.local.data import add_state
from defender_adx_pipeline.migration.agenda import read_agenda
from defender_adx_pipeline.migration.health import read_health
from defender_adx_pipeline.migration.ledger import RunIdentity, slice_row
from defender_adx_pipeline.migration.probe import Due, probe
from defender_adx_pipeline.migration.slices import DeadLetter, Slice
from defender_adx_pipeline.migration.snapshots import Snapshot, snapshot_row
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline.quoting import InvalidNameError
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world, entered

pytestmark = pytest.mark.long

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WHOLE, HOLED, FAILED, QUIET, UNTOUCHED, OFF = (
    "DeviceLogonEvents",
    "AlertInfo",
    "DeviceInfo",
    "DeviceFileEvents",
    "CloudAppEvents",
    "EmailEvents",
)
SNAPSHOT = "DeviceTvmSoftwareInventory"
EVENTS = (WHOLE, HOLED, FAILED, QUIET, UNTOUCHED, OFF)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
RUN = RunIdentity("older", "")
DASHBOARD = orjson.loads(monitoring_kql.dashboard_file().read_bytes())


@contextmanager
def opened(open_tenant: OpenTenant, *tables: str) -> Iterator[World]:
    """A bootstrapped database for some tables, with its settings in the environment."""
    with bootstrapped_world(open_tenant, tables) as world, pytest.MonkeyPatch.context() as patch:
        yield from entered(world, patch)


@pytest.fixture(scope="module")
def world(open_tenant: OpenTenant) -> Iterator[World]:
    """A database after loads, a failure that was mended and one that was not, a probe, and a snapshot."""
    with opened(open_tenant, *EVENTS, SNAPSHOT) as world:
        world.rows(WHOLE, 250, ago=30 * HOUR)
        world.sync(WHOLE)
        world.sync(WHOLE, world.last(3))
        world.rows(HOLED, 40, ago=8 * HOUR)
        world.sync(HOLED, Window(world.now - 9 * HOUR, world.now - 6 * HOUR))
        world.sync(HOLED, Window(world.now - 4 * HOUR, world.now - HOUR))
        world.sync(HOLED, Window(world.now - 7 * HOUR, world.now - 6.5 * HOUR))
        world.rows(QUIET, 30, ago=5 * HOUR)
        failing(world, QUIET)
        world.sync(QUIET)
        probed(world, QUIET)
        failing(world, FAILED)
        failing(world, FAILED)
        world.configure(OFF, IsActive=False)
        add_state(world.tenant.source, SNAPSHOT, 40)
        world.sync(SNAPSHOT)
        late_and_dead(world)
        yield world


def failing(world: World, table: str) -> None:
    world.tenant.faults.add("hunting", "status", match=table, times=None, status=403, body="{}")
    with pytest.raises(HuntingError):
        world.sync(table)
    world.tenant.faults.clear()


def probed(world: World, table: str) -> None:
    state = world.migration().state
    due = Due(state.configuration(table), Window(world.now - 4 * HOUR, utc_now() - 0.2 * HOUR))
    assert probe(world.hunting, world.adx, state, [due], run_id="tick", now=utc_now()).quiet == (due,)


def late_and_dead(world: World) -> None:
    """Slices of three days ago, one confirmed twice and one found by its tag, and a record that was kept out twice."""
    state = world.migration().state
    window = Window(world.now - 80 * HOUR, world.now - 79 * HOUR)
    old = Slice("a" * 32, UNTOUCHED, f"{UNTOUCHED}Raw", window, 70, received_rows=70, bytes=7000)
    found = Slice("b" * 32, UNTOUCHED, f"{UNTOUCHED}Raw", window, 11)
    then = world.now - 3 * DAY
    state.append_ledger([slice_row(old, RUN, state="Confirmed", now=then)] * 2)
    state.append_ledger([slice_row(found, RUN, state="Confirmed", now=then, Reason="tag already there")])
    letter = DeadLetter(old, {"ReportId": 7}, 2_000_000, "larger than a dynamic column holds")
    for moment in (then, world.now):
        state.append_dead_letters([letter], now=moment)


def by_table(world: World, query: str) -> dict[str, dict[str, Any]]:
    rows = world.adx.query(query)
    found = {row["SourceTable"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def day_of(row: dict[str, Any]) -> str:
    return str(row["RecordedAt"])[:10]


def confirmed_slices(world: World) -> dict[tuple[str, str], dict[str, Any]]:
    rows = [row for row in world.adx.query(state_kql.LEDGER) if (row["Kind"], row["State"]) == ("Slice", "Confirmed")]
    return {(row["SourceTable"], row["SliceId"]): row for row in rows}


# --- lag and gaps -------------------------------------------------------------------------------


def test_lag_is_what_the_engine_itself_calls_complete(world: World) -> None:
    state, now = world.migration().state, utc_now()
    items = [item for kind in ("event", "snapshot") for item in read_agenda(state, world.catalogue, kind).tables]
    lag = by_table(world, "MonitorLag()")
    assert lag.keys() == {*EVENTS, SNAPSHOT}
    for health in read_health(world.adx, state, items, now=now):
        row = lag[health.item.table.name]
        assert row["Kind"] == health.item.table.kind
        assert row["AllowedMinutes"] == health.item.table.allowed_lag / timedelta(minutes=1)
        if health.complete_until is None:
            assert (row["CompleteUntil"], row["LagMinutes"]) == (None, None)
            continue
        assert parse_instant(row["CompleteUntil"]) == health.complete_until
        assert math.isclose(row["LagMinutes"], (now - health.complete_until) / timedelta(minutes=1), abs_tol=1.0)
    states = {table: row["State"] for table, row in lag.items()}
    assert (states[WHOLE], states[SNAPSHOT], states[OFF]) == ("ok", "ok", "inactive")
    assert {states[HOLED], states[FAILED], states[UNTOUCHED]} == {"never complete"}


def test_a_gap_is_the_time_between_complete_windows_of_an_active_table(world: World) -> None:
    gaps = [(row["SourceTable"], row["GapStart"], row["GapEnd"]) for row in world.adx.query("MonitorGaps()")]
    assert {table for table, _, _ in gaps} == {HOLED}
    # What Defender keeps up to the first window, and the hole between the two; the third lies within the first.
    first, second = gaps
    assert parse_instant(first[2]) == world.now - 9 * HOUR
    assert [parse_instant(edge) for edge in second[1:]] == [world.now - 6 * HOUR, world.now - 4 * HOUR]


def test_a_watermark_that_was_set_back_makes_older_windows_count_no_more(open_tenant: OpenTenant) -> None:
    with opened(open_tenant, WHOLE) as world:
        world.rows(WHOLE, 50, ago=10 * HOUR)
        world.sync(WHOLE)
        back = world.now - 11 * HOUR
        text = back.strftime("%Y-%m-%dT%H:%M:%S.%f0Z")
        world.configure(WHOLE, LastRefreshedTime=text, LastRefreshedTimeInString=text)
        row = by_table(world, "MonitorLag()")[WHOLE]
        assert (parse_instant(row["CompleteUntil"]), row["State"]) == (back, "very late")
        moves = [parse_instant(one["Watermark"]) for one in world.adx.query("MonitorWatermarks()") if one["Watermark"]]
        assert moves[0] == back
        assert len(moves) == 2
        world.sync(WHOLE)
        assert by_table(world, "MonitorLag()")[WHOLE]["State"] == "ok"


def test_a_day_without_a_snapshot_is_a_gap_until_today(open_tenant: OpenTenant) -> None:
    with opened(open_tenant, SNAPSHOT) as world:
        published = {4: 100, 2: 90, 1: 95}
        for back, rows in published.items():
            taken = Snapshot(SNAPSHOT, f"{SNAPSHOT}Raw", world.now - back * DAY, ("DeviceId",), 1, rows)
            row = snapshot_row(
                taken, RUN, state="Published", now=taken.taken_at + timedelta(minutes=5), QueryableRows=rows
            )
            world.migration().state.append_ledger([row])
        today = world.adx.query("print Day = startofday(now())")[0]["Day"]
        midnight = parse_instant(today)
        (gap,) = world.adx.query("MonitorGaps()")
        assert (parse_instant(gap["GapStart"]), gap["Hours"], gap["Kind"]) == (midnight - 3 * DAY, 24.0, "snapshot")
        shown = {parse_instant(row["Day"]): row for row in world.adx.query("MonitorSnapshots(30)")}
        changes = {back: shown[midnight - back * DAY]["Change"] for back in published}
        assert changes == {4: None, 2: None, 1: 5}
        assert {row["Minutes"] for row in shown.values()} == {5.0}
        assert len(world.adx.query("MonitorSnapshots(2)")) == 1


# --- rows, cost, failures, quota -----------------------------------------------------------------


def test_rows_and_bytes_per_day_are_those_of_the_confirmed_slices_each_once(world: World) -> None:
    wanted: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for (table, slice_id), row in confirmed_slices(world).items():
        rows = 11 if slice_id == "b" * 32 else row["ReceivedRows"]
        for place, number in enumerate((rows, row["Bytes"] or 0, 1)):
            wanted[day_of(row), table][place] += number
    found = {
        (row["Day"][:10], row["SourceTable"]): [row["Rows"], row["Bytes"] or 0, row["Slices"]]
        for row in world.adx.query("MonitorRowsPerDay(30)")
    }
    assert found == wanted
    assert found[(world.now - 3 * DAY).date().isoformat(), UNTOUCHED] == [81, 7000, 2]
    for table in (WHOLE, HOLED, QUIET):
        loaded = sum(world.loaded(table).values())
        assert sum(rows for (_, name), (rows, _, _) in found.items() if name == table) == loaded
    assert UNTOUCHED not in {row["SourceTable"] for row in world.adx.query("MonitorRowsPerDay(2)")}


def test_cost_is_the_share_of_all_bytes_with_what_a_row_takes(world: World) -> None:
    sizes: dict[str, int] = defaultdict(int)
    for (table, _), row in confirmed_slices(world).items():
        sizes[table] += row["Bytes"] or 0
    cost = by_table(world, "MonitorCost(30)")
    assert {table: row["Bytes"] for table, row in cost.items()} == sizes
    for table, row in cost.items():
        assert math.isclose(row["Share"], sizes[table] / sum(sizes.values()), abs_tol=1e-4)
        assert math.isclose(row["BytesPerRow"], sizes[table] / row["Rows"], abs_tol=0.1)
        assert row["BytesPerDay"] == sizes[table] // 30
    assert cost[QUIET]["Calls"] == by_table(world, f"MonitorQuota() | where SourceTable == '{QUIET}'")[QUIET]["Calls"]


def test_failures_are_counted_by_error_and_a_table_that_succeeded_since_is_not_failing(world: World) -> None:
    failures = by_table(world, "MonitorFailures(7)")
    assert {table: (row["Failures"], row["IsFailing"]) for table, row in failures.items()} == {
        FAILED: (2, True),
        QUIET: (1, False),
    }
    assert {row["Error"] for row in failures.values()} == {"PermissionDeniedError"}
    audits = world.audits(FAILED)
    assert failures[FAILED]["LastReason"] == audits[-1]["FailureReason"]
    assert (failures[FAILED]["FirstFailure"], failures[FAILED]["LastFailure"]) == (
        audits[0]["Timestamp"],
        audits[-1]["Timestamp"],
    )
    # The probe's window is later than the run that succeeded.
    (last,) = [row["RecordedAt"] for row in world.ledger(QUIET, "Window") if row["RunId"] == "tick"]
    assert (failures[QUIET]["LastSuccess"], failures[FAILED]["LastSuccess"]) == (last, None)


def test_every_hunting_call_of_loads_failures_and_probe_is_counted_once(world: World) -> None:
    rows = world.adx.query("MonitorQuota(2, 750)")
    called = len(world.tenant.log.entries(service="hunting"))
    assert sum(row["Calls"] for row in rows) == called
    assert {row["SourceTable"] for row in rows} == {WHOLE, HOLED, QUIET, FAILED, SNAPSHOT, "*"}
    assert sum(row["Calls"] for row in rows if row["SourceTable"] in ("*", FAILED)) == 3
    for row in rows:
        assert math.isclose(row["ShareOfQuota"], row["Calls"] / 750, abs_tol=1e-4)
        assert row["Hour"].endswith(":00:00Z")
        assert row["QuotaWaitSeconds"] >= 0


def test_a_record_that_was_kept_out_twice_counts_once(world: World) -> None:
    letters = by_table(world, "MonitorDeadLetters()")
    assert (letters[UNTOUCHED]["Records"], letters[UNTOUCHED]["Bytes"]) == (1, 2_000_000)
    assert parse_instant(letters[UNTOUCHED]["FirstAt"]) == world.now - 3 * DAY
    assert parse_instant(letters[UNTOUCHED]["LastAt"]) == world.now
    assert by_table(world, "MonitorDeadLetters(1)")[UNTOUCHED]["Records"] == 1


def test_a_ledger_from_before_the_columns_for_calls_is_written_without_them(open_tenant: OpenTenant) -> None:
    with opened(open_tenant, WHOLE) as world:
        world.adx.command(".drop table MigrationLedger", idempotent=True)
        older = re.sub(r",\s*Calls: long,\s*QuotaWaitSeconds: real", "", _create_ledger())
        world.adx.command(older, idempotent=True)
        world.adx.command(_older_view(), idempotent=True)
        world.rows(WHOLE, 20, ago=3 * HOUR)
        world.sync(WHOLE)
        assert world.difference(WHOLE) == (0, 0)
        with pytest.raises(AdxError):
            world.adx.query("MonitorQuota()")
        world.bootstrap([WHOLE])
        world.sync(WHOLE, world.last(2))
        assert sum(row["Calls"] for row in world.adx.query("MonitorQuota()")) >= 1


def _create_ledger() -> str:
    text = (kql_folder() / "13_migration_ledger.kql").read_text(encoding="utf-8")
    return text[text.index(".create-merge table") : text.index("\n\n", text.index(".create-merge table"))]


def _older_view() -> str:
    text = (kql_folder() / "13_migration_ledger.kql").read_text(encoding="utf-8")
    start = text.index(".create-or-alter function")
    return text[start : text.index("\n}", start) + 2].replace(", Calls, QuotaWaitSeconds", "")


# --- the dashboard -------------------------------------------------------------------------------


@pytest.mark.parametrize("title", monitoring_kql.dashboard_queries())
def test_every_tile_of_the_dashboard_runs_and_has_the_columns_that_it_shows(world: World, title: str) -> None:
    rows = world.adx.query(monitoring_kql.dashboard_queries()[title])
    assert rows
    (tile,) = [tile for tile in DASHBOARD["tiles"] if tile["title"] == title]
    options = tile["visualOptions"]
    named = [options.get("xColumn"), *(options.get("yColumns") or []), *(options.get("seriesColumns") or [])]
    named += [options.get("multiStat__valueColumn"), options.get("multiStat__labelColumn")]
    named += [rule["applyToColumn"] for rule in options.get("colorRules", [])]
    assert {name for name in named if name} <= rows[0].keys()


def test_the_dashboard_has_the_structure_that_the_web_ui_imports() -> None:
    assert DASHBOARD["$schema"] == "https://dataexplorer.azure.com/static/d/schema/60/dashboard.json"
    assert DASHBOARD["schema_version"] == "60"
    lists = {name: DASHBOARD[name] for name in ("tiles", "pages", "queries", "dataSources", "parameters")}
    ids = [DASHBOARD["id"], DASHBOARD["eTag"], *(item["id"] for items in lists.values() for item in items)]
    assert all(UUID.fullmatch(one) for one in ids)
    assert len(set(ids)) == len(ids)
    # Every query is of one tile, and its variables are those that its text has.
    shown = [tile["queryRef"]["queryId"] for tile in lists["tiles"] if "queryRef" in tile]
    assert sorted(shown) == sorted(query["id"] for query in lists["queries"])
    for query in lists["queries"]:
        assert query["dataSource"] == {"kind": "inline", "dataSourceId": lists["dataSources"][0]["id"]}
        assert query["usedVariables"] == [name for name in ("_startTime", "_endTime") if name in query["text"]]
    pages = {page["id"] for page in lists["pages"]}
    assert {tile["pageId"] for tile in lists["tiles"]} == pages


def test_no_tile_of_the_dashboard_covers_another() -> None:
    taken: set[tuple[str, int, int]] = set()
    for tile in DASHBOARD["tiles"]:
        box = tile["layout"]
        cells = {
            (tile["pageId"], x, y)
            for x in range(box["x"], box["x"] + box["width"])
            for y in range(box["y"], box["y"] + box["height"])
        }
        assert not cells & taken
        assert box["x"] + box["width"] <= 22
        taken |= cells


def test_cluster_and_database_are_filled_in_and_nothing_else_is() -> None:
    filled = monitoring_kql.dashboard("https://c.region.kusto.windows.net", "Sec urity")
    (source,) = filled["dataSources"]
    assert (source["clusterUri"], source["database"]) == ("https://c.region.kusto.windows.net", "Sec urity")
    assert {**filled, "dataSources": None} == {**DASHBOARD, "dataSources": None}
    assert (kql_folder() / MONITORING / monitoring_kql.DASHBOARD).is_file()
    with pytest.raises(SchemaScriptError, match="ADX_CLUSTER_URI"):
        monitoring_kql.dashboard('https://c"', "d")
    with pytest.raises(InvalidNameError):
        monitoring_kql.dashboard("https://c", "d']")


def test_every_function_is_asked_for_by_a_tile_or_by_another_function() -> None:
    texts = [query["text"] for query in DASHBOARD["queries"]]
    texts += [path.read_text(encoding="utf-8") for path in (kql_folder() / MONITORING).glob("*.kql")]
    for name in monitoring_kql.FUNCTIONS:
        assert sum(text.count(f"{name}(") for text in texts) > 1
