"""The Defender side's storage: what hunting sees of it, and the truth that acceptance compares with."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from defender_adx_pipeline.catalogue import Column, load_catalogue
from defender_adx_pipeline.local.kql import run_kql
from defender_adx_pipeline.local.source import SourceError, SourceStore

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Clock:
    def __init__(self, now=NOW):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def catalogue():
    return load_catalogue()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(catalogue, clock):
    store = SourceStore(":memory:", catalogue, clock)
    yield store
    store.close()


def seen(store, table, **bounds):
    with store.hunting_cursor(**bounds) as cursor:
        return run_kql(cursor, f"{table} | count").rows[0][0]


def truth(store, table, *bounds):
    return [json.loads(line) for line in store.rows(table, *bounds)]


def test_the_truth_keeps_digits_numbers_and_dynamic_values_and_leaves_nulls_out(store):
    record = {
        "Timestamp": "2026-11-24T10:00:00.1234567Z",
        "ReportId": 'r\n"1"\\\t\u2028 é',
        "IsAdminOperation": True,
        "ApplicationId": 7,
        "RawEventData": {"Big": 9007199254740993, "List": [1, 2.5, {"Deep": None}], "é": "ü"},
        "ActivityObjects": [],
        "IPTags": None,
    }
    assert store.insert_rows("CloudAppEvents", [record]) == 1
    (row,) = truth(store, "CloudAppEvents")
    assert {name: row[name] for name in record if name != "IPTags"} == {
        k: v for k, v in record.items() if k != "IPTags"
    }
    assert "IPTags" not in row
    assert "IsAnonymousProxy" not in row
    assert row["City"] == ""  # KQL has no null string


def test_a_long_beyond_2_to_the_53_and_short_fractions_are_exact(store):
    times = [
        "2026-11-24T10:00:00Z",
        "2026-11-24T10:00:00.5Z",
        "2026-11-24T10:00:00.928Z",
        "2026-11-24T10:00:00.0000001Z",
    ]
    records = [{"Timestamp": time, "ReportId": 639199803770463703, "DeviceName": time} for time in times]
    store.insert_rows("DeviceInfo", records)
    rows = truth(store, "DeviceInfo")
    assert sorted(row["Timestamp"] for row in rows) == sorted(times)
    assert all(row["Timestamp"] == row["DeviceName"] for row in rows)
    assert {row["ReportId"] for row in rows} == {639199803770463703}


def test_a_row_is_seen_from_its_arrival_until_thirty_days_after_its_event(store, clock):
    arrival = NOW + timedelta(hours=3)
    store.insert_rows("AlertInfo", [{"Timestamp": "2026-11-23T12:00:00Z", "__arrival": arrival.isoformat()}])
    assert seen(store, "AlertInfo") == 0
    assert len(truth(store, "AlertInfo")) == 1
    clock.now = arrival
    assert seen(store, "AlertInfo") == 1
    clock.now = datetime(2026, 12, 23, 12, 0, 0, tzinfo=UTC)
    assert seen(store, "AlertInfo") == 1
    clock.now += timedelta(microseconds=1)
    assert seen(store, "AlertInfo") == 0


def test_a_timespan_narrows_what_is_seen(store):
    store.insert_rows("AlertInfo", [{"Timestamp": f"2026-11-2{day}T12:00:00Z"} for day in range(4)])
    assert seen(store, "AlertInfo", start=datetime(2026, 11, 22, tzinfo=UTC)) == 2
    assert (
        seen(store, "AlertInfo", start=datetime(2026, 11, 21, tzinfo=UTC), end=datetime(2026, 11, 23, tzinfo=UTC)) == 2
    )


def test_hidden_columns_show_neither_in_answers_nor_in_getschema(store, catalogue):
    with store.hunting_cursor() as cursor:
        names = [name for name, _ in run_kql(cursor, "DeviceInfo | take 1").columns]
        described = run_kql(cursor, "DeviceInfo | getschema | project ColumnName, ColumnType").rows
    assert names == [column.name for column in catalogue["DeviceInfo"].columns]
    assert described == [(column.name, column.type) for column in catalogue["DeviceInfo"].columns]


def test_the_truth_of_a_window_is_half_open_on_event_time(store):
    times = ["2026-11-20T00:00:00Z", "2026-11-20T23:59:59.9999999Z", "2026-11-21T00:00:00Z"]
    store.insert_rows("AlertInfo", [{"Timestamp": time} for time in times])
    window = (datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC))
    assert sorted(row["Timestamp"] for row in truth(store, "AlertInfo", *window)) == times[:2]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"Timestamp": "2026-11-20T00:00:00Z", "Nope": 1}, "AlertInfo has no column Nope"),
        ({"Timestamp": "yesterday"}, "AlertInfo: a value does not fit its column"),
        ({"Timestamp": "2026-11-20T00:00:00Z", "Title": {"a": 1}}, "AlertInfo.Title is string"),
    ],
)
def test_rows_that_do_not_fit_are_refused_whole(store, record, message):
    with pytest.raises(SourceError, match=message):
        store.insert_rows("AlertInfo", [{"Timestamp": "2026-11-20T00:00:00Z"}, record])
    assert store.count_stored("AlertInfo") == 0


def test_added_and_respelled_columns_take_part_in_queries(store):
    store.insert_rows("CloudAppEvents", [{"Timestamp": "2026-11-24T10:00:00Z", "Isp": "before"}])
    store.rename_column("CloudAppEvents", "Isp", "ISP")
    store.add_columns("CloudAppEvents", [Column("UserId", "string"), Column("Extra", "dynamic")])
    store.insert_rows(
        "CloudAppEvents", [{"Timestamp": "2026-11-24T11:00:00Z", "UserId": "u", "Extra": [1], "ISP": "x"}]
    )
    with store.hunting_cursor() as cursor:
        answer = run_kql(cursor, "CloudAppEvents | project ISP, UserId, Extra | sort by ISP asc").rows
    assert answer == [("before", "", None), ("x", "u", "[1]")]


def test_a_reopened_file_has_its_rows_its_columns_and_its_marks(tmp_path, catalogue, clock):
    path = tmp_path / "defender.duckdb"
    first = SourceStore(path, catalogue, clock)
    first.add_columns("AlertInfo", [Column("Extra", "long")])
    first.insert_rows("AlertInfo", [{"Timestamp": "2026-11-24T10:00:00Z", "Extra": 5}])
    first.set_mark("seed", "7")
    first.close()
    second = SourceStore(path, catalogue, clock)
    assert second.mark("seed") == "7"
    assert [row["Extra"] for row in truth(second, "AlertInfo")] == [5]
    assert {"table": "AlertInfo", "rows": 1} in second.tables()
    second.close()
