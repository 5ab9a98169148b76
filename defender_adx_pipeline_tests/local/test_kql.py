"""KQL on DuckDB: values as Kusto prints them, names as Kusto resolves them."""

from concurrent.futures import ThreadPoolExecutor

import duckdb
import pytest

from defender_adx_pipeline.local.kql import KqlFailure, run_kql


@pytest.fixture
def connection():
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE T (Timestamp TIMESTAMP_NS, A JSON, B BOOLEAN, G UUID, S VARCHAR, N BIGINT,"
            " I INTEGER, R DOUBLE)"
        )
        connection.execute(
            """INSERT INTO T VALUES
            ('2026-11-20 01:02:03.1234567', '{"a":1}', true, '00000000-0000-0000-0000-000000000001', 'a', 1, 2, 1.5),
            ('2026-11-20 01:02:03.12', '[1,2]', NULL, NULL, '', NULL, NULL, NULL),
            ('2026-11-20 02:00:00', NULL, false, NULL, 'b', 9007199254740993, 3, 2)"""
        )
        connection.execute("CREATE TABLE TRaw (Records JSON)")
        connection.execute(
            "INSERT INTO TRaw SELECT json_object("
            "'Timestamp', replace(Timestamp::VARCHAR, ' ', 'T') || 'Z', 'N', N) FROM T"
        )
        yield connection


def rows(connection, text, **kwargs):
    return run_kql(connection, text, **kwargs).rows


def test_datetimes_keep_seven_digits_and_show_no_more_than_they_need(connection):
    answer = rows(connection, "T | project Timestamp, tostring(Timestamp) | sort by Timestamp asc")
    assert answer == [
        ("2026-11-20T01:02:03.12Z", "2026-11-20T01:02:03.1200000Z"),
        ("2026-11-20T01:02:03.1234567Z", "2026-11-20T01:02:03.1234567Z"),
        ("2026-11-20T02:00:00Z", "2026-11-20T02:00:00.0000000Z"),
    ]


def test_a_window_on_whole_microseconds_takes_the_seventh_digit_into_account(connection):
    second = "2026-11-20T01:02:03"
    window = f"T | where Timestamp >= datetime({second}.{{}}Z) and Timestamp < datetime({second}.{{}}Z) | count"
    assert rows(connection, window.format("123456", "123457")) == [(1,)]
    assert rows(connection, window.format("123457", "123458")) == [(0,)]
    assert rows(connection, window.format("12", "123456")) == [(1,)]


def test_bins_are_counted_on_typed_and_on_raw_columns(connection):
    expected = [("2026-11-20T01:00:00Z", 2), ("2026-11-20T02:00:00Z", 1)]
    typed = run_kql(connection, "T | summarize Rows = count() by Bin = bin(Timestamp, 1h) | sort by Bin asc")
    assert typed.columns == [("Bin", "datetime"), ("Rows", "long")]
    assert typed.rows == expected
    raw = rows(
        connection,
        """['TRaw'] | extend Bin = todatetime(Records["Timestamp"])
        | where Bin >= datetime(2026-11-20T00:00:00.000000Z) and Bin < datetime(2026-11-21T00:00:00.000000Z)
        | summarize Rows = count() by Bin = bin(Bin, 1h) | sort by Bin asc""",
    )
    assert raw == expected


def test_getschema_names_kusto_types(connection):
    answer = run_kql(connection, "['T'] | getschema")
    assert [name for name, _ in answer.columns] == ["ColumnName", "ColumnOrdinal", "DataType", "ColumnType"]
    assert answer.rows == [
        ("Timestamp", 0, "System.DateTime", "datetime"),
        ("A", 1, "System.Object", "dynamic"),
        ("B", 2, "System.SByte", "bool"),
        ("G", 3, "System.Guid", "guid"),
        ("S", 4, "System.String", "string"),
        ("N", 5, "System.Int64", "long"),
        ("I", 6, "System.Int32", "int"),
        ("R", 7, "System.Double", "real"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("T | count", [(3,)]),
        ("T | where N > 1 | project N, G", [(9007199254740993, None)]),
        ("T | where isnull(N) | project A = tostring(A), B, S", [("[1,2]", None, "")]),
        ("T | extend V = tolong(Records) | count", None),
        ("TRaw | where tolong(Records.N) == 9007199254740993 | count", [(1,)]),
        ("T | distinct S | sort by S asc", [("",), ("a",), ("b",)]),
        ("T | top 1 by Timestamp desc | project S", [("b",)]),
        ("T | take 2 | count", [(2,)]),
        ("T | union T | count", [(6,)]),
        ("T | join kind=inner (T | project S, M = N) on S | where S == 'a' | project M", [(1,)]),
        ("T | summarize arg_max(Timestamp, *) by I | project S | sort by S asc", [("",), ("a",), ("b",)]),
        ("T | where S == '' | mv-expand A to typeof(long) | project A", [(1,), (2,)]),
        ("T | project-away A, B, G, R, I, Timestamp | where N == 1", [("a", 1)]),
        ("let floor = 1; T | where N > floor | count", [(1,)]),
        ("T | where S == 'a' | project A.a, A['a']", [("1", "1")]),
        (
            "print 26h, -3ms, guid(74be27de-1e4e-49d9-b579-fe0b331d3642)",
            [("1.02:00:00", "-00:00:00.0030000", "74be27de-1e4e-49d9-b579-fe0b331d3642")],
        ),
    ],
)
def test_operators_of_hunting_queries_run(connection, text, expected):
    if expected is None:
        with pytest.raises(KqlFailure, match=r"'extend' operator: Failed to resolve .* named 'Records'"):
            rows(connection, text)
    else:
        assert rows(connection, text) == expected


def test_query_parameters_are_values_and_stored_functions_are_called(connection):
    text = "declare query_parameters(who:string); Named(who) | project S"
    functions = (".create-or-alter function with (folder='x') Named(x:string) { T | where S == x }",)
    assert rows(connection, text, functions=functions, parameters={"who": "a"}) == [("a",)]
    assert rows(connection, text, functions=functions, parameters={"who": "a' or 1 == 1"}) == []
    with pytest.raises(KqlFailure, match="'who' is declared without a value"):
        rows(connection, text, functions=functions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X | where A == 1 | count", "'where' operator: Failed to resolve table or column expression named 'X'. "),
        ("['X'] | count", "'count' operator: Failed to resolve table or column expression named 'X'. "),
        ("t | count", "'count' operator: Failed to resolve table or column expression named 't'. "),
        ("T | where Nope == 'Nope'", "'where' operator: Failed to resolve column or scalar expression named 'Nope'. "),
        ("T | take 1 | project s", "'project' operator: Failed to resolve column or scalar expression named 's'. "),
        ("Nowhere(7) | count", "Unknown function: 'Nowhere'. "),
    ],
)
def test_an_unresolved_name_gets_kustos_words(connection, text, message):
    with pytest.raises(KqlFailure) as failure:
        rows(connection, text)
    assert str(failure.value) == message + "Fix semantic errors in your query."


def test_a_syntax_error_names_its_place(connection):
    with pytest.raises(KqlFailure, match=r"could not be parsed at '\|' on line \[1,2\]"):
        rows(connection, "T | whre S == 1")


def test_a_management_command_is_no_query(connection):
    for command in (".set-or-replace T <| print a = 1", " .show tables"):
        with pytest.raises(KqlFailure, match="could not be parsed"):
            rows(connection, command)
    assert rows(connection, "T | count") == [(3,)]


def test_statements_run_at_once_on_cursors_of_one_connection(connection):
    def count(number):
        with connection.cursor() as cursor:
            return rows(cursor, f"T | where N == {number} | count")[0][0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(count, [1, 2] * 40)) == [1, 0] * 40
