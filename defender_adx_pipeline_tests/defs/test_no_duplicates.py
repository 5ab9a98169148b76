"""The daily check of doubled rows: it tells those of ADX from those that Defender repeats itself."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from defender_adx_pipeline.adx.duplicates_kql import Rows, days_with_new_rows, doubled_rows
from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.defender.hunting import repeated_rows
from defender_adx_pipeline.defs.checks import NO_DUPLICATES
from defender_adx_pipeline.defs.jobs import defs as resource_defs
from defender_adx_pipeline.defs.no_duplicates import duplicates_result, no_duplicates
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.local.data import add_state
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.duplicates import Doubled
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world

KEYED, KEYLESS, UNTYPED, SNAPSHOT, ABSENT = (
    "EmailEvents",
    "AlertEvidence",
    "UrlClickEvents",
    "DeviceTvmInfoGathering",
    "CloudAppEvents",
)
HOUR = timedelta(hours=1)
START = datetime(2026, 11, 19, tzinfo=UTC)


@pytest.fixture(scope="module")
def shared_defs_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, (KEYED, KEYLESS, UNTYPED, SNAPSHOT)) as world:
        yield world


def evaluated(dagster: Dagster, *tables: str) -> dict[str, dg.AssetCheckEvaluation]:
    keys = [dg.AssetCheckKey(dg.AssetKey(["defender", table]), NO_DUPLICATES) for table in tables]
    result = dg.materialize(
        [no_duplicates],
        instance=dagster.instance,
        resources=resource_defs().resources,
        selection=dg.AssetSelection.checks(*keys),
    )
    assert result.success
    return {seen.asset_key.path[-1]: seen for seen in result.get_asset_check_evaluations()}


def numbers(check: dg.AssetCheckEvaluation) -> tuple[object, object]:
    return check.metadata["duplicates"].value, check.metadata["repeated_by_defender"].value


def shown(world: World, check: dg.AssetCheckEvaluation) -> list[dict[str, object]]:
    """The rows that the query of a result gives."""
    text = str(check.metadata["doubled rows (query)"].value)
    (query,) = re.findall(r"```kusto\n(.*?)\n```", text, re.DOTALL)
    return world.adx.query(query)


def put(world: World, table: str, copies: int) -> None:
    start = world.now - 5 * HOUR
    time = world.catalogue[table].time_column or ""
    rows = [
        {**world.key(table, number, start), time: to_text(start + timedelta(seconds=number))} for number in range(4)
    ]
    world.tenant.source.insert_rows(table, rows + rows[:1] * (copies - 1))


@pytest.mark.long
def test_rows_that_defender_repeats_pass_and_rows_that_somebody_doubled_warn(world: World, dagster: Dagster) -> None:
    for table, copies in ((KEYED, 1), (KEYLESS, 3), (UNTYPED, 2)):
        put(world, table, copies)
        world.sync(table)
    add_state(world.tenant.source, SNAPSHOT, 10)
    world.migration().sync(Asked(SNAPSHOT, RunIdentity("run", "today"), None))
    world.adx.command(f".drop table {UNTYPED}", idempotent=False)
    since = len(world.tenant.log.entries())
    seen = evaluated(dagster, KEYED, KEYLESS, UNTYPED, SNAPSHOT, ABSENT)
    asked = [one for one in world.tenant.log.entries()[since:] if one.service == "hunting"]
    assert {name: one.passed for name, one in seen.items()} == dict.fromkeys(seen, True)
    # Only tables with rows that are there twice: one question each, and one about the columns of the keyless one.
    assert len(asked) == 3
    assert "No row of EmailEvents is there twice" in str(seen[KEYED].description)
    assert "Defender repeats rows of AlertEvidence" in str(seen[KEYLESS].description)
    assert (numbers(seen[KEYLESS]), numbers(seen[UNTYPED])) == ((0, 2), (0, 1))
    assert [row["Copies"] for row in shown(world, seen[KEYLESS])] == [3]
    assert [row["Copies"] for row in shown(world, seen[UNTYPED])] == [2]

    for table in (KEYED, KEYLESS):
        world.adx.command(f".append {table} <| {table} | take 4", idempotent=False)
    world.adx.command(
        f".append {SNAPSHOT}Snapshots <| {SNAPSHOT}Snapshots | take 3",
        idempotent=False,
    )
    seen = evaluated(dagster, KEYED, KEYLESS, SNAPSHOT)
    for name, found in ((KEYED, (4, 0)), (SNAPSHOT, (3, 0))):
        assert (seen[name].passed, seen[name].severity) == (False, dg.AssetCheckSeverity.WARN)
        assert numbers(seen[name]) == found
        assert "more often than Defender has them" in str(seen[name].description)
    ours, defenders = numbers(seen[KEYLESS])
    assert (ours, defenders) == (4, 2)
    assert len(shown(world, seen[KEYED])) == 4


@pytest.mark.long
def test_what_cannot_be_counted_is_a_failed_check_and_keeps_no_other_back(world: World, dagster: Dagster) -> None:
    put(world, KEYED, 1)
    world.sync(KEYED)
    world.tenant.faults.add("engine", "status", match="RowKey", times=None, status=400, body="{}")
    seen = evaluated(dagster, KEYED, ABSENT)
    assert {name: one.passed for name, one in seen.items()} == {KEYED: False, ABSENT: True}
    world.tenant.faults.add("engine", "status", match=".show database", times=None, status=400, body="{}")
    for check in evaluated(dagster, KEYED, ABSENT).values():
        assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "could not be found out" in str(check.description)


def test_of_what_defender_no_longer_keeps_the_result_says_that_nobody_can_tell() -> None:
    window = Window(START, START + HOUR)
    rows = Rows(load_catalogue()[KEYED])
    found = duplicates_result(rows, [window], [Doubled(window, 2, 5, None), Doubled(window, 1, 1, 1)])
    assert not found.passed
    assert "5 rows more often" in str(found.description)
    assert "nobody can tell" in str(found.description)


def test_a_row_is_ours_only_beyond_what_defender_has() -> None:
    window = Window(START, START + HOUR)
    assert [Doubled(window, 1, 3, there).ours for there in (None, 0, 2, 3, 9)] == [3, 3, 1, 0, 0]


def test_every_table_has_its_queries_and_no_column_has_a_name_of_theirs() -> None:
    for table in load_catalogue().values():
        assert {column.name for column in table.columns}.isdisjoint({"RowKey", "RowTime", "Copies", "First", "Last"})
        for rows in (Rows(table), Rows(table, table.columns)):
            assert "by RowKey\n| where Copies > 1" in doubled_rows(rows, START, START + HOUR)


def test_nothing_to_ask_about_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no table"):
        days_with_new_rows([], START)
    with pytest.raises(ValueError, match="without a column"):
        repeated_rows(KEYED, [])
