"""Raw assets through Dagster: real runs, real clients, metadata, observations, and reading back."""

from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.defs.assets import SCOPE_TAG, TICK
from defender_adx_pipeline.defs.frames import FrameType
from defender_adx_pipeline.defs.reporting import rows_query, typed_rows_query, web_ui_link
from defender_adx_pipeline.instants import sort_key
from defender_adx_pipeline.migration.audit import Tally
from defender_adx_pipeline.migration.configuration import NOT_LOADED, TableConfiguration
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.plan import Counts, Plan
from defender_adx_pipeline.migration.snapshots import Snapshot
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def day(world: World, ago: timedelta) -> str:
    return (world.now - ago).date().isoformat()


def test_a_partition_is_loaded_and_its_materialization_has_the_numbers(
    world: World, dagster: Dagster, table: str
) -> None:
    noon = world.now.replace(hour=12, minute=0, second=0, microsecond=0) - 2 * DAY
    world.rows(table, 30, ago=world.now - noon)
    result = dagster.materialize(table, noon.date().isoformat())
    assert result.success
    (event,) = result.get_asset_materialization_events()
    materialization = event.step_materialization_data.materialization
    assert materialization.partition == noon.date().isoformat()
    values = {name: value.value for name, value in materialization.metadata.items()}
    assert values["rows_loaded"] == values["rows_expected"] == values["rows_queryable"] == 30
    assert values["dagster/partition_row_count"] == 30
    assert values["calls"] == 3
    assert "adx_web_ui" not in values  # it could not reach a cluster on loopback
    assert world.difference(table) == (0, 0)


def test_an_attempt_is_observed_with_the_fields_of_its_audit_row(world: World, dagster: Dagster, table: str) -> None:
    world.rows(table, 5, ago=30 * HOUR)
    partition = day(world, 30 * HOUR)
    dagster.materialize(table, partition)
    (observation,) = dagster.observations(table)
    (row,) = world.audits(table)
    assert observation.partition == partition
    for field in ("TableName", "Status", "FailureReason", "RecordCount"):
        assert observation.metadata[field].value == row[field]
    assert "Timestamp" in observation.metadata


def test_a_failed_attempt_is_observed_too_and_leaves_no_materialization(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 5, ago=30 * HOUR)
    world.tenant.faults.add("hunting", "status", match="summarize Rows", times=None, status=400, body="{}")
    result = dagster.materialize(table, day(world, 30 * HOUR))
    assert not result.success
    (observation,) = dagster.observations(table)
    (row,) = world.audits(table)
    assert (observation.metadata["Status"].value, row["Status"]) == ("Failed", "Failed")
    assert observation.metadata["FailureReason"].value == row["FailureReason"] != ""
    assert result.get_asset_materialization_events() == []


def test_a_failure_while_loading_is_observed_once(world: World, dagster: Dagster, table: str) -> None:
    world.rows(table, 5, ago=30 * HOUR)
    world.tenant.faults.add("hunting", "status", match="extend", times=None, status=400, body="{}")
    world.tenant.faults.add("hunting", "status", match="datetime(", first=2, times=None, status=400, body="{}")
    result = dagster.materialize(table, day(world, 30 * HOUR))
    assert not result.success
    assert len(dagster.observations(table)) == len(world.audits(table)) == 1


def test_a_range_of_partitions_is_one_attempt_and_every_day_has_its_own_count(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 4, ago=5 * DAY, step=DAY)
    result = dagster.materialize(table, day(world, 6 * DAY), day(world, timedelta(0)))
    assert result.success
    counts = {
        event.partition: event.step_materialization_data.materialization.metadata["dagster/partition_row_count"].value
        for event in result.get_asset_materialization_events()
    }
    assert len(counts) == 7
    assert sum(counts.values()) == 4
    assert len(dagster.observations(table)) == len(world.audits(table)) == 1


def test_a_tick_goes_from_the_watermark_and_not_over_the_whole_partition(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 10, ago=20 * DAY, step=2 * DAY)
    result = dagster.materialize(table, day(world, timedelta(0)), tags={SCOPE_TAG: TICK})
    assert result.success
    assert world.difference(table) == (0, 0)


def test_a_tick_that_begins_within_a_day_tells_no_row_count_of_the_day(
    world: World, dagster: Dagster, table: str
) -> None:
    dagster.materialize(table, day(world, timedelta(0)), tags={SCOPE_TAG: TICK})
    result = dagster.materialize(table, day(world, timedelta(0)), tags={SCOPE_TAG: TICK})
    (event,) = result.get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    starts_within = str(metadata["window"].value)[1:11] == day(world, timedelta(0))
    assert ("dagster/partition_row_count" in metadata) != starts_within


def test_a_switched_off_table_is_skipped_with_a_message_and_not_materialized(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 5, ago=30 * HOUR)
    world.configure(table, IsActive=False)
    result = dagster.materialize(table, day(world, 30 * HOUR))
    assert result.success
    assert result.get_asset_materialization_events() == []
    (observation,) = dagster.observations(table)
    assert observation.metadata["Status"].value == "Skipped"
    assert "IsActive" in observation.metadata["FailureReason"].value


def test_a_downstream_asset_gets_the_partition_as_a_data_frame(world: World, dagster: Dagster, table: str) -> None:
    made = world.rows(table, 30, ago=30 * HOUR)
    column = world.catalogue[table].time_column
    partition = day(world, 30 * HOUR)
    expected = sorted(row[column] for row in made if row[column].startswith(partition))
    raw = dg.AssetKey(["adx", f"{table}Raw"])
    partitions = dagster.definitions.resolve_assets_def(raw).partitions_def
    policy = dg.BackfillPolicy.multi_run(1)
    seen = {}

    @dg.asset(
        ins={"rows": dg.AssetIn(key=raw)}, partitions_def=partitions, io_manager_key="memory", backfill_policy=policy
    )
    def pandas_rows(rows: pd.DataFrame) -> None:
        seen["pandas"] = rows

    @dg.asset(
        ins={"rows": dg.AssetIn(key=raw)}, partitions_def=partitions, io_manager_key="memory", backfill_policy=policy
    )
    def arrow_rows(rows: pa.Table) -> None:
        seen["arrow"] = rows

    assert dagster.materialize(table, partition, extra=[pandas_rows, arrow_rows]).success
    assert sorted(map(sort_key, seen["pandas"][column])) == sorted(map(sort_key, expected))
    assert sorted(seen["arrow"].column(column).to_pylist()) == sorted(seen["pandas"][column])
    longs = [item.name for item in world.catalogue[table].columns if item.type == "long"]
    for name in longs:
        assert seen["arrow"].column(name).type == pa.int64()
        assert str(seen["pandas"][name].dtype) == "Int64"


def planned(table: str, window: Window, taken: Snapshot | None = None) -> Plan:
    known = load_catalogue()[table]
    configuration = TableConfiguration(known, known.raw_table, NOT_LOADED, "Full", True)
    return Plan(configuration, RunIdentity("run", "day"), Counts(window, DAY, ()), (), snapshot=taken)


def test_the_link_opens_the_rows_of_the_window_in_the_adx_web_ui() -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    window = Window(start, start + DAY)
    asked = rows_query(planned("DeviceInfo", window), Tally(window=window))
    assert asked == (
        "['DeviceInfoRaw'] | where todatetime(Records[\"Timestamp\"]) >= datetime(2026-11-01T00:00:00Z)"
        ' and todatetime(Records["Timestamp"]) < datetime(2026-11-02T00:00:00Z) | take 1000'
    )
    link = web_ui_link("https://a.westeurope.kusto.windows.net", "defender", asked)
    assert link is not None
    assert link.startswith("https://dataexplorer.azure.com/clusters/a.westeurope.kusto.windows.net/databases/defender?")
    assert unquote(link.partition("query=")[2]) == asked


def test_the_link_of_a_snapshot_opens_what_is_served_of_its_day() -> None:
    name = "DeviceTvmSoftwareInventory"
    taken = Snapshot(name, f"{name}Raw", datetime(2026, 11, 1, 5, 10, tzinfo=UTC), ("DeviceId",), 1, 7)
    asked = rows_query(planned(name, taken.window, taken), Tally(window=taken.window))
    assert asked == "VwDeviceTvmSoftwareInventoryAt(datetime(2026-11-01)) | take 1000"


def test_the_link_of_a_typed_table_opens_its_rows_and_those_of_published_snapshots_only() -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    bounds = ">= datetime(2026-11-01T00:00:00Z) and {0} < datetime(2026-11-02T00:00:00Z) | take 1000"
    for name, asked in (
        ("DeviceInfo", f"DeviceInfo | where Timestamp {bounds.format('Timestamp')}"),
        ("ExposureGraphNodes", f"ExposureGraphNodesHistory | where SnapshotTime {bounds.format('SnapshotTime')}"),
    ):
        assert typed_rows_query(load_catalogue()[name], Window(start, start + DAY)) == asked


def test_another_type_of_parameter_is_refused_with_the_two_that_work() -> None:
    with pytest.raises(TypeError, match=r"pandas.DataFrame or pyarrow.Table"):
        FrameType.of(dict, "adx/DeviceInfoRaw")


def test_the_real_clients_did_all_the_traffic(world: World, dagster: Dagster, table: str) -> None:
    world.rows(table, 5, ago=30 * HOUR)
    since = len(world.tenant.log.entries())
    assert dagster.materialize(table, day(world, 30 * HOUR)).success
    agents: dict[str, set[str]] = {}
    for entry in world.tenant.log.entries()[since:]:
        agents.setdefault(entry.service, set()).add(entry.user_agent or "")
    assert set(agents) >= {"entra", "hunting", "engine", "ingest", "storage"}
    assert all("python-requests" in agent for agent in agents["entra"])  # msal's own HTTP client
    assert all(agent.startswith("defender-adx-pipeline/") for agent in agents["hunting"])
    storage = " ".join(agents["storage"])
    assert "azsdk-python-storage-blob/12." in storage
    assert "azsdk-python-storage-queue/12." in storage
    kusto = [entry.headers.get("x-ms-client-version", "") for entry in world.tenant.log.entries(service="engine")[-5:]]
    assert all(version.startswith("Kusto.Python.Client") for version in kusto)
