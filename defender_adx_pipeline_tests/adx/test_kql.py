"""Statements: their text, and what they mean to an engine, the local tenant's: what was appended is what is read."""

import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.adx import kql
from defender_adx_pipeline.instants import sort_key, to_text
from defender_adx_pipeline.quoting import InvalidNameError

START = datetime(2026, 8, 1, tzinfo=UTC)
END = START + timedelta(hours=3)

COLUMNS = {
    "Key": "long",
    "Text": "string",
    "Moment": "datetime",
    "Number": "int",
    "Flag": "bool",
    "Extra": "dynamic",
}
ORDERS = (tuple(COLUMNS), tuple(reversed(COLUMNS)), ("Flag", "Extra", "Key", "Moment", "Text", "Number"))

moments = st.datetimes(datetime(1900, 1, 1), datetime(2260, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
sevenths = st.builds(lambda moment, digit: f"{to_text(moment)[:-2]}{digit}Z", moments, st.integers(0, 9))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "Text": st.none() | st.text(max_size=40),
        "Moment": st.none() | moments | sevenths,
        "Number": st.none() | st.integers(-(2**31) + 1, 2**31 - 1),
        "Flag": st.none() | st.booleans(),
        "Extra": json_values,
    },
)
keys = itertools.count(1)


@pytest.fixture(scope="module")
def tables(make_table):
    return {
        order: make_table(f"Appended{number}", {name: COLUMNS[name] for name in order})
        for number, order in enumerate(ORDERS)
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.sampled_from(ORDERS), written=st.lists(rows, min_size=1, max_size=4))
def test_what_was_appended_is_what_is_read_whatever_order_the_columns_have(adx, tables, order, written):
    table = tables[order]
    numbered = [{**row, "Key": next(keys)} for row in written]
    columns = [(row["ColumnName"], row["ColumnType"]) for row in adx.query(kql.table_columns(table))]
    assert columns == [(name, COLUMNS[name]) for name in order]
    for statement in kql.append_rows(table, columns, numbered):
        adx.command(statement, idempotent=False)
    first, last = numbered[0]["Key"], numbered[-1]["Key"]
    query = f"{table} | where Key >= {first} and Key <= {last} | extend Extra = tostring(Extra) | sort by Key asc"
    read = adx.query(query)
    assert [row["Key"] for row in read] == [row["Key"] for row in numbered]
    for row, back in zip(numbered, read, strict=True):
        assert back["Text"] == (row.get("Text") or "")
        assert back["Number"] == row.get("Number")
        assert back["Flag"] is row.get("Flag")
        moment = row.get("Moment")
        expected = to_text(moment) if isinstance(moment, datetime) else moment
        # The local tenant's datetime columns take six digits of a literal; the seventh is held by the next test.
        assert (back["Moment"] and sort_key(back["Moment"])[:26]) == (expected and sort_key(expected)[:26])
        assert as_value(back["Extra"], row.get("Extra")) == row.get("Extra")


@given(sevenths)
def test_a_time_is_written_with_all_its_digits(text):
    assert kql.literal(text, "datetime") == f"datetime({text})"


def as_value(text, written):
    """`tostring` of a dynamic: a string is itself, a null is empty, the rest is JSON."""
    if isinstance(written, str):
        return text
    return json.loads(text) if text else None


def test_an_append_is_cut_into_statements_below_the_limit():
    columns = [("Key", "long"), ("Text", "string")]
    written = [{"Key": key, "Text": "é" * 100} for key in range(100)]
    statements = list(kql.append_rows("T", columns, written, limit=4000))
    assert all(len(statement.encode()) <= 4000 for statement in statements)
    assert len(statements) > 5
    found = [line.split(",")[0] for text in statements for line in text.splitlines() if line.startswith("long(")]
    assert found == [f"long({key})" for key in range(100)]


def test_a_row_that_no_statement_can_hold_is_refused():
    with pytest.raises(kql.RowError, match="larger than a statement"):
        list(kql.append_rows("T", [("Text", "string")], [{"Text": "x" * 5000}], limit=4000))


def test_appending_nothing_sends_nothing():
    assert list(kql.append_rows("T", [("Key", "long")], [])) == []


def test_datatable_holds_literals_only_and_dynamic_is_parsed_behind_it():
    (statement,) = kql.append_rows("T", [("D", "dynamic"), ("A", "string")], [{"D": {"a": 'b"'}}, {"A": "x"}])
    body, _, tail = statement.partition("\n]\n")
    assert "parse_json" not in body
    assert '"{\\"a\\":\\"b\\\\\\"\\"}", ""' in body
    assert '"null", "x"' in body
    assert tail == "| project ['D'] = parse_json(['D']), ['A']"


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ([("A", "string")], {"B": 1}),
        ([("A", "string")], {"A": 1}),
        ([("A", "string")], {"A": "\ud800"}),
        ([("A", "long")], {"A": True}),
        ([("A", "long")], {"A": 2**63}),
        ([("A", "int")], {"A": 2**31}),
        ([("A", "int")], {"A": 1.5}),
        ([("A", "bool")], {"A": 1}),
        ([("A", "datetime")], {"A": "yesterday"}),
        ([("A", "datetime")], {"A": "2026-02-30T00:00:00Z"}),
        ([("A", "datetime")], {"A": datetime(2026, 1, 1)}),  # noqa: DTZ001 - naive on purpose
        ([("A", "dynamic")], {"A": object()}),
        ([("A", "decimal")], {"A": 1}),
    ],
)
def test_a_row_that_does_not_fit_is_refused_before_anything_is_sent(columns, row):
    with pytest.raises(kql.RowError, match=r"^T[: ]"):
        list(kql.append_rows("T", columns, [row]))


@pytest.mark.parametrize("name", ["x'] | .drop table y", 'x"]', "", " a", "__x", "T;x", "T\n", "a$b"])
def test_a_name_that_could_leave_its_quotes_reaches_no_statement(name):
    attempts = (
        lambda: kql.table_columns(name),
        lambda: kql.row_count(name, "Timestamp", START, END),
        lambda: list(kql.landed_slices(name, ["0" * 32])),
        lambda: list(kql.append_rows(name, [("A", "long")], [{"A": 1}])),
        lambda: list(kql.append_rows("T", [(name, "long")], [{}])),
        lambda: kql.json_mappings(name),
        lambda: kql.table_schema(name),
    )
    for attempt in attempts:
        with pytest.raises(InvalidNameError):
            attempt()


TIMES = [
    "2026-08-01T00:00:00Z",
    "2026-08-01T00:59:59.9999999Z",
    "2026-08-01T01:00:00.0000001Z",
    "2026-08-01T02:59:59.999999Z",
    "2026-08-01T02:59:59.9999994Z",
    "2026-08-01T02:59:59.9999998Z",
    "2026-08-01T03:00:00Z",
    "2026-07-31T23:59:59.9999999Z",
]
INSIDE = TIMES[:6]


@pytest.fixture(scope="module")
def raw(adx, make_table):
    table = make_table("CountedRaw")
    written = [{"Records": {"Timestamp": time, "n": number}} for number, time in enumerate(TIMES)]
    for statement in kql.append_rows(table, [("Records", "dynamic")], written):
        adx.command(statement, idempotent=False)
    return table


def test_bins_count_the_rows_of_the_half_open_window(adx, raw):
    counts = adx.query(kql.time_counts(raw, "Timestamp", START, END, timedelta(hours=1)))
    assert {sort_key(row["Bin"])[:19]: row["Rows"] for row in counts} == {
        "2026-08-01T00:00:00": 2,
        "2026-08-01T01:00:00": 1,
        "2026-08-01T02:00:00": 3,
    }
    assert adx.query(kql.row_count(raw, "Timestamp", START, END)) == [{"Rows": 6}]


def test_records_of_a_window_come_back_as_json_text(adx, raw):
    read = [json.loads(row["Record"]) for row in adx.stream(kql.records_in_window(raw, "Timestamp", START, END))]
    assert sorted(record["Timestamp"] for record in read) == sorted(INSIDE)


def test_the_latest_time_keeps_its_seventh_digit(adx, raw):
    texts = {row["Text"] for row in adx.query(kql.latest_times(raw, "Timestamp", START, END))}
    assert max(texts, key=sort_key) == "2026-08-01T02:59:59.9999998Z"
    empty = kql.latest_times(raw, "Timestamp", END + timedelta(hours=1), END + timedelta(hours=2))
    assert adx.query(empty) == []


def test_rows_ingested_before_the_bound_are_left_out(adx, raw):
    now = datetime.now(UTC)
    for since, expected in ((now - timedelta(hours=1), 6), (now + timedelta(hours=1), 0)):
        counted = adx.query(kql.row_count(raw, "Timestamp", START, END, ingested_since=since))
        assert counted == [{"Rows": expected}]
        assert len(
            adx.query(kql.time_counts(raw, "Timestamp", START, END, timedelta(days=1), ingested_since=since))
        ) == (expected > 0)


def test_a_field_name_is_a_value_and_cannot_leave_its_quotes(adx, raw):
    assert adx.query(kql.row_count(raw, 'x"]) | count //', START, END)) == [{"Rows": 0}]


@pytest.mark.parametrize("separator", [" ", "\n", "\r\n", ", ", '","'])
def test_slice_ids_are_found_however_tags_are_set_apart(separator):
    first, second = "0" * 32, "abcdef0123456789" * 2
    tags = separator.join([f"ingest-by:{first}", "drop-by:2026", f"ingest-by:{second}", "ingest-by:short"])
    assert kql.slices_in_tags(tags) == {first, second}
