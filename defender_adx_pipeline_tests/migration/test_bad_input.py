"""Bad input gets one clear error, and nothing is lost: names, credentials, missing objects, impossible windows."""

from contextlib import ExitStack
from datetime import timedelta

import pytest

from defender_adx_pipeline.adx.errors import AdxError, AdxUnreachableError, MissingObjectError
from defender_adx_pipeline.catalogue import Catalogue, UnknownTableError, load_catalogue
from defender_adx_pipeline.defender.errors import AuthenticationError, UnresolvedNameError
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.agenda import read_agenda
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.configuration import NOT_LOADED
from defender_adx_pipeline.migration.connections import open_database, open_engine
from defender_adx_pipeline.migration.errors import ConfigurationError, DeadLetterError, WindowNotReadableError
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, settings_of

pytestmark = pytest.mark.long

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
RUN = RunIdentity("test", "none")


def test_a_table_that_nobody_knows_stops_neither_the_others_nor_the_list(world: World, table: str) -> None:
    state = world.migration().state
    (row,) = [row for row in state.configuration_rows() if row["SourceTable"] == table]
    state._append("MigrationConfiguration", [{**row, "SourceTable": "DeviceTypoEvents"}])
    agenda = read_agenda(state, world.catalogue)
    assert "not a Defender table" in agenda.problems["DeviceTypoEvents"]
    assert table in {item.table.name for item in agenda.active()}
    with pytest.raises(UnknownTableError, match="DEFENDER_TABLES_FILE"):
        world.sync("DeviceTypoEvents")
    world.adx.command(".append MigrationConfiguration <| MigrationConfiguration | take 0", idempotent=True)
    assert world.statuses("DeviceTypoEvents") == ["Failed"]


def test_a_name_that_would_break_out_of_its_quotes_is_never_sent(world: World, table: str) -> None:
    world.rows(table, 5, ago=3 * HOUR)
    world.configure(table, DestinationTable="x'] | .drop table y")
    before = len(world.tenant.log.entries())
    with pytest.raises(ConfigurationError, match="not a Kusto entity name"):
        world.sync(table)
    sent = [entry.statement or "" for entry in world.tenant.log.entries()[before:]]
    # The audit row quotes the reason as a string; no statement uses the name as a name.
    assert not any(text.startswith(".drop") for text in sent)
    assert all("x'] | .drop" not in text or "MigrationAuditLog" in text for text in sent)
    world.configure(table, DestinationTable=f"{table}Raw")
    world.sync(table)
    assert world.difference(table) == (0, 0)


def test_a_snapshot_table_is_not_taken_for_one_of_events_although_it_has_a_time(world: World) -> None:
    table = "DeviceTvmInfoGathering"
    assert world.sync(table) is not None
    assert world.statuses(table) == ["Success"]
    assert world.ledger(table) == world.ledger(table, "Window") == []
    assert [row["State"] for row in world.ledger(table, "Snapshot")] == ["Published"]


def test_a_partition_older_than_30_days_is_an_error_and_what_is_loaded_stays(world: World, table: str) -> None:
    world.rows(table, 5, ago=3 * HOUR)
    world.sync(table)
    before = world.watermark(table)
    start = world.now - 33 * DAY
    with pytest.raises(WindowNotReadableError, match="keeps 30 days"):
        world.sync(table, Window(start, start + DAY))
    assert world.statuses(table) == ["Success", "Failed"]
    assert world.watermark(table) == before
    assert world.difference(table) == (0, 0)


def test_a_clock_that_is_behind_is_named_and_nothing_is_skipped(world: World, table: str) -> None:
    world.rows(table, 5, ago=3 * HOUR)
    world.sync(table)
    with pytest.raises(WindowNotReadableError, match="clock"):
        world.sync(table, clock=lambda: utc_now() - 20 * DAY)
    world.sync(table)
    assert world.difference(table) == (0, 0)


def test_a_clock_that_is_ahead_loads_what_is_there_and_loses_no_later_row(world: World, table: str) -> None:
    world.rows(table, 5, ago=3 * HOUR)
    world.sync(table, clock=lambda: utc_now() + 2 * HOUR)
    world.rows(table, 5, ago=1 * HOUR)
    world.sync(table)
    assert world.difference(table) == (0, 0)


def test_a_destination_without_the_mapping_says_bootstrap(world: World, table: str) -> None:
    world.rows(table, 5, ago=3 * HOUR)
    world.adx.command(f".create-merge table ['{table}Bare'] (Records: dynamic)", idempotent=True)
    world.configure(table, DestinationTable=f"{table}Bare")
    with pytest.raises(MissingObjectError, match="DynamicJsonMap.*bootstrap"):
        world.sync(table)
    world.configure(table, DestinationTable=f"{table}Nowhere")
    with pytest.raises(MissingObjectError, match="bootstrap"):
        world.sync(table)
    assert world.watermark(table) == NOT_LOADED
    assert world.statuses(table) == ["Failed", "Failed"]


def test_a_record_above_a_mebibyte_is_kept_out_listed_and_everything_else_loaded(world: World, table: str) -> None:
    made = world.rows(table, 5, ago=3 * HOUR)
    text = next(c.name for c in world.catalogue[table].columns if c.type == "string")
    huge = {**made[0], text: "x" * 1_100_000}
    column = world.catalogue[table].time_column
    huge[column] = made[0][column][:-2] + "9Z"
    world.tenant.source.insert_rows(table, [huge])
    with pytest.raises(DeadLetterError, match="1 records are larger"):
        world.sync(table)
    assert world.difference(table) == (1, 0)
    assert world.watermark(table) == NOT_LOADED
    (letter,) = world.adx.query(f"MigrationDeadLetter | where SourceTable == '{table}'")
    assert letter["Size"] > 1_048_576
    (row,) = world.audits(table)
    assert (row["Status"], row["RecordCount"]) == ("Failed", 5)


def test_a_table_that_the_tenant_lacks_is_named_with_what_to_do(open_tenant: OpenTenant) -> None:
    known = load_catalogue()
    there = Catalogue({name: known[name] for name in ("DeviceInfo", "DeviceEvents")})
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        tenant = stack.enter_context(open_tenant(catalogue=there, scale=0, quota_clock_scale=2000.0))
        world = World(tenant, settings_of(tenant, patch), stack)
        world.bootstrap()
        with pytest.raises(UnresolvedNameError, match="AlertInfo"):
            world.sync("AlertInfo")
        (row,) = world.audits("AlertInfo")
        assert row["Status"] == "Failed"
        assert "licen" in row["FailureReason"]


def test_missing_objects_say_bootstrap(open_tenant: OpenTenant) -> None:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        tenant = stack.enter_context(open_tenant(scale=0, tables=["DeviceInfo"], quota_clock_scale=2000.0))
        world = World(tenant, settings_of(tenant, patch), stack)
        with pytest.raises(AdxError, match="defender-adx bootstrap") as caught:
            world.sync("DeviceInfo")
        assert any("audit row could not be written" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [
        ("AZURE_CLIENT_SECRET", "wrong", "AZURE_CLIENT_SECRET"),
        ("AZURE_TENANT_ID", "11111111-2222-3333-4444-555555555555", "AZURE_TENANT_ID"),
        ("AZURE_CLIENT_ID", "11111111-2222-3333-4444-555555555555", "AZURE_CLIENT_ID"),
    ],
)
def test_wrong_credentials_name_the_variable_and_show_no_secret(
    world: World, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, hint: str
) -> None:
    for name, setting in world.tenant.environment().items():
        monkeypatch.setenv(name, setting)
    monkeypatch.setenv(variable, value)
    with pytest.raises((AuthenticationError, AdxError), match=hint) as caught, open_engine() as engine:
        engine.sync(Asked("DeviceInfo", RUN, None))
    assert "local-tenant-secret" not in str(caught.value)


def test_a_cluster_that_is_not_there_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, setting in world.tenant.environment().items():
        monkeypatch.setenv(name, setting)
    monkeypatch.setenv("ADX_CLUSTER_URI", "http://127.0.0.1:9")
    with open_database() as database:
        database.adx._attempts = 1
        with pytest.raises(AdxUnreachableError, match="127.0.0.1:9"):
            database.adx.query("print 1")
