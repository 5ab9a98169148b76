import re
from datetime import UTC, datetime, timedelta

import pytest

from defender_adx_pipeline.catalogue import Column
from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.quoting import InvalidNameError
from defender_adx_pipeline_tests.conftest import Statements

START = datetime(2026, 8, 1, tzinfo=UTC)
END = datetime(2026, 8, 1, 6, 0, 0, 1, tzinfo=UTC)
IN_WINDOW = (
    "DeviceInfo | where Timestamp >= datetime(2026-08-01T00:00:00.000000Z)"
    " and Timestamp < datetime(2026-08-01T06:00:00.000001Z)"
)


def test_every_query_is_what_the_services_are_known_to_take(statements: Statements) -> None:
    queries = {
        hunting.table_schema("DeviceInfo"): "DeviceInfo | getschema | project ColumnName, ColumnType",
        hunting.row_count("DeviceInfo", "Timestamp", START, END): f"{IN_WINDOW} | count",
        hunting.window_rows("DeviceInfo", "Timestamp", START, END): IN_WINDOW,
        hunting.window_rows("DeviceInfo", "Timestamp", START, END, ["ExposureLevel", "LoggedOnUsers"]): (
            f"{IN_WINDOW} | extend ExposureLevel = tostring(ExposureLevel), LoggedOnUsers = tostring(LoggedOnUsers)"
        ),
        hunting.time_counts("DeviceInfo", "Timestamp", START, END, timedelta(hours=1)): (
            f"{IN_WINDOW} | summarize Rows = count() by Bin = bin(Timestamp, 1h)"
        ),
        hunting.window_rows(
            "DeviceInfo", "Timestamp", START, END, ["LoggedOnUsers"], bucket=(3, 8), key=["ReportId"]
        ): (
            f"{IN_WINDOW} | where hash_xxhash64(tostring(ReportId), 8) == 3"
            " | extend LoggedOnUsers = tostring(LoggedOnUsers)"
        ),
        hunting.bucket_counts("DeviceInfo", "Timestamp", START, END, key=["DeviceId", "ReportId"], buckets=8): (
            f"{IN_WINDOW} | summarize Rows = count() by Bucket ="
            ' hash_xxhash64(strcat_delim("|", tostring(DeviceId), tostring(ReportId)), 8)'
        ),
    }
    for query, expected in queries.items():
        assert query == expected
        statements.add("defender", query)


def test_a_key_of_very_many_columns_is_joined_in_calls_that_kql_takes(statements: Statements) -> None:
    columns = [f"Column{number}" for number in range(150)]
    expression = hunting.bucket_number(columns, 4)
    for call in re.findall(r"strcat_delim\(([^()]*(?:\([^()]*\)[^()]*)*)\)", expression):
        assert call.count(",") < 64
    assert [expression.count(f"tostring({name})") for name in columns] == [1] * 150
    statements.add_table("defender", "Wide", dict.fromkeys(columns, "string"))
    statements.add("defender", f"Wide | where {expression} == 1")


def test_pages_are_counted_and_read_in_the_order_of_every_column(statements: Statements) -> None:
    columns = [Column("ReportId", "long"), Column("rowhash", "bool"), Column("RowNumber", "dynamic")]
    order = "T | order by ReportId asc, tostring(['rowhash']) asc, tostring(RowNumber) asc | extend RowNumber_ ="
    content = (
        "hash_xxhash64(strcat_delim(\"|\", tostring(ReportId), tostring(['rowhash']), tostring(RowNumber)), 2147483647)"
    )
    counted, read = hunting.page_contents("T", columns, 1000), hunting.page_rows("T", START, columns, 1001, 2000)
    assert counted == (
        f"{order} row_number()"
        f" | summarize Rows = count(), Content = sum({content}) by After = bin(RowNumber_ - 1, 1000)"
    )
    assert read == (
        f"{order} row_number() | where RowNumber_ between (1001 .. 2000) | project-away RowNumber_"
        f" | extend SnapshotTime = datetime(2026-08-01T00:00:00.000000Z), RowHash_ = {content},"
        " RowNumber = tostring(RowNumber)"
    )
    assert hunting.row_hash_column(columns) == "RowHash_"
    statements.add_table("defender", "T", {column.name: column.type for column in columns})
    for query in (counted, read):
        statements.add("defender", query)


def test_rows_without_a_column_to_tell_them_apart_have_no_buckets() -> None:
    with pytest.raises(ValueError, match="without a column"):
        hunting.bucket_number([], 4)


@pytest.mark.parametrize(
    ("grain", "literal"),
    [
        (timedelta(days=1), "1d"),
        (timedelta(minutes=1), "1m"),
        (timedelta(seconds=90), "90s"),
        (timedelta(milliseconds=1), "1ms"),
        (timedelta(microseconds=1), "1microsecond"),
    ],
)
def test_a_bin_is_exactly_as_long_as_asked(grain: timedelta, literal: str, statements: Statements) -> None:
    query = hunting.time_counts("DeviceInfo", "Timestamp", START, END, grain)
    assert query.endswith(f"bin(Timestamp, {literal})")
    statements.add("defender", query)


def test_a_name_that_could_be_a_keyword_is_quoted() -> None:
    query = hunting.row_count("my table", "where", START, END)
    assert query.startswith("['my table'] | where ['where'] >= ")


@pytest.mark.parametrize("name", ["x'] | .drop table y", "T\n| take 1", "T;print 1", "", "T | count", 'T"'])
def test_a_hostile_name_never_reaches_kql(name: str) -> None:
    with pytest.raises(InvalidNameError):
        hunting.table_schema(name)
    with pytest.raises(InvalidNameError):
        hunting.row_count("DeviceInfo", name, START, END)
    with pytest.raises(InvalidNameError):
        hunting.window_rows("DeviceInfo", "Timestamp", START, END, [name])


def test_an_empty_window_has_no_query() -> None:
    with pytest.raises(ValueError, match="empty"):
        hunting.row_count("DeviceInfo", "Timestamp", END, END)
