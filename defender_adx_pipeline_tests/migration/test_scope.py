"""Which part of a window a run takes."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.migration.errors import WindowNotReadableError
from defender_adx_pipeline.migration.scope import EDGE, KEPT, readable, readable_since, tick_window
from defender_adx_pipeline.migration.windows import Window

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SETTLE = timedelta(minutes=10)
OVERLAP = timedelta(hours=4)
DAY = timedelta(days=1)


def day(start: datetime) -> Window:
    return Window(start, start + DAY)


def test_today_ends_where_rows_have_settled() -> None:
    today = day(datetime(2026, 11, 24, tzinfo=UTC))
    assert readable(today, now=NOW, settle=SETTLE, table="T") == Window(today.start, NOW - SETTLE)


def test_the_first_load_begins_where_defender_begins() -> None:
    window = readable(Window(datetime(1900, 1, 1, tzinfo=UTC), NOW), now=NOW, settle=SETTLE, table="T")
    assert window == Window(NOW - KEPT + EDGE, NOW - SETTLE)


def test_a_partition_older_than_30_days_is_an_error_and_never_no_rows() -> None:
    with pytest.raises(WindowNotReadableError, match="keeps 30 days"):
        readable(day(NOW - timedelta(days=32)), now=NOW, settle=SETTLE, table="T")


def test_a_window_that_has_not_settled_blames_the_clock() -> None:
    with pytest.raises(WindowNotReadableError, match="clock"):
        readable(day(NOW + timedelta(hours=1)), now=NOW, settle=SETTLE, table="T")


def test_a_tick_looks_back_over_the_overlap() -> None:
    window = tick_window(covered=NOW - timedelta(hours=1), now=NOW, settle=SETTLE, overlap=OVERLAP, table="T")
    assert window == Window(NOW - timedelta(hours=5), NOW - SETTLE)


def test_a_tick_of_a_table_without_rows_takes_all_that_defender_keeps() -> None:
    window = tick_window(covered=None, now=NOW, settle=SETTLE, overlap=OVERLAP, table="T")
    assert window.start == readable_since(NOW)


def test_a_watermark_in_the_future_blames_the_clock() -> None:
    with pytest.raises(WindowNotReadableError, match="clock"):
        tick_window(covered=NOW + DAY, now=NOW, settle=SETTLE, overlap=OVERLAP, table="T")


@given(st.integers(-40 * 86_400, 86_400), st.integers(1, 5 * 86_400))
def test_what_is_read_is_inside_what_was_asked_and_what_can_be_had(offset: int, length: int) -> None:
    asked = Window(NOW + timedelta(seconds=offset), NOW + timedelta(seconds=offset + length))
    try:
        window = readable(asked, now=NOW, settle=SETTLE, table="T")
    except WindowNotReadableError:
        assert asked.end <= readable_since(NOW) or asked.start >= NOW - SETTLE
    else:
        assert asked.start <= window.start
        assert window.end <= min(asked.end, NOW - SETTLE)
        assert window.start >= min(readable_since(NOW), asked.start)
