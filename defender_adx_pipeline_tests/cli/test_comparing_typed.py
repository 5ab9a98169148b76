"""The demo's proof of typed tables finds what differs, and nothing where nothing does."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from defender_adx_pipeline.adx import kql
from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.cli.comparing import TableResult
from defender_adx_pipeline.cli.comparing_typed import TypedResult, compare_typed, expected_value
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.migration.connections import Database
from defender_adx_pipeline.migration.windows import Window, bin_floor
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world, entered

EVENTS, SNAPSHOT = "CloudAppEvents", "DeviceTvmSoftwareVulnerabilitiesKB"


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, [EVENTS, SNAPSHOT]) as world:
        tables = tuple(world.catalogue[name] for name in (EVENTS, SNAPSHOT))
        bootstrap(world.adx, client_id=None, tenant_id=None, grants=False, tables=tables, typed=True)
        yield world


@pytest.fixture
def world(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from entered(shared_world, monkeypatch)


def compared(world: World, table: str, window: Window) -> TypedResult:
    return compare_typed(Database(world.settings, world.catalogue, world.adx), world.catalogue[table], window)


def append_typed(world: World, table: str, **given: Any) -> None:
    """A typed row that no raw record leads to."""
    columns = [(row["ColumnName"], row["ColumnType"]) for row in world.adx.query(kql.table_columns(table))]
    for statement in kql.append_rows(table, columns, [given]):
        world.adx.command(statement, idempotent=False)


def test_an_event_table_is_exact_until_a_value_or_a_row_differs(world: World) -> None:
    world.rows(EVENTS, 40, ago=timedelta(hours=3))
    window = world.last(24)
    world.sync(EVENTS, window)
    assert compared(world, EVENTS, window) == TypedResult(rows=40, raw_rows=40, compared=40, differing=0)
    append_typed(world, EVENTS, Timestamp=to_text(world.now - timedelta(hours=2)), ActionType="made up")
    assert compared(world, EVENTS, window) == TypedResult(rows=41, raw_rows=40, compared=40, differing=1)


def test_a_snapshot_is_compared_by_its_moment(world: World) -> None:
    states = [{"CveId": f"CVE-2026-{number}", "CvssScore": "9.8"} for number in range(6)]
    world.tenant.source.insert_rows(SNAPSHOT, states)
    world.sync(SNAPSHOT)
    day = bin_floor(world.now, timedelta(days=1))
    state = world.migration().state
    taken = state.published_on(state.configuration(SNAPSHOT), Window(day, day + timedelta(days=1)))
    assert taken is not None
    assert compared(world, SNAPSHOT, taken) == TypedResult(rows=6, raw_rows=6, compared=6, differing=0)


@pytest.mark.parametrize(
    ("value", "kind", "typed"),
    [
        (None, "string", ""),
        ("007", "string", "007"),
        ({"a": 1}, "string", '{"a":1}'),
        (2**53 + 1, "long", 2**53 + 1),
        (2**31, "int", None),
        ("12", "int", 12),
        (1.5, "long", None),
        ({}, "bool", None),
        (False, "bool", False),
        (None, "datetime", None),
        ("9.8", "real", "9.8"),
        ({}, "dynamic", {}),
    ],
)
def test_what_a_typed_column_must_have_follows_from_the_record(value: Any, kind: str, typed: Any) -> None:
    assert expected_value(value, kind) == typed


def test_a_table_is_exact_only_if_its_typed_table_is() -> None:
    typed = TypedResult(rows=10, raw_rows=10, compared=5, differing=0)
    exact = TableResult("T", "TRaw", 10, 10, 0, 0, "", "Success", 3, typed)
    assert exact.exact
    assert exact.as_dict()["typed"] == {"rows": 10, "raw_rows": 10, "compared": 5, "differing": 0}
    for change in ({"rows": 9}, {"raw_rows": 11}, {"differing": 1}):
        assert not replace(exact, typed=replace(typed, **change)).exact
    assert replace(exact, typed=None).exact
