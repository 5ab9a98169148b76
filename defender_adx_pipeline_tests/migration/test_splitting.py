"""Any rows, any caps: slices and their parts share the missing rows out, and every answer that is kept fits.

Over a simulated Defender, with the real planning, hunting queries and reader.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defender.errors import QueryContext
from defender_adx_pipeline.defender.wire import Answer
from defender_adx_pipeline.instants import MICROSECOND
from defender_adx_pipeline.migration import planning
from defender_adx_pipeline.migration.counts import BinCount, compare
from defender_adx_pipeline.migration.errors import UnsplittableError
from defender_adx_pipeline.migration.identity import RecordKeys, missing_records
from defender_adx_pipeline.migration.planning import SliceTarget
from defender_adx_pipeline.migration.reading import DOUBLINGS, SliceReader
from defender_adx_pipeline.migration.sizes import SMALL, TableSizes
from defender_adx_pipeline.migration.slices import Bucket, Slice
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.migration.defender_simulation import BASE, TABLE, TICKS, Defender, Tie, counted

DAY = Window(BASE, BASE + timedelta(days=1))
HOUR = timedelta(hours=1)
HALVINGS = 37
"""Of a day, until it is a microsecond."""
KEYS = RecordKeys(TABLE)


def reader(defender: Defender, sizes: TableSizes) -> SliceReader:
    return SliceReader(defender, TABLE, dynamic_columns=(), key=("Id",), sizes=sizes)  # type: ignore[arg-type]


def plan(
    defender: Defender, present: Sequence[Tie], *, rows: int, busy: Sequence[Window] = (), window: Window = DAY
) -> list[Slice]:
    """What the planner makes of counts, without the ledger."""

    def count(part: Window, grain: timedelta) -> Sequence[BinCount]:
        there = counted((tie for tie in present if tie.moment in part), grain)
        return compare(part, grain, defender.by_bin(part, grain), there)

    def count_buckets(part: Window, buckets: int) -> Mapping[int, int]:
        query = hunting.bucket_counts("Rows", "Timestamp", part.start, part.end, key=("Id",), buckets=buckets)
        return {row["Bucket"]: row["Rows"] for row in defender.run(query, context=QueryContext()).rows}

    target = SliceTarget(rows)
    groups = planning.choose(count(window, HOUR), busy=busy, target=target, count_window=count)
    return planning.make_slices(
        planning.portions(groups, target=target, count_buckets=count_buckets),
        source_table="Rows",
        destination_table="RowsRaw",
        confirmed=(),
        attempts={},
    )


def ids_within(ties: Sequence[Tie], window: Window) -> Counter[int]:
    return Counter(identity for tie in ties if tie.moment in window for identity in tie.ids)


def check(defender: Defender, present: Sequence[Tie], sizes: TableSizes, *, rows: int, busy: Sequence[Window]) -> None:
    """Load a day as the engine does, and compare."""
    slices = plan(defender, present, rows=rows, busy=busy)
    for one, two in itertools.combinations(slices, 2):
        assert not one.overlaps(two)
    assert len({item.slice_id for item in slices}) == len(slices)
    assert not any(item.window.overlaps(window) for item in slices for window in busy)
    loaded = ids_within(present, DAY)
    most = min(defender.row_cap - 1, defender.byte_limit // defender.row_bytes)
    for item in slices:
        before = len(defender.reads)
        received = list(reader(defender, sizes).records(item))
        # No part is asked for twice; how few calls that takes is reasoned in `reading`.
        bound = 1 + 4 * (HALVINGS + DOUBLINGS) * (2 * len(received) // most)
        assert len(defender.reads) - before <= bound
        there = [{"Id": identity} for identity in ids_within(present, item.window).elements()]
        missing = missing_records(received, there, KEYS) if there else received
        loaded.update(row["Id"] for row in missing)
    assert len(set(defender.reads)) == len(defender.reads)
    assert all(rows <= most for rows in defender.answered)
    under_way = [ids_within(defender.ties, window) - ids_within(present, window) for window in busy]
    assert loaded == ids_within(defender.ties, DAY) - sum(under_way, Counter())


# Ties anywhere, often in the same microsecond (seventh digit), at the edges of bins, or in one burst.
ticks = st.one_of(
    st.integers(0, 25),
    st.integers(0, 23).flatmap(lambda hour: st.sampled_from([hour * 3600 * TICKS, hour * 3600 * TICKS - 1])),
    st.integers(0, 60_000).map(lambda n: 7 * 3600 * TICKS + n),
    st.integers(0, 86_400 * TICKS - 1),
).map(lambda tick: max(0, tick))
hours = st.integers(0, 23).map(lambda n: Window(BASE + n * HOUR, BASE + (n + 1) * HOUR))


@st.composite
def sides(draw: st.DrawFn, most: int, ties: int) -> tuple[list[Tie], list[Tie]]:
    """Defender's ties, and what ADX has of them."""
    source, present, first = [], [], 0
    for tick in draw(st.lists(ticks, max_size=ties, unique=True)):
        rows = draw(st.integers(1, most))
        same = draw(st.integers(1, 3))
        ids = [first + number // same for number in range(rows)]
        first = ids[-1] + 1
        source.append(Tie(tick, ids))
        if there := draw(st.sampled_from([0, 0, 1, rows // 2, rows])):
            present.append(Tie(tick, draw(st.permutations(ids))[:there] if rows < 100 else ids[:there]))
    return source, present


@settings(max_examples=150)
@given(
    both=sides(most=80, ties=12),
    busy=st.lists(hours, max_size=2, unique=True),
    rows=st.integers(1, 60),
    caps=st.tuples(st.integers(5, 50), st.integers(4_000, 60_000)),
    small=st.sampled_from([1, 10, SMALL]),
)
def test_every_missing_row_is_loaded_once_whatever_the_rows_and_the_caps(
    both: tuple[list[Tie], list[Tie]], busy: list[Window], rows: int, caps: tuple[int, int], small: int
) -> None:
    source, present = both
    check(
        Defender(source, *caps), present, TableSizes(rows=rows, answer_bytes=caps[1], small=small), rows=rows, busy=busy
    )


@settings(max_examples=4)
@given(
    rows=st.sampled_from([300_000, 250_001, 100_000]),
    tick=ticks,
    target=st.integers(40_000, 100_000),
    row_cap=st.integers(30_000, 100_000),
    byte_limit=st.integers(30_000_000, 60_000_000),
)
def test_a_tie_of_hundreds_of_thousands_of_rows_is_loaded_once(
    rows: int, tick: int, target: int, row_cap: int, byte_limit: int
) -> None:
    defender = Defender([Tie(tick, range(rows)), Tie(tick + 40 * TICKS, range(rows, rows + 5))], row_cap, byte_limit)
    check(defender, [], TableSizes(rows=target, answer_bytes=byte_limit), rows=target, busy=[])


def test_a_microsecond_with_too_many_rows_becomes_slices_by_hash() -> None:
    defender = Defender([Tie(5, range(100)), Tie(9, range(100, 250)), Tie(10, [250])])
    slices = plan(defender, [], rows=60)
    assert [item.bucket for item in slices] == [*(Bucket(number, 5) for number in range(5)), None]
    assert {item.window for item in slices[:5]} == {Window(BASE, BASE + MICROSECOND)}
    assert sum(item.expected_rows for item in slices) == 251
    assert len({item.slice_id for item in slices}) == 6
    assert len(defender.counts) == 1


def test_late_rows_of_such_a_microsecond_are_shared_out_to_its_buckets() -> None:
    defender = Defender([Tie(5, range(250))])
    slices = plan(defender, [Tie(5, range(243))], rows=60)
    assert len(slices) == 5
    assert sum(item.expected_rows for item in slices) == 7
    assert sum(item.source_rows for item in slices) == 250
    assert not {item.slice_id for item in slices} & {item.slice_id for item in plan(defender, [], rows=60)}


def test_buckets_overlap_unless_they_are_of_one_split() -> None:
    def item(bucket: Bucket | None, start: int = 0) -> Slice:
        window = Window(BASE + start * MICROSECOND, BASE + (start + 1) * MICROSECOND)
        return Slice("", "Rows", "RowsRaw", window, 1, bucket=bucket)

    assert not item(Bucket(0, 4)).overlaps(item(Bucket(1, 4)))
    assert item(Bucket(1, 4)).overlaps(item(Bucket(1, 4)))
    assert item(Bucket(0, 4)).overlaps(item(Bucket(1, 5)))
    assert item(Bucket(0, 4)).overlaps(item(None))
    assert not item(Bucket(0, 4)).overlaps(item(None, 1))


@given(number=st.integers(0, 2**31), of=st.integers(1, 2**20))
def test_the_halves_of_a_bucket_share_its_rows_out(number: int, of: int) -> None:
    bucket = Bucket(number % of, of)
    holding = [half for half in bucket.halves() if number % half.of == half.number]
    assert len(holding) == 1
    other = (number + 1) % of
    assert of == 1 or not any(other == half.number % of for half in bucket.halves())


def test_rows_of_one_identity_beyond_the_cap_are_an_error_that_says_what_to_do() -> None:
    defender = Defender([Tie(0, [7] * 12)], row_cap=10)
    (item,) = plan(defender, [], rows=50)
    with pytest.raises(
        UnsplittableError, match=r"Rows \[2026-11-01T00:00:00Z.* bucket \d+ of 65536.*next run"
    ) as caught:
        list(reader(defender, TableSizes(rows=50)).records(item))
    assert "key that tells its rows apart" in str(caught.value)
    assert len(defender.reads) <= 1 + HALVINGS + 2 * DOUBLINGS


def spread(hour: int, rows: int, first: int = 0) -> list[Tie]:
    """Rows evenly over an hour."""
    return [Tie((hour * 3600 + 3600 * n // rows) * TICKS, [first + n]) for n in range(rows)]


def whole_hours(defender: Defender, hours_: int) -> list[Slice]:
    """One slice for each hour."""
    windows = [Window(BASE + n * HOUR, BASE + (n + 1) * HOUR) for n in range(hours_)]
    return [
        replace(item, source_rows=item.source_rows)
        for window in windows
        for item in plan(defender, [], rows=10_000, window=window)
    ]


def test_the_first_answer_teaches_how_much_of_a_table_fits() -> None:
    ties = [tie for hour in range(4) for tie in spread(hour, 90, 100 * hour)]
    defender = Defender(ties, byte_limit=40_000)
    first, *others = whole_hours(defender, 4)
    sizes = TableSizes(rows=10_000, answer_bytes=40_000)
    assert len(list(reader(defender, sizes).records(first))) == 90
    assert len(defender.refused) == 2
    for item in others:
        list(reader(defender, sizes).records(item))
    assert len(defender.refused) == 2
    assert sum(defender.answered) == 360
    assert sizes.bytes_per_row == pytest.approx(1_000)


def test_a_refusal_halves_what_is_asked_for_in_the_rest_of_the_run() -> None:
    """Refused for another reason than bytes: only the refusal itself can teach it."""
    ties = [tie for hour in range(4) for tie in spread(hour, 80, 100 * hour)]
    defender = Defender(ties, byte_limit=50_000)
    first, *others = whole_hours(defender, 4)
    sizes = TableSizes(rows=10_000, small=1)
    list(reader(defender, sizes).records(first))
    assert sizes.most_rows == 40
    for item in others:
        list(reader(defender, sizes).records(item))
    assert len(defender.refused) == 1
    assert defender.answered == [40] * 8


def test_halves_of_halves_that_are_refused_teach_their_true_number_of_rows() -> None:
    burst = [Tie(3 * TICKS + n, [n]) for n in range(64)]
    defender = Defender(burst, byte_limit=40_000)
    (item,) = whole_hours(defender, 1)
    sizes = TableSizes(rows=10_000, small=1)
    assert len(list(reader(defender, sizes).records(item))) == 64
    # The burst was refused at every halving of the hour, and that is no reason to ask for ever fewer rows.
    assert len(defender.refused) > 20
    assert sizes.most_rows == 32


def test_a_gateway_that_fails_on_few_rows_is_not_remembered() -> None:
    sizes = TableSizes(rows=10_000)
    sizes.refused(6)
    assert sizes.fits(SMALL)
    sizes.refused(5_000)
    assert sizes.most_rows == 2_500


def test_a_truncated_answer_teaches_the_cap() -> None:
    defender = Defender(spread(0, 90), row_cap=60)
    (item,) = whole_hours(defender, 1)
    sizes = TableSizes(rows=10_000)
    assert len(list(reader(defender, sizes).records(item))) == 90
    assert len(defender.cut) == 1
    assert sizes.most_rows == 59


def test_a_refusal_for_cpu_halves_what_is_asked_for() -> None:
    class Preempted(Defender):
        def run(self, query: str, **options: Any) -> Answer:
            self.usage = replace(self.usage, preempted=self.usage.preempted + 1)
            return super().run(query, **options)

    defender = Preempted(spread(0, 90))
    sizes = TableSizes(rows=50_000)
    (item,) = whole_hours(Defender(spread(0, 90)), 1)
    list(reader(defender, sizes).records(item))
    assert sizes.most_rows == 25_000
    list(reader(defender, sizes).records(replace(item, window=Window(BASE, BASE + 2 * HOUR))))
    assert sizes.most_rows == 12_500
    list(reader(Defender(spread(0, 90)), sizes).records(item))
    assert sizes.most_rows == 12_500
