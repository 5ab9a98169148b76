"""The DuckDB file of the ADX database and what it keeps besides rows: entities as documents, and a journal.

Here: connections, transactions, mappings, functions, views, policies, principals, failures and operations. Not here:
tables and rows (`adx_store`), and what an entity means.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import duckdb

from defender_adx_pipeline.local.adx_schema import LEVELS, Document, Level, quoted

_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS adx.data;
CREATE SCHEMA IF NOT EXISTS adx.meta;
CREATE TABLE IF NOT EXISTS adx.meta.entities (
  kind VARCHAR, parent VARCHAR, name VARCHAR, body VARCHAR, PRIMARY KEY (kind, parent, name));
CREATE TABLE IF NOT EXISTS adx.meta.extents (
  table_name VARCHAR, extent_id VARCHAR, created TIMESTAMP, tags VARCHAR, row_count BIGINT, original_size BIGINT);
CREATE TABLE IF NOT EXISTS adx.meta.journal (kind VARCHAR, id VARCHAR, recorded TIMESTAMP, body VARCHAR);
"""


class EntityStore:
    """The part of the database that has no rows. Every method is thread-safe."""

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self.clock = clock
        self.version = 0
        """Grows with every change of a table's schema or of a stored entity."""
        self._lock = threading.RLock()
        self._known: dict[str, Mapping[tuple[str, str], Document]] = {}
        """Entities by kind as the file has them: each load and each query asks for some, and bootstrap writes 500. A
        mapping is replaced and never changed, so that readers need no lock."""
        self._root = duckdb.connect(":memory:", config={"temp_directory": f"{path}.spill", "memory_limit": "2GB"})
        self._root.execute("SET TimeZone='UTC'")
        self._root.execute(f"ATTACH '{str(path).replace(chr(39), chr(39) * 2)}' AS adx")
        for level in LEVELS:
            self._root.execute(f"ATTACH ':memory:' AS {level}")
        self._root.execute(_SCHEMA)

    def close(self) -> None:
        """Flush the write-ahead log and let go of the file, also when somebody still holds a cursor."""
        with self._lock:
            self._root.execute("USE memory; CHECKPOINT adx; DETACH adx")
            self._root.close()

    def cursor(self, level: Level = "plain") -> duckdb.DuckDBPyConnection:
        """A cursor of its own for one thread whose unqualified names are the database's tables and views."""
        cursor = self._root.cursor()
        cursor.execute(f"USE {level}")
        return cursor

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """All or nothing. Who changes a table's rows holds its lock, who changes the schema the store's."""
        cursor = self.cursor()
        try:
            cursor.begin()
            yield cursor
            cursor.commit()
        except BaseException:
            with suppress(duckdb.TransactionException):  # a commit that failed has rolled back already
                cursor.rollback()
            raise
        finally:
            cursor.close()

    def put(self, kind: str, parent: str, name: str, body: Document) -> None:
        """Store an entity (mapping, function, view, policy, principal) in place of one of the same name."""
        self.put_all(kind, [(parent, name, body)])

    def put_all(self, kind: str, entities: Sequence[tuple[str, str, Document]]) -> None:
        """Store (parent, name, body) of a kind, all or none; what says nothing new is not written."""
        with self._lock:
            known = self._of_kind(kind)
            new = {(parent, name): _copied(body) for parent, name, body in entities}
            new = {key: body for key, body in new.items() if _comparable(known.get(key)) != _comparable(body)}
            if new:
                with self.transaction() as cursor:
                    for (parent, name), body in new.items():
                        put_entity(cursor, kind, parent, name, body)
                self._known[kind] = dict(sorted({**known, **new}.items()))
                self.version += 1

    def get(self, kind: str, parent: str, name: str) -> Document | None:
        """One entity, or None."""
        body = self._of_kind(kind).get((parent, name))
        return None if body is None else _copied(body)

    def delete(self, kind: str, parent: str, name: str) -> bool:
        """Forget an entity; False when there was none."""
        with self._lock:
            known = self._of_kind(kind)
            with self.transaction() as cursor:
                cursor.execute(
                    "DELETE FROM adx.meta.entities WHERE kind = ? AND parent = ? AND name = ?", [kind, parent, name]
                )
            self._known[kind] = {key: body for key, body in known.items() if key != (parent, name)}
            self.version += 1
        found = (parent, name) in known
        if found and kind in ("function", "view"):
            for level in LEVELS:
                self._root.execute(f"DROP VIEW IF EXISTS {level}.main.{quoted(name)}")
        return found

    def documents(self, kind: str, parent: str | None = None) -> list[tuple[str, str, Document]]:
        """(parent, name, body) of the entities of a kind, to be read and not to be changed."""
        known = self._of_kind(kind)
        return [(owner, name, body) for (owner, name), body in known.items() if parent is None or owner == parent]

    def _of_kind(self, kind: str) -> Mapping[tuple[str, str], Document]:
        if kind not in self._known:
            rows = self.cursor().execute(
                "SELECT parent, name, body FROM adx.meta.entities WHERE kind = $1 ORDER BY parent, name", [kind]
            )
            found = {(owner, name): json.loads(body) for owner, name, body in rows.fetchall()}
            # Without the lock, which a reader that holds a table's would wait for in the wrong order. Who has written
            # meanwhile has put there what is newer.
            self._known.setdefault(kind, found)
        return self._known[kind]

    def _forget_of_table(self, name: str) -> None:
        """Leave out what belonged to a table that is gone from the file."""
        for kind in ("docstrings", "mapping", "policy"):
            if kind in self._known:
                self._known[kind] = {key: body for key, body in self._known[kind].items() if key[0] != name}

    def record(self, kind: Literal["failure", "operation"], id_: str, body: Document) -> None:
        """Write an ingestion failure or an operation to the journal."""
        with self.transaction() as cursor:
            recorded = self.clock().replace(tzinfo=None)
            cursor.execute("INSERT INTO adx.meta.journal VALUES (?, ?, ?, ?)", [kind, id_, recorded, json.dumps(body)])

    def journal(self, kind: Literal["failure", "operation"]) -> list[Document]:
        """The journal of a kind, oldest first."""
        rows = self.cursor().execute("SELECT body FROM adx.meta.journal WHERE kind = ? ORDER BY recorded", [kind])
        return [json.loads(body) for (body,) in rows.fetchall()]


def _comparable(body: Document | None) -> Document | None:
    return None if body is None else {**body, "updated": None}


def _copied(body: Document) -> Document:
    """As it would come back from the file."""
    copied: Document = json.loads(json.dumps(body))
    return copied


def put_entity(cursor: duckdb.DuckDBPyConnection, kind: str, parent: str, name: str, body: Mapping[str, Any]) -> None:
    """Write one entity in a transaction that is open."""
    cursor.execute(
        "INSERT OR REPLACE INTO adx.meta.entities VALUES (?, ?, ?, ?)", [kind, parent, name, json.dumps(body)]
    )
