"""Queries over partitions: half-open, quoted, and with nothing appended but operators and declared parameters."""

from datetime import UTC, datetime, timedelta

import pytest

from defender_adx_pipeline.adx.partition_kql import ContinuationError, continued, raw_rows, typed_rows
from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.quoting import InvalidNameError

CATALOGUE = load_catalogue()
START = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FIRST, THIRD = (START, START + DAY), (START + 2 * DAY, START + 3 * DAY)


def test_typed_rows_are_those_of_a_half_open_window() -> None:
    assert typed_rows(CATALOGUE["DeviceLogonEvents"], [FIRST]) == (
        "DeviceLogonEvents\n| where Timestamp >= datetime(2026-11-01T00:00:00.000000Z)"
        " and Timestamp < datetime(2026-11-02T00:00:00.000000Z)"
    )


def test_raw_rows_are_found_by_their_record_in_extents_that_came_since_the_first_window_began() -> None:
    text = raw_rows(CATALOGUE["DeviceLogonEvents"], "Logons of 2026", [THIRD, FIRST])
    at = 'todatetime(Records["Timestamp"])'
    assert text == (
        "['Logons of 2026']"
        "\n| where isnull(ingestion_time()) or ingestion_time() >= datetime(2026-10-31T23:00:00.000000Z)"
        f"\n| where ({at} >= datetime(2026-11-03T00:00:00.000000Z) and {at} < datetime(2026-11-04T00:00:00.000000Z))"
        f" or ({at} >= datetime(2026-11-01T00:00:00.000000Z) and {at} < datetime(2026-11-02T00:00:00.000000Z))"
    )


def test_a_snapshot_table_goes_by_the_time_of_its_snapshots() -> None:
    table = CATALOGUE["DeviceTvmSoftwareInventory"]
    assert typed_rows(table, [FIRST]).startswith("DeviceTvmSoftwareInventorySnapshots\n| where SnapshotTime >= ")
    assert 'todatetime(Records["SnapshotTime"])' in raw_rows(table, table.raw_table, [FIRST])


def test_no_window_and_no_name_make_no_query() -> None:
    table = CATALOGUE["DeviceLogonEvents"]
    for windows in ([],):
        with pytest.raises(ValueError, match="no window"):
            typed_rows(table, windows)
        with pytest.raises(ValueError, match="no window"):
            raw_rows(table, table.raw_table, windows)
    with pytest.raises(InvalidNameError):
        raw_rows(table, "x'] | take 1 //", [FIRST])


def test_operators_are_appended_and_parameters_declared_with_the_types_of_their_values() -> None:
    assert continued("T", "", {}) == "T"
    assert continued("T", "\n| take 1\n", {}) == "T\n| take 1"
    values = {"Name": "x", "Id": 5, "Since": START}
    assert continued("T", "| take 1", values) == (
        "declare query_parameters(Name: string, Id: long, Since: datetime);\nT\n| take 1"
    )


@pytest.mark.parametrize(
    ("continuation", "parameters"),
    [("take 1", {}), ("; T", {}), ("| take 1", {"a: long); T //": 1}), ("| take 1", {"N": True}), ("", {"N": 1.5})],
)
def test_what_cannot_be_appended_is_refused_before_anything_is_sent(
    continuation: str, parameters: dict[str, object]
) -> None:
    with pytest.raises(ContinuationError, match="Nothing was sent"):
        continued("T", continuation, parameters)  # type: ignore[arg-type]
