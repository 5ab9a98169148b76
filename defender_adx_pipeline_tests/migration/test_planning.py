"""Slices are disjoint, cover every bin with missing rows, and keep away from what is complete or under way."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.instants import MICROSECOND
from defender_adx_pipeline.migration.counts import BinCount, compare
from defender_adx_pipeline.migration.planning import GRAINS, Portion, SliceTarget, choose, make_slices, portions
from defender_adx_pipeline.migration.slices import slice_id
from defender_adx_pipeline.migration.windows import Window, bin_floor

BASE = datetime(2026, 11, 1, tzinfo=UTC)
DAY = Window(BASE, BASE + timedelta(days=1))
HOUR = timedelta(hours=1)


class TwoSides:
    """Row times on both sides, counted as the two services would."""

    def __init__(self, source: Sequence[datetime], destination: Sequence[datetime]) -> None:
        self.source, self.destination = source, destination
        self.counted: list[tuple[Window, timedelta]] = []

    def count(self, window: Window, grain: timedelta) -> tuple[BinCount, ...]:
        self.counted.append((window, grain))
        return compare(
            window, grain, self._bins(self.source, window, grain), self._bins(self.destination, window, grain)
        )

    @staticmethod
    def _bins(times: Sequence[datetime], window: Window, grain: timedelta) -> dict[datetime, int]:
        bins: dict[datetime, int] = {}
        for moment in times:
            if moment in window:
                key = bin_floor(moment, grain)
                bins[key] = bins.get(key, 0) + 1
        return bins


def whole(groups: Sequence[Sequence[BinCount]]) -> list[Portion]:
    """Groups that nothing has to be cut by hash of."""
    return list(portions(groups, target=SliceTarget(1_000), count_buckets=lambda window, buckets: {}))


# Spikes and ties: times are drawn from few microseconds, milliseconds and hours.
times = st.one_of(
    st.integers(0, 3).map(lambda n: BASE + n * MICROSECOND),
    st.integers(0, 5).map(lambda n: BASE + timedelta(hours=5, milliseconds=n)),
    st.integers(0, 23).map(lambda n: BASE + n * HOUR),
    st.integers(0, 86_399_999_999).map(lambda n: BASE + n * MICROSECOND),
)
hours = st.integers(0, 23).map(lambda n: Window(BASE + n * HOUR, BASE + (n + 1) * HOUR))


@settings(max_examples=300)
@given(
    source=st.lists(times, max_size=60),
    loaded=st.sets(st.integers(0, 59)),
    busy=st.lists(hours, max_size=3),
    rows=st.integers(1, 20),
)
def test_groups_are_disjoint_cover_what_is_missing_and_fit(
    source: list[datetime], loaded: set[int], busy: list[Window], rows: int
) -> None:
    sides = TwoSides(source, [moment for index, moment in enumerate(source) if index in loaded])
    groups = choose(sides.count(DAY, HOUR), busy=busy, target=SliceTarget(rows), count_window=sides.count)
    spans = [Window(group[0].window.start, group[-1].window.end) for group in groups]
    for one, two in itertools.pairwise(spans):
        assert one.end <= two.start
    assert not any(span.overlaps(window) for span in spans for window in busy)
    for group, span in zip(groups, spans, strict=True):
        in_span = sum(moment in span for moment in source)
        assert in_span <= rows or span.length == MICROSECOND
        present = [item.destination_rows > 0 for item in group]
        assert all(present) or not any(present)
    free = [moment for moment in source if not any(moment in window for window in busy)]
    for moment in set(free):
        here = sides.count(Window(moment, moment + MICROSECOND), MICROSECOND)
        covered = any(moment in span for span in spans)
        assert covered or not sum(item.missing for item in here)


@given(st.lists(times, min_size=1, max_size=40))
def test_what_is_complete_is_not_planned_again(source: list[datetime]) -> None:
    sides = TwoSides(source, source)
    assert choose(sides.count(DAY, HOUR), busy=[], target=SliceTarget(3), count_window=sides.count) == []


def test_a_large_bin_is_counted_finer_and_only_that_bin() -> None:
    crowd = [BASE + timedelta(hours=3, minutes=minute) for minute in range(60)]
    sides = TwoSides([BASE, *crowd], [])
    groups = choose(sides.count(DAY, HOUR), busy=[], target=SliceTarget(10), count_window=sides.count)
    assert sides.counted[1:] == [(Window(BASE + 3 * HOUR, BASE + 4 * HOUR), GRAINS[1])]
    assert [sum(item.source_rows for item in group) for group in groups] == [10] * 6 + [1]


def test_neighbours_are_packed_into_one_slice_across_empty_time() -> None:
    sides = TwoSides([BASE, BASE + 20 * HOUR], [])
    groups = choose(sides.count(DAY, HOUR), busy=[], target=SliceTarget(10), count_window=sides.count)
    (only,) = make_slices(whole(groups), source_table="T", destination_table="TRaw", confirmed=(), attempts={})
    assert only.window == Window(BASE, BASE + 21 * HOUR)
    assert only.expected_rows == 2


def test_the_same_state_gives_the_same_slice_id_and_another_state_another() -> None:
    def identity(destination_rows: int = 0, generation: int = 0) -> str:
        return slice_id(
            source_table="T",
            destination_table="TRaw",
            window=DAY,
            destination_rows=destination_rows,
            generation=generation,
        )

    assert identity() == identity()
    assert len({identity(), identity(destination_rows=1), identity(generation=1)}) == 3
    assert len(identity()) == 32


def test_a_slice_whose_rows_are_gone_although_it_was_confirmed_gets_another_id() -> None:
    sides = TwoSides([BASE], [])
    groups = choose(sides.count(DAY, HOUR), busy=[], target=SliceTarget(10), count_window=sides.count)
    (first,) = make_slices(whole(groups), source_table="T", destination_table="TRaw", confirmed=(), attempts={})
    (second,) = make_slices(
        whole(groups),
        source_table="T",
        destination_table="TRaw",
        confirmed={first.slice_id},
        attempts={first.slice_id: 1},
    )
    assert first.slice_id != second.slice_id
    assert first.window == second.window


def test_the_target_follows_the_bytes_that_a_row_was_seen_to_need() -> None:
    assert SliceTarget.for_table(rows=50_000, byte_limit=1_000_000, bytes_per_row=100).rows == 10_000
    assert SliceTarget.for_table(rows=50_000, byte_limit=1_000_000_000, bytes_per_row=100).rows == 50_000
    assert SliceTarget.for_table(rows=50_000, byte_limit=1_000, bytes_per_row=1_000_000).rows == 1
