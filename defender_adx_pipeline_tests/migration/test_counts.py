"""Counts of the two sides are laid side by side, bin by bin."""

from datetime import UTC, datetime, timedelta

import pytest

from defender_adx_pipeline.migration.counts import compare
from defender_adx_pipeline.migration.windows import Window

BASE = datetime(2026, 11, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_a_bin_that_the_window_cuts_is_named_by_its_floor() -> None:
    window = Window(BASE + timedelta(minutes=30), BASE + 2 * HOUR)
    first, second = compare(window, HOUR, {BASE: 5, BASE + HOUR: 2}, {BASE: 3})
    assert first.window == Window(BASE + timedelta(minutes=30), BASE + HOUR)
    assert (first.missing, first.surplus) == (2, 0)
    assert (second.source_rows, second.destination_rows) == (2, 0)
    assert (first.source_rows, first.destination_rows) == (5, 3)


def test_a_surplus_in_one_bin_does_not_hide_what_is_missing_in_another() -> None:
    bins = compare(Window(BASE, BASE + 2 * HOUR), HOUR, {BASE: 5, BASE + HOUR: 5}, {BASE: 7, BASE + HOUR: 3})
    assert [item.missing for item in bins] == [0, 2]
    assert [item.surplus for item in bins] == [2, 0]


def test_counts_from_outside_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        compare(Window(BASE, BASE + HOUR), HOUR, {BASE + 5 * HOUR: 1}, {})
