"""`defender-adx schema` as a person runs it: what is told, what is changed, exit codes."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from defender_adx_pipeline.catalogue import Column
from defender_adx_pipeline.cli import app
from defender_adx_pipeline.local.source_schema import add_column, drop_column, retype_column
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world, entered

CHANGING, SAME, UNTYPED, ABSENT = "DeviceLogonEvents", "AlertInfo", "EmailEvents", "UrlClickEvents"


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, [CHANGING, SAME, ABSENT]) as world:
        yield world


@pytest.fixture
def world(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from entered(shared_world, monkeypatch)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def facts(*tables: str) -> tuple[int, dict[str, Any]]:
    shown = run("schema", "diff", *tables, "--json")
    return shown.exit_code, orjson.loads(shown.output)


def test_help_lists_the_commands_and_says_what_a_table_costs() -> None:
    assert "schema" in run("--help").output
    for command in ("diff", "apply", "backfill"):
        assert command in run("schema", "--help").output
    assert "one hunting call" in " ".join(run("schema", "diff", "--help").output.split())


def test_tables_without_a_difference_are_exit_code_0_and_a_call_each(world: World) -> None:
    before = world.hunting_calls(0)
    shown = run("schema", "diff", SAME, CHANGING)
    assert (shown.exit_code, "2 tables compared, 0 differences" in shown.output) == (0, True)
    assert world.hunting_calls(before) == 2
    assert facts(SAME) == (
        0,
        {"ok": True, "tables": [{"table": SAME, "in_tenant": True, "typed_table": True, "differences": []}]},
    )


def test_a_table_that_the_tenant_does_not_have_is_listed_apart_and_is_no_error(world: World) -> None:
    world.tenant.faults.add("hunting", "unresolved", match=f"{ABSENT} ", times=None)
    shown = run("schema", "diff", SAME, ABSENT)
    assert shown.exit_code == 0
    assert "Not in this tenant, or not shown to this app" in shown.output
    assert shown.output.count(ABSENT) == 1
    assert "1 tables compared" in shown.output
    applied = run("schema", "apply", ABSENT)
    assert (applied.exit_code, "the tenant does not have it" in applied.output) == (0, True)


def test_a_table_that_has_no_typed_one_is_told_with_bootstrap(world: World) -> None:
    shown = run("schema", "diff", UNTYPED)
    assert (shown.exit_code, "run `defender-adx bootstrap`" in shown.output) == (1, True)
    applied = run("schema", "apply", UNTYPED)
    assert (applied.exit_code, "defender-adx bootstrap" in applied.output) == (1, True)


def test_the_way_from_a_difference_to_rows_that_have_their_values(world: World) -> None:
    source = world.tenant.source
    world.rows(CHANGING, 5, ago=timedelta(hours=3))
    add_column(source, CHANGING, Column("Points", "long"))
    retype_column(source, CHANGING, "RemotePort", "string")
    drop_column(source, CHANGING, "FailureReason")
    start = (world.now - timedelta(hours=4)).strftime("%Y-%m-%dT%H:%M:%S")
    end = (world.now - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S")

    shown = run("schema", "diff", CHANGING)
    assert shown.exit_code == 1
    for part in (f"{CHANGING}.Points", "added", "retyped", "dropped", "RemotePort_string", "3 differences"):
        assert part in shown.output
    code, told = facts(CHANGING)
    assert (code, told["ok"]) == (1, False)
    kinds = {one["column"]: (one["kind"], one["tenant"]) for one in told["tables"][0]["differences"]}
    assert kinds == {
        "Points": ("added", "long"),
        "RemotePort": ("retyped", "string"),
        "FailureReason": ("dropped", None),
    }

    printed = run("schema", "apply", CHANGING, "--print")
    assert printed.exit_code == 0
    assert printed.output.startswith(f".create-merge table {CHANGING} (")
    assert "ExpandDeviceLogonEvents()" in printed.output
    assert facts(CHANGING)[0] == 1

    assert run("sync", CHANGING, "--from", start, "--to", end).exit_code == 0
    applied = run("schema", "apply", CHANGING)
    assert applied.exit_code == 0
    for part in ("added ", "Points", "RemotePort_string", f"schema backfill {CHANGING}", "1 tables changed"):
        assert part in applied.output
    # What the tenant dropped is still told.
    assert [one["kind"] for one in facts(CHANGING)[1]["tables"][0]["differences"]] == ["dropped"]
    assert "Nothing had to be changed" in run("schema", "apply", CHANGING).output
    assert run("schema", "apply", CHANGING, "--print").output == ""

    filled = run("schema", "backfill", CHANGING, "--from", start, "--to", end)
    assert (filled.exit_code, "5 rows expanded anew" in filled.output) == (0, True)
    assert world.difference(CHANGING) == (0, 0)


def test_wrong_options_and_tables_are_told_without_a_traceback(world: World) -> None:
    backwards = run("schema", "backfill", SAME, "--from", "2026-11-02", "--to", "2026-11-01")
    assert (backwards.exit_code, "is not before" in backwards.output) == (2, True)
    unknown = run("schema", "diff", "NoSuchTable")
    assert (unknown.exit_code, "not a Defender table" in unknown.output) == (1, True)
    missing = run("schema", "backfill", UNTYPED)
    assert (missing.exit_code, "defender-adx bootstrap" in missing.output) == (1, True)
    assert "Traceback" not in backwards.output + unknown.output + missing.output
