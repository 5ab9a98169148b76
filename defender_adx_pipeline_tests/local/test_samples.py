"""Records exported from Advanced Hunting, also out of a union, given back to their tables.

The records here are made up. Real ones are read too when DEFENDER_ADX_SAMPLES names a file of nine records of the
OTRF Security-Datasets (GoldenSAMLADFSMailAccess), which is not part of this repository.
"""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.local.samples import SampleError, load_samples, read_samples
from defender_adx_pipeline.local.source import SourceStore

pytestmark = pytest.mark.long

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
REAL = os.environ.get("DEFENDER_ADX_SAMPLES")

# The answer of a union: columns of the other tables are empty, and those of differing types carry a suffix.
UNION = [
    {
        "Timestamp": "2023-03-05T07:00:00.1234567Z",
        "DeviceId": "d1",
        "DeviceName": "pc-1",
        "ActionType": "LdapSearch",
        "FileSize": None,
        "InitiatingProcessId": 5692,
        "InitiatingProcessCreationTime": "2023-03-04T01:02:03.0664337Z",
        "InitiatingProcessCommandLine": '"powershell.exe" ',
        "ReportId_long": 639199803770463703,
        "ReportId_string": "",
        "AdditionalFields_string": '{"ScopeOfSearch":"SubTree"}',
        "AdditionalFields_dynamic": "",
        "RawEventData": None,
    },
    {
        "Timestamp": "2023-03-05T07:30:00.5Z",
        "ActionType": "MailItemsAccessed",
        "Application": "Microsoft Exchange Online",
        "ApplicationId": 20893,
        "IsAdminOperation@odata.type": "#SByte",
        "IsAdminOperation": 0,
        "IsAnonymousProxy": {},
        "CountryCode": "US",
        "ISP": "Example Net",
        "UserAgent_string": "Client=REST;;",
        "UserAgent_dynamic": None,
        "ReportId_long": None,
        "ReportId_string": "r-1",
        "AdditionalFields_string": "",
        "AdditionalFields_dynamic": {"@odata.type": "#x", "IsSatelliteProvider": False},
        "RawEventData": {
            "Folders": [{"Id": 9007199254740993, "Path": "\\Inbox"}],
            "When": "2023-03-05T07:30:00.0000000Z",
        },
        "UserId": "someone@example.com",
        "Weight": 2.5,
        "Flags": ["a"],
    },
    {
        "Timestamp": "2023-03-04T23:59:59Z",
        "ActionType": "Directory Services replication",
        "Application": "Active Directory",
        "Protocol": "Drsr",
        "ReportId_string": "r-2",
        "AccountName": "someone",
        "AccountSid": "S-1-5-21-1",
        "DestinationDeviceName": "dc01",
        "DestinationIPAddress": "10.0.0.4",
        "DestinationPort": 49668,
        "TargetAccountUpn": "",
        "TargetAccountDisplayName": "",
        "TargetDeviceName": "",
        "ISP": "INTERNAL_NETWORK",
        "AdditionalFields_dynamic": {"ATTACK.Tactic": "Credential Access"},
    },
]


@pytest.fixture(scope="module")
def catalogue():
    return load_catalogue()


@pytest.fixture
def store(catalogue):
    store = SourceStore(":memory:", catalogue, lambda: NOW)
    yield store
    store.close()


def write(path, records):
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n\n", "utf-8")
    return path


def stored(store, table):
    return [json.loads(line) for line in store.rows(table)]


def test_each_record_of_a_union_goes_back_to_its_table(tmp_path, catalogue):
    samples = read_samples(write(tmp_path / "s.jsonl", UNION), catalogue)
    assert [sample.table for sample in samples] == ["DeviceEvents", "CloudAppEvents", "IdentityDirectoryEvents"]
    assert [sample.line for sample in samples] == [1, 2, 3]


def test_suffixes_go_values_stay_and_all_times_move_by_the_same_whole_days(tmp_path, store):
    loaded = load_samples(store, write(tmp_path / "s.jsonl", UNION))
    assert loaded.rows == {"DeviceEvents": 1, "CloudAppEvents": 1, "IdentityDirectoryEvents": 1}
    moved = timedelta(days=loaded.days)
    (device,) = stored(store, "DeviceEvents")
    assert device["Timestamp"] == "2026-11-24T07:00:00.1234567Z"
    assert datetime(2023, 3, 5, tzinfo=UTC) + moved == datetime(2026, 11, 24, tzinfo=UTC)
    assert device["InitiatingProcessCreationTime"] == "2026-11-23T01:02:03.0664337Z"
    assert device["ReportId"] == 639199803770463703
    assert device["AdditionalFields"] == UNION[0]["AdditionalFields_string"]
    assert device["InitiatingProcessCommandLine"] == '"powershell.exe" '
    (app,) = stored(store, "CloudAppEvents")
    assert app["Timestamp"] == "2026-11-24T07:30:00.5Z"
    assert app["IsAdminOperation"] is False
    assert "IsAnonymousProxy" not in app
    assert app["RawEventData"] == UNION[1]["RawEventData"]
    assert app["AdditionalFields"] == {"IsSatelliteProvider": False}
    assert (app["UserAgent"], app["ReportId"], app["ISP"]) == ("Client=REST;;", "r-1", "Example Net")


def test_columns_that_the_catalogue_does_not_list_are_kept_with_a_type(tmp_path, store):
    load_samples(store, write(tmp_path / "s.jsonl", UNION))
    kinds = {column.name: column.type for column in store.columns("CloudAppEvents")}
    assert (kinds["UserId"], kinds["Weight"], kinds["Flags"], kinds["ISP"]) == ("string", "real", "dynamic", "string")
    assert "Isp" not in kinds
    (app,) = stored(store, "CloudAppEvents")
    assert (app["UserId"], app["Weight"], app["Flags"]) == ("someone@example.com", 2.5, ["a"])


def test_samples_are_visible_at_once_and_stored_once(tmp_path, store):
    path = write(tmp_path / "s.jsonl", UNION)
    first = load_samples(store, path)
    assert load_samples(store, path) == first
    assert {entry["table"]: entry["rows"] for entry in store.tables() if entry["rows"]} == first.rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: a JSON object is needed"),
        ('{"Timestamp": "2023-03-05T07:00:00Z", "What": "ever"}', "line 2: the record fits no table"),
        (json.dumps({**UNION[0], "Timestamp": "5 March"}), "line 2: the record fits no table|line 2: Timestamp"),
        (json.dumps({**UNION[0], "InitiatingProcessId": "many"}), r"line 2: DeviceEvents.InitiatingProcessId is long"),
        (json.dumps({**UNION[0], "Timestamp": "2023-01-01T00:00:00Z"}), "record of line 2 is 63 days older"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_stored(tmp_path, store, line, message):
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps(UNION[0]) + "\n" + line + "\n", "utf-8")
    with pytest.raises(SampleError, match=message):
        load_samples(store, path)
    assert not any(entry["rows"] for entry in store.tables())


def test_an_empty_or_missing_file_is_an_error(tmp_path, store):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SampleError, match="has no records"):
        load_samples(store, tmp_path / "empty")
    with pytest.raises(SampleError, match="cannot be read"):
        load_samples(store, tmp_path / "missing")


@pytest.mark.skipif(not REAL, reason="DEFENDER_ADX_SAMPLES names no file of real records")
def test_the_nine_real_records_go_back_to_their_tables_with_every_value(store):
    path = Path(REAL or "")
    loaded = load_samples(store, path)
    assert loaded.rows == {"DeviceEvents": 5, "IdentityDirectoryEvents": 2, "CloudAppEvents": 2}
    found = {row["ReportId"]: row for table in loaded.rows for row in stored(store, table)}
    for line in path.read_text("utf-8").splitlines():
        given = {name.rsplit("_", 1)[0]: value for name, value in json.loads(line).items() if value not in (None, "")}
        row = found[given["ReportId"]]
        for name, value in given.items():
            if isinstance(value, str) and value.startswith("2021-") and name.endswith(("Timestamp", "CreationTime")):
                day = (datetime.fromisoformat(value[:10]) + timedelta(days=loaded.days)).date().isoformat()
                assert row[name] == day + value[10:], name
            else:
                assert row[name] == value, name
