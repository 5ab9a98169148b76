"""The command `.update table`: rows deleted and appended at once (".update table command" in the Kusto docs).

Here: its text, its limits and its answer. Not here: the transaction (`adx_replace`).

Kept of the service: at most 5 million deleted records; a delete predicate over the table itself with at least one
`where`; the append's columns match by position and type; update policies of which the table is the source are set off;
the property `whatif`. There is no property for tags or creation time. The service takes more operators in the delete
predicate than this stand-in (`project`, `join`, `lookup`), and rows by `move` of extents.
"""

import re
from contextlib import closing
from typing import Any

import duckdb

from defender_adx_pipeline.local import loading
from defender_adx_pipeline.local.adx_replace import ROW, TooManyDeletesError, replace_rows
from defender_adx_pipeline.local.adx_schema import EXTENT_ID, Level, quoted
from defender_adx_pipeline.local.adx_updates import UpdatePolicyError
from defender_adx_pipeline.local.adx_views import Prepared, visible
from defender_adx_pipeline.local.commands_context import Context
from defender_adx_pipeline.local.commands_ingest import NO_EXTENT, check_columns_match
from defender_adx_pipeline.local.commands_text import Reader, outside_literals
from defender_adx_pipeline.local.engine import as_fault
from defender_adx_pipeline.local.frames import KustoFault, Table
from defender_adx_pipeline.local.kql import KqlFailure, read_schema, translate

MOST_DELETES = 5_000_000
"""Records that one command may delete."""

RESULT_COLUMNS = (("Table", "string"), ("Action", "string"), ("ExtentId", "guid"), ("RowCount", "long"))
_PROPERTIES = frozenset({"whatif", "distributed"})
_OPERATOR = re.compile(r"\|\s*([a-z][a-z-]*)")
_LET = re.compile(r"\s*let\s+(?P<name>\w+)\s*=\s*(?P<body>.*\S)\s*", re.DOTALL)


def update(context: Context, reader: Reader) -> Table:
    """`.update table T delete D append A [with (...)] <| let D = ...; let A = ...;`."""
    reader.take("async")
    reader.need("table")
    table = context.store.table(reader.name()).name
    reader.need("delete")
    delete = reader.name()
    reader.need("append")
    append = reader.name()
    properties = reader.properties()
    if unknown := sorted(properties.keys() - _PROPERTIES):
        raise KustoFault(f"The property '{unknown[0]}' is not supported by '.update table'.", code="BadRequest")
    if not reader.text.startswith("<|", reader.at):
        reader.fail("'<|' and two let statements")
    queries = _queries(reader.rest()[2:], table, delete, append)
    try:
        # Before the table is held: making a view ready takes the lock of the whole store.
        deleted = context.views.prepare(queries[0])
        changes = replace_rows(
            context.store,
            table,
            delete=lambda cursor: _deleted(cursor, table, deleted),
            append=_appended(context, table, queries[1]),
            most=MOST_DELETES,
            dry=properties.get("whatif", "").lower() == "true",
        )
    except TooManyDeletesError as error:
        raise KustoFault(f"The update was refused: {error}.", code="BadRequest_TooManyRecords") from error
    except UpdatePolicyError as error:
        raise loading.as_fault(loading.IngestionError(error.code, error.details)) from error
    except KqlFailure as failure:
        raise as_fault(failure) from failure
    return Table(RESULT_COLUMNS, [(table, one.action, one.extent_id or NO_EXTENT, one.rows) for one in changes])


def _queries(text: str, table: str, delete: str, append: str) -> tuple[str, str]:
    """The delete and the append query, each with the other let statements before it."""
    lets: dict[str, str] = {}
    for statement in _statements(text):
        match = _LET.fullmatch(statement)
        if match is None:
            raise KustoFault("'.update table' takes let statements only.", code="Syntax")
        lets[match["name"]] = match["body"]
    for name in (delete, append):
        if name not in lets:
            raise KustoFault(f"'.update table': there is no let statement of the name '{name}'.", code="Syntax")
    _check_predicate(lets[delete], table)
    before = "".join(f"let {name} = {body};\n" for name, body in lets.items() if name not in (delete, append))
    return before + lets[delete], before + lets[append]


def _statements(text: str) -> list[str]:
    blanked = outside_literals(text)
    ends = [match.start() for match in re.finditer(";", blanked)]
    starts = [0, *(end + 1 for end in ends)]
    parts = [text[start:end] for start, end in zip(starts, [*ends, len(text)], strict=True)]
    return [part for part in parts if outside_literals(part).strip()]


def _check_predicate(predicate: str, table: str) -> None:
    operators = _OPERATOR.findall(outside_literals(predicate))
    if Reader(predicate).name() != table:
        raise KustoFault(f"The delete predicate must read the table '{table}' itself.", code="BadRequest")
    if "where" not in operators:
        raise KustoFault("The delete predicate must have at least one 'where' operator.", code="BadRequest")
    if strange := sorted(set(operators) - {"where", "extend"}):
        raise KustoFault(f"This stand-in does not run '{strange[0]}' in a delete predicate.", code="BadRequest")


def _deleted(cursor: duckdb.DuckDBPyConnection, table: str, prepared: Prepared) -> tuple[str, Any]:
    schema = read_schema(cursor)
    columns = {**schema, table: [*schema[table], EXTENT_ID, ROW]}
    text = f"{prepared.text}\n| project {ROW}, {EXTENT_ID}"
    translation = translate(cursor, text, functions=prepared.functions, schema=columns)
    return translation.sql, translation.parameters or None


def _appended(context: Context, table: str, query: str) -> tuple[str, Any, Level]:
    prepared = context.views.prepare(query)
    with closing(context.store.cursor(prepared.level)) as cursor:
        translation = translate(cursor, prepared.text, functions=prepared.functions)
    places = visible([name for name, _ in translation.columns], prepared.level)
    shown = [translation.columns[place] for place in places]
    check_columns_match(context.store.table(table), shown)
    sql = f"SELECT {', '.join(quoted(name) for name, _ in shown)} FROM ({translation.sql})"  # noqa: S608 - quoted
    return sql, translation.parameters or None, prepared.level
