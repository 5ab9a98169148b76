"""Windows are half-open, on whole microseconds, and cut where `bin()` cuts."""

import itertools
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.migration.windows import Window, bin_floor, covered_until, merge

BASE = datetime(2026, 11, 1, tzinfo=UTC)
moments = st.integers(0, 40 * 86_400_000_000).map(lambda us: BASE + timedelta(microseconds=us))
grains = st.sampled_from([timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)])


@st.composite
def windows(draw: st.DrawFn) -> Window:
    start = draw(moments)
    return Window(start, start + timedelta(microseconds=draw(st.integers(1, 3 * 86_400_000_000))))


def test_a_window_needs_aware_bounds_and_some_length() -> None:
    with pytest.raises(ValueError, match="naive"):
        Window(datetime(2026, 1, 1), BASE)  # noqa: DTZ001
    with pytest.raises(ValueError, match="empty"):
        Window(BASE, BASE)


def test_bounds_are_kept_in_utc() -> None:
    east = timezone(timedelta(hours=2))
    window = Window(datetime(2026, 11, 1, 2, tzinfo=east), datetime(2026, 11, 1, 3, tzinfo=east))
    assert window == Window(BASE, BASE + timedelta(hours=1))
    assert str(window) == "[2026-11-01T00:00:00Z, 2026-11-01T01:00:00Z)"


def test_the_end_is_not_in_the_window() -> None:
    window = Window(BASE, BASE + timedelta(hours=1))
    assert window.start in window
    assert window.end not in window


@given(windows(), grains)
def test_bins_cover_the_window_without_overlap(window: Window, grain: timedelta) -> None:
    bins = list(window.bins(grain))
    assert bins[0].start == window.start
    assert bins[-1].end == window.end
    assert all(a.end == b.start for a, b in itertools.pairwise(bins))
    assert all(bin_floor(part.start, grain) + grain >= part.end for part in bins)


@given(windows())
def test_halves_are_the_window_again(window: Window) -> None:
    halves = window.halves()
    if halves is None:
        assert window.length == timedelta(microseconds=1)
    else:
        assert merge(halves) == (window,)
        assert halves[0].end == halves[1].start


@given(st.lists(windows(), max_size=8), moments)
def test_merging_keeps_exactly_the_covered_instants(parts: list[Window], moment: datetime) -> None:
    merged = merge(parts)
    assert any(moment in part for part in parts) == any(moment in part for part in merged)
    assert all(a.end < b.start for a, b in itertools.pairwise(merged))


def test_coverage_ends_at_the_first_hole() -> None:
    hour = timedelta(hours=1)
    parts = [Window(BASE, BASE + hour), Window(BASE + hour, BASE + 2 * hour), Window(BASE + 3 * hour, BASE + 4 * hour)]
    assert covered_until(parts, BASE) == BASE + 2 * hour
    assert covered_until(parts, BASE + 2 * hour) == BASE + 2 * hour
    assert covered_until(parts, BASE + 2.5 * hour) is None
    assert covered_until([], BASE) is None
