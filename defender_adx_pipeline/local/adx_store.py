"""The Azure Data Explorer database of the local tenant, in one DuckDB file.

Here: tables with their hidden ingestion time and extent per row, and extents with tags. Rows enter through `load`, one
extent per call, in one transaction. Not here: every other entity (`adx_entities`), KQL (`engine`), management commands
(`commands*`), reading blobs (`worker`).
"""

import dataclasses
import json
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import duckdb

from defender_adx_pipeline.local.adx_entities import EntityStore, put_entity
from defender_adx_pipeline.local.adx_schema import (
    EXTENT_ID,
    EXTENT_TAGS,
    INGESTION_TIME,
    LEVELS,
    AlreadyIngestedError,
    Document,
    Extent,
    Level,
    StoredTable,
    check_columns,
    definition,
    missing_columns,
    quoted,
)
from defender_adx_pipeline.local.frames import entity_not_found
from defender_adx_pipeline.local.state import utcnow


class AfterLoad(Protocol):
    """What follows from new rows: update policies."""

    def targets(self, table: str) -> set[str]:
        """Tables that rows of `table` lead to."""
        ...

    def apply(self, cursor: duckdb.DuckDBPyConnection, extent: Extent) -> None:
        """Write what follows, in the same transaction."""
        ...


class AdxStore(EntityStore):
    """The database. Every method is thread-safe; writers take turns, readers see whole commits.

    Args:
        path: the DuckDB file; made when missing.
        database: name under which clients know it.
        clock: ingestion times come from it.
    """

    def __init__(self, path: Path, *, database: str = "defender", clock: Callable[[], datetime] = utcnow) -> None:
        super().__init__(path, clock)
        self.database = database
        self.after_load: AfterLoad | None = None
        """Runs in the transaction of every load; what it raises undoes the load."""
        self._table_locks: dict[str, threading.RLock] = {}
        # Asked for once; from here on `_tables` has them.
        self._tables = {name: _table(name, body) for _, name, body in self.documents("table")}
        for table in self._tables.values():
            self._publish(table)

    @contextmanager
    def writing(self, tables: Iterable[str]) -> Iterator[None]:
        """One writer per table at a time; in the order of names, so that two writers cannot wait for each other."""
        with ExitStack() as held:
            for name in sorted(set(tables)):
                held.enter_context(self._table_locks.setdefault(name, threading.RLock()))
            yield

    # Tables ------------------------------------------------------------------------------------------------------

    def tables(self) -> Mapping[str, StoredTable]:
        """All tables by name. Readers do not wait for a writer: the mapping is replaced, never changed."""
        return self._tables

    def table(self, name: str) -> StoredTable:
        """One table; names are case-sensitive.

        Raises:
            KustoFault: BadRequest_EntityNotFound.
        """
        if name not in self._tables:
            raise entity_not_found("Table", name, self.database)
        return self._tables[name]

    def create_table(
        self, name: str, columns: Sequence[tuple[str, str]], *, folder: str = "", docstring: str = "", merge: bool
    ) -> StoredTable:
        """`create_tables` for one."""
        return self.create_tables([(name, columns)], folder=folder, docstring=docstring, merge=merge)[0]

    def create_tables(
        self,
        wanted: Sequence[tuple[str, Sequence[tuple[str, str]]]],
        *,
        folder: str = "",
        docstring: str = "",
        merge: bool,
    ) -> list[StoredTable]:
        """Create tables, or add the columns that existing ones lack at their end (`merge`), or leave these as they are.

        All or none.

        Raises:
            KustoFault: a column exists with another type, or twice.
        """
        with self._lock:
            planned: dict[str, StoredTable] = {}
            for name, columns in wanted:
                check_columns(columns)
                old = planned.get(name, self._tables.get(name))
                if old is None:
                    planned[name] = StoredTable(name, tuple(columns), folder, docstring)
                elif not merge:
                    planned[name] = old
                else:
                    new = old.columns + missing_columns(old, columns)
                    planned[name] = StoredTable(name, new, folder or old.folder, docstring or old.docstring)
            changed = [table for table in planned.values() if table != self._tables.get(table.name)]
            if changed:
                self._save_tables(changed)
            return list(planned.values())

    def drop_table(self, name: str) -> None:
        """Forget a table with its data, extents and mappings."""
        with self._lock, self.writing([name]):
            self.table(name)
            with self.transaction() as cursor:
                cursor.execute(f"DROP TABLE adx.data.{quoted(name)}")
                cursor.execute("DELETE FROM adx.meta.extents WHERE table_name = ?", [name])
                cursor.execute(
                    "DELETE FROM adx.meta.entities WHERE (kind = 'table' AND name = $1)"
                    " OR (kind IN ('docstrings', 'mapping', 'policy') AND parent = $1)",
                    [name],
                )
            self._forget_of_table(name)
            for level in LEVELS:
                self._root.execute(f"DROP VIEW IF EXISTS {level}.main.{quoted(name)}")
            self._tables = {other: table for other, table in self._tables.items() if other != name}
            self.version += 1

    def row_count(self, name: str) -> int:
        """Rows of a table."""
        table = self.table(name)
        cursor = self.cursor()
        row = cursor.execute(f"SELECT count(*) FROM adx.data.{quoted(table.name)}").fetchone()  # noqa: S608 - quoted
        return int(row[0]) if row else 0

    def _save_tables(self, tables: Sequence[StoredTable]) -> None:
        with self.writing(table.name for table in tables), self.transaction() as cursor:
            for table in tables:
                old = self._tables.get(table.name)
                name = f"adx.data.{quoted(table.name)}"
                if old is None:
                    columns = [definition(column, kind) for column, kind in table.held]
                    columns += [f"{INGESTION_TIME} TIMESTAMP", f"{EXTENT_ID} VARCHAR"]
                    cursor.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
                else:
                    for column, kind in table.held[len(old.held) :]:
                        cursor.execute(f"ALTER TABLE {name} ADD COLUMN {definition(column, kind)}")
                body = {"columns": table.columns, "folder": table.folder, "docstring": table.docstring}
                put_entity(cursor, "table", "", table.name, body)
        for table in tables:
            self._publish(table)
        self._tables = dict(sorted({**self._tables, **{table.name: table for table in tables}}.items()))
        self.version += 1

    def _publish(self, table: StoredTable) -> None:
        """(Re)make the views under which queries know the table."""
        columns = ", ".join(f"t.{quoted(name)}" for name, _ in table.held)
        source = f"adx.data.{quoted(table.name)} AS t"
        joined = f"{source} LEFT JOIN adx.meta.extents AS e ON e.extent_id = t.{EXTENT_ID}"
        hidden = f"{columns}, t.{INGESTION_TIME}, t.{EXTENT_ID}"
        literal = "'" + table.name.replace("'", "''") + "'"
        tags = f"CAST(coalesce(e.tags, '[]') AS JSON) AS {EXTENT_TAGS}"
        bodies = {
            # Names are quoted, the rest is fixed.
            "plain": f"SELECT {columns} FROM {source}",  # noqa: S608
            "timed": f"SELECT {hidden} FROM {source}",  # noqa: S608
            "tagged": f"SELECT {hidden}, {tags} FROM {joined}",  # noqa: S608
            "delta": f"SELECT {hidden} FROM {source} WHERE getvariable('delta_table') IS DISTINCT FROM {literal}"  # noqa: S608
            f" OR t.{EXTENT_ID} = getvariable('delta_extent')",
        }
        for level, body in bodies.items():
            self._root.execute(f"CREATE OR REPLACE VIEW {level}.main.{quoted(table.name)} AS {body}")

    def publish_view(self, level: str, name: str, select: str) -> None:
        """Make a name readable at a level: a stored function or materialized view as SQL."""
        with self._lock:
            self._root.execute(f"CREATE OR REPLACE VIEW {level}.main.{quoted(name)} AS {select}")

    # Rows --------------------------------------------------------------------------------------------------------

    def load(
        self,
        table: str,
        select: str,
        parameters: Any = None,
        *,
        tags: Sequence[str] = (),
        size: int = 0,
        level: Level = "plain",
        replace: bool = False,
        columns: Sequence[str] | None = None,
        unless: Sequence[str] = (),
    ) -> Extent | None:
        """Append what a SQL query returns as one extent, or nothing at all.

        Args:
            table: destination.
            select: SQL whose columns are the table's, by position.
            parameters: bound to the SQL.
            tags: the extent's.
            size: bytes of the source before compression.
            level: which hidden columns the SQL may read.
            replace: drop what the table held in the same transaction.
            columns: names of the columns that `select` gives, when not all.
            unless: `ingestIfNotExists` values.

        Returns:
            The extent, or None when the query gave no row.

        Raises:
            AlreadyIngestedError: an extent of the table carries `ingest-by:` with one of `unless`.
        """
        after = self.after_load
        with self.writing({table, *(after.targets(table) if after else ())}), self.transaction() as cursor:
            if self.has_ingest_by(table, unless):
                raise AlreadyIngestedError(table, unless)
            if level != "plain":
                cursor.execute(f"USE {level}")
            if replace:
                # The query may read the table that it replaces.
                cursor.execute(f"CREATE OR REPLACE TEMP TABLE __replacement AS {select}", parameters)
                select, parameters = "SELECT * FROM temp.main.__replacement", None
                _empty(cursor, table)
            extent = self.insert_extent(cursor, table, select, parameters, tags=tags, size=size, columns=columns)
            if after and extent:
                after.apply(cursor, extent)
            return extent

    def insert_extent(
        self,
        cursor: duckdb.DuckDBPyConnection,
        table: str,
        select: str,
        parameters: Any = None,
        *,
        tags: Sequence[str] = (),
        size: int = 0,
        columns: Sequence[str] | None = None,
    ) -> Extent | None:
        """The insert of `load`, in a transaction whose owner holds the table."""
        names = ", ".join(quoted(name) for name in columns or [name for name, _ in self.table(table).held])
        created, extent_id = self.clock(), str(uuid.uuid4())
        stamp = f"TIMESTAMP '{created:%Y-%m-%d %H:%M:%S.%f}', '{extent_id}'"
        into = f"INSERT INTO adx.data.{quoted(table)} ({names}, {INGESTION_TIME}, {EXTENT_ID})"
        cursor.execute(f"{into} SELECT *, {stamp} FROM ({select})", parameters)  # noqa: S608 - quoted names
        inserted = cursor.fetchone()
        rows = int(inserted[0]) if inserted else 0
        if not rows:
            return None
        cursor.execute(
            "INSERT INTO adx.meta.extents VALUES (?, ?, ?, ?, ?, ?)",
            [table, extent_id, created.replace(tzinfo=None), json.dumps(list(tags)), rows, size],
        )
        return Extent(table, extent_id, created, tuple(tags), rows, size)

    def extents(self, table: str | None = None) -> list[Extent]:
        """Extents of one table, or of all, oldest first."""
        rows = self.cursor().execute(
            "SELECT table_name, extent_id, created, tags, row_count, original_size FROM adx.meta.extents"
            " WHERE $1 IS NULL OR table_name = $1 ORDER BY created, extent_id",
            [table],
        )
        return [Extent(t, i, c, tuple(json.loads(g)), n, s) for t, i, c, g, n, s in rows.fetchall()]

    def has_ingest_by(self, table: str, values: Sequence[str]) -> bool:
        """Whether an extent of the table carries `ingest-by:<value>` for one of the values."""
        wanted = {f"ingest-by:{value}" for value in values}
        return bool(wanted) and any(wanted.intersection(extent.tags) for extent in self.extents(table))

    def drop_tags(self, table: str, dropped: Callable[[Extent], Iterable[str]]) -> list[Extent]:
        """Take tags off extents; `ingestIfNotExists` no longer knows of those that begin with `ingest-by:`.

        Args:
            table: the table.
            dropped: says which tags an extent loses.

        Returns:
            The extents that lost one, as they are now.
        """
        changed = []
        with self.writing([table]):
            for extent in self.extents(table):
                gone = set(dropped(extent))
                kept = tuple(tag for tag in extent.tags if tag not in gone)
                if kept != extent.tags:
                    changed.append(dataclasses.replace(extent, tags=kept))
            with self.transaction() as cursor:
                for extent in changed:
                    cursor.execute(
                        "UPDATE adx.meta.extents SET tags = ? WHERE extent_id = ?",
                        [json.dumps(list(extent.tags)), extent.extent_id],
                    )
        return changed

    def clear_rows(self) -> None:
        """Empty every table, and forget what ingestion reported; schema, functions and policies stay."""
        for name in self.tables():
            self.drop_extents(name, None)
        with self.transaction() as cursor:
            cursor.execute("DELETE FROM adx.meta.journal")

    def drop_extents(self, table: str | None, ids: Sequence[str] | None) -> list[Extent]:
        """Drop extents (all of the table when `ids` is None) with their rows and the memory of their tags."""
        wanted = None if ids is None else set(ids)
        with self.writing([table] if table else self.tables()):
            chosen = [extent for extent in self.extents(table) if wanted is None or extent.extent_id in wanted]
            with self.transaction() as cursor:
                for name in {extent.table for extent in chosen}:
                    mine = [extent.extent_id for extent in chosen if extent.table == name]
                    cursor.execute(
                        f"DELETE FROM adx.data.{quoted(name)} WHERE list_contains(?, {EXTENT_ID})",  # noqa: S608
                        [mine],
                    )
                    cursor.execute("DELETE FROM adx.meta.extents WHERE list_contains(?, extent_id)", [mine])
        return chosen


def _empty(cursor: duckdb.DuckDBPyConnection, table: str) -> None:
    cursor.execute(f"DELETE FROM adx.data.{quoted(table)}")  # noqa: S608 - quoted
    cursor.execute("DELETE FROM adx.meta.extents WHERE table_name = ?", [table])


def _table(name: str, body: Document) -> StoredTable:
    columns = tuple((column, kind) for column, kind in body["columns"])
    return StoredTable(name, columns, body["folder"], body["docstring"])
