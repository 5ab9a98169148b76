"""Generated data: complete, exact to repeat, and as awkward as the real thing."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.local.data import add_rows, fill, rows_of
from defender_adx_pipeline.local.source import SourceStore

NOW = datetime(2026, 11, 24, 12, 0, 0, 250, tzinfo=UTC)
SCALE = 0.02


@pytest.fixture(scope="module")
def catalogue():
    return load_catalogue()


@pytest.fixture(scope="module")
def filled(catalogue):
    store = SourceStore(":memory:", catalogue, lambda: NOW)
    fill(store, seed=3, scale=SCALE)
    yield store
    store.close()


def records(store, table):
    return [json.loads(line) for line in store.rows(table)]


def test_the_volumes_make_a_tenant_of_at_least_205000_rows(catalogue):
    counts = [rows_of(table.name) for table in catalogue.events()]
    assert len(counts) == 48
    assert min(counts) >= 50
    assert sum(counts) >= 205_000


def test_every_event_table_has_rows_and_all_of_them_are_visible(filled, catalogue):
    visible = {entry["table"]: entry["rows"] for entry in filled.tables()}
    for table in catalogue.events():
        assert visible[table.name] >= 0.9 * rows_of(table.name, SCALE), table.name
        assert visible[table.name] == filled.count_stored(table.name), table.name


def test_identities_are_unique_in_every_table(filled, catalogue):
    for table in catalogue.events():
        rows = records(filled, table.name)
        keys = Counter(json.dumps([row.get(name) for name in table.identity_columns]) for row in rows)
        assert max(keys.values()) == 1, table.name


def test_event_times_lie_in_what_defender_keeps_and_before_the_present(filled, catalogue):
    oldest = (NOW - timedelta(days=29, hours=22)).isoformat()[:26]
    newest = (NOW - timedelta(minutes=20)).isoformat()[:26]
    for table in catalogue.events():
        times = [row[table.time_column].removesuffix("Z") for row in records(filled, table.name)]
        assert all(oldest <= time < newest for time in times if "." in time), table.name


def test_the_same_seed_and_clock_give_the_same_rows_and_another_seed_does_not(filled, catalogue):
    again = SourceStore(":memory:", catalogue, lambda: NOW)
    fill(again, seed=3, scale=SCALE, tables=["DeviceEvents", "AlertEvidence"])
    other = SourceStore(":memory:", catalogue, lambda: NOW)
    fill(other, seed=4, scale=SCALE, tables=["DeviceEvents", "AlertEvidence"])
    for table in ("DeviceEvents", "AlertEvidence"):
        expected = sorted(filled.rows(table))
        assert sorted(again.rows(table)) == expected
        assert sorted(other.rows(table)) != expected
    assert again.count_stored("DeviceInfo") == 0


def test_a_filled_store_is_not_filled_again(filled):
    before = filled.tables()
    assert fill(filled, seed=3, scale=SCALE) == 0
    assert filled.tables() == before


def test_times_tie_differ_in_the_seventh_digit_only_and_have_0_to_7_digits(filled):
    rows = records(filled, "DeviceNetworkEvents") + records(filled, "DeviceProcessEvents")
    times = [row["Timestamp"] for row in rows]
    digits = {len(time.removesuffix("Z").partition(".")[2]) for time in times}
    assert digits == set(range(8))
    assert len(set(times)) < len(times)
    twins = Counter()
    for row in rows:
        rest = {name: value for name, value in row.items() if name != "Timestamp"}
        twins[row["Timestamp"][:26], json.dumps(rest, sort_keys=True)] += 1
    assert max(twins.values()) == 2


def test_values_are_awkward_enough(filled, catalogue):
    text = "".join(json.dumps(row, ensure_ascii=False) for row in records(filled, "DeviceProcessEvents"))
    assert all(piece in text for piece in ("ü", "\\n", "\\t", '\\"', "\\\\"))
    lengths = {len(row) for row in records(filled, "DeviceProcessEvents")}
    assert len(lengths) > 1  # some value types are null, and left out of the truth
    report = records(filled, "DeviceInfo")[0]["ReportId"]
    assert report > 1 << 53
    dynamic = [row.get("RawEventData") for row in records(filled, "CloudAppEvents")]
    assert any(isinstance(value, dict) and value for value in dynamic)
    assert None in dynamic
    shapes = {type(row.get("ActivityObjects")) for row in records(filled, "CloudAppEvents")}
    assert list in shapes
    assert json.loads(next(filter(None, (row["AdditionalFields"] for row in records(filled, "DeviceEvents")))))


def test_a_report_of_network_adapters_shares_its_instant_and_its_number(filled):
    reports = Counter((row["Timestamp"], row["ReportId"]) for row in records(filled, "DeviceNetworkInfo"))
    assert max(reports.values()) == 3


def test_alerts_arrive_up_to_28_hours_late(filled):
    with filled.hunting_cursor() as cursor:
        late = 'SELECT max(__arrival - "Timestamp"::TIMESTAMP), max(__arrival) FROM {}'
        longest, last = cursor.execute(late.format(filled.stored("AlertEvidence"))).fetchone()
        usual, _ = cursor.execute(late.format(filled.stored("DeviceFileEvents"))).fetchone()
    assert timedelta(hours=10) < longest <= timedelta(hours=28)
    assert usual <= timedelta(hours=21)
    assert last.replace(tzinfo=UTC) <= NOW


def test_rows_are_added_to_one_table_in_one_window(catalogue):
    store = SourceStore(":memory:", catalogue, lambda: NOW)
    start, end = NOW - timedelta(days=2), NOW - timedelta(days=1)
    assert add_rows(store, "DeviceNetworkEvents", 25_000, start, end) == 25_000
    assert add_rows(store, "DeviceNetworkEvents", 500, start, end) == 500
    rows = records(store, "DeviceNetworkEvents")
    keys = {(row["DeviceId"], row["DeviceName"], row["Timestamp"], row["ReportId"]) for row in rows}
    assert len(keys) == 25_500
    assert len(list(store.rows("DeviceNetworkEvents", start, end))) == 25_500
    store.close()
