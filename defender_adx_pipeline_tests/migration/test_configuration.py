"""Rows of MigrationConfiguration in both of their shapes, and those that cannot be followed."""

from typing import Any

import pytest

from defender_adx_pipeline.catalogue import UnknownTableError, load_catalogue
from defender_adx_pipeline.migration.configuration import (
    NOT_LOADED,
    check_watermark_column,
    configuration_from_row,
)
from defender_adx_pipeline.migration.errors import ConfigurationError

CATALOGUE = load_catalogue()


def row(**changes: Any) -> dict[str, Any]:
    return {
        "SourceTable": "DeviceLogonEvents",
        "DestinationTable": "DeviceLogonEventsRaw",
        "WatermarkColumn": "Timestamp",
        "LastRefreshedTime": "2026-11-20T10:00:00.123456Z",
        "LastRefreshedTimeInString": "2026-11-20T10:00:00.1234567Z",
        "LoadType": "Incr",
        "IsActive": True,
        **changes,
    }


def test_the_text_keeps_the_seventh_digit() -> None:
    assert configuration_from_row(row(), CATALOGUE).watermark == "2026-11-20T10:00:00.1234567Z"


def test_a_row_of_the_older_script_without_the_text_column_is_read() -> None:
    older = row()
    del older["LastRefreshedTimeInString"]
    assert configuration_from_row(older, CATALOGUE).watermark == "2026-11-20T10:00:00.1234560Z"


@pytest.mark.parametrize("empty", [None, "", "None"])
def test_an_empty_text_falls_back_to_the_time(empty: str | None) -> None:
    read = configuration_from_row(row(LastRefreshedTimeInString=empty), CATALOGUE)
    assert read.watermark == "2026-11-20T10:00:00.1234560Z"


def test_1900_means_that_nothing_was_loaded() -> None:
    fresh = row(LastRefreshedTime="1900-01-01T00:00:00Z", LastRefreshedTimeInString="1900-01-01T00:00:00.0000000Z")
    read = configuration_from_row(fresh, CATALOGUE)
    assert read.watermark == NOT_LOADED
    assert not read.loaded_before


def test_of_two_spellings_that_differ_the_earlier_one_counts() -> None:
    read = configuration_from_row(row(LastRefreshedTime="2026-11-18T00:00:00Z"), CATALOGUE)
    assert read.watermark == "2026-11-18T00:00:00.0000000Z"


def test_the_destination_may_have_any_kusto_name() -> None:
    assert configuration_from_row(row(DestinationTable="My Logons-2"), CATALOGUE).destination_table == "My Logons-2"


@pytest.mark.parametrize("name", ["x'] | .drop table y", "", "a;b", "__x", "T\n"])
def test_a_destination_that_is_no_name_never_reaches_kql(name: str) -> None:
    with pytest.raises(ConfigurationError, match="DestinationTable"):
        configuration_from_row(row(DestinationTable=name), CATALOGUE)


def test_a_source_table_that_nobody_knows_is_named() -> None:
    with pytest.raises(UnknownTableError, match="'NoSuchTable' is not a Defender table"):
        configuration_from_row(row(SourceTable="NoSuchTable"), CATALOGUE)


def test_a_bad_load_type_or_time_says_which_row() -> None:
    with pytest.raises(ConfigurationError, match="DeviceLogonEvents: LoadType 'Sometimes'"):
        configuration_from_row(row(LoadType="Sometimes"), CATALOGUE)
    with pytest.raises(ConfigurationError, match="DeviceLogonEvents: LastRefreshedTime"):
        configuration_from_row(row(LastRefreshedTimeInString="yesterday"), CATALOGUE)


@pytest.mark.parametrize("column", ["Timestamp", "", "None", "IngestionTime"])
def test_the_watermark_columns_of_the_older_script_are_followed(column: str) -> None:
    check_watermark_column(row(WatermarkColumn=column), CATALOGUE["DeviceLogonEvents"])


def test_another_watermark_column_is_refused_with_the_mend() -> None:
    with pytest.raises(ConfigurationError, match="DEFENDER_TABLES_FILE"):
        check_watermark_column(row(WatermarkColumn="LastSeen"), CATALOGUE["DeviceLogonEvents"])
