"""Snapshots through the engine: from a local Defender into a local ADX, over real sockets.

What is asked afterwards is what a user sees: the views. A part, a mixture or two versions of a day would be seen there.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import orjson
import pytest

from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.instants import parse_instant, to_text, utc_now
from defender_adx_pipeline.local.data import add_state, evolve, evolve_at
from defender_adx_pipeline.local.data.snapshots import has_state
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.audit import Tally
from defender_adx_pipeline.migration.errors import SnapshotMismatchError, SnapshotNotTodayError
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.snapshots import Snapshot, snapshot_row
from defender_adx_pipeline.migration.windows import Window, bin_floor
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world, entered

TABLES = (
    "DeviceTvmBrowserExtensions",
    "DeviceTvmCertificateInfo",
    "DeviceTvmHardwareFirmware",
    "DeviceTvmSoftwareInventory",
    "DeviceTvmSoftwareVulnerabilities",
    "DeviceTvmSoftwareEvidenceBeta",
    "DeviceTvmInfoGathering",
)
ROWS = 300
BUCKETS = 4
DAY = timedelta(days=1)
READS = "SnapshotTime"
BY_BUCKET = "count() by Bucket"


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, TABLES) as world:
        yield world


@pytest.fixture(scope="module")
def turns() -> Iterator[str]:
    return iter([name for _ in range(10) for name in TABLES[:-1]])


@pytest.fixture
def world(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from entered(shared_world, monkeypatch)


@pytest.fixture
def table(world: World, turns: Iterator[str]) -> str:
    """A table with `ROWS` rows; it may have snapshots of tests before."""
    name = next(turns)
    if has_state(world.tenant.source, name):
        evolve(world.tenant.source, name, gone=1.0, new=ROWS, changed=0)
    else:
        add_state(world.tenant.source, name, ROWS)
    assert len(world.truth(name)) == ROWS
    return name


def take(world: World, table: str, *, rows: int = ROWS // BUCKETS + 15, **options: Any) -> Tally:
    tally = world.sync(table, snapshot_rows=rows, **options)
    assert tally is not None
    return tally


def seen(world: World, table: str, view: str = "Latest()") -> Counter[bytes]:
    """What a view serves, without the SnapshotTime; one SnapshotTime for all of it."""
    rows = world.adx.query(f"Vw{table}{view} | project SnapshotTime, Record = tostring(Records)")
    assert len({row["SnapshotTime"] for row in rows}) <= 1
    records = [orjson.loads(row["Record"]) for row in rows]
    assert all(
        parse_instant(record.pop("SnapshotTime")) == parse_instant(rows[0]["SnapshotTime"]) for record in records
    )
    return counted(records)


def counted(records: list[dict[str, Any]]) -> Counter[bytes]:
    """As `World.truth` counts: without nulls."""
    present = ({name: value for name, value in record.items() if value is not None} for record in records)
    return Counter(orjson.dumps(record, option=orjson.OPT_SORT_KEYS) for record in present)


def snapshots(world: World, table: str) -> list[dict[str, Any]]:
    """The ledger rows in force of the table's snapshots, the latest first."""
    return sorted(world.ledger(table, "Snapshot"), key=lambda row: row["WindowStart"], reverse=True)


def asked_of_defender(world: World, table: str, text: str, since: int) -> int:
    entries = world.tenant.log.entries(service="hunting")[since:]
    return sum(text in entry.statement and entry.statement.startswith(table) for entry in entries)


def calls_so_far(world: World) -> int:
    return len(world.tenant.log.entries(service="hunting"))


def test_a_table_that_fits_into_one_answer_is_there_whole_after_three_calls(world: World, table: str) -> None:
    before = utc_now()
    tally = take(world, table, rows=ROWS)
    assert seen(world, table) == world.truth(table)
    assert (tally.calls, tally.slices, tally.notes) == (3, 1, [])
    assert tally.expected_rows == tally.received_rows == tally.queryable_rows == tally.loaded_rows == ROWS
    assert tally.rows_by_day == {before.date().isoformat(): ROWS}
    assert world.watermark(table) == tally.watermark == to_text(tally.window.start if tally.window else before)
    assert parse_instant(tally.watermark) >= before
    (row, *_) = snapshots(world, table)
    assert (row["State"], row["ExpectedRows"], row["ReceivedRows"], row["QueryableRows"]) == ("Published", *[ROWS] * 3)
    audit = world.audits(table)[-1]
    assert (audit["Status"], audit["FailureReason"], audit["RecordCount"]) == ("Success", "", ROWS)


def test_a_larger_one_is_read_in_buckets_each_once_and_the_next_one_knows_its_size(world: World, table: str) -> None:
    start = calls_so_far(world)
    world.tenant.source.scans.start()
    first = take(world, table)
    scanned = world.tenant.source.scans.report()[table]
    world.tenant.source.scans.stop()
    assert seen(world, table) == world.truth(table)
    assert (scanned.calls, scanned.rows, scanned.most) == (BUCKETS, ROWS, 1)
    assert (first.slices, first.calls) == (BUCKETS, calls_so_far(world) - start)
    again = take(world, table)
    # Its columns are known to this client, and its size from the snapshot before: by bucket before, after, and reads.
    assert again.calls == BUCKETS + 2
    assert seen(world, table) == world.truth(table)
    assert sum(world.loaded(table).values()) >= 2 * ROWS


def test_of_a_day_taken_twice_only_the_later_version_is_seen_and_the_day_before_stays(world: World, table: str) -> None:
    yesterday = utc_now() - DAY
    take(world, table, clock=lambda: utc_now() - DAY)
    old = world.truth(table)
    take(world, table)
    evolve(world.tenant.source, table, new=7, gone=3, changed=10)
    take(world, table)
    assert seen(world, table) == world.truth(table) != old
    assert seen(world, table, f"At(datetime({utc_now().date().isoformat()}))") == world.truth(table)
    assert seen(world, table, f"At(datetime({yesterday.date().isoformat()}))") == old
    changes = world.adx.query(
        f"Vw{table}Changes(datetime({yesterday.date().isoformat()}), datetime({utc_now().date().isoformat()}))"
        " | summarize Keys = count() by Change"
    )
    assert {row["Change"]: row["Keys"] for row in changes} == {"New": 7, "Fixed": 3, "Changed": 10}


def test_rows_that_come_and_go_between_two_buckets_are_recorded_as_drift_with_counts(world: World, table: str) -> None:
    evolve_at(world.tenant.source, 3, table, match=READS, new=40, gone=20, changed=0)
    tally = take(world, table)
    (row, *_) = snapshots(world, table)
    assert row["State"] == "Published"
    assert row["Reason"] in tally.notes
    assert (
        f"the table changed while it was read: {ROWS} rows before, {tally.received_rows} read, {ROWS + 20} after"
        in (row["Reason"])
    )
    assert "bucket " in row["Reason"]
    assert sum(seen(world, table).values()) == tally.received_rows == row["QueryableRows"]


def hide_a_row(world: World, table: str, times: int) -> Callable[[], None]:
    """Take a row away while buckets are read, so many times, and put it back before they are counted again."""
    source, state = world.tenant.source, {"left": times, "hidden": False}

    def before(query: str) -> None:
        if not query.startswith(table):
            return
        name = source.stored(table)
        if READS in query and state["left"] and not state["hidden"]:
            with source.writing() as cursor:
                first = f"rowid = (SELECT min(rowid) FROM {name})"
                cursor.execute(f"CREATE OR REPLACE TABLE hidden AS SELECT * FROM {name} WHERE {first}")
                cursor.execute(f"DELETE FROM {name} WHERE {first}")
            state["hidden"] = True
        elif READS not in query and state["hidden"]:
            with source.writing() as cursor:
                cursor.execute(f"INSERT INTO {name} SELECT * FROM hidden")
            state["hidden"] = False
            state["left"] -= 1

    return source.before_queries(before)


def test_a_bucket_with_other_rows_than_both_counts_is_given_up_and_the_snapshot_taken_anew(
    world: World, table: str
) -> None:
    forget = hide_a_row(world, table, times=1)
    tally = take(world, table)
    forget()
    assert seen(world, table) == world.truth(table)
    latest, given_up, *_ = snapshots(world, table)
    assert (latest["State"], given_up["State"]) == ("Published", "Failed")
    assert "other rows were read than were counted" in given_up["Reason"]
    assert any("was given up and is taken anew" in note for note in tally.notes)
    assert world.statuses(table)[-1] == "Success"


def test_a_snapshot_that_never_agrees_fails_loudly_and_the_one_before_is_served(world: World, table: str) -> None:
    take(world, table)
    old, watermark = seen(world, table), world.watermark(table)
    evolve(world.tenant.source, table, new=9, gone=0, changed=30)
    forget = hide_a_row(world, table, times=9)
    with pytest.raises(SnapshotMismatchError, match="read 2 times and is not what Defender counted") as caught:
        take(world, table)
    forget()
    assert f"Vw{table}Latest()" in str(caught.value)
    assert seen(world, table) == old
    assert world.watermark(table) == watermark
    assert world.statuses(table)[-1] == "Failed"


def test_a_run_that_failed_between_buckets_is_gone_on_with_and_no_bucket_is_read_twice(
    world: World, table: str
) -> None:
    start = calls_so_far(world)
    world.tenant.faults.add("hunting", "status", status=400, match=READS, first=3, times=1)
    with pytest.raises(HuntingError):
        take(world, table)
    (broken, *_) = snapshots(world, table)
    assert broken["State"] == "Planned"
    tally = take(world, table)
    assert seen(world, table) == world.truth(table)
    (done, *_) = snapshots(world, table)
    assert (done["SliceId"], done["State"], done["Attempt"]) == (broken["SliceId"], "Published", 2)
    assert tally.slices_resumed == tally.slices == BUCKETS - 2
    # Four buckets, one of them refused once.
    assert asked_of_defender(world, table, READS, start) == BUCKETS + 1
    assert world.statuses(table)[-2:] == ["Failed", "Success"]


def test_a_bucket_that_is_too_large_is_read_in_halves_and_its_siblings_once(world: World, table: str) -> None:
    start = calls_so_far(world)
    world.tenant.faults.add("hunting", "too_large", match=READS, first=2, times=1)
    tally = take(world, table)
    assert seen(world, table) == world.truth(table)
    assert tally.slices == BUCKETS
    assert asked_of_defender(world, table, READS, start) == BUCKETS + 2


def test_only_today_can_be_taken_and_nothing_is_read_for_another_day(world: World, table: str) -> None:
    start = calls_so_far(world)
    today = bin_floor(utc_now(), DAY)
    for window in (Window(today - DAY, today), Window(today - DAY, today + DAY), Window(today + DAY, today + 2 * DAY)):
        with pytest.raises(SnapshotNotTodayError, match="a past one that was not taken cannot be had any more"):
            take_window(world, table, window)
    assert calls_so_far(world) == start
    assert world.statuses(table)[-3:] == ["Failed"] * 3
    assert take_window(world, table, Window(today, today + DAY)).received_rows == ROWS


def take_window(world: World, table: str, window: Window) -> Tally:
    tally = world.migration().sync(Asked(table, RunIdentity("test", "day"), window))
    assert tally is not None
    return tally


def test_two_runs_at_once_without_the_pool_publish_one_whole_version(world: World, table: str) -> None:
    first, second = (world.migration(snapshot_rows=90) for _ in range(2))
    begun = first.extract(Asked(table, RunIdentity("first", "day"), None))
    assert begun is not None
    # The second one takes up what the first one planned, under the same tags.
    assert second.sync(Asked(table, RunIdentity("second", "day"), None)) is not None
    first.load(begun)
    assert seen(world, table) == world.truth(table)
    assert sum(row["State"] == "Published" and row["Attempt"] == 2 for row in snapshots(world, table)) == 1
    assert world.statuses(table)[-2:] == ["Success", "Success"]


@pytest.mark.parametrize("why", ["too old", "another key"])
def test_an_open_snapshot_that_cannot_be_gone_on_with_is_given_up(world: World, table: str, why: str) -> None:
    key, now = world.catalogue[table].identity_columns, utc_now()
    midnight = bin_floor(now, DAY)
    taken_at = max(midnight, now - timedelta(hours=3 if why == "too old" else 1))
    if why == "too old" and now - taken_at < timedelta(hours=2):
        pytest.skip("before two o'clock nothing of today is older than two hours")
    left = Snapshot(table, f"{table}Raw", taken_at, key if why == "too old" else key[:1], 7, 5)
    row = snapshot_row(left, RunIdentity("dead", "day"), state="Planned", now=taken_at)
    world.migration().state.append_ledger([row])
    take(world, table)
    states = {item["SliceId"]: (item["State"], item["Reason"]) for item in snapshots(world, table)}
    assert states[left.snapshot_id][0] == "Failed"
    assert states[left.snapshot_id][1].startswith("given up for the one of ")
    assert seen(world, table) == world.truth(table)


def test_a_table_without_rows_is_published_empty(world: World, table: str) -> None:
    take(world, table)
    evolve(world.tenant.source, table, new=0, gone=1.0, changed=0)
    tally = take(world, table)
    assert (tally.expected_rows, tally.queryable_rows, world.statuses(table)[-1]) == (0, 0, "Success")
    assert seen(world, table) == Counter()
    assert snapshots(world, table)[0]["State"] == "Published"


def test_an_inactive_table_is_skipped(world: World, table: str) -> None:
    world.configure(table, IsActive=False)
    start = calls_so_far(world)
    assert world.sync(table) is None
    world.configure(table, IsActive=True)
    assert (world.statuses(table)[-1], calls_so_far(world)) == ("Skipped", start)


def test_rows_whose_time_is_older_than_thirty_days_are_there_as_well(world: World) -> None:
    table = TABLES[-1]
    old = world.now - timedelta(days=400)
    world.tenant.source.insert_rows(
        table, [{"DeviceId": f"d{number}", "Timestamp": to_text(old + number * DAY)} for number in range(380)]
    )
    take(world, table)
    assert seen(world, table) == world.truth(table)
    assert sum(seen(world, table).values()) == 380
