"""Stored functions and materialized views as names that a query can read.

Here: a function without parameters and a materialized view become DuckDB views when a query first names them; the
others are handed to the translator. Not here: storing them (`adx_store`) or running queries (`engine`).
"""

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

import duckdb

from defender_adx_pipeline.local.adx_expand import Expansion, expansion
from defender_adx_pipeline.local.adx_schema import (
    EXTENT_ID,
    EXTENT_TAGS,
    INGESTION_TIME,
    LEVELS,
    Level,
    quoted,
)
from defender_adx_pipeline.local.adx_store import AdxStore
from defender_adx_pipeline.local.commands_text import outside_literals
from defender_adx_pipeline.local.kql import Schema, read_schema, translate

_CALLS = {
    "ingestion_time": INGESTION_TIME,
    "extent_tags": EXTENT_TAGS,
    "extent_id": EXTENT_ID,
}
_CALL = re.compile(rf"\b({'|'.join(_CALLS)})\s*\(\s*\)")
_TABLE_CALL = re.compile(r"\b(?:table|materialized_view)\s*\(\s*(?:'([^'\\]*)'|\"([^\"\\]*)\")\s*\)")
_LEVEL_ORDER: tuple[Level, ...] = ("plain", "timed", "tagged")
_NAME = r"(?<![\w.])(?:{name}|\[\s*(?:'{name}'|\"{name}\")\s*\])(?!\w)(?:\s*\(\s*\))?"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A query made ready: its text with the engine-only functions replaced, and what it needs to run."""

    text: str
    level: Level
    functions: tuple[str, ...]
    reads: tuple[object, ...] = ()
    """What its columns follow from besides its own text: tables with their columns, and the same of its views."""


@dataclass(slots=True)
class Views:
    """Keeps the DuckDB views of stored functions in step with the database."""

    store: AdxStore
    _made: dict[str, Prepared] = field(init=False, default_factory=dict)
    _definitions: tuple[int, list[tuple[str, str, str]]] = field(init=False, default=(-1, []))
    _published: int = field(init=False, default=0)
    _schemas: dict[Level, tuple[tuple[int, int], Schema]] = field(init=False, default_factory=dict)

    def prepare(self, text: str) -> Prepared:
        """Rewrite a query and make sure that every stored name in it can be read.

        `table("T")` becomes the name; `ingestion_time()`, `extent_tags()` and `extent_id()` become the hidden columns
        of the tables; a call without arguments of a stored function becomes the name of its view.

        Raises:
            KqlFailure: a stored function that the query needs does not translate.
        """
        return self._prepare(text, ())

    def check(self, name: str) -> None:
        """Make sure that a stored function without parameters, or a view, can be read.

        One that only takes fields out of records needs no translator, and its view can wait until somebody reads it.

        Raises:
            KqlFailure: it does not translate.
        """
        body = next(body for known, _, body in self._stored() if known == name)
        if self._expansion(body) is None:
            self.prepare(f"['{name}']")

    def schema(self, cursor: duckdb.DuckDBPyConnection, level: Level) -> Schema:
        """What `read_schema` says of a level, read again when a table or view has changed.

        With all typed tables in the database, reading it takes longer than a small query.
        """
        version = (self.store.version, self._published)
        known = self._schemas.get(level)
        if known is None or known[0] != version:
            known = self._schemas[level] = (version, read_schema(cursor))
        return known[1]

    def _publish(self, level: Level, name: str, select: str) -> None:
        self.store.publish_view(level, name, select)
        # Only now: who read before must read again.
        self._published += 1

    def _prepare(self, text: str, within: tuple[str, ...]) -> Prepared:
        text = _TABLE_CALL.sub(lambda match: f'["{match[1] or match[2]}"]', text)
        # What the bodies of called functions call in turn comes before them, each once.
        signatures: dict[str, None] = {}
        levels: list[Level] = []
        tables = self.store.tables()
        reads: list[object] = [table.columns for name, table in tables.items() if name in text]
        for name, parameters, body in self._stored():
            if name in within or name not in text or name in tables:
                continue
            if parameters:
                if not _places(name, text):
                    continue
                inner = self._prepare(body, (*within, name))
                signatures.update(dict.fromkeys(inner.functions))
                signatures[f"function {name}({parameters}) {{ {inner.text} }}"] = None
                levels.append(inner.level)
                reads.append(inner.reads)
                continue
            if _places(name, text):
                reads.append(self._ensure(name, body, (*within, name)))
                text = _as_name(name, text) if _is_called(name, text) else text
        level = max(_level(text), *levels, key=_LEVEL_ORDER.index) if levels else _level(text)
        return Prepared(_replace_calls(text), level, tuple(signatures), tuple(reads))

    def _stored(self) -> list[tuple[str, str, str]]:
        """Name, parameters and body of every stored function and view."""
        version, known = self._definitions
        if version == self.store.version:
            return known
        version = self.store.version
        found = [
            (name, str(document["parameters"]), str(document["body"]))
            for _, name, document in self.store.documents("function")
        ]
        found += [(name, "", str(document["body"])) for _, name, document in self.store.documents("view")]
        self._definitions = (version, found)
        return found

    def _ensure(self, name: str, body: str, within: tuple[str, ...]) -> Prepared:
        if expanded := self._expand(name, body):
            return expanded
        prepared = self._prepare(body, within)
        if self._made.get(name) == prepared:
            return prepared
        with closing(self.store.cursor(prepared.level)) as cursor:
            schema = self.schema(cursor, prepared.level)
            translated = translate(cursor, prepared.text, functions=prepared.functions, schema=schema)
            sources = {level: prepared.level if level != "delta" else level for level in LEVELS}
            selects = {level: qualified(cursor, translated.sql, source) for level, source in sources.items()}
        columns = [column for column, _ in translated.columns]
        shown = [quoted(columns[place]) for place in visible(columns, prepared.level)]
        for level, select in selects.items():
            self._publish(level, name, f"SELECT {', '.join(shown)} FROM ({select})")  # noqa: S608 - quoted
        self._made[name] = prepared
        return prepared

    def _expand(self, name: str, body: str) -> Prepared | None:
        """The view of a function that only takes fields out of records, without the translator.

        Its rows are those of the table one by one, so that they keep their ingestion time where a query asks for it.
        """
        found = self._expansion(body)
        if found is None:
            return None
        table = self.store.table(found.source)
        prepared = Prepared(body, "plain", (), (table.columns,))
        if self._made.get(name) != prepared:
            for level in LEVELS:
                self._publish(level, name, found.select(f"{level}.main.{quoted(table.name)}", LEVELS[level]))
            self._made[name] = prepared
        return prepared

    def _expansion(self, body: str) -> Expansion | None:
        found = expansion(body)
        table = self.store.tables().get(found.source) if found else None
        return found if found and table and (found.bag, "dynamic") in table.columns else None


def visible(columns: Sequence[str], level: Level) -> list[int]:
    """Places of the result columns that a client sees.

    The hidden columns of a table are left out where they came along with all its other columns; a query that projects
    `ingestion_time()` alone keeps it.
    """
    bare = [column.rstrip("0123456789") for column in columns]
    if not set(LEVELS[level]).issubset(bare):
        return list(range(len(columns)))
    return [place for place, column in enumerate(bare) if column not in LEVELS[level]]


def qualified(cursor: duckdb.DuckDBPyConnection, sql: str, level: Level) -> str:
    """SQL whose table names say which catalog they mean, so that it reads the same from every cursor."""
    names = cursor.execute(
        "SELECT view_name FROM duckdb_views() WHERE database_name = current_database() AND NOT internal"
    ).fetchall()
    known = {quoted(name) for (name,) in names}
    return re.sub(
        r'\b(FROM|JOIN) ("(?:[^"]|"")*")',
        lambda match: f"{match[1]} {level}.main.{match[2]}" if match[2] in known else match[0],
        sql,
    )


def _places(name: str, text: str) -> list[re.Match[str]]:
    """Where a query names something: an audit row may quote a name, and means nothing by it."""
    blanked = outside_literals(text)
    found = re.finditer(_NAME.format(name=re.escape(name)), text)
    return [match for match in found if blanked[match.start()] == text[match.start()]]


def _as_name(name: str, text: str) -> str:
    """The query with every call of a function without parameters as the name of its view."""
    out, end = [], 0
    for match in _places(name, text):
        out += [text[end : match.start()], f'["{name}"]']
        end = match.end()
    return "".join((*out, text[end:]))


def _is_called(name: str, text: str) -> bool:
    return re.search(rf"{re.escape(name)}['\"]?\s*\]?\s*\(\s*\)", text) is not None


def _level(text: str) -> Level:
    called = {match[1] for match in _CALL.finditer(outside_literals(text))}
    if "extent_tags" in called:
        return "tagged"
    return "timed" if called else "plain"


def _replace_calls(text: str) -> str:
    blanked = outside_literals(text)
    out, end = [], 0
    for match in _CALL.finditer(blanked):
        out += [text[end : match.start()], _CALLS[match[1]]]
        end = match.end()
    return "".join((*out, text[end:]))
