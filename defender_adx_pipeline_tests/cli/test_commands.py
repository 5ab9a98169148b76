"""The commands as a person runs them: output, exit codes, readable errors, no secrets."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from defender_adx_pipeline.adx.monitoring_kql import QUOTA
from defender_adx_pipeline.adx.scripts import Placeholders, statements
from defender_adx_pipeline.cli import app
from defender_adx_pipeline.cli.comparing import SnapshotResult, compare_snapshot
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.local.data import add_state, evolve
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.connections import open_database
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.snapshots import snapshot_row
from defender_adx_pipeline.migration.windows import Window, bin_floor
from defender_adx_pipeline.settings import Settings
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, entered, settings_of

TABLE = "DeviceLogonEvents"
SNAPSHOT, OTHER, COMPARED = "DeviceTvmSoftwareInventory", "DeviceTvmHardwareFirmware", "DeviceTvmCertificateInfo"
PUBLISHED = "2026-11-24T05:10:00.0000000Z"


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        tenant = stack.enter_context(open_tenant(scale=0, quota_clock_scale=2000.0, batching_delay=0.05))
        yield World(tenant, settings_of(tenant, patch), stack)


@pytest.fixture(scope="module")
def bootstrapped(shared_world: World) -> None:
    """The objects of all tables, made once for the tests that only need them to be there."""
    shared_world.bootstrap()


@pytest.fixture
def world(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from entered(shared_world, monkeypatch)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_help_lists_every_command() -> None:
    shown = run("--help").output
    for command in ("demo", "local", "bootstrap", "sync", "status", "query"):
        assert command in shown


def test_bootstrap_prints_every_script_without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    printed = run("bootstrap", "--print")
    assert printed.exit_code == 0
    for name in ("MigrationConfiguration", "MigrationAuditLog", "MigrationLedger", "DynamicJsonMap", "{ClientId}"):
        assert name in printed.output
    # The typed tables, too.
    for name in ("ExpandDeviceEvents()", "ExposureGraphNodesSnapshots", "{RetentionDays}"):
        assert name in printed.output
    monkeypatch.setenv("DEFENDER_RETENTION_DAYS", "400")
    assert '"SoftDeletePeriod":"400.00:00:00"' in run("bootstrap", "--print").output


def test_the_roles_can_go_to_another_app_than_the_one_that_runs_bootstrap(world: World) -> None:
    other = "11111111-2222-3333-4444-555555555555"
    applied = run("bootstrap", "--grant-to", other)
    assert applied.exit_code == 0
    principals = world.adx.command(".show database ['defender'] principals", idempotent=True)
    granted = {row["Role"] for row in principals if other in str(row)}
    assert len(granted) == 5


def test_a_missing_setting_is_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    failed = run("status")
    assert failed.exit_code == 2
    assert "ADX_CLUSTER_URI" in failed.output
    assert "Traceback" not in failed.output


def test_before_bootstrap_the_error_says_bootstrap(open_tenant: OpenTenant, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_tenant(scale=0, tables=[TABLE]) as tenant:
        for name, value in tenant.environment().items():
            monkeypatch.setenv(name, value)
        failed = run("status")
    assert failed.exit_code == 1
    assert "defender-adx bootstrap" in failed.output


def test_the_way_of_a_table_from_bootstrap_to_status(world: World) -> None:
    applied = run("bootstrap")
    assert applied.exit_code == 0
    assert "statements applied" in applied.output
    world.rows(TABLE, 30, ago=timedelta(hours=3))
    synced = run("sync", TABLE, "--json")
    assert synced.exit_code == 0
    facts = orjson.loads(synced.output)
    assert (facts["rows_loaded"], facts["rows_queryable"]) == (30, 30)
    assert world.difference(TABLE) == (0, 0)

    status = run("status", "--json")
    assert status.exit_code == 0
    states = {state["table"]: state for state in orjson.loads(status.output)["tables"]}
    assert states[TABLE]["audit_status"] == "Success"
    assert states[TABLE]["watermark"] == world.watermark(TABLE)
    assert states[TABLE]["open_slices"] == 0
    assert states[TABLE]["covered_to"]
    assert states["DeviceInfo"]["audit_status"] == ""
    assert TABLE in run("status").output
    state = states[TABLE]
    assert (state["lag_state"], state["failures"], state["complete_until"]) == ("ok", 0, state["covered_to"])
    assert (state["rows_today"], state["rows_per_day"]) == (30, [0] * 13 + [30])
    days = orjson.loads(run("status", "--json", "--days", "3").output)
    calls = len(world.tenant.log.entries(service="hunting"))
    assert [days["totals"][name] for name in ("days", "rows", "rows_today", "calls_today")] == [3, 30, 30, calls]

    counted = run("query", f"{TABLE}Raw | count", "--json")
    assert orjson.loads(counted.output) == {"Count": 30}
    assert "30" in run("query", f"{TABLE}Raw | count").output


@pytest.mark.usefixtures("bootstrapped")
def test_status_of_a_database_without_the_monitoring_functions_says_bootstrap(world: World) -> None:
    world.adx.command(f".drop function {QUOTA}", idempotent=True)
    try:
        shown, told = run("status"), orjson.loads(run("status", "--json").output)
    finally:
        (made,) = [item.text for item in statements(Placeholders(), typed=False) if f"\n{QUOTA}(" in item.text]
        world.adx.command(made, idempotent=True)
    assert "defender-adx bootstrap" in shown.output
    assert TABLE in shown.output
    assert told["totals"] is None
    assert {state["lag_state"] for state in told["tables"]} == {None}
    assert orjson.loads(run("status", "--json").output)["totals"] is not None


def test_the_dashboard_is_printed_with_cluster_and_database(world: World) -> None:
    printed = run("dashboard")
    assert printed.exit_code == 0
    (source,) = orjson.loads(printed.output)["dataSources"]
    environment = world.tenant.environment()
    assert (source["clusterUri"], source["database"]) == (environment["ADX_CLUSTER_URI"], environment["ADX_DATABASE"])


@pytest.mark.usefixtures("bootstrapped")
def test_a_window_by_hand_is_taken_as_given(world: World) -> None:
    world.rows("AlertInfo", 10, ago=timedelta(hours=5))
    start = (world.now - timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%S")
    end = (world.now - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%S")
    synced = run("sync", "AlertInfo", "--from", start, "--to", end)
    assert synced.exit_code == 0
    assert "rows_loaded: 10" in synced.output


@pytest.mark.usefixtures("bootstrapped")
def test_wrong_options_and_tables_are_told_without_a_traceback(world: World) -> None:
    half = run("sync", TABLE, "--from", "2026-11-01")
    assert (half.exit_code, "--from and --to" in half.output) == (2, True)
    unknown = run("sync", "NoSuchTable")
    assert (unknown.exit_code, "not a Defender table" in unknown.output) == (1, True)
    bad = run("query", "NoSuchTable | count")
    assert bad.exit_code == 1
    assert "Traceback" not in half.output + unknown.output + bad.output


@pytest.mark.usefixtures("bootstrapped")
def test_status_fails_for_a_table_whose_last_run_failed(world: World) -> None:
    world.rows("CampaignInfo", 3, ago=timedelta(hours=3))
    world.tenant.faults.add("hunting", "status", match="CampaignInfo", times=None, status=403, body="{}")
    assert run("sync", "CampaignInfo").exit_code == 1
    world.tenant.faults.clear()
    status = run("status", "--json")
    assert status.exit_code == 1
    (state,) = [s for s in orjson.loads(status.output)["tables"] if s["table"] == "CampaignInfo"]
    assert state["audit_status"] == "Failed"
    assert "ThreatHunting.Read.All" in state["reason"]


def state_of(table: str) -> dict[str, Any]:
    (state,) = [s for s in orjson.loads(run("status", "--json").output)["tables"] if s["table"] == table]
    return state


@pytest.mark.usefixtures("bootstrapped")
def test_a_snapshot_table_is_taken_as_it_is_today_and_status_tells_what_is_served(world: World) -> None:
    add_state(world.tenant.source, SNAPSHOT, 40)
    yesterday = (world.now - timedelta(days=1)).date().isoformat()
    past = run("sync", SNAPSHOT, "--from", yesterday, "--to", world.now.date().isoformat())
    assert (past.exit_code, "can be taken of today" in past.output.replace("\n", " ")) == (1, True)
    assert (state_of(SNAPSHOT)["published"], state_of(SNAPSHOT)["kind"]) == (None, "snapshot")
    facts = orjson.loads(run("sync", SNAPSHOT, "--json").output)
    assert (facts["rows_loaded"], facts["rows_queryable"]) == (40, 40)
    state = state_of(SNAPSHOT)
    assert (state["published"], state["published_rows"]) == (facts["watermark"], 40)
    assert (state["audit_status"], state["open_slices"], state["covered_to"]) == ("Success", 0, "")
    assert state_of(TABLE)["published"] is None


@pytest.mark.usefixtures("bootstrapped")
def test_slices_of_a_snapshot_are_open_until_it_is_given_up(world: World) -> None:
    add_state(world.tenant.source, OTHER, 10)
    identity = RunIdentity("begun", world.now.date().isoformat())
    begun = world.migration().extract(Asked(OTHER, identity, None))
    assert begun is not None
    assert begun.plan.snapshot is not None
    assert state_of(OTHER)["open_slices"] == 1
    given_up = snapshot_row(begun.plan.snapshot, identity, state="Failed", now=utc_now())
    world.migration().state.append_ledger([given_up])
    assert state_of(OTHER)["open_slices"] == 0


@pytest.mark.usefixtures("bootstrapped")
def test_a_snapshot_is_exact_only_if_it_is_published_and_has_every_row_of_defender_once(world: World) -> None:
    url, day = world.tenant.environment()["LOCAL_TENANT_ADMIN_URL"], bin_floor(utc_now(), timedelta(days=1))
    add_state(world.tenant.source, COMPARED, 20)
    with open_database() as database:
        assert compare_snapshot(database, url, COMPARED, f"{COMPARED}Raw", None) == (20, 0, 20, 0)
        world.sync(COMPARED)
        taken = database.state.published_on(
            database.state.configuration(COMPARED), Window(day, day + timedelta(days=1))
        )
        assert compare_snapshot(database, url, COMPARED, f"{COMPARED}Raw", taken) == (20, 20, 0, 0)
        # One row of Defender is another one since, and one is gone.
        evolve(world.tenant.source, COMPARED, new=0, gone=1, changed=1)
        assert compare_snapshot(database, url, COMPARED, f"{COMPARED}Raw", taken) == (19, 20, 1, 2)
    exact = SnapshotResult(COMPARED, f"{COMPARED}Raw", 20, 20, 0, 0, "", "Success", 3, published=PUBLISHED)
    assert exact.exact
    assert exact.as_dict()["published"] == exact.published
    for change in ({"published": None}, {"missing": 1}, {"duplicates": 1}, {"audit_status": "Failed"}):
        assert not replace(exact, **change).exact


def test_no_output_repeats_the_secret(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "hunter2-hunter2")
    failed = run("sync", TABLE)
    assert failed.exit_code == 1
    assert "AZURE_CLIENT_SECRET" in failed.output
    assert "hunter2" not in failed.output
