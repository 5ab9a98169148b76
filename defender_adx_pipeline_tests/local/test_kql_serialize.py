"""Rows numbered with serialize and row_number(), as scripts that page through a table do."""

from datetime import datetime, timedelta

import duckdb
import pytest

from defender_adx_pipeline.local.kql import KqlFailure, run_kql

ROWS = 600


@pytest.fixture(scope="module")
def connection():
    """T: rows with a time each, the later the greater N, and Tie with three values."""
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE T (Time TIMESTAMP_NS, Tie BIGINT, N BIGINT, Text VARCHAR)")
        connection.execute(
            f"INSERT INTO T SELECT TIMESTAMP_NS '2026-11-20' + i * INTERVAL 1 SECOND, i % 3, i,"
            f" 'a | sort by N; row_number(' FROM range({ROWS}) AS r(i)"
        )
        yield connection


def rows(connection, text):
    return run_kql(connection, text).rows


def page(step, first, last):
    return f"T | where N >= 0 | {step} | where rownum between ({first} .. {last})"


DESCENDING = "order by {} desc | serialize rownum = row_number()"
ASCENDING = "sort by {} asc | extend rownum = row_number()"


@pytest.mark.parametrize(
    ("step", "numbers"),
    [(DESCENDING, [ROWS - 11, ROWS - 12, ROWS - 13]), (ASCENDING, [10, 11, 12])],
    ids=["serialize", "extend"],
)
def test_a_page_holds_the_rows_of_its_numbers_in_the_order_of_the_sort(connection, step, numbers):
    answer = run_kql(connection, page(step.format("Time"), 11, 13))
    assert answer.columns[-1] == ("rownum", "long")
    assert [(row[2], row[-1]) for row in answer.rows] == list(zip(numbers, [11, 12, 13], strict=True))


@pytest.mark.parametrize("step", [DESCENDING, ASCENDING], ids=["serialize", "extend"])
def test_pages_over_a_definite_order_hold_every_row_once(connection, step):
    found = [
        row[2] for first in range(1, ROWS, 100) for row in rows(connection, page(step.format("N"), first, first + 99))
    ]
    assert sorted(found) == list(range(ROWS))


@pytest.mark.parametrize("step", [DESCENDING, ASCENDING], ids=["serialize", "extend"])
def test_rows_with_equal_keys_stand_in_another_order_at_every_call(connection, step):
    found = [
        row[2] for first in range(1, ROWS, 100) for row in rows(connection, page(step.format("Tie"), first, first + 99))
    ]
    assert len(found) == ROWS
    assert len(set(found)) < ROWS


def test_numbers_begin_where_they_are_told_to(connection):
    assert rows(connection, "T | sort by N asc | extend r = row_number(100) | take 2 | project N, r") == [
        (0, 100),
        (1, 101),
    ]


def test_serialize_alone_changes_nothing(connection):
    assert rows(connection, "T | serialize | count") == [(ROWS,)]
    assert rows(connection, "T | where N < 2\n| sort by N asc // up\n| serialize\n| project N") == [(0,), (1,)]
    assert rows(connection, "let U = (T | sort by N asc | serialize); U | count") == [(ROWS,)]


def test_what_stands_in_a_text_is_left_alone(connection):
    text = "a | sort by N; row_number("
    where = f'T | where Text == "{text}" // | serialize'
    query = f"{where}\n| sort by Text asc, N desc // last\n| extend r = row_number() | top 1 by r asc"
    [(time, _, number, found, place)] = rows(connection, query)
    assert (number, found, place) == (ROWS - 1, text, 1)
    assert datetime.fromisoformat(time) == datetime.fromisoformat("2026-11-20T00:00:00Z") + timedelta(seconds=ROWS - 1)


def test_numbers_of_rows_without_an_order_are_refused_in_kustos_words(connection):
    with pytest.raises(KqlFailure, match="'row_number' cannot be invoked in current context.*must be serialized"):
        rows(connection, "T | extend r = row_number()")
