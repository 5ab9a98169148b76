"""Rows of one table replaced by others, all at once: what `.update table` does.

Here: the transaction. Not here: the command's text (`commands_update`), and loads, which only add (`adx_store`).

As in the service, what is appended is worked out before anything is deleted, and extents that lose rows keep their
creation time and tags, while the new rows are an extent of now, without tags.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import duckdb

from defender_adx_pipeline.local.adx_schema import EXTENT_ID, INGESTION_TIME, Level, quoted
from defender_adx_pipeline.local.adx_store import AdxStore

ROW = "__row"
"""Column that tells the rows of the table apart while the delete predicate runs."""

Run = Callable[[duckdb.DuckDBPyConnection], tuple[str, Any]]
"""Gives SQL and its parameters for a cursor."""


@dataclass(frozen=True, slots=True)
class Change:
    """An extent that was written, or that lost rows."""

    action: Literal["Create", "Delete"]
    extent_id: str
    rows: int


class TooManyDeletesError(Exception):
    """The predicate selects more rows than one command may delete; nothing was changed."""


def replace_rows(
    store: AdxStore,
    table: str,
    *,
    delete: Run,
    append: tuple[str, Any, Level],
    most: int,
    dry: bool = False,
) -> list[Change]:
    """Delete some rows of a table and append others, in one transaction.

    Args:
        store: the database.
        table: the table.
        delete: gives SQL with the columns `ROW` and the extent's id; unqualified, the table is one that has them.
        append: SQL, its parameters and which hidden columns it reads.
        most: rows that may be deleted.
        dry: change nothing, only say what would change. The id of the extent to write is empty then.

    Raises:
        TooManyDeletesError: there are more.
    """
    after = store.after_load
    with store.writing({table, *(after.targets(table) if after else ())}), store.transaction() as cursor:
        select, parameters, level = append
        cursor.execute(f"USE {level}")
        cursor.execute(f"CREATE TEMP TABLE __appended AS {select}", parameters)
        lost = _selected(store, cursor, table, delete)
        total = sum(lost.values())
        if total > most:
            raise TooManyDeletesError(f"{total} records of {table} match the delete predicate; {most} is the limit")
        changes = [Change("Delete", extent, rows) for extent, rows in lost.items()]
        if dry:
            found = cursor.execute("SELECT count(*) FROM temp.main.__appended").fetchone()
            return [*changes, Change("Create", "", int(found[0]))] if found and found[0] else changes
        _delete(cursor, table, lost)
        made = store.insert_extent(cursor, table, "SELECT * FROM temp.main.__appended")
        if made:
            changes.append(Change("Create", made.extent_id, made.rows))
            if after:
                after.apply(cursor, made)
        return changes


def _selected(store: AdxStore, cursor: duckdb.DuckDBPyConnection, table: str, delete: Run) -> dict[str, int]:
    """The rows that the predicate selects as the temporary table `__deleted`; their number by extent."""
    columns = ", ".join(quoted(name) for name, _ in store.table(table).held)
    # A temporary view of this cursor alone: its name comes before that of the table.
    cursor.execute(
        f"CREATE TEMP VIEW {quoted(table)} AS"  # noqa: S608 - quoted
        f" SELECT {columns}, {INGESTION_TIME}, {EXTENT_ID}, rowid AS {ROW} FROM adx.data.{quoted(table)}"
    )
    cursor.execute("USE plain")
    select, parameters = delete(cursor)
    cursor.execute(f"CREATE TEMP TABLE __deleted AS SELECT DISTINCT * FROM ({select})", parameters)  # noqa: S608
    cursor.execute(f"DROP VIEW temp.main.{quoted(table)}")
    counted = cursor.execute(f"SELECT {EXTENT_ID}, count(*) FROM temp.main.__deleted GROUP BY ALL ORDER BY ALL")  # noqa: S608
    return {str(extent): int(rows) for extent, rows in counted.fetchall()}


def _delete(cursor: duckdb.DuckDBPyConnection, table: str, lost: dict[str, int]) -> None:
    cursor.execute(
        f"DELETE FROM adx.data.{quoted(table)} WHERE rowid IN (SELECT {ROW} FROM temp.main.__deleted)"  # noqa: S608
    )
    for extent, rows in lost.items():
        cursor.execute("UPDATE adx.meta.extents SET row_count = row_count - ? WHERE extent_id = ?", [rows, extent])
    cursor.execute("DELETE FROM adx.meta.extents WHERE table_name = ? AND row_count <= 0", [table])
