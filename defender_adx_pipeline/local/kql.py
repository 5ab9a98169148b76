"""KQL text run on a DuckDB connection, with Kusto's value forms and Kusto's error wording.

Here: what the Defender side and the Kusto side of the local tenant share, around duckdb-kql: name resolution with
KQL's case-sensitivity, seven-digit datetimes, values as Kusto prints them. Not here: limits and envelopes (`hunting`,
`engine`), and functions that only Kusto's engine has (`ingestion_time()`, `extent_tags()`).
"""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import duckdb
import duckdb_kql
from duckdb_kql.errors import KqlError, KqlSchemaError, KqlSyntaxError, KqlUnsupportedError
from duckdb_kql.stored_functions import parse_functions
from duckdb_kql.types import kusto_type

from defender_adx_pipeline.local.kql_functions import add_functions
from defender_adx_pipeline.local.kql_serialize import NotSerializedError, plain_serialize

Schema = dict[str, list[str]]

add_functions()

# ANTLR's parser shares caches between instances that were not written for threads; parsing holds the GIL anyway.
_TRANSLATING = threading.Lock()
_EVERY_TABLE = re.compile(r"\bunion\b[^|]*\*|\b(?:find|search)\b")
"""What reads tables that it does not name."""

_SQL_STRING = re.compile(r"'(?:[^']|'')*'")
_SQL_NAME = re.compile(r'"((?:[^"]|"")*)"')
_SQL_SOURCE = re.compile(r'\b(?:FROM|JOIN) "((?:[^"]|"")*)"')
_MISSING_TABLE = re.compile(r"Table with name \"?(?P<name>.+?)\"? does not exist")
_MISSING_COLUMN = re.compile(
    r'(?:Referenced c|C)olumn "(?P<name>[^"]+)" (?:in EXCLUDE list )?(?:not found|referenced that exists)'
)
_UNKNOWN_FUNCTION = re.compile(r"'function:(?P<name>\w+)'(?s:.*)no stored function by that name")
_KQL_OPERATOR = re.compile(r"\|\s*([a-z][a-z-]*)")
_KQL_TEXT = re.compile(r"(?s)//[^\n]*|h?@?(\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')")
_ESCAPE = re.compile(r"(?s)\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|.)")
_CONTROL = {"\\a": "\a", "\\b": "\b", "\\f": "\f", "\\v": "\v"}
_KEPT_ESCAPED = {'"': '\\"', "'": "\\'", "\\": "\\\\", "\n": "\\n", "\r": "\\r"}
# How duckdb-kql prints a datetime; it knows TIMESTAMP only, which ends at six digits.
_DATETIME_TEXT = re.compile(
    r"WHEN 'TIMESTAMP' THEN (?P<call>\(strftime|to_json\(\(strftime)\(CAST\((?P<value>(?:(?!WHEN 'TIMESTAMP').)+?)"
    r" AS TIMESTAMP\), '%Y-%m-%dT%H:%M:%S\.%f'\) \|\| '0Z'\)",
    re.DOTALL,
)


class KqlFailure(Exception):  # noqa: N818 - the other half of KqlResult, not a bug of this program
    """A statement that Kusto would refuse; the text is what the service says."""


@dataclass(frozen=True, slots=True)
class KqlResult:
    """One tabular answer.

    Values are as Kusto prints them: datetime as ISO text ending in Z with as many of its seven fractional digits as it
    needs, dynamic as JSON text, guid, decimal and timespan as text, bool, long, int and real as Python values; None is
    null.
    """

    columns: list[tuple[str, str]]
    """Name and KQL type, in order."""
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Translation:
    """A statement as SQL for one connection, not yet run."""

    text: str
    sql: str
    parameters: dict[str, Any]
    columns: list[tuple[str, str]]
    """Name and KQL type, in order."""


def run_kql(
    connection: duckdb.DuckDBPyConnection,
    text: str,
    *,
    functions: Sequence[str] = (),
    parameters: Mapping[str, str | int] | None = None,
    schema: Schema | None = None,
) -> KqlResult:
    """Run one KQL query. Use one cursor per thread; session variables of the cursor are seen by its views.

    Args:
        connection: a connection or cursor; its `main` schema is the database.
        text: the query; `declare query_parameters(...)` included where it has parameters.
        functions: stored functions, each as `function Name(args) { body }` (`.create-or-alter` in front is accepted).
        parameters: values of declared query parameters by name.
        schema: what `read_schema` would say, for a caller who knows it; reading takes a third of a small query's time.

    Raises:
        KqlFailure: the statement does not parse, resolve or run.
    """
    translation = translate(connection, text, functions=functions, parameters=parameters, schema=schema)
    kinds = [kind for _, kind in translation.columns]
    names = [f"c{number}" for number in range(len(kinds))]
    values = ", ".join(f"{value_sql(name, kind)} AS {name}" for name, kind in zip(names, kinds, strict=True))
    sql = f"SELECT {values} FROM ({translation.sql}) AS answer({', '.join(names)})"  # noqa: S608 - own names
    return KqlResult(translation.columns, execute(connection, translation, sql).fetchall())


def translate(
    connection: duckdb.DuckDBPyConnection,
    text: str,
    *,
    functions: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    schema: Schema | None = None,
) -> Translation:
    """Translate and bind one KQL query without running it; arguments as for `run_kql`.

    Raises:
        KqlFailure: the statement does not parse or resolve.
    """
    if text.lstrip().startswith("."):  # a management command, which has an endpoint of its own
        raise KqlFailure("Query could not be parsed at '.' on line [1,0]. Fix syntax errors in your query.")
    connection.execute("SET TimeZone='UTC'")
    schema = read_schema(connection) if schema is None else schema
    try:
        with _TRANSLATING:
            if parameters:
                translated = _to_sql(text, tuple(functions), schema, dict(parameters))
            else:
                translated = _to_sql_again(text, tuple(functions), _named(schema, text, functions))
    except KqlSyntaxError as error:
        raise KqlFailure(_syntax_message(text, error)) from error
    except KqlSchemaError as error:
        raise KqlFailure(_schema_message(text, error)) from error
    except NotSerializedError as error:
        raise KqlFailure(f"Semantic error: {error} {_FIX}") from error
    except (KqlUnsupportedError, KqlError, AssertionError) as error:
        if unknown := _UNKNOWN_FUNCTION.search(str(error)):
            raise KqlFailure(f"Unknown function: '{unknown['name']}'. {_FIX}") from error
        # The translator asserts where a let function takes a table (duckdb-kql 1.1.2), without a word.
        reason = str(error) or "the translator gave up"
        raise KqlFailure(f"Query could not be run by this stand-in: {reason}") from error
    if translated.unbound:
        raise KqlFailure(f"Query parameter {translated.unbound[0]!r} is declared without a value. {_FIX}")
    sql = _seven_digits(str(translated))
    _check_case(text, sql, schema)
    unbound = Translation(text, sql, dict(translated.parameters), [])
    bound = execute(connection, unbound, f"SELECT * FROM ({sql}) LIMIT 0")  # noqa: S608 - the translator's SQL
    columns = [(column[0], kusto_type(column[1])) for column in bound.description or ()]
    return Translation(text, sql, unbound.parameters, columns)


def execute(connection: duckdb.DuckDBPyConnection, translation: Translation, sql: str) -> duckdb.DuckDBPyConnection:
    """Run SQL that was built around a translation, with Kusto's words for what goes wrong.

    Raises:
        KqlFailure: a name does not resolve, or a value cannot be computed.
    """
    try:
        return connection.execute(sql, translation.parameters or None)
    except (duckdb.CatalogException, duckdb.BinderException) as error:
        raise KqlFailure(_binding_message(translation.text, str(error))) from error
    except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException) as error:
        raise KqlFailure(f"Query execution failed: {_first_line(error)}") from error


def value_sql(expression: str, kind: str) -> str:
    """SQL that turns a value of a KQL type into the form that `KqlResult` promises."""
    if kind == "datetime":
        return datetime_sql(expression)
    if kind == "timespan":
        return _timespan_sql(expression)
    if kind in ("dynamic", "guid", "decimal"):
        return f"CAST({expression} AS VARCHAR)"
    return expression


def datetime_sql(expression: str) -> str:
    """SQL for a timestamp as ISO text: `2026-08-01T01:02:03.1234567Z`, without trailing zeros in the fraction."""
    return f"(replace(CAST({expression} AS VARCHAR), ' ', 'T') || 'Z')"


def read_schema(connection: duckdb.DuckDBPyConnection) -> Schema:
    """Column names of every table and view of the database, in order."""
    rows = connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns()"
        " WHERE database_name = current_database() AND schema_name = 'main' AND NOT internal"
        " ORDER BY table_name, column_index"
    ).fetchall()
    schema: Schema = {}
    for table, column in rows:
        schema.setdefault(table, []).append(column)
    return schema


def _plain_escapes(text: str) -> str:
    r"""The query with \a \b \f \v \x \u \U of its string literals carried out, which duckdb-kql reads as letters."""

    def character(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        if code is None:
            return _CONTROL.get(match[0], match[0])
        return _KEPT_ESCAPED.get(chr(int(code, 16)), chr(int(code, 16)))

    def literal(match: re.Match[str]) -> str:
        verbatim = match[0].lstrip("h").startswith("@")
        return match[0] if match[1] is None or verbatim else _ESCAPE.sub(character, match[0])

    return _KQL_TEXT.sub(literal, text) if "\\" in text else text


def _to_sql(text: str, functions: tuple[str, ...], schema: Schema, parameters: dict[str, Any] | None = None) -> Any:
    return duckdb_kql.to_sql(
        plain_serialize(_plain_escapes(text)),
        schema=schema,
        parameters=parameters,
        allow_write=False,
        functions=_stored_functions(functions),
    )


@lru_cache(maxsize=512)
def _to_sql_again(text: str, functions: tuple[str, ...], schema: tuple[tuple[str, tuple[str, ...]], ...]) -> Any:
    """The same for a query without parameters: views are translated anew in every database, and parsing is slow."""
    return _to_sql(text, functions, {table: list(columns) for table, columns in schema})


@lru_cache(maxsize=128)
def _stored_functions(functions: tuple[str, ...]) -> Any:
    return parse_functions(list(functions)) if functions else None


def _timespan_sql(value: str) -> str:
    # [-][d.]hh:mm:ss[.fffffff], the constant format "c" of .NET that Kusto uses.
    micros = f"abs(epoch_us({value}))"
    days = f"CASE WHEN {micros} >= 86400000000 THEN ({micros} // 86400000000) || '.' ELSE '' END"
    clock = " || ':' || ".join(
        f"lpad(CAST({part} AS VARCHAR), 2, '0')"
        for part in (f"{micros} // 3600000000 % 24", f"{micros} // 60000000 % 60", f"{micros} // 1000000 % 60")
    )
    rest = (
        f"CASE WHEN {micros} % 1000000 = 0 THEN ''"
        f" ELSE '.' || lpad(CAST({micros} % 1000000 AS VARCHAR), 6, '0') || '0' END"
    )
    return f"(CASE WHEN epoch_us({value}) < 0 THEN '-' ELSE '' END || {days} || {clock} || {rest})"


def _seven_digits(sql: str) -> str:
    """Teach the translator's `tostring` the nanosecond timestamps that hold the seventh digit."""

    def both(match: re.Match[str]) -> str:
        value, call = match["value"], match["call"]
        if value.count("(") != value.count(")"):
            return match[0]
        longer = f"WHEN 'TIMESTAMP_NS' THEN {call}(CAST({value} AS TIMESTAMP_NS), '%Y-%m-%dT%H:%M:%S.%n')[:-3] || 'Z')"
        closing = ") " if call.startswith("to_json") else " "
        return f"{longer}{closing}{match[0]}"

    return _DATETIME_TEXT.sub(both, sql)


def _check_case(text: str, sql: str, schema: Schema) -> None:
    """KQL names are case-sensitive and DuckDB's are not: refuse what only DuckDB would resolve."""
    bare = _SQL_STRING.sub("''", sql)
    tables = {table.casefold(): table for table in schema}
    columns: dict[str, set[str]] = {}
    for name in set(_SQL_SOURCE.findall(bare)):
        if name in schema:
            for column in schema[name]:
                columns.setdefault(column.casefold(), set()).add(column)
        elif name.casefold() in tables and f'"{name}" AS' not in bare:
            raise KqlFailure(_unresolved(text, name, "table or column expression"))
    for match in _SQL_NAME.finditer(bare):
        name = match[1]
        spellings = columns.get(name.casefold())
        if spellings is None or name in spellings or name in schema:
            continue
        if not bare.endswith("AS ", 0, match.start()):
            raise KqlFailure(_unresolved(text, name, "column or scalar expression"))
        spellings.add(name)  # a step of the query defined it; later steps may read it


_FIX = "Fix semantic errors in your query."


def _unresolved(text: str, name: str, what: str) -> str:
    return f"'{_operator_of(text, name)}' operator: Failed to resolve {what} named '{name}'. {_FIX}"


def _operator_of(text: str, name: str) -> str:
    """The operator that first touches a name: the pipe it stands in, or the first pipe after a source."""
    blanked = _KQL_TEXT.sub(lambda match: match[0] if _is_name(match[0], name) else " " * len(match[0]), text)
    place = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", blanked)
    operators = list(_KQL_OPERATOR.finditer(blanked))
    if place is None or not operators:
        return ""
    before = [operator for operator in operators if operator.start() < place.start()]
    return before[-1][1] if before else operators[0][1]


def _is_name(literal: str, name: str) -> bool:
    return literal[1:-1] == name  # ['name'] is a name in quotes


def _schema_message(text: str, error: KqlSchemaError) -> str:
    if error.hint and error.hint.startswith(("unknown table", "this query needs the table")):
        return _unresolved(text, error.name, "table or column expression")
    return f"Semantic error: {error.name}: {error.hint}. {_FIX}"


def _binding_message(text: str, message: str) -> str:
    table = _MISSING_TABLE.search(message)
    if table:
        return _unresolved(text, table["name"], "table or column expression")
    column = _MISSING_COLUMN.search(message)
    if column:
        return _unresolved(text, column["name"], "column or scalar expression")
    return f"Semantic error: {message.splitlines()[0]} {_FIX}"


def _named(schema: Schema, text: str, functions: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The tables whose names occur: what the SQL follows from, so that another database gives the same."""
    said = "\n".join((text, *functions)).casefold()
    every = _EVERY_TABLE.search(said) is not None
    return tuple((table, tuple(columns)) for table, columns in schema.items() if every or table.casefold() in said)


def _syntax_message(text: str, error: KqlSyntaxError) -> str:
    if not error.diagnostics:
        return f"Syntax Error: {error}. Fix syntax errors in your query."
    place = error.diagnostics[0].span
    lines = text.splitlines() or [""]
    line = lines[min(place.line, len(lines)) - 1]
    token = line[place.column : place.column + 1] or "<end>"
    return (
        f"Query could not be parsed at '{token}' on line [{place.line},{place.column}]."
        f" Token: '{token}'. Line: {place.line}. Position: {place.column}. Fix syntax errors in your query."
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
