"""One call, sync(table, window): first load, tick, late rows, recovery. Real clients against the local tenant."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.defender.errors import HuntingError, TooLargeError
from defender_adx_pipeline.instants import to_text, utc_now
from defender_adx_pipeline.local.faults import Fault
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.audit import audit_id
from defender_adx_pipeline.migration.configuration import NOT_LOADED
from defender_adx_pipeline.migration.errors import LostRowsError, NotConfirmedError, SurplusError
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.migration.world import World

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def test_a_first_load_takes_all_that_defender_keeps_every_value_intact(world: World, table: str) -> None:
    made = world.rows(table, 250, ago=29 * DAY, step=timedelta(hours=2))
    tally = world.sync(table)
    assert tally is not None
    assert world.difference(table) == (0, 0)
    assert (tally.loaded_rows, tally.expected_rows, tally.queryable_rows) == (250, 250, 250)
    column = world.catalogue[table].time_column
    assert world.watermark(table) == max(row[column] for row in made)
    assert world.statuses(table) == ["Success"]


def test_a_second_run_loads_nothing_and_moves_nothing(world: World, table: str) -> None:
    world.rows(table, 30, ago=3 * HOUR)
    world.sync(table)
    before = world.watermark(table)
    tally = world.sync(table)
    assert tally is not None
    assert (tally.loaded_rows, tally.slices) == (0, 0)
    assert world.watermark(table) == before
    assert world.statuses(table) == ["Success", "Success"]
    assert world.difference(table) == (0, 0)


def test_an_empty_table_is_complete_and_its_watermark_stays(world: World, table: str) -> None:
    tally = world.sync(table)
    assert tally is not None
    assert (tally.expected_rows, tally.loaded_rows) == (0, 0)
    assert world.watermark(table) == NOT_LOADED
    assert len(world.ledger(table, "Window")) == 1
    assert world.statuses(table) == ["Success"]


def test_the_next_tick_of_an_empty_table_asks_for_the_overlap_only(world: World, table: str) -> None:
    world.sync(table)
    tally = world.sync(table)
    assert tally is not None
    assert tally.window is not None
    assert tally.window.length < 5 * HOUR


def test_a_late_row_is_found_by_its_bin_and_loaded_alone(world: World, table: str) -> None:
    world.rows(table, 40, ago=3 * HOUR)
    world.sync(table)
    world.rows(table, 3, ago=3 * HOUR - timedelta(seconds=1))
    tally = world.sync(table)
    assert tally is not None
    assert tally.loaded_rows == 3
    assert world.difference(table) == (0, 0)


def test_rows_that_arrive_between_count_and_read_are_loaded_once(world: World, table: str) -> None:
    world.rows(table, 40, ago=3 * HOUR)
    migration = world.migration()
    extraction = migration.extract(_asked(table, world.last(5)))
    assert extraction is not None
    world.rows(table, 5, ago=3 * HOUR - timedelta(seconds=2))
    world.rows(table, 2, ago=2 * HOUR)
    tally = migration.load(extraction)
    assert world.difference(table) == (0, 0)
    assert tally.queryable_rows == 47


def test_many_rows_make_many_slices_each_read_once(world: World, table: str) -> None:
    world.rows(table, 1_000, ago=3 * HOUR, step=timedelta(seconds=2))
    calls = len(world.tenant.log.entries(service="hunting"))
    tally = world.sync(table, world.last(5), slice_rows=150)
    assert tally is not None
    assert tally.slices >= 7
    assert world.hunting_calls(calls) <= tally.slices + 4
    assert world.difference(table) == (0, 0)
    assert {row["State"] for row in world.ledger(table)} == {"Confirmed"}


def test_a_day_alone_does_not_move_the_watermark_past_the_days_before_it(world: World, table: str) -> None:
    world.rows(table, 10, ago=20 * DAY, step=DAY)
    tally = world.sync(table, world.last(24 * 5))
    assert tally is not None
    assert world.watermark(table) == NOT_LOADED
    assert any("stays" in note for note in tally.notes)
    world.sync(table)
    assert world.difference(table) == (0, 0)
    assert world.watermark(table) > NOT_LOADED


def test_a_failure_in_the_middle_keeps_what_was_loaded_and_the_next_run_resumes(world: World, table: str) -> None:
    world.rows(table, 600, ago=3 * HOUR, step=timedelta(seconds=2))
    window = world.last(5)
    # Calls 1 and 2 are the schema and the count; some slices get through, then Defender stays away.
    world.tenant.faults.add("hunting", "status", match=table, first=6, times=None, status=503)
    with pytest.raises(HuntingError):
        world.sync(table, window)
    (failed,) = world.audits(table)
    assert failed["Status"] == "Failed"
    assert 0 < failed["RecordCount"] < 600
    assert failed["RecordCount"] == sum(world.loaded(table).values())
    assert world.watermark(table) == NOT_LOADED
    world.tenant.faults.clear()
    tally = world.sync(table, window)
    assert tally is not None
    assert tally.slices_resumed > 0
    assert tally.loaded_rows == 600 - failed["RecordCount"]
    assert world.difference(table) == (0, 0)
    assert world.statuses(table) == ["Failed", "Success"]


def test_rows_that_the_ledger_could_not_take_as_confirmed_are_counted_by_the_next_attempt_alone(
    world: World, table: str
) -> None:
    world.rows(table, 200, ago=3 * HOUR, step=timedelta(seconds=2))
    window = world.last(5)
    world.tenant.faults.add("engine", "status", match='"Confirmed"', times=None, status=403)
    with pytest.raises(AdxError):
        world.sync(table, window)
    assert world.difference(table) == (0, 0)
    world.tenant.faults.clear()
    world.sync(table, window)
    assert world.difference(table) == (0, 0)
    assert [(row["Status"], row["RecordCount"]) for row in world.audits(table)] == [("Failed", 0), ("Success", 200)]


def test_a_slice_that_was_queued_but_not_seen_is_confirmed_by_its_tag_later(
    world: World, table: str, until: Callable[[Callable[[], bool]], None]
) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    window = world.last(5)
    world.tenant.faults.add("worker", "delay", match=f"{table}Raw", seconds=3.0)
    with pytest.raises(NotConfirmedError, match="stay Queued"):
        world.sync(table, window, confirm_timeout=timedelta(seconds=0.5))
    assert {row["State"] for row in world.ledger(table)} == {"Queued"}
    assert world.watermark(table) == NOT_LOADED
    until(lambda: sum(world.loaded(table).values()) == 20)
    calls = len(world.tenant.log.entries(service="hunting"))
    tally = world.sync(table, window)
    assert tally is not None
    assert tally.slices == 0
    assert world.hunting_calls(calls) <= 1
    assert world.difference(table) == (0, 0)
    assert {row["State"] for row in world.ledger(table)} == {"Confirmed"}
    assert [row["RecordCount"] for row in world.audits(table)] == [0, 20]


def test_a_blob_that_lands_while_its_slice_is_sent_again_is_loaded_once(world: World, table: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    window = world.last(5)
    world.tenant.faults.add("worker", "delay", match=f"{table}Raw", seconds=1.5)
    with pytest.raises(NotConfirmedError):
        world.sync(table, window, confirm_timeout=timedelta(seconds=0.2))
    world.sync(table, window)
    assert world.difference(table) == (0, 0)


def test_an_ingestion_that_adx_refuses_fails_the_run_and_names_the_reason(world: World, table: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    refusal = Fault("status", status=400, code="BadRequest_InvalidBlob")
    world.tenant.faults.add("worker", refusal, match=f"{table}Raw")
    with pytest.raises(NotConfirmedError, match="BadRequest_InvalidBlob"):
        world.sync(table)
    assert world.statuses(table) == ["Failed"]
    world.sync(table)
    assert world.difference(table) == (0, 0)


def test_the_same_message_twice_loads_its_blob_once(world: World, table: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    world.tenant.faults.add("worker", "duplicate", match=f"{table}Raw", times=None)
    world.sync(table)
    assert world.difference(table) == (0, 0)


def test_a_count_that_fails_is_a_failure_and_never_zero(world: World, table: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    world.tenant.faults.add("hunting", "status", match="summarize Rows", times=None, status=500)
    with pytest.raises(HuntingError):
        world.sync(table)
    assert world.statuses(table) == ["Failed"]
    assert world.ledger(table, "Window") == []


@pytest.mark.parametrize("service", ["hunting", "engine", "storage"])
def test_a_failure_names_table_and_window_and_what_is_kept_whoever_failed(
    world: World, table: str, service: str
) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    match = {"hunting": "datetime(", "engine": "where Tags has_any", "storage": ""}[service]
    # Once at the engine: the audit row repeats the statement that failed, and would be refused for it, too.
    times = 1 if service == "engine" else None
    world.tenant.faults.add(service, "status", match=match, times=times, status=400)
    window = world.last(5)
    with pytest.raises((AdxError, HuntingError)):
        world.sync(table, window)
    (row,) = world.audits(table)
    assert row["FailureReason"].startswith(f"{table} [{window.start:%Y-%m-%dT%H:%M:%S}")
    assert "0 rows of this attempt are confirmed and kept, and the watermark is 1900-01-01" in row["FailureReason"]


def test_the_ledger_has_a_slice_before_it_is_queued(world: World, table: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    world.tenant.faults.add("engine", "status", match=".append ['MigrationLedger']", times=None, status=400)
    blobs = len(world.tenant.log.entries(service="storage"))
    with pytest.raises(AdxError):
        world.sync(table)
    assert len(world.tenant.log.entries(service="storage")) == blobs


def test_a_surplus_in_adx_is_reported_and_nothing_is_deleted(world: World, table: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    world.sync(table)
    world.adx.command(f".append ['{table}Raw'] <| ['{table}Raw'] | take 2", idempotent=False)
    with pytest.raises(SurplusError, match="Nothing is missing, and nothing was deleted"):
        world.sync(table)
    assert sum(world.loaded(table).values()) == 22
    assert world.statuses(table) == ["Success", "Failed"]


def test_a_switched_off_table_is_left_alone_and_the_audit_says_so(world: World, table: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    world.configure(table, IsActive=False)
    assert world.sync(table) is None
    (row,) = world.audits(table)
    assert row["Status"] == "Skipped"
    assert "IsActive" in row["FailureReason"]
    assert not world.loaded(table)


def test_somebody_switching_a_table_off_during_a_run_is_not_undone_by_the_watermark(world: World, table: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    migration = world.migration()
    extraction = migration.extract(_asked(table, None))
    assert extraction is not None
    world.configure(table, IsActive=False)
    migration.load(extraction)
    assert not migration.state.configuration(table).is_active
    assert world.watermark(table) > NOT_LOADED


def test_the_watermark_never_goes_back(world: World, table: str) -> None:
    world.rows(table, 5, ago=3 * HOUR)
    world.sync(table)
    before = world.watermark(table)
    state = world.migration().state
    state.advance_watermark(replace(state.configuration(table), watermark=NOT_LOADED), to_text(utc_now() - 5 * DAY))
    assert world.watermark(table) == before


def test_rows_go_to_the_destination_of_the_configuration(world: World, table: str) -> None:
    other = f"{table}Archive 2-x"
    world.adx.command(f".create-merge table ['{other}'] (Records: dynamic)", idempotent=True)
    mapping = '[{"column":"Records","Properties":{"Path":"$"}}]'
    world.adx.command(
        f".create-or-alter table ['{other}'] ingestion json mapping 'DynamicJsonMap' '{mapping}'", idempotent=True
    )
    world.configure(table, DestinationTable=other)
    world.rows(table, 20, ago=3 * HOUR)
    world.sync(table)
    assert world.difference(table, other) == (0, 0)
    assert not world.loaded(table)


def test_a_full_load_is_a_first_full_load_and_then_incremental(world: World, table: str) -> None:
    world.rows(table, 10, ago=20 * DAY, step=HOUR)
    world.configure(
        table,
        LoadType="Full",
        LastRefreshedTime=to_text(world.now - 2 * HOUR),
        LastRefreshedTimeInString=to_text(world.now - 2 * HOUR),
    )
    first = world.sync(table)
    assert first is not None
    assert first.loaded_rows == 10
    second = world.sync(table)
    assert second is not None
    assert second.window is not None
    assert second.window.length < DAY


def test_a_table_that_fell_behind_by_more_than_30_days_says_so_once(world: World, table: str) -> None:
    old = to_text(world.now - 40 * DAY)
    world.configure(table, LastRefreshedTime=old, LastRefreshedTimeInString=old)
    world.rows(table, 20, ago=3 * HOUR)
    with pytest.raises(LostRowsError, match="cannot be had any more"):
        world.sync(table)
    assert world.difference(table) == (0, 0)
    world.sync(table)
    assert world.statuses(table) == ["Failed", "Success"]


def test_every_attempt_is_observed_once_with_its_audit_row(world: World, table: str) -> None:
    seen = []
    world.rows(table, 20, ago=3 * HOUR)
    world.sync(table, observe=lambda row, tally: seen.append((row.status, row.record_count, tally.expected_rows)))
    world.tenant.faults.add("hunting", "status", match="summarize Rows", times=None, status=500)
    with pytest.raises(HuntingError):
        world.sync(table, observe=lambda row, tally: seen.append((row.status, row.record_count, tally.expected_rows)))
    assert seen == [("Success", 20, 20), ("Failed", 0, 0)]
    assert world.statuses(table) == ["Success", "Failed"]


def _asked(table: str, window: Window | None) -> Asked:
    return Asked(table, RunIdentity("test", "none"), window)


def test_an_audit_row_that_is_there_counts_as_written_though_every_reply_got_lost(world: World, table: str) -> None:
    world.rows(table, 5, ago=3 * HOUR)
    seen: list[str] = []
    name = audit_id("every reply lost", table)
    migration = world.migration(observe=lambda row, _: seen.append(row.status), audit_id=name)
    world.tenant.faults.add("engine", "lost_reply", match=".append ['MigrationAuditLog']", times=None)
    migration.sync(_asked(table, None))
    assert world.tenant.faults.fired() > 1
    assert seen == world.statuses(table) == ["Success"]


def test_a_count_that_is_refused_as_too_large_is_taken_in_halves(world: World, table: str) -> None:
    world.rows(table, 50, ago=20 * HOUR, step=timedelta(minutes=20))
    refused = world.tenant.faults.add("hunting", "preempted", match="count() by Bin", times=3)
    tally = world.sync(table, world.last(30 * 24))
    assert tally is not None
    assert (world.difference(table), tally.expected_rows, refused.times) == ((0, 0), 50, 3)


def test_a_count_that_is_refused_for_ever_fails_after_few_calls(world: World, table: str) -> None:
    world.tenant.faults.add("hunting", "too_large", match="count() by Bin", times=None)
    before = world.hunting_calls(0)
    with pytest.raises(TooLargeError, match="count rows"):
        world.sync(table, world.last(30 * 24))
    # Ten halvings make thirty days an hour; the schema is asked for, too.
    assert world.hunting_calls(before) <= 13
    assert world.statuses(table) == ["Failed"]
