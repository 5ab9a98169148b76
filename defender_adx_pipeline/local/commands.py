"""Management commands: which command a text is, and running it.

Here: the dispatch, scripts and the pipe into a query. Not here: the commands themselves (`commands_schema`,
`commands_policy`, `commands_access`, `commands_show`, `commands_ingest`, `commands_update`) and the tokens of texts
(`commands_text`).
"""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import duckdb
import orjson

from defender_adx_pipeline.local import (
    commands_access,
    commands_ingest,
    commands_policy,
    commands_schema,
    commands_show,
    commands_update,
)
from defender_adx_pipeline.local.adx_schema import DUCKDB_TYPES
from defender_adx_pipeline.local.adx_store import AdxStore
from defender_adx_pipeline.local.commands_context import Context
from defender_adx_pipeline.local.commands_text import Reader, outside_literals, split_pipe
from defender_adx_pipeline.local.engine import QueryEngine, as_fault
from defender_adx_pipeline.local.frames import KustoFault, Table, encode_rows, syntax_error
from defender_adx_pipeline.local.kql import KqlFailure, run_kql

Handler = Callable[[Context, Reader], Table]

_VERBS: Mapping[str, Handler] = {
    "create": commands_schema.create,
    "create-merge": commands_schema.create_merge,
    "create-or-alter": commands_schema.create_or_alter,
    "alter": commands_policy.alter,
    "alter-merge": commands_schema.alter_merge,
    "delete": commands_policy.delete,
    "drop": commands_schema.drop,
    "clear": commands_schema.clear,
    "add": commands_access.add,
    "set": commands_ingest.set_,
    "append": commands_ingest.append,
    "set-or-append": commands_ingest.set_or_append,
    "set-or-replace": commands_ingest.set_or_replace,
    "ingest": commands_ingest.ingest,
    "update": commands_update.update,
}
_SCRIPT_COLUMNS = (
    ("OperationId", "guid"),
    ("CommandType", "string"),
    ("CommandText", "string"),
    ("Result", "string"),
    ("Reason", "string"),
)
_HAS_ANY = re.compile(
    r"\s*where\s+(?P<column>\w+)\s+has_any\s*\(\s*dynamic\s*\(\s*\[\s*"
    r"(?P<terms>(?:\"[0-9A-Za-z]+\"|'[0-9A-Za-z]+')(?:\s*,\s*(?:\"[0-9A-Za-z]+\"|'[0-9A-Za-z]+'))*)"
    r"\s*\]\s*\)\s*\)\s*(?:\|\s*project\s+(?P<shown>\w+)\s*)?",
    re.ASCII,
)
_WORDS = re.compile(r"[^\W_]+")
_COMMAND_START = re.compile(r"(?m)^[ \t]*\.(?=[a-z])")


class CommandRunner:
    """Runs management commands on the engine endpoint."""

    def __init__(self, store: AdxStore, engine: QueryEngine) -> None:
        self._store = store
        self._engine = engine

    def run(self, text: str, principal: str) -> Table:
        """Run one command.

        Args:
            text: the command; comments may stand before it.
            principal: who asks, `aadapp=<client id>;<tenant id>`.

        Raises:
            KustoFault: the command is unknown, does not parse, or cannot be done.
        """
        context = Context(self._store, self._engine, principal)
        reader = Reader(text)
        if not reader.take("."):
            raise syntax_error("A management command begins with a dot", text)
        verb = reader.word()
        if verb == "show":
            return self._show(context, reader)
        reader.any_word()
        if verb == "execute":
            return self._script(reader, principal)
        if verb not in _VERBS:
            raise syntax_error(f"The command '.{verb}' is not known to this endpoint", text)
        result = _VERBS[verb](context, reader)
        reader.end()
        return result

    def _show(self, context: Context, reader: Reader) -> Table:
        command, query = split_pipe(reader.rest())
        command_reader = Reader(command)
        command_reader.need("show")
        result = commands_show.show(context, command_reader)
        command_reader.end()
        if not query:
            return result
        quick = has_any_of_column(result, query)
        return pipe(result, query) if quick is None else quick

    def _script(self, reader: Reader, principal: str) -> Table:
        """`.execute database script [with (...)] <| commands`: one row per command, errors reported in their rows."""
        reader.need("database", "script")
        properties = reader.properties()
        reader.need("<|")
        rows: list[tuple[str, ...]] = []
        for command in split_script(reader.rest()):
            kind = " ".join(command.lstrip(".").split()[:2])
            try:
                self.run(command, principal)
            except KustoFault as fault:
                if properties.get("throwonerrors", "").lower() == "true":
                    raise
                rows.append((str(uuid.uuid4()), kind, command, "Failed", fault.description))
                if properties.get("continueonerrors", "").lower() != "true":
                    break
            else:
                rows.append((str(uuid.uuid4()), kind, command, "Completed", ""))
        return Table(_SCRIPT_COLUMNS, rows)


def split_script(text: str) -> list[str]:
    """The commands of a database script: each begins with a dot at the start of a line."""
    starts = [match.start() for match in _COMMAND_START.finditer(outside_literals(text))]
    ends = [*starts[1:], len(text)]
    return [text[start:end].strip() for start, end in zip(starts, ends, strict=False)]


def has_any_of_column(table: Table, query: str) -> Table | None:
    """`where C has_any (dynamic(["a", ...])) | project C` without the detour over SQL, or None for any other query.

    The detour compares every row with every term by a regular expression: seconds for some hundred of both. Here a term
    of letters and digits is looked up among the words of the value, which is what `has_any` means for such terms.
    """
    match = _HAS_ANY.fullmatch(query)
    names = [name for name, _ in table.columns]
    if not match or match["column"] not in names or (match["shown"] or match["column"]) not in names:
        return None
    terms = {term.strip().strip("\"'").lower() for term in match["terms"].split(",")}
    at, shown = names.index(match["column"]), match["shown"]
    rows = [row for row in table.rows if not terms.isdisjoint(_WORDS.findall(str(row[at]).lower()))]
    if shown is None:
        return Table(table.columns, rows)
    place = names.index(shown)
    return Table([table.columns[place]], [(row[place],) for row in rows])


def pipe(table: Table, query: str) -> Table:
    """A command's result run through query operators.

    Raises:
        KustoFault: the query does not parse or bind.
    """
    connection = duckdb.connect(":memory:")
    try:
        connection.execute("SET TimeZone='UTC'")
        _fill(connection, table)
        result = run_kql(connection, f"CommandResult | {query}")
    except KqlFailure as failure:
        raise as_fault(failure) from failure
    finally:
        connection.close()
    return Table(result.columns, result.rows)


def _fill(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """The rows as a DuckDB table, in one statement however many they are."""
    columns: Sequence[tuple[str, str]] = table.columns
    names = [f"c{number}" for number in range(len(columns))]
    shape = {name: "JSON" if kind == "dynamic" else "VARCHAR" for name, (_, kind) in zip(names, columns, strict=True)}
    rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in encode_rows(table)]
    casts = ", ".join(
        f'CAST(r.{name} AS {DUCKDB_TYPES[kind]}) AS "{column}"'
        for name, (column, kind) in zip(names, columns, strict=True)
    )
    connection.execute(
        f"CREATE TABLE CommandResult AS SELECT {casts}"  # noqa: S608 - names of result columns
        " FROM (SELECT unnest(from_json(CAST($1 AS JSON), $2)) AS r)",
        [orjson.dumps(rows).decode(), orjson.dumps([shape]).decode()],
    )
