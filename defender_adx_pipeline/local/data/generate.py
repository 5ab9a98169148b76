"""Rows of event tables, made by DuckDB from row numbers: the same seed, table, window and clock give the same rows.

Here: when events happen and when they arrive. Not here: what columns hold (`values`). Everything is one streaming
INSERT per table, so that 2,000,000 rows need no memory to speak of.
"""

from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.local.data import people
from defender_adx_pipeline.local.data.snapshots import add_state, has_state
from defender_adx_pipeline.local.data.sql import DAY, HOUR, MINUTE, SECOND, number, salt
from defender_adx_pipeline.local.data.values import Cell, value_sql
from defender_adx_pipeline.local.data.volumes import rows_of
from defender_adx_pipeline.local.source import SourceError, SourceStore, distinct_columns, quoted

OLDEST = timedelta(days=29, hours=22)
NEWEST = timedelta(minutes=20)
"""Generated events lie between now - OLDEST and now - NEWEST: inside what Defender keeps, for two hours to come."""

_Salts = Callable[[str], int]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHECKED_ROWS = 20_000
"""Up to this many rows a draw is made unique by looking; beyond, by the counter that the large tables' keys hold."""
_ADAPTERS = 3


def fill(store: SourceStore, *, seed: int = 7, scale: float = 1.0, tables: Collection[str] | None = None) -> int:
    """Generate the tables that have no rows yet; one INSERT each, so that a kill leaves a table full or empty.

    Args:
        store: where to.
        seed: other seeds give other rows.
        scale: multiplies the number of rows of every table.
        tables: only these; None is every table that the store has.

    Returns:
        Number of rows generated; 0 for a store that was filled before.
    """
    now = store.clock()
    total = 0
    for table in store.catalogue.values():
        if (tables is not None and table.name not in tables) or store.count_stored(table.name):
            continue
        count = rows_of(table.name, scale)
        if table.kind == "snapshot":
            # A state that moved on until nothing was left stays empty.
            total += 0 if has_state(store, table.name) else add_state(store, table.name, count, seed=seed)
        else:
            total += add_rows(store, table.name, count, now - OLDEST, now - NEWEST, seed=seed, created=now)
    return total


def add_rows(
    store: SourceStore,
    table: str,
    count: int,
    start: datetime,
    end: datetime,
    *,
    seed: int = 7,
    created: datetime | None = None,
) -> int:
    """Generate `count` more rows of one event table with event times in [start, end).

    Args:
        store: where to.
        table: an event table.
        count: how many; a handful fewer come out of a small table whose draws collide.
        start: first instant, on a whole microsecond.
        end: instant after the last.
        seed: other seeds give other rows.
        created: no row arrives later than this; the store's clock unless given.

    Returns:
        Number of rows stored.

    Raises:
        SourceError: it is no event table, or the window is empty.
    """
    meta = store.catalogue[table]
    if meta.kind != "event" or start >= end:
        raise SourceError(f"{table}: rows are generated for event tables and windows that are not empty")
    columns = distinct_columns(meta)
    first = store.count_stored(table)
    cells = [f"{value_sql(Cell(meta, column, seed))} AS {quoted(column.name)}" for column in columns]
    created_at = _ticks(created or store.clock())
    arrival = f"make_timestamp(least(received, {created_at}) // 10) AS __arrival"
    base = _base(meta, seed, (first, first + count), (_ticks(start), _ticks(end)))
    select = f"SELECT {', '.join([*cells, arrival])} FROM ({base})"  # noqa: S608 - built from the catalogue only
    if count <= _CHECKED_ROWS:
        key = ", ".join(quoted(name) for name in meta.identity_columns if name in {c.name for c in columns})
        select = f"SELECT * FROM ({select}) QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY __arrival) = 1"  # noqa: S608
    return store.insert_select(table, [column.name for column in columns], select)


def _base(table: DefenderTable, seed: int, numbers: tuple[int, int], window: tuple[int, int]) -> str:
    """SQL: per row its numbers `i` and `j`, its time and receive time in ticks, and its device, user and programs."""

    def own(name: str) -> int:
        return salt(seed, table.name, "row", name)

    first, last = numbers
    kind = number("i", own("kind"), 1000)
    # Of a thousand rows 15 repeat their neighbour but for the seventh digit, and 40 share its instant.
    if table.name == "DeviceNetworkInfo":  # one row per adapter of one report
        group, source = f"i - i % {_ADAPTERS}", "i"
    else:
        group = f"CASE WHEN i > {first} AND {kind} < 55 THEN i - 1 ELSE i END"
        source = f"CASE WHEN i > {first} AND {kind} < 15 THEN i - 1 ELSE i END"
    who = "g" if table.name == "DeviceNetworkInfo" else "j"
    drawn = (
        f"{number(who, own('device'), people.DEVICES)} AS dv, {number('j', own('user'), people.USERS)} AS us,"
        f" {number('j', own('program'), len(people.PROGRAMS))} AS pr,"
        f" {number('j', own('parent'), len(people.PROGRAMS))} AS pp"
    )
    instant = _event_time("g", own, window)
    step = "CASE WHEN i <> j THEN t - t % 10 + (t % 10 + 1) % 10 ELSE t END"
    return (
        f"SELECT *, ts + {_lag(table, own)} AS received FROM (SELECT *, {step} AS ts, {drawn} FROM"  # noqa: S608
        f" (SELECT *, {instant} AS t FROM (SELECT i, {group} AS g, {source} AS j FROM range({first}, {last}) AS r(i))))"
    )


def _event_time(index: str, own: _Salts, window: tuple[int, int]) -> str:
    """SQL: ticks in the window; six of ten events move into the working hours of their day; 0 to 7 digits."""
    start, end = window
    anywhen = f"({start} + {number(index, own('time'), end - start)})"
    hours = f"{number(index, own('early'), 6 * HOUR)} + {number(index, own('late'), 5 * HOUR)}"
    working = f"({anywhen} - {anywhen} % {DAY} + {7 * HOUR} + {hours})"
    busy = f"{number(index, own('busy'), 10)} < 6 AND {working} >= {start} AND {working} < {end}"
    moment = f"(CASE WHEN {busy} THEN {working} ELSE {anywhen} END)"
    units = "[1, 1, 1, 1, 1, 1, 1, 1, 1, 10, 10000, 10000, 100, 1000, 100000, 1000000, 10000000]"
    unit = f"{units}[{number(index, own('digits'), 17)} + 1]"
    return f"greatest({moment} - {moment} % {unit}, {start})"


def _lag(table: DefenderTable, own: _Salts) -> str:
    """SQL: ticks from event to visibility: minutes, one in a hundred hours, alerts up to 28 hours."""
    index = "g" if table.name == "DeviceNetworkInfo" else "i"
    minutes = f"{12 * SECOND} + {number(index, own('lag'), 5 * MINUTE - 12 * SECOND)}"
    if table.name in ("AlertInfo", "AlertEvidence"):
        return number("i", own("alert"), 28 * HOUR)
    hours = f"{HOUR} + {number(index, own('hours'), 20 * HOUR)}"
    return f"(CASE WHEN {number(index, own('delayed'), 100)} = 0 THEN {hours} ELSE {minutes} END)"


def _ticks(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 10
