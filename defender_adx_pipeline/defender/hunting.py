"""The hunting queries: the only place where KQL for Defender is built.

Here: query texts. Not here: sending them (`client`), escaping (`quoting`). Windows are half-open and bounds are whole
microseconds; rows come back unsorted, since sorting costs Defender CPU and pages over live data are not stable.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from defender_adx_pipeline.quoting import kql_datetime, kql_name, kql_timespan

# Every KQL keyword begins with a lower-case letter and KQL is case-sensitive, so these names need no quotes.
_PLAIN = re.compile(r"[A-Z][A-Za-z0-9_]*")


def table_schema(table: str) -> str:
    """Names and KQL types of a table's columns as this tenant has them: `ColumnName`, `ColumnType`."""
    return f"{_name(table)} | getschema | project ColumnName, ColumnType"


def time_counts(table: str, time_column: str, start: datetime, end: datetime, grain: timedelta) -> str:
    """Rows per bin of `grain`: `Bin` (datetime), `Rows` (long). Bins without rows are left out.

    Bins begin at multiples of the grain since year 1, as `bin()` counts them, not at `start`.
    """
    column = _name(time_column)
    return (
        f"{_in_window(table, time_column, start, end)}"
        f" | summarize Rows = count() by Bin = bin({column}, {kql_timespan(grain)})"
    )


def window_rows(
    table: str, time_column: str, start: datetime, end: datetime, dynamic_columns: Sequence[str] = ()
) -> str:
    """All rows of the window, dynamic columns as JSON text, so that no layer in between can alter them."""
    query = _in_window(table, time_column, start, end)
    if dynamic_columns:
        query += " | extend " + ", ".join(f"{_name(name)} = tostring({_name(name)})" for name in dynamic_columns)
    return query


def row_count(table: str, time_column: str, start: datetime, end: datetime) -> str:
    """How many rows the window has: one row, one column `Count` (long)."""
    return f"{_in_window(table, time_column, start, end)} | count"


def _in_window(table: str, time_column: str, start: datetime, end: datetime) -> str:
    if not start < end:
        raise ValueError(f"{table}: the window [{start.isoformat()}, {end.isoformat()}) is empty; there is no query")
    column = _name(time_column)
    return f"{_name(table)} | where {column} >= {kql_datetime(start)} and {column} < {kql_datetime(end)}"


def _name(name: str) -> str:
    """A name as it may stand in a query; quoted where KQL could take it for something else.

    Raises:
        InvalidNameError: it may not reach KQL at all.
    """
    quoted = kql_name(name)
    return name if _PLAIN.fullmatch(name) else quoted
