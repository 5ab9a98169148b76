"""The catalogue: 65 tables, validated on load, extended by a user's file."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from defender_adx_pipeline.catalogue import (
    KQL_TYPES,
    CatalogueError,
    Column,
    DefenderTable,
    UnknownTableError,
    load_catalogue,
)


def record(**changes: Any) -> dict[str, Any]:
    return {
        "name": "ContosoEvents",
        "category": "devices",
        "kind": "event",
        "time_column": "Timestamp",
        "identity": ["ReportId"],
        "columns": {"Timestamp": "datetime", "ReportId": "long", "State": "string"},
        **changes,
    }


def written(tmp_path: Path, *records: Any) -> Path:
    path = tmp_path / "tables.json"
    path.write_text(json.dumps(list(records)))
    return path


def test_it_holds_every_documented_table_and_column() -> None:
    catalogue = load_catalogue()
    assert len(catalogue) == 65
    assert sum(len(table.columns) for table in catalogue.values()) == 1_620
    assert (len(catalogue.events()), len(catalogue.snapshots())) == (48, 17)


def test_every_event_table_has_a_time_column_and_types_are_kql_types() -> None:
    for table in load_catalogue().values():
        assert {column.type for column in table.columns} <= KQL_TYPES
        if table.kind == "event":
            assert table.column_type(table.time_column or "") == "datetime"
        assert not set(table.identity) & set(table.mutable_columns)


def test_columns_that_defender_changes_later_stay_out_of_the_identity() -> None:
    emails = load_catalogue()["EmailEvents"]
    assert emails.mutable_columns == ("LatestDeliveryLocation", "LatestDeliveryAction")
    assert not set(emails.mutable_columns) & set(emails.identity_columns)


def test_a_table_without_a_documented_key_is_told_by_its_whole_row() -> None:
    evidence = load_catalogue()["AlertEvidence"]
    assert evidence.identity == ()
    assert set(evidence.identity_columns) == {column.name for column in evidence.columns}


def test_names_that_differ_in_case_only_are_two_columns() -> None:
    processes = load_catalogue()["DeviceProcessEvents"]
    assert processes.column_type("LogonId") == processes.column_type("LogonID") == "long"
    assert processes.column_type("logonid") is None


def test_not_every_time_column_is_named_timestamp() -> None:
    assert load_catalogue()["CallActivityEvents"].time_column == "ActivityTimestamp"


def test_an_unknown_table_says_what_to_do() -> None:
    with pytest.raises(UnknownTableError, match="DEFENDER_TABLES_FILE"):
        load_catalogue()["deviceinfo"]


def test_a_file_adds_a_table(tmp_path: Path) -> None:
    catalogue = load_catalogue(written(tmp_path, record()))
    assert len(catalogue) == 66
    table = catalogue["ContosoEvents"]
    assert (table.raw_table, table.group, table.identity) == ("ContosoEventsRaw", "devices", ("ReportId",))


def test_a_file_changes_only_what_it_names_of_a_shipped_table(tmp_path: Path) -> None:
    catalogue = load_catalogue(written(tmp_path, {"name": "AlertEvidence", "identity": ["AlertId", "EntityType"]}))
    assert catalogue["AlertEvidence"].identity == ("AlertId", "EntityType")
    assert catalogue["AlertEvidence"].columns == load_catalogue()["AlertEvidence"].columns
    assert load_catalogue()["AlertEvidence"].identity == ()


def test_a_snapshot_table_without_a_key_is_read_by_row_number_where_a_file_says_so(tmp_path: Path) -> None:
    catalogue = load_catalogue(written(tmp_path, {"name": "DeviceTvmHardwareFirmware", "paging": "row_number"}))
    assert catalogue["DeviceTvmHardwareFirmware"].paging == "row_number"
    assert {table.paging for table in load_catalogue().values()} == {"hash"}


def test_a_table_may_lag_as_its_kind_allows_unless_a_file_says_otherwise(tmp_path: Path) -> None:
    catalogue = load_catalogue(written(tmp_path, {"name": "AlertInfo", "max_lag": "PT6H"}))
    assert {table.allowed_lag for table in load_catalogue().events()} == {timedelta(hours=1)}
    assert {table.allowed_lag for table in load_catalogue().snapshots()} == {timedelta(hours=36)}
    assert catalogue["AlertInfo"].allowed_lag == timedelta(hours=6)
    assert load_catalogue()["AlertInfo"].max_lag is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "x'] | .drop"}, "not an identifier"),
        ({"kind": "stream"}, "neither 'event' nor 'snapshot'"),
        ({"time_column": None}, "needs a time column"),
        ({"time_column": "State"}, "not a datetime column"),
        ({"identity": ["Nope"]}, "Nope"),
        ({"mutable_columns": ["ReportId"]}, "mutable columns in the identity"),
        ({"columns": {"Timestamp": "datetime", "A": "text"}, "identity": []}, "unknown type 'text'"),
        ({"columns": {}}, "no columns"),
        ({"colour": "red"}, "unknown fields colour"),
        ({"columns": ["Timestamp"]}, "mapping"),
        ({"paging": "row_number"}, "'row_number' is for snapshot tables"),
        ({"max_lag": "1:00"}, "max_lag '1:00' is not an ISO 8601 duration such as PT1H"),
        ({"max_lag": 3600}, "max_lag 3600 is not an ISO 8601 duration"),
        ({"max_lag": "PT0S"}, "not between zero and the 30 days"),
        ({"max_lag": "P30D"}, "not between zero and the 30 days"),
        ({"paging": "cursor", "kind": "snapshot"}, "neither 'hash' nor 'row_number'"),
    ],
)
def test_a_bad_record_is_refused_with_file_table_and_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CatalogueError, match=message) as caught:
        load_catalogue(written(tmp_path, record(**changes)))
    assert "tables.json" in str(caught.value)


def test_a_file_that_is_missing_or_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="nowhere.json cannot be read"):
        load_catalogue(tmp_path / "nowhere.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(CatalogueError, match="is not JSON"):
        load_catalogue(broken)
    with pytest.raises(CatalogueError, match="list of records"):
        load_catalogue(written(tmp_path, "DeviceInfo"))


def test_a_column_listed_twice_is_refused() -> None:
    columns = (Column("Timestamp", "datetime"), Column("A", "long"), Column("A", "long"))
    with pytest.raises(CatalogueError, match="listed twice"):
        DefenderTable("T", "devices", "event", "Timestamp", columns)
