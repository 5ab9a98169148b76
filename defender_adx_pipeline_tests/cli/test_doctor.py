"""The doctor finds what keeps the pipeline from working, says what to do, and changes nothing."""

from collections.abc import Iterator

import orjson
import pytest
from typer.testing import CliRunner, Result

from defender_adx_pipeline.adx import state_kql
from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.cli import app
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world, entered

TABLE = "DeviceLogonEvents"
SECRET = "hunter2-hunter2"


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, [TABLE]) as world:
        yield world


@pytest.fixture
def world(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from entered(shared_world, monkeypatch)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def findings() -> dict[str, tuple[str, str]]:
    """Verdict and sentence of each check, by its name."""
    listed = orjson.loads(run("--json").stdout.splitlines()[-1])["findings"]
    return {item["what"]: (item["verdict"], item["said"]) for item in listed}


def test_where_all_is_well_every_check_says_so_and_nothing_has_changed(
    world: World,
) -> None:
    bootstrap(world.adx, client_id=None, tenant_id=None, grants=False)
    audits = world.adx.query(f"{state_kql.AUDIT} | count")
    calls = len(world.tenant.log.entries(service="hunting"))
    result = run()
    assert result.exit_code == 0
    assert {verdict for verdict, _ in findings().values()} == {"ok"}
    assert world.adx.query(f"{state_kql.AUDIT} | count") == audits
    assert len(world.tenant.log.entries(service="hunting")) == calls + 2


def test_a_wrong_setting_is_named_and_nothing_else_is_tried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    del world
    monkeypatch.setenv("DEFENDER_OVERLAP", "four hours")
    found = findings()
    assert run().exit_code == 1
    assert found["settings"][0] == "failed"
    assert "DEFENDER_OVERLAP" in found["settings"][1]
    assert found["everything else"][0] == "not tried"


def test_an_unreachable_cluster_is_one_readable_error(
    world: World, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int
) -> None:
    del world
    monkeypatch.setenv("ADX_CLUSTER_URI", f"http://127.0.0.1:{free_tcp_port}")
    found = findings()
    verdict, said = found["ADX: sign-in, Database Viewer"]
    assert verdict == "failed"
    assert f"127.0.0.1:{free_tcp_port}" in said
    assert found["ADX: everything else"][0] == "not tried"
    assert found["Defender: sign-in, permission, quota"][0] == "ok"


def test_an_expired_secret_is_told_on_both_sides_and_not_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", SECRET)
    world.tenant.faults.add("entra", "expired_secret", times=None)
    result = run()
    assert result.exit_code == 1
    assert SECRET not in result.output
    found = findings()
    for what in ("Defender: sign-in, permission, quota", "ADX: sign-in, Database Viewer"):
        assert found[what][0] == "failed"
        assert "expired" in found[what][1]


def test_a_missing_permission_is_named_with_how_to_grant_it(world: World) -> None:
    world.tenant.faults.add("hunting", "forbidden", times=None)
    verdict, said = findings()["Defender: sign-in, permission, quota"]
    assert verdict == "failed"
    assert "ThreatHunting.Read.All" in said


@pytest.mark.parametrize(
    ("match", "what"),
    [("append MigrationAuditLog", "Database Ingestor"), ("show ingestion failures", "Database Monitor")],
)
def test_a_missing_role_is_told_where_it_is_needed(world: World, match: str, what: str) -> None:
    world.tenant.faults.add("engine", "forbidden", match=match, times=None)
    found = findings()
    assert {name for name, (verdict, _) in found.items() if verdict == "failed"} >= {f"ADX: {what}"}
    assert found["ADX: sign-in, Database Viewer"][0] == "ok"
    said = found[f"ADX: {what}"][1]
    assert f"What it lacks here is {what.split()[1].lower()}s." in said
    assert "30_roles.kql" in said
