import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from defender_adx_pipeline.local.adx_schema import AlreadyIngestedError
from defender_adx_pipeline.local.adx_store import AdxStore
from defender_adx_pipeline.local.frames import KustoFault


@pytest.fixture
def store(tmp_path: Path):
    opened = AdxStore(tmp_path / "adx.duckdb")
    yield opened
    opened.close()


def test_a_store_lets_go_of_its_file_although_a_cursor_is_held(tmp_path):
    store = AdxStore(tmp_path / "adx.duckdb")
    store.create_table("T", [("A", "long")], merge=False)
    held = store.cursor()
    assert held.execute('SELECT count(*) FROM "T"').fetchone() == (0,)
    store.close()
    again = AdxStore(tmp_path / "adx.duckdb")
    assert again.table("T").columns == (("A", "long"),)
    again.close()
    held.close()


def test_writers_of_one_tag_take_turns_and_one_of_them_loads(store):
    store.create_table("T", [("A", "long")], merge=False)
    start = threading.Barrier(4)

    def load(number: int) -> bool:
        start.wait()
        try:
            return store.load("T", "SELECT 1", tags=["ingest-by:x"], unless=["x"]) is not None
        except AlreadyIngestedError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(load, range(4))) == [False, False, False, True]
    assert store.row_count("T") == 1


def test_writers_of_many_tables_and_of_the_schema_do_not_lose_each_others_work(store):
    for number in range(4):
        store.create_table(f"T{number}", [("A", "long")], merge=False)

    def work(number: int) -> None:
        for turn in range(10):
            store.load(f"T{number % 4}", f"SELECT {turn}")
            store.put("policy", f"T{number}", "p", {"value": turn})
            store.create_table(f"New{number}x{turn}", [("A", "long")], merge=True)
            store.record("operation", "x", {"turn": turn})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert [store.row_count(f"T{number}") for number in range(4)] == [20] * 4
    assert len(store.extents()) == 80
    assert len(store.tables()) == 84
    assert len(store.journal("operation")) == 80


def test_a_load_that_fails_leaves_nothing(store):
    store.create_table("T", [("A", "long")], merge=False)
    with pytest.raises(Exception, match="Could not convert"):
        store.load("T", "SELECT 'x'")
    assert store.extents() == []
    assert store.row_count("T") == 0
    assert store.load("T", "SELECT 1 WHERE false") is None


def test_columns_may_differ_in_case_alone_though_rows_hold_the_first_and_are_refused_when_they_are_equal(store):
    with pytest.raises(KustoFault, match="Duplicate column"):
        store.create_table("T", [("A", "long"), ("A", "string")], merge=False)
    table = store.create_table("T", [("A", "long"), ("a", "long")], merge=False)
    assert table.cslschema == "A:long,a:long"
    store.create_table("T", [("A", "long"), ("a", "long"), ("B", "long")], merge=True)
    store.load("T", "SELECT 1, 2")
    assert store.cursor().execute("SELECT A, B FROM T").fetchall() == [(1, 2)]
