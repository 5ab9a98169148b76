"""The rows of a partition as a KQL handle, a DataFrame or an Arrow table: in the pipeline and in others' code."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from defender_adx_pipeline.adx.errors import MissingObjectError
from defender_adx_pipeline.adx.partition_kql import ContinuationError
from defender_adx_pipeline.catalogue import UnknownTableError
from defender_adx_pipeline.defs.downstream import AdxIOManager, AdxResource, KqlHandle, adx_asset, kql_handle
from defender_adx_pipeline.defs.readable import ReadingError
from defender_adx_pipeline.instants import sort_key
from defender_adx_pipeline.local.data import add_state
from defender_adx_pipeline.migration.errors import SnapshotNotPublishedError
from defender_adx_pipeline.migration.windows import Window, bin_floor
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world

pytestmark = pytest.mark.long

DAY = timedelta(days=1)
EVENTS = "DeviceLogonEvents"
EMPTY = "DeviceFileEvents"
SNAPSHOT = "DeviceTvmSoftwareInventory"
ROWS_A_DAY = 24
MEMORY = {"memory": dg.mem_io_manager}


@pytest.fixture(scope="module")
def shared_defs_world(open_tenant: OpenTenant) -> Iterator[World]:
    """Five whole days of an event table, an hour between two rows, and today's state of a snapshot table."""
    with bootstrapped_world(open_tenant, [EVENTS, EMPTY, SNAPSHOT]) as world:
        start = bin_floor(world.now, DAY) - 6 * DAY
        world.rows(EVENTS, 5 * ROWS_A_DAY, ago=world.now - start, step=timedelta(hours=1))
        add_state(world.tenant.source, SNAPSHOT, 50)
        yield world


@pytest.fixture(scope="module")
def loaded(shared_defs_world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All of it moved into ADX, once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shared_defs_world.tenant.environment().items():
            patch.setenv(name, value)
        with dg.instance_for_test(temp_dir=str(tmp_path_factory.mktemp("loading"))) as instance:
            dagster = Dagster(instance)
            world = shared_defs_world
            assert dagster.materialize(EVENTS, day(world, 6), day(world, 2), only=("raw", "typed")).success
            assert dagster.materialize(SNAPSHOT, day(world, 0), only=("raw", "typed")).success


pytestmark = [pytestmark, pytest.mark.usefixtures("loaded")]


def day(world: World, ago: int) -> str:
    return (world.now - ago * DAY).date().isoformat()


def window(world: World, ago: int, days: int = 1) -> Window:
    start = bin_floor(world.now, DAY) - ago * DAY
    return Window(start, start + days * DAY)


def time_of(row: dict[str, Any]) -> str:
    return sort_key(row["Timestamp"] if "Timestamp" in row else row["Records"]["Timestamp"])


def read(
    name: str,
    kind: Any,
    dagster: Dagster,
    *days: str,
    mapping: dg.PartitionMapping | None = None,
    upstream: dg.AssetSpec | None = None,
) -> Any:
    """What an asset of another code location gets as its parameter, for a day or for a range of days."""
    spec = upstream or adx_asset(name)
    seen: list[Any] = []

    @dg.asset(
        ins={"rows": dg.AssetIn(key=spec.key, partition_mapping=mapping)},
        partitions_def=adx_asset(name).partitions_def,
        io_manager_key="memory",
    )
    def mine(rows: kind) -> int:  # type: ignore[valid-type]
        seen.append(rows)
        # A handle is of use inside the step; its connections are closed afterwards.
        return len(rows.run()) if isinstance(rows, KqlHandle) else len(rows)

    definitions = dg.Definitions(
        assets=[spec, mine], resources={"adx_io_manager": AdxIOManager(adx=AdxResource()), **MEMORY}
    )
    job = definitions.resolve_implicit_job_def_def_for_assets([mine.key])
    assert job is not None
    tags = (
        dict(zip(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), days, strict=True))
        if (len(days) == 2)
        else {}
    )
    result = job.execute_in_process(
        partition_key=days[0] if len(days) == 1 else None, tags=tags, instance=dagster.instance
    )
    (rows,) = seen
    assert result.output_for_node("mine") == (len(rows.run()) if isinstance(rows, KqlHandle) else len(rows))
    return rows


# --- what arrives ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [EVENTS, f"{EVENTS}Raw"])
def test_a_partition_and_a_range_are_the_same_rows_in_each_of_the_three_forms(
    world: World, dagster: Dagster, name: str
) -> None:
    for days in ((day(world, 4),), (day(world, 5), day(world, 3))):
        handle, frame, table = (read(name, kind, dagster, *days) for kind in (KqlHandle, pd.DataFrame, pa.Table))
        times = sorted(time_of(row) for row in handle.run())
        assert len(times) == ROWS_A_DAY * (1 if len(days) == 1 else 3)
        assert times[0][:10], times[-1][:10] == (days[0], days[-1])
        assert sorted(map(sort_key, frame["Timestamp"])) == times
        assert sorted(map(sort_key, table.column("Timestamp").to_pylist())) == times
        assert (
            handle.to_pandas()
            .sort_values("Timestamp", ignore_index=True)
            .equals(frame.sort_values("Timestamp", ignore_index=True))
        )
        assert handle.to_arrow().num_rows == table.num_rows
        assert (handle.database, handle.table) == (world.settings.adx_database, name)
        assert handle.web_ui_url is None  # loopback


def test_a_partition_mapping_gives_all_of_its_days(world: World, dagster: Dagster) -> None:
    mapping = dg.TimeWindowPartitionMapping(start_offset=-2)
    handle = read(EVENTS, KqlHandle, dagster, day(world, 3), mapping=mapping)
    assert handle.windows == (window(world, 5, days=3),)
    assert len(handle.run()) == 3 * ROWS_A_DAY


@pytest.mark.parametrize("name", [SNAPSHOT, f"{SNAPSHOT}Raw"])
def test_of_a_snapshot_table_a_day_is_its_published_snapshot(world: World, dagster: Dagster, name: str) -> None:
    handle, frame, table = (read(name, kind, dagster, day(world, 0)) for kind in (KqlHandle, pd.DataFrame, pa.Table))
    assert len(handle.run()) == len(frame) == table.num_rows == 50
    (taken,) = handle.windows
    assert taken.length == timedelta(microseconds=1)
    with pytest.raises(ReadingError, match="no snapshot of this day"):
        read(name, KqlHandle, dagster, day(world, 1))
    with pytest.raises(SnapshotNotPublishedError, match="no snapshot of this day"):
        kql_handle(AdxResource(), name, window(world, 1))


def test_without_a_parameter_an_asset_makes_the_handle_itself(world: World, dagster: Dagster) -> None:
    @dg.asset(partitions_def=adx_asset(EVENTS).partitions_def, io_manager_key="memory")
    def mine(context: dg.AssetExecutionContext, adx: AdxResource) -> int:
        return len(kql_handle(adx, f"adx/{EVENTS}", context.partition_time_window).run())

    definitions = dg.Definitions(assets=[mine], resources={"adx": AdxResource(), **MEMORY})
    result = definitions.resolve_implicit_job_def_def_for_assets([mine.key]).execute_in_process(  # type: ignore[union-attr]
        partition_key=day(world, 4), instance=dagster.instance
    )
    assert result.output_for_node("mine") == ROWS_A_DAY


def test_outside_of_a_run_a_partition_is_loaded_by_its_key(world: World, dagster: Dagster) -> None:
    spec = adx_asset(EVENTS)
    definitions = dg.Definitions(assets=[spec], resources={"adx_io_manager": AdxIOManager(adx=AdxResource())})
    chosen: dict[str, Any] = {"partition_key": day(world, 4), "instance": dagster.instance}
    frame = definitions.load_asset_value(spec.key, python_type=pd.DataFrame, **chosen)
    handle = definitions.load_asset_value(spec.key, python_type=KqlHandle, **chosen)
    assert len(frame) == len(handle.run()) == ROWS_A_DAY


# --- what a handle does ------------------------------------------------------------------------


def test_operators_are_appended_and_values_stay_values(world: World) -> None:
    adx = AdxResource()
    handle = kql_handle(adx, EVENTS, window(world, 4))
    late = window(world, 4).start + DAY / 2
    (counted,) = handle.run("| where Timestamp >= Since | summarize Rows = count()", {"Since": late})
    assert counted == {"Rows": ROWS_A_DAY // 2}
    hostile = 'x" or true //'
    assert handle.run("| where AccountName == Name", {"Name": hostile}) == []
    first = handle.run()[0]
    values = {"Name": first["AccountName"], "Id": first["ReportId"]}
    assert handle.run("| where AccountName == Name and ReportId == Id", values) == [first]
    for continuation, parameters in (("summarize count()", {}), ("| take 1", {"a b": 1}), ("| take N", {"N": True})):
        with pytest.raises(ContinuationError, match="Nothing was sent"):
            handle.run(continuation, parameters)


def test_days_with_a_gap_between_them_are_read_without_the_gap(world: World) -> None:
    adx = AdxResource()
    for name in (EVENTS, f"{EVENTS}Raw"):
        handle = kql_handle(adx, name, window(world, 6), window(world, 3))
        times = {time_of(row)[:10] for row in handle.run()}
        assert times == {day(world, 6), day(world, 3)}
        assert len(handle.to_pandas()) == 2 * ROWS_A_DAY


def test_a_handle_says_what_it_is_and_nothing_of_its_connections(world: World) -> None:
    handle = kql_handle(AdxResource(), EVENTS, window(world, 4))
    assert repr(handle).startswith("KqlHandle(database='defender', table='DeviceLogonEvents'")
    assert "AdxResource" not in repr(handle)
    assert handle == kql_handle(AdxResource(), EVENTS, window(world, 4))


# --- errors ------------------------------------------------------------------------------------


def test_a_typed_table_that_is_not_there_is_an_error_that_names_it(world: World) -> None:
    world.adx.command(f".drop table {EMPTY}", idempotent=True)
    handle = kql_handle(AdxResource(), EMPTY, window(world, 4))
    with pytest.raises(MissingObjectError, match=EMPTY):
        handle.run("| count")
    with pytest.raises(MissingObjectError, match=EMPTY):
        handle.to_pandas()


def test_an_unknown_table_is_an_error_that_names_it(world: World) -> None:
    with pytest.raises(UnknownTableError, match="DeviceLogins"):
        adx_asset("DeviceLogins")
    with pytest.raises(UnknownTableError, match="DeviceLogins"):
        kql_handle(AdxResource(), "adx/DeviceLogins", window(world, 4))


def test_an_upstream_asset_without_partitions_and_another_annotation_are_refused_with_what_to_do(
    world: World, dagster: Dagster
) -> None:
    bare = dg.AssetSpec(["adx", EVENTS]).with_io_manager_key("adx_io_manager")
    with pytest.raises(dg.DagsterInvariantViolationError, match="Declare it with `adx_asset`"):
        read(EVENTS, KqlHandle, dagster, day(world, 4), upstream=bare)
    with pytest.raises(TypeError, match="KqlHandle, pandas.DataFrame or pyarrow.Table, not as builtins.dict"):
        read(EVENTS, dict, dagster, day(world, 4))
