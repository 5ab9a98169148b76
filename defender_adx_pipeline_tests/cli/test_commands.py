"""The commands as a person runs them: output, exit codes, readable errors, no secrets."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import orjson
import pytest
from typer.testing import CliRunner, Result

from defender_adx_pipeline.cli import app
from defender_adx_pipeline.settings import Settings
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, settings_of

TABLE = "DeviceLogonEvents"


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        tenant = stack.enter_context(open_tenant(scale=0, quota_clock_scale=2000.0, batching_delay=0.05))
        yield World(tenant, settings_of(tenant, patch), stack)


@pytest.fixture
def world(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in shared_world.tenant.environment().items():
        monkeypatch.setenv(name, value)
    return shared_world


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


def test_the_roles_can_go_to_another_app_than_the_one_that_runs_bootstrap(world: World) -> None:
    other = "11111111-2222-3333-4444-555555555555"
    applied = run("bootstrap", "--grant-to", other)
    assert applied.exit_code == 0
    principals = world.adx.command(".show database ['defender'] principals", idempotent=True)
    granted = {row["Role"] for row in principals if other in str(row)}
    assert len(granted) == 4


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

    counted = run("query", f"{TABLE}Raw | count", "--json")
    assert orjson.loads(counted.output) == {"Count": 30}
    assert "30" in run("query", f"{TABLE}Raw | count").output


def test_a_window_by_hand_is_taken_as_given(world: World) -> None:
    run("bootstrap")
    world.rows("AlertInfo", 10, ago=timedelta(hours=5))
    start = (world.now - timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%S")
    end = (world.now - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%S")
    synced = run("sync", "AlertInfo", "--from", start, "--to", end)
    assert synced.exit_code == 0
    assert "rows_loaded: 10" in synced.output


def test_wrong_options_and_tables_are_told_without_a_traceback(world: World) -> None:
    run("bootstrap")
    half = run("sync", TABLE, "--from", "2026-11-01")
    assert (half.exit_code, "--from and --to" in half.output) == (2, True)
    unknown = run("sync", "NoSuchTable")
    assert (unknown.exit_code, "not a Defender table" in unknown.output) == (1, True)
    bad = run("query", "NoSuchTable | count")
    assert bad.exit_code == 1
    assert "Traceback" not in half.output + unknown.output + bad.output


def test_status_fails_for_a_table_whose_last_run_failed(world: World) -> None:
    run("bootstrap")
    world.rows("CampaignInfo", 3, ago=timedelta(hours=3))
    world.tenant.faults.add("hunting", "status", match="CampaignInfo", times=None, status=403, body="{}")
    assert run("sync", "CampaignInfo").exit_code == 1
    world.tenant.faults.clear()
    status = run("status", "--json")
    assert status.exit_code == 1
    (state,) = [s for s in orjson.loads(status.output)["tables"] if s["table"] == "CampaignInfo"]
    assert state["audit_status"] == "Failed"
    assert "ThreatHunting.Read.All" in state["reason"]


def test_no_output_repeats_the_secret(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "hunter2-hunter2")
    failed = run("sync", TABLE)
    assert failed.exit_code == 1
    assert "AZURE_CLIENT_SECRET" in failed.output
    assert "hunter2" not in failed.output
