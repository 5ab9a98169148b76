"""A table whose rows have no key, read by row number: its pages as values, and through the engine over real sockets.

Twins, ties, nulls and dynamic values are compared as a multiset with what Defender has. Nothing may be seen of a table
that changed while its pages were read.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.catalogue import Catalogue, Column, DefenderTable
from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.local.kql import run_kql
from defender_adx_pipeline.local.source import SourceStore
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.errors import PagingLimitError, SnapshotMismatchError, TableChangedError
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.paging import MOST_PAGES, Pages, Span, pages_of
from defender_adx_pipeline.migration.slices import Slice
from defender_adx_pipeline.migration.snapshots import Snapshot, choose_buckets, fitting_rows
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.test_snapshot_attempt import asked_of_defender, calls_so_far, seen, snapshots
from defender_adx_pipeline_tests.migration.world import World, entered, settings_of

pytestmark = pytest.mark.long

TABLE = "DeviceTvmSoftwareVulnerabilitiesKB"
"""It has columns of type bool, datetime, dynamic and string."""
ROWS = 170
PAGE = 60
PAGES = 3
READS = "SnapshotTime"
COUNTS = "by After = bin("
TAKEN = datetime(2026, 11, 24, 5, tzinfo=UTC)
TWO = (Column("Name", "string"), Column("Level", "long"))


def rows(number: int = ROWS) -> list[dict[str, Any]]:
    """Rows of few different values: many are equal in all of them, and most in all but one."""
    return [
        {
            "CveId": ["", "d", "D", "ü\n\"'", "🛡"][place % 5],
            "PublishedDate": None if place % 7 == 0 else f"2026-11-0{1 + place % 3}T00:00:00.123456{place % 2}Z",
            "IsExploitAvailable": [True, False, None][place % 3],
            "CvssScore": ["1", "10", "9", "|"][place % 4],
            "AffectedSoftware": [None, {"a": [1, None, "ü"]}, ["x", 2**60 + place % 2], "plain", 3][place % 5],
        }
        for place in range(number)
    ]


def store(world: World, records: Sequence[dict[str, Any]]) -> None:
    world.tenant.source.insert_rows(TABLE, records)


def drop(world: World, number: int) -> None:
    """Take some rows away, the first in the order of pages, so that every later one moves."""
    source = world.tenant.source
    with source.writing() as cursor:
        first = f"SELECT rowid FROM {source.stored(TABLE)} ORDER BY CveId, PublishedDate LIMIT {number}"
        cursor.execute(f"DELETE FROM {source.stored(TABLE)} WHERE rowid IN ({first})")


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with ExitStack() as stack:
        tenant = stack.enter_context(open_tenant(scale=0, quota_clock_scale=2000.0, batching_delay=0.05))
        with pytest.MonkeyPatch.context() as patch:
            world = World(tenant, settings_of(tenant, patch), stack)
            by_row_number = {TABLE: replace(world.catalogue[TABLE], paging="row_number")}
            world.catalogue = Catalogue({**world.catalogue, **by_row_number})
            world.bootstrap([TABLE])
        yield world


@pytest.fixture
def world(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    shared_world.tenant.source.clear(TABLE)
    store(shared_world, rows())
    yield from entered(shared_world, monkeypatch)


def take(world: World, page: int = PAGE) -> Any:
    tally = world.sync(TABLE, snapshot_rows=page)
    assert tally is not None
    return tally


def on_call(world: World, text: str, number: int, change: Callable[[], None]) -> Callable[[], None]:
    """Do something just before the nth query with a text is run."""
    calls = {"left": number}

    def before(query: str) -> None:
        if query.startswith(TABLE) and text in query:
            calls["left"] -= 1
            if not calls["left"]:
                change()

    return world.tenant.source.before_queries(before)


def test_twins_ties_nulls_and_dynamic_values_are_there_as_often_as_in_defender(world: World) -> None:
    start = calls_so_far(world)
    tally = take(world)
    assert max(world.truth(TABLE).values()) > 1
    assert seen(world, TABLE) == world.truth(TABLE)
    assert (tally.slices, tally.notes) == (PAGES, [])
    assert tally.expected_rows == tally.received_rows == tally.queryable_rows == ROWS
    (row, *_) = snapshots(world, TABLE)
    assert (row["State"], row["Buckets"], row["ReceivedRows"], row["Reason"]) == ("Published", PAGES, ROWS, "")
    # The columns, the size of a row, the pages, and each page once; nothing is counted again.
    assert calls_so_far(world) - start == tally.calls == PAGES + 3
    names = {name for row in world.adx.query(f"Vw{TABLE}Latest() | project Records") for name in row["Records"]}
    assert names <= {"SnapshotTime", *(column.name for column in world.catalogue[TABLE].columns)}
    again = take(world)
    assert (again.calls, seen(world, TABLE)) == (PAGES + 1, world.truth(TABLE))


def test_a_row_that_comes_between_two_pages_gives_the_snapshot_up_and_the_second_try_is_exact(world: World) -> None:
    forget = on_call(world, READS, 3, lambda: store(world, rows(1)))
    tally = take(world)
    forget()
    latest, given_up, *_ = snapshots(world, TABLE)
    assert (latest["State"], given_up["State"]) == ("Published", "Failed")
    assert "changed while it was read by row number" in given_up["Reason"]
    assert (sum(seen(world, TABLE).values()), seen(world, TABLE)) == (ROWS + 1, world.truth(TABLE))
    assert any("was given up and is taken anew" in note for note in tally.notes)


def test_a_table_that_changes_and_changes_back_between_two_pages_is_noticed(world: World) -> None:
    """As many rows as before, equal counts before and after: only the page tells that its rows are others."""
    state = {"out": False}

    def before(query: str) -> None:
        if query.startswith(TABLE) and READS in query and f"({PAGE + 1} .." in query and not state["out"]:
            drop(world, 1)
            store(world, [{"CveId": "zz"}])
            state["out"] = True

    forget = world.tenant.source.before_queries(before)
    take(world)
    forget()
    assert state["out"]
    _, given_up, *_ = snapshots(world, TABLE)
    assert "some are others than were counted" in given_up["Reason"]
    assert seen(world, TABLE) == world.truth(TABLE)


def test_a_table_that_changes_in_both_tries_fails_loudly_and_the_snapshot_before_is_served(world: World) -> None:
    take(world)
    old = seen(world, TABLE)
    forgets = [on_call(world, READS, call, lambda: drop(world, 1)) for call in (2, 4)]
    with pytest.raises(SnapshotMismatchError, match="read 2 times and is not what Defender counted"):
        take(world)
    for forget in forgets:
        forget()
    assert sum(world.truth(TABLE).values()) == ROWS - 2
    assert seen(world, TABLE) == old
    assert world.statuses(TABLE)[-1] == "Failed"
    assert [row["State"] for row in snapshots(world, TABLE)][:3] == ["Failed", "Failed", "Published"]
    assert {row["State"] for row in world.ledger(TABLE)} == {"Confirmed", "Failed"}


def fail_in_the_middle(world: World) -> dict[str, Any]:
    world.tenant.faults.add("hunting", "status", status=400, match=READS, first=2, times=1)
    with pytest.raises(HuntingError):
        take(world)
    (broken, *_) = snapshots(world, TABLE)
    assert broken["State"] == "Planned"
    return broken


def test_a_run_that_failed_between_pages_is_gone_on_with_while_the_table_is_the_same(world: World) -> None:
    start = calls_so_far(world)
    broken = fail_in_the_middle(world)
    tally = take(world, page=PAGE + 25)
    (done, *_) = snapshots(world, TABLE)
    assert (done["SliceId"], done["State"], done["Attempt"]) == (broken["SliceId"], "Published", 2)
    assert tally.slices_resumed == tally.slices == PAGES - 1
    assert asked_of_defender(world, TABLE, READS, start) == PAGES + 1
    assert seen(world, TABLE) == world.truth(TABLE)


def test_a_run_that_failed_between_pages_is_begun_anew_when_the_table_is_another(world: World) -> None:
    broken = fail_in_the_middle(world)
    # More pages of the first run's size than may be read: the second one's count.
    store(world, rows(MOST_PAGES * PAGE))
    take(world, page=2_000)
    done, given_up, *_ = snapshots(world, TABLE)
    assert (given_up["SliceId"], given_up["State"]) == (broken["SliceId"], "Failed")
    assert done["State"] == "Published"
    assert seen(world, TABLE) == world.truth(TABLE)


def test_a_page_that_is_too_large_is_read_in_halves_by_row_number(world: World) -> None:
    start = calls_so_far(world)
    world.tenant.faults.add("hunting", "too_large", match=READS, first=2, times=2)
    tally = take(world)
    assert (tally.slices, asked_of_defender(world, TABLE, READS, start)) == (PAGES, PAGES + 4)
    assert seen(world, TABLE) == world.truth(TABLE)


def test_two_runs_at_once_read_the_same_pages_into_one_version(world: World) -> None:
    first, second = (world.migration(snapshot_rows=PAGE) for _ in range(2))
    begun = first.extract(Asked(TABLE, RunIdentity("first", "day"), None))
    assert begun is not None
    assert second.sync(Asked(TABLE, RunIdentity("second", "day"), None)) is not None
    first.load(begun)
    assert seen(world, TABLE) == world.truth(TABLE)


def test_too_many_pages_are_refused_with_the_way_out(world: World) -> None:
    take(world)
    old = seen(world, TABLE)
    with pytest.raises(PagingLimitError, match=f"its {ROWS} rows are 57 pages of 3") as caught:
        take(world, page=3)
    assert TABLE in str(caught.value)
    assert "DEFENDER_TABLES_FILE" in str(caught.value)
    assert (seen(world, TABLE), snapshots(world, TABLE)[0]["State"]) == (old, "Published")


@pytest.mark.parametrize(("number", "pages"), [(0, 1), (PAGE, 1), (2 * PAGE, 2)])
def test_tables_that_fill_their_pages_exactly_or_have_none(world: World, number: int, pages: int) -> None:
    world.tenant.source.clear(TABLE)
    store(world, rows(number))
    take(world)
    assert seen(world, TABLE) == world.truth(TABLE)
    assert (snapshots(world, TABLE)[0]["Buckets"], sum(seen(world, TABLE).values())) == (pages, number)


def counted(*contents: tuple[int, int], size: int = 2) -> Pages:
    answer = [{"After": place * size, "Rows": have, "Content": sum_} for place, (have, sum_) in enumerate(contents)]
    return pages_of("Some", TWO, size, answer[::-1])


def slices(pages: Pages) -> tuple[Slice, ...]:
    number = len(pages.rows_by_page)
    return Snapshot("Some", "SomeRaw", TAKEN, (), number, pages.rows, pages.content).slices(pages.rows_by_page)


def test_pages_of_other_rows_columns_or_lengths_are_another_content() -> None:
    pages = [
        counted((2, 7), (1, 5)),
        counted((2, 7), (1, 6)),
        counted((2, 5), (1, 7)),
        counted((2, 7)),
        counted(),
        replace(counted((2, 7), (1, 5)), columns=TWO[::-1]),
        replace(counted((2, 7), (1, 5)), columns=(TWO[0], Column("Level", "real"))),
    ]
    assert len({item.content for item in pages}) == len(pages)
    assert counted((2, 7), (1, 5)).content == pages[0].content
    taken = Snapshot("Some", "SomeRaw", TAKEN, ("Name",), 2, 3)
    assert taken.snapshot_id != replace(taken, content=pages[0].content).snapshot_id


def test_a_page_passes_with_its_own_rows_alone() -> None:
    pages = counted((2, 7), (1, 5))
    first, second = slices(pages)
    assert [pages.span(item) for item in (first, second)] == [Span(1, 2), Span(3, 3)]
    assert list(pages.verified(first, [{"Name": "a", "RowHash": 3}, {"RowHash": 4}])) == [{"Name": "a"}, {}]
    for wrong in ([{"RowHash": 7}], [{"RowHash": 3}, {"RowHash": 5}], [{"RowHash": 3}, {"RowHash": 4}] * 2, [{}, {}]):
        with pytest.raises(TableChangedError, match="page 0 of 2"):
            list(pages.verified(first, wrong))


@given(first=st.integers(1, 300), length=st.integers(0, 300))
def test_halves_of_a_span_share_its_rows_out(first: int, length: int) -> None:
    span = Span(first, first + length)
    halves = span.halves()
    if halves is None:
        assert span.rows == 1
        return
    one, two = halves
    assert (one.first, one.last + 1, two.last) == (span.first, two.first, span.last)
    assert one.rows + two.rows == span.rows
    assert abs(one.rows - two.rows) <= 1


@given(rows=st.integers(0, 1_000_000), most=st.integers(1, 99_999), size=st.floats(0, 1e6))
def test_full_pages_are_never_more_than_buckets_and_fit(rows: int, most: int, size: float) -> None:
    fitting = fitting_rows(most_rows=most, most_bytes=47_500_000, bytes_per_row=size)
    assert 1 <= fitting <= most
    assert fitting == 1 or fitting * size <= 47_500_000 * 1.000001
    assert choose_buckets(rows, most_rows=fitting, most_bytes=47_500_000, bytes_per_row=0) == max(
        1, -(-rows // fitting)
    )


SMALL = DefenderTable(
    name="Some",
    category="devices",
    kind="snapshot",
    time_column=None,
    columns=(Column("Name", "string"), Column("On", "bool"), Column("More", "dynamic"), Column("RowNumber", "long")),
    paging="row_number",
)
small_rows = st.fixed_dictionaries(
    {
        "Name": st.sampled_from(["", "a", "A", "|", "ü"]),
        "On": st.sampled_from([None, True]),
        "More": st.sampled_from([None, "x", {"k": [1]}]),
        "RowNumber": st.sampled_from([None, 1, 2]),
    }
)


@pytest.fixture(scope="module")
def source() -> Iterator[SourceStore]:
    store = SourceStore(":memory:", Catalogue({SMALL.name: SMALL}))
    yield store
    store.close()


@settings(max_examples=15)
@given(table=st.lists(small_rows, max_size=7), size=st.integers(1, 4))
def test_pages_of_any_table_are_all_of_its_rows_once_and_pass(
    source: SourceStore, table: list[dict[str, Any]], size: int
) -> None:
    source.clear(SMALL.name)
    source.insert_rows(SMALL.name, table)
    columns = source.columns(SMALL.name)
    pages = pages_of(SMALL.name, columns, size, asked(source, hunting.page_contents(SMALL.name, columns, size)))
    assert [page.rows for page in pages.pages] == [min(size, len(table) - n) for n in range(0, len(table), size)]
    read: Counter[tuple[Any, ...]] = Counter()
    for item in slices(pages):
        records = asked(source, hunting.page_rows(SMALL.name, TAKEN, columns, *pages.span(item)))
        read.update(tuple(row[column.name] for column in columns) for row in pages.verified(item, records))
    every = asked(source, f"{SMALL.name} | extend More = tostring(More)")
    assert read == Counter(tuple(row[column.name] for column in columns) for row in every)


def asked(source: SourceStore, query: str) -> list[dict[str, Any]]:
    with source.hunting_cursor() as cursor:
        result = run_kql(cursor, query, schema=source.schema())
    return [dict(zip([name for name, _ in result.columns], row, strict=True)) for row in result.rows]
