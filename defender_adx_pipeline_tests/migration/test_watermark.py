"""The watermark never passes a hole and never goes back."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.migration.configuration import NOT_LOADED, TableConfiguration
from defender_adx_pipeline.migration.scope import readable_since
from defender_adx_pipeline.migration.watermark import advanced, complete_until, lost_window
from defender_adx_pipeline.migration.windows import Window

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
EARLIEST = readable_since(NOW)
HOUR = timedelta(hours=1)


def configured(watermark: str) -> TableConfiguration:
    return TableConfiguration(load_catalogue()["DeviceLogonEvents"], "DeviceLogonEventsRaw", watermark, "Incr", True)


def test_a_table_whose_last_day_alone_is_loaded_is_not_complete() -> None:
    assert complete_until(configured(NOT_LOADED), [Window(NOW - 24 * HOUR, NOW)], now=NOW) is None


def test_a_first_load_over_all_that_defender_keeps_is_complete() -> None:
    assert complete_until(configured(NOT_LOADED), [Window(EARLIEST - HOUR, NOW - HOUR)], now=NOW) == NOW - HOUR


def test_a_window_beyond_a_hole_does_not_count() -> None:
    watermark = NOW - 10 * HOUR
    coverage = [Window(watermark - HOUR, watermark + HOUR), Window(watermark + 2 * HOUR, NOW)]
    assert complete_until(configured(to_text(watermark)), coverage, now=NOW) == watermark + HOUR


def test_the_watermark_of_an_older_script_is_taken_over_without_a_ledger() -> None:
    watermark = NOW - 10 * HOUR
    assert complete_until(configured(to_text(watermark)), [], now=NOW) == watermark


@given(st.integers(0, 9_999_999), st.integers(0, 9_999_999))
def test_it_moves_by_the_seventh_digit_and_never_back(old: int, new: int) -> None:
    before, after = (f"2026-11-20T00:00:00.{digits:07d}Z" for digits in (old, new))
    moved = advanced(configured(before), after)
    assert moved == (after if new > old else None)
    assert advanced(configured(before), None) is None


def test_what_defender_no_longer_keeps_is_told_once() -> None:
    watermark = EARLIEST - timedelta(days=3)
    assert lost_window(configured(to_text(watermark)), [], now=NOW) == Window(watermark, EARLIEST)
    assert lost_window(configured(to_text(watermark)), [Window(EARLIEST - HOUR, NOW)], now=NOW) is None
    assert lost_window(configured(to_text(NOW - HOUR)), [], now=NOW) is None
    assert lost_window(configured(NOT_LOADED), [], now=NOW) is None
