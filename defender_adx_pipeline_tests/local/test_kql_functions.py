"""KQL functions that the local tenant adds: hash, text of many columns to hash, and exact bins."""

from datetime import datetime

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.local.kql import KqlFailure, run_kql

KINDS = {
    "S": ("VARCHAR", "'s' || i"),
    "D": ("JSON", """'{"a":' || i || '}'"""),
    "T": ("TIMESTAMP_NS", "TIMESTAMP_NS '2026-11-20 01:02:03.1234567'"),
    "N": ("BIGINT", "i"),
    "B": ("BOOLEAN", "i % 2 = 0"),
    "G": ("UUID", "uuid()"),
    "R": ("DOUBLE", "i / 4"),
    "I": ("INTEGER", "i::INTEGER"),
}
ROWS = 4_000


@pytest.fixture(scope="module")
def connection():
    """A table of 64 columns, eight of each type."""
    columns = {f"{name}{number}": kind for name, kind in KINDS.items() for number in range(8)}
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE T ({', '.join(f'{name} {kind[0]}' for name, kind in columns.items())})")
        values = ", ".join(value for _, value in columns.values())
        connection.execute(f"INSERT INTO T SELECT {values} FROM range({ROWS}) AS r(i)")
        yield connection


def rows(connection, text):
    return run_kql(connection, text).rows


def all_columns(connection):
    return ", ".join(f"tostring({name})" for (name,) in rows(connection, "T | getschema | project ColumnName"))


@pytest.mark.parametrize("value", ["S0", "N0", "G0", 'strcat_delim("|", tostring(D0), tostring(N0))'])
def test_a_hash_with_a_modulus_spreads_rows_evenly_over_its_buckets(connection, value):
    answer = run_kql(connection, f"T | summarize Rows = count() by Bucket = hash({value}, 8) | sort by Bucket asc")
    assert answer.columns == [("Bucket", "long"), ("Rows", "long")]
    assert [bucket for bucket, _ in answer.rows] == list(range(8))
    assert all(0.8 * ROWS / 8 < count < 1.2 * ROWS / 8 for _, count in answer.rows)


def test_the_buckets_of_64_columns_share_all_rows_out_between_them(connection):
    hashed = f'hash(strcat_delim("|", {all_columns(connection)}), 4)'
    counts = rows(connection, f"T | summarize Rows = count() by Bucket = {hashed} | project Rows")
    assert sum(count for (count,) in counts) == ROWS
    assert len(counts) == 4
    one = rows(connection, f"T | where {hashed} == 3 | count")
    assert one[0] in counts


def test_equal_values_have_equal_hashes_in_every_query_and_database(connection):
    hashes = rows(connection, "T | summarize by T0, Hash = hash(T0) | project Hash")
    assert len(hashes) == 1
    with duckdb.connect() as other:
        again = rows(other, 'print hash("x"), hash("x", 1000), hash(datetime(2026-11-20T01:02:03Z), 1000)')
    assert again == rows(connection, 'print hash("x"), hash("x", 1000), hash(datetime(2026-11-20T01:02:03Z), 1000)')


def test_a_hash_without_a_modulus_is_a_long_of_either_sign(connection):
    answer = run_kql(connection, "T | extend Hash = hash(S0) | summarize min(Hash), max(Hash), dcount(Hash)")
    assert [kind for _, kind in answer.columns] == ["long"] * 3
    lowest, highest, distinct = answer.rows[0]
    assert lowest < 0 < highest
    assert distinct == ROWS


def test_a_hash_of_null_and_of_the_empty_text_is_a_number_too(connection):
    (null, empty), *_ = rows(connection, 'print hash(int(null), 3), hash("", 3)')
    assert null in range(3)
    assert empty in range(3)


@pytest.mark.parametrize("call", ["hash(S0, 0)", "hash(S0, -8)", "hash()", "hash(S0, 8, 9)"])
def test_a_hash_that_kusto_would_refuse_is_refused(connection, call):
    with pytest.raises(KqlFailure):
        rows(connection, f"T | where {call} == 1")


def test_keys_are_removed_from_a_bag_and_its_other_nulls_stay(connection):
    bag = """parse_json('{"a": 1, "b": null, "c": {"a": null, "d": [1, null]}}')"""
    left = rows(connection, f"print bag_remove_keys({bag}, dynamic(['a', 'nowhere']))")
    assert left == [('{"b":null,"c":{"a":null,"d":[1,null]}}',)]
    assert rows(connection, "T | take 1 | project bag_remove_keys(D0, dynamic(['a']))") == [("{}",)]


def test_texts_are_joined_as_kusto_prints_the_values(connection):
    columns = "T0, tostring(T0), B0, tostring(B0), D0, tostring(D0), N0, R0, dynamic(null), S0"
    [(joined,)] = rows(connection, f'T | where N0 == 1 | project Text = strcat_delim("|", {columns})')
    moment, flag, bag = "2026-11-20T01:02:03.1234567Z", "False", '{"a":1}'
    assert joined == f"{moment}|{moment}|{flag}|{flag}|{bag}|{bag}|1|0.25||s1"


@settings(max_examples=25)
@given(st.lists(st.text(), min_size=1, max_size=20, unique=True))
def test_a_bucket_of_any_text_lies_below_the_modulus(texts):
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE U (Text VARCHAR)")
        connection.execute("INSERT INTO U SELECT unnest(?)", [texts])
        buckets = rows(connection, "U | project hash(Text, 7)")
    assert len(buckets) == len(texts)
    assert all(bucket in range(7) for (bucket,) in buckets)


@settings(max_examples=30)
@given(
    tick=st.integers(min_value=0, max_value=40 * 365 * 86_400 * 10**7),
    size=st.sampled_from(
        [("1microsecond", 10), ("1ms", 10**4), ("1s", 10**7), ("1h", 36 * 10**9), ("1d", 864 * 10**9)]
    ),
)
def test_a_bin_of_a_datetime_loses_none_of_its_seven_digits(tick, size):
    name, ticks = size
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE T AS SELECT make_timestamp_ns({tick * 100}) AS Ts")
        ((start,),) = rows(connection, f"T | project bin(Ts, {name})")
        ((expected,),) = connection.execute(f"SELECT make_timestamp({(tick // ticks) * ticks // 10})").fetchall()
    assert datetime.fromisoformat(start).replace(tzinfo=None) == expected


def test_a_row_just_before_a_full_hour_belongs_to_the_hour_before():
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE T AS SELECT TIMESTAMP_NS '2026-11-22 10:59:59.9999999' AS Ts")
        assert rows(connection, "T | project bin(Ts, 1h), floor(Ts, 1s)") == [
            ("2026-11-22T10:00:00Z", "2026-11-22T10:59:59Z")
        ]


def test_a_range_of_times_or_numbers_is_an_array_that_ends_at_its_last_step(connection):
    times = (
        "print H = range(datetime(2026-11-20 22:00), datetime(2026-11-21 00:30), 1h) | mv-expand H to typeof(datetime)"
    )
    assert [row[0][:16] for row in rows(connection, times)] == [
        "2026-11-20T22:00",
        "2026-11-20T23:00",
        "2026-11-21T00:00",
    ]
    assert rows(connection, "print N = range(1, 7, 3) | mv-expand N to typeof(long)") == [(1,), (4,), (7,)]
