"""The state of snapshot tables: made by row numbers, and moved on from day to day.

Here: which rows there are, which come, go and change. Not here: what columns hold (`states`, `values`). The stored rows
are the state as it is now; what was before is gone, as it is in Defender. Everything is deterministic by seed, table,
clock and the number of moves before.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import ceil

import duckdb
import orjson

from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.local.data import people
from defender_adx_pipeline.local.data.sql import instant, number, salt
from defender_adx_pipeline.local.data.states import CHANGES, assessed, rules
from defender_adx_pipeline.local.data.values import Cell, value_sql
from defender_adx_pipeline.local.data.volumes import PER_DEVICE
from defender_adx_pipeline.local.source import ARRIVAL, SourceError, SourceStore, distinct_columns, quoted

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DRAWN = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Moved:
    """What one move of a table's state did."""

    table: str
    new: int
    gone: int
    changed: int
    rows: int
    """Rows afterwards."""


@dataclass(frozen=True, slots=True)
class _Progress:
    """What is remembered of a generated table: the next row number, its devices, and the moves so far."""

    next: int
    devices: int
    moves: int = 0


def add_state(store: SourceStore, table: str, count: int, *, seed: int = 7) -> int:
    """Generate `count` more rows of a snapshot table, one INSERT for all; 1,000,000 rows take some seconds.

    Args:
        store: where to.
        table: a snapshot table.
        count: how many. Tables of devices get as many devices as it takes, when they have no rows yet.
        seed: other seeds give other rows.

    Returns:
        Number of rows stored.

    Raises:
        SourceError: the table is no snapshot table.
    """
    meta = _check(store, table)
    with store.writing() as cursor:
        state = _State(store, cursor, meta, seed)
        progress = state.progress(count)
        stored = state.insert(progress, count)
        state.remember(replace(progress, next=progress.next + count))
    return stored


def has_state(store: SourceStore, table: str) -> bool:
    """Whether a snapshot table was generated, whatever became of its rows."""
    return store.mark(_mark(table)) is not None


def evolve(
    store: SourceStore,
    table: str,
    *,
    new: float = 0.02,
    gone: float = 0.015,
    changed: float = 0.03,
    seed: int = 7,
) -> Moved:
    """Move the state of a snapshot table on, in one step: a query sees the state before or the state after.

    Args:
        store: whose state.
        table: a snapshot table.
        new: rows that appear; a whole number of them, or as float a share of the rows there are.
        gone: rows that vanish, counted likewise; 1.0 empties the table.
        changed: rows of the others that keep their key and change elsewhere, counted likewise.
        seed: other seeds choose other rows.

    Returns:
        What was done; fewer rows than asked for vanish or change where there are not as many.

    Raises:
        SourceError: the table is no snapshot table that is known how to change.
    """
    meta = _check(store, table)
    if table not in CHANGES:
        raise SourceError(f"{table}: nothing is known of what changes in it; give it rows of your own")
    with store.writing() as cursor:
        state = _State(store, cursor, meta, seed)
        rows = state.count()
        appear, vanish, change = (_number(value, rows) for value in (new, gone, changed))
        progress = state.progress(rows or appear)
        draw = salt(seed, table, "move", progress.moves)
        removed = state.delete(vanish, draw)
        altered = state.update(change, draw + 1)
        added = state.insert(progress, appear)
        state.remember(replace(progress, next=progress.next + appear, moves=progress.moves + 1))
    return Moved(table, added, removed, altered, rows - removed + added)


def evolve_at(store: SourceStore, call: int, table: str, *, match: str = "", **move: float) -> Callable[[], None]:
    """Move a state on between two hunting calls: just before the work of one of them.

    Args:
        store: whose state.
        call: which call, counted from 1 among those to come whose query contains `match`.
        table: a snapshot table.
        match: text of the query.
        move: `new`, `gone`, `changed` and `seed` of `evolve`.

    Returns:
        Call it to take the move back before it happened.

    Raises:
        SourceError: the table is no snapshot table.
    """
    _check(store, table)
    lock, seen = threading.Lock(), 0

    def before(query: str) -> None:
        nonlocal seen
        if match not in query:
            return
        with lock:
            seen += 1
            due = seen == call
        if due:
            evolve(store, table, **move)  # type: ignore[arg-type]  # seed is a whole number
            forget()

    forget = store.before_queries(before)
    return forget


def _check(store: SourceStore, table: str) -> DefenderTable:
    meta = store.catalogue.get(table)
    if meta is None or meta.kind != "snapshot":
        raise SourceError(f"{table}: it is no snapshot table of this tenant; only their state moves on")
    return meta


def _mark(table: str) -> str:
    return f"state {table}"


def _number(value: float, rows: int) -> int:
    if value < 0:
        raise SourceError(f"a number or share of rows cannot be {value}")
    return round(value * rows) if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class _State:
    """One table inside one transaction."""

    store: SourceStore
    cursor: duckdb.DuckDBPyConnection
    meta: DefenderTable
    seed: int

    @property
    def name(self) -> str:
        """Its SQL name."""
        return self.store.stored(self.meta.name)

    def progress(self, count: int) -> _Progress:
        """How far it was generated; devices for `count` rows when it was not at all."""
        found = self.cursor.execute(
            "SELECT value FROM stored.__marks WHERE name = ?", [_mark(self.meta.name)]
        ).fetchone()
        if found:
            return _Progress(**orjson.loads(found[0]))
        # Rows that somebody else put there have keys of their own, which are none of these.
        return _Progress(0, max(1, ceil(count / PER_DEVICE.get(self.meta.name, max(1, count)))))

    def remember(self, progress: _Progress) -> None:
        value = orjson.dumps(progress).decode()
        self.cursor.execute("INSERT OR REPLACE INTO stored.__marks VALUES (?, ?)", [_mark(self.meta.name), value])

    def count(self) -> int:
        return self._run(f"SELECT count(*) FROM {self.name}")  # noqa: S608 - a name of the catalogue, quoted

    def insert(self, progress: _Progress, count: int) -> int:
        if not count:
            return 0
        now = _ticks(self.store.clock())
        values = self._values(progress.next + count)
        names = ", ".join(map(quoted, (*values, ARRIVAL)))
        return self._run(
            f"INSERT INTO {self.name} ({names}) SELECT {', '.join(values.values())}, make_timestamp({now} // 10)"  # noqa: S608
            f" FROM ({_base(self.meta.name, self.seed, progress, count, now)})"
        )

    def delete(self, count: int, draw: int) -> int:
        if not count:
            return 0
        return self._run(f"DELETE FROM {self.name} WHERE rowid IN ({self._chosen(count, draw)})")  # noqa: S608

    def update(self, count: int, draw: int) -> int:
        if not count:
            return 0
        drawn = f"CAST(hash({self._key}, {draw}, 'value') % {_DRAWN} AS BIGINT)"
        now = instant(str(_ticks(self.store.clock())))
        values = [
            f"{quoted(column)} = {sql.format(n=drawn, now=now)}" for column, sql in CHANGES[self.meta.name].items()
        ]
        chosen = self._chosen(count, draw)
        return self._run(f"UPDATE {self.name} SET {', '.join(values)} WHERE rowid IN ({chosen})")  # noqa: S608

    @property
    def _key(self) -> str:
        return ", ".join(f"coalesce(CAST({quoted(name)} AS VARCHAR), '')" for name in self.meta.identity_columns)

    def _chosen(self, count: int, draw: int) -> str:
        return f"SELECT rowid FROM {self.name} ORDER BY hash({self._key}, {draw}) LIMIT {count}"  # noqa: S608

    def _values(self, rows: int) -> dict[str, str]:
        special = rules(self.meta.name, self.seed, rows)
        return {
            column.name: special.get(column.name) or value_sql(Cell(self.meta, column, self.seed))
            for column in distinct_columns(self.meta)
        }

    def _run(self, sql: str) -> int:
        done = self.cursor.execute(sql).fetchone()
        return int(done[0]) if done else 0


def _base(table: str, seed: int, progress: _Progress, count: int, now: int) -> str:
    """SQL: per row its numbers, its device, the time of its assessment, and what rules of `values` see besides."""

    def own(name: str, below: int) -> str:
        return number("i", salt(seed, table, "row", name), below)

    drawn = (
        f"{own('user', people.USERS)} AS us, {own('program', len(people.PROGRAMS))} AS pr,"
        f" {own('parent', len(people.PROGRAMS))} AS pp"
    )
    numbers = f"SELECT i, i % {progress.devices} AS d, i // {progress.devices} AS k"
    if PER_DEVICE.get(table) == 1:  # what is new there is a device
        numbers = "SELECT i, i AS d, 0 AS k"
    return (
        f"SELECT *, i AS j, d % {people.DEVICES} AS dv, {assessed('d', now)} AS ts, ts AS received, {drawn} FROM"  # noqa: S608
        f" ({numbers} FROM range({progress.next}, {progress.next + count}) AS r(i))"
    )


def _ticks(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 10
