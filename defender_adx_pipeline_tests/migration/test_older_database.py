"""A database made by the older script works as it is, and its watermarks are taken over."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest

from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, settings_of

pytestmark = pytest.mark.long

HOUR = timedelta(hours=1)
TABLE = "DeviceLogonEvents"

_AUDIT = "TableName: string, Timestamp: datetime, Status: string, FailureReason: string, RecordCount: int"
COMMON = [
    f".create table MigrationAuditLog ({_AUDIT})",
    f".create table {TABLE}Raw (Records: dynamic)",
    (
        f".create-or-alter table {TABLE}Raw ingestion json mapping 'DynamicJsonMap'"
        ' \'[{"column":"Records","Properties":{"Path":"$"}}]\''
    ),
]
SHORT = [
    (
        ".create table MigrationConfiguration (SourceTable: string, DestinationTable: string, WatermarkColumn: string,"
        " LastRefreshedTime: datetime, LoadType: string, IsActive: bool)"
    ),
    (
        ".create materialized-view VwLatestMigrationConfiguration on table MigrationConfiguration"
        " { MigrationConfiguration | where IsActive == true | summarize arg_max(LastRefreshedTime, *) by SourceTable }"
    ),
]
LONG = [
    (
        ".create table MigrationConfiguration (SourceTable: string, DestinationTable: string, WatermarkColumn: string,"
        " LastRefreshedTime: datetime, LastRefreshedTimeInString: string, LoadType: string, IsActive: bool)"
    ),
    (
        ".create-or-alter function VwLatestMigrationConfiguration() { MigrationConfiguration"
        " | summarize arg_max(LastRefreshedTime, *) by SourceTable }"
    ),
]


@pytest.fixture(params=["short", "long"])
def older(request: pytest.FixtureRequest, open_tenant: OpenTenant) -> Iterator[tuple[World, str]]:
    """A tenant whose database an older script made, with a watermark two hours back and older rows loaded."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        tenant = stack.enter_context(
            open_tenant(scale=0, tables=[TABLE], quota_clock_scale=2000.0, batching_delay=0.05)
        )
        world = World(tenant, settings_of(tenant, patch), stack)
        for command in [*COMMON, *(SHORT if request.param == "short" else LONG)]:
            world.adx.command(command, idempotent=True)
        world.rows(TABLE, 20, ago=3 * HOUR)
        watermark = to_text(world.now - 2 * HOUR)
        text = "" if request.param == "short" else f'"{watermark}", '
        declared = "" if request.param == "short" else "LastRefreshedTimeInString: string, "
        world.adx.command(
            ".append MigrationConfiguration <| datatable(SourceTable: string, DestinationTable: string,"
            f" WatermarkColumn: string, LastRefreshedTime: datetime, {declared}LoadType: string, IsActive: bool)"
            f' ["{TABLE}", "{TABLE}Raw", "Timestamp", datetime({watermark}), {text}"Incr", true]',
            idempotent=True,
        )
        for record in world.truth(TABLE).elements():
            literal = record.decode().replace("\\", "\\\\").replace('"', '\\"')
            command = f'.append {TABLE}Raw <| print Records = parse_json("{literal}")'
            world.adx.command(command, idempotent=True)
        yield world, watermark


def test_it_goes_on_from_the_watermark_and_loads_no_row_twice(older: tuple[World, str]) -> None:
    world, watermark = older
    assert world.difference(TABLE) == (0, 0)
    report = bootstrap(world.adx, client_id=None, tenant_id=None, tables=[world.catalogue[TABLE]], grants=False)
    assert world.watermark(TABLE) == watermark
    world.rows(TABLE, 10, ago=HOUR)
    tally = world.sync(TABLE)
    assert tally is not None
    assert tally.loaded_rows == 10
    assert tally.window is not None
    assert tally.window.length < 7 * HOUR
    assert world.difference(TABLE) == (0, 0)
    assert world.watermark(TABLE) > watermark
    again = world.sync(TABLE)
    assert again is not None
    assert again.loaded_rows == 0
    assert report.applied


def test_bootstrap_says_what_it_found_and_how_to_replace_it(older: tuple[World, str]) -> None:
    world, _ = older
    report = bootstrap(world.adx, client_id=None, tenant_id=None, tables=[world.catalogue[TABLE]], grants=False)
    columns = [row["ColumnName"] for row in world.adx.query("MigrationConfiguration | getschema")]
    if columns[-1] == "LastRefreshedTimeInString":
        assert any(".drop materialized-view" in sentence for sentence in report.found)
    again = bootstrap(world.adx, client_id=None, tenant_id=None, tables=[world.catalogue[TABLE]], grants=False)
    assert len(again.applied) == len(report.applied)
