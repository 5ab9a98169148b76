"""Sequences of events that are easy to get wrong: replies that get lost, clocks, edges, blobs that land late."""

from datetime import datetime, timedelta

import pytest

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.instants import parse_instant, to_text, utc_now
from defender_adx_pipeline.local.faults import Fault
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.audit import AuditRow
from defender_adx_pipeline.migration.configuration import NOT_LOADED
from defender_adx_pipeline.migration.errors import ConfigurationError, NotConfirmedError
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.loading import Progress
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.migration.own_world import shared_world, unused_tables
from defender_adx_pipeline_tests.migration.world import World

pytestmark = pytest.mark.long

__all__ = ["shared_world", "unused_tables"]

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
RUN = RunIdentity("test", "none")


def test_an_attempt_whose_audit_reply_gets_lost_has_one_audit_row(world: World, table: str) -> None:
    world.rows(table, 5, ago=3 * HOUR)
    world.tenant.faults.add("engine", "lost_reply", match=".append ['MigrationAuditLog']")
    world.sync(table)
    assert world.tenant.faults.fired() == 1
    assert world.statuses(table) == ["Success"]


def test_an_attempt_that_cannot_be_audited_is_observed_as_failed(world: World, table: str) -> None:
    seen: list[tuple[str, str]] = []
    world.tenant.faults.add("engine", "status", match=".append ['MigrationAuditLog']", times=None, status=400)
    with pytest.raises(AdxError):
        world.sync(table, observe=lambda row, _: seen.append((row.status, row.failure_reason)))
    world.tenant.faults.add("hunting", "status", match="summarize Rows", times=None, status=400)
    with pytest.raises(HuntingError) as caught:
        world.sync(table, observe=lambda row, _: seen.append((row.status, row.failure_reason)))
    assert any("audit row could not be written" in note for note in caught.value.__notes__)
    assert [status for status, _ in seen] == ["Failed", "Failed"]
    assert all("audit row could not be written" in reason for _, reason in seen)


def test_a_reason_that_utf_8_cannot_carry_is_written_all_the_same() -> None:
    row = AuditRow("DeviceInfo", utc_now(), "Failed", "half a pair \ud83d and more", 0)
    assert row.columns()["FailureReason"].encode() == b"half a pair ? and more"


def test_why_reading_failed_is_not_hidden_by_a_cluster_that_fails_as_well(world: World, table: str) -> None:
    world.rows(table, 600, ago=3 * HOUR, step=timedelta(seconds=2))
    world.hunting.schema(table)
    world.tenant.faults.add("hunting", "status", match=table, first=5, times=None, status=503)
    world.tenant.faults.add("engine", "status", match=f"['{table}Raw'] extents", times=None, status=400)
    with pytest.raises(HuntingError) as caught:
        world.sync(table, world.last(5))
    assert any("extents" in note for note in caught.value.__notes__)
    (row,) = world.audits(table)
    assert "503" in row["FailureReason"]
    world.tenant.faults.clear()
    world.sync(table, world.last(5))
    assert world.difference(table) == (0, 0)


def test_two_tables_may_not_share_a_destination(world: World, table: str) -> None:
    others = set(world.catalogue)
    world.rows(table, 5, ago=3 * HOUR)
    other = next(row for row in world.migration().state.configuration_rows() if row["SourceTable"] in others - {table})
    world.configure(table, DestinationTable=other["DestinationTable"])
    with pytest.raises(ConfigurationError, match=f"{other['SourceTable']}.*the same DestinationTable"):
        world.sync(table)
    world.configure(table, DestinationTable=f"{table}Raw")
    world.sync(table)
    assert world.difference(table) == (0, 0)


def test_rows_without_an_ingestion_time_are_counted(world: World, table: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    world.sync(table)
    cursor = world.tenant.adx.cursor()
    cursor.execute(f'UPDATE adx.data."{table}Raw" SET __ingestion_time = NULL')
    tally = world.sync(table)
    assert tally is not None
    assert tally.loaded_rows == 0
    assert world.difference(table) == (0, 0)


def test_a_watermark_moves_from_a_row_that_somebody_wrote_without_one(world: World, table: str) -> None:
    world.rows(table, 5, ago=3 * HOUR)
    world.configure(table, LastRefreshedTime=None, LastRefreshedTimeInString="")
    world.sync(table)
    assert world.watermark(table) > NOT_LOADED


def test_a_first_full_load_is_not_taken_for_done_by_a_single_day(world: World, table: str) -> None:
    world.rows(table, 30, ago=20 * DAY, step=12 * HOUR)
    recent = to_text(world.now - 2 * HOUR)
    world.configure(table, LoadType="Full", LastRefreshedTime=recent, LastRefreshedTimeInString=recent)
    world.sync(table, world.last(24))
    world.sync(table)
    assert world.difference(table) == (0, 0)
    tally = world.sync(table)
    assert tally is not None
    assert tally.window is not None
    assert tally.window.length < DAY


def test_rows_that_fall_out_of_defender_during_a_run_are_no_surplus(
    world: World, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = timedelta(0)

    def clock() -> datetime:
        return utc_now() + ahead

    def tell(progress: Progress) -> None:
        nonlocal ahead
        if progress.event == "confirmed":
            ahead = 40 * MINUTE

    monkeypatch.setattr(world.tenant.source, "clock", clock)
    start = utc_now() - 30 * DAY
    world.rows(table, 10, ago=world.now - start - 20 * MINUTE)
    world.rows(table, 10, ago=3 * HOUR)
    migration = world.migration(clock=clock)
    extraction = migration.extract(Asked(table, RUN, Window(start - DAY, utc_now())))
    assert extraction is not None
    world.rows(table, 2, ago=3 * HOUR - timedelta(seconds=1))
    tally = migration.load(extraction, tell)
    assert tally.loaded_rows == 22
    assert world.difference(table) == (0, 0)
    assert any("no longer" in note and "not compared" in note for note in tally.notes)


def test_a_clock_that_is_days_ahead_completes_nothing_that_has_not_happened_yet(world: World, table: str) -> None:
    world.rows(table, 5, ago=3 * HOUR)
    world.sync(table, clock=lambda: utc_now() + 2 * DAY)
    assert world.difference(table) == (0, 0)
    (row,) = world.ledger(table, "Window")
    assert parse_instant(row["WindowEnd"]) < utc_now()
    assert world.watermark(table) > NOT_LOADED


def test_a_slice_under_way_is_not_closed_by_an_answer_without_rows(world: World, table: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    window = world.last(5)
    world.tenant.faults.add("worker", "delay", match=f"{table}Raw", seconds=2.0)
    with pytest.raises(NotConfirmedError):
        world.sync(table, window, confirm_timeout=timedelta(seconds=0.2))
    nothing = Fault("status", status=200, body='{"schema": [{"name": "Timestamp", "type": "DateTime"}], "results": []}')
    # The first call counts, the second reads.
    world.tenant.faults.add("hunting", nothing, match=table, first=2)
    world.sync(table, window)
    world.sync(table, window)
    assert world.difference(table) == (0, 0)
    assert len({row["SliceId"] for row in world.ledger(table)}) == 1


def test_a_watermark_that_somebody_sets_back_is_followed(world: World, table: str) -> None:
    world.rows(table, 20, ago=20 * HOUR, step=10 * MINUTE)
    world.sync(table)
    world.adx.command(f".clear table ['{table}Raw'] data", idempotent=True)
    back = to_text(world.now - 30 * HOUR)
    world.configure(table, LastRefreshedTime=back, LastRefreshedTimeInString=back)
    world.sync(table)
    assert world.difference(table) == (0, 0)
    tally = world.sync(table)
    assert tally is not None
    assert tally.window is not None
    assert tally.window.length < 5 * HOUR


def test_a_watermark_that_somebody_sets_back_during_a_run_stays_back(world: World, table: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    world.sync(table)
    world.rows(table, 5, ago=1 * HOUR)
    migration = world.migration()
    extraction = migration.extract(Asked(table, RUN, None))
    assert extraction is not None
    back = to_text(world.now - 30 * HOUR)
    world.configure(table, LastRefreshedTime=back, LastRefreshedTimeInString=back)
    migration.load(extraction)
    assert world.watermark(table) == back


def test_late_rows_are_told_apart_although_the_answer_of_adx_breaks_off(world: World, table: str) -> None:
    world.rows(table, 60, ago=3 * HOUR)
    world.sync(table)
    world.rows(table, 3, ago=3 * HOUR - timedelta(seconds=1))
    world.tenant.faults.add("engine", "truncate", match="project Record", keep=0.9)
    world.sync(table)
    assert world.tenant.faults.fired() == 1
    assert world.difference(table) == (0, 0)
