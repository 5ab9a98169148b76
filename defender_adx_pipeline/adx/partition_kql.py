"""Queries over the rows of some windows of a raw or a typed table, for whoever reads them downstream. Pure functions.

Here: the text of such a query, and what a caller appends to it. Not here: the rows in parts that fit into an answer
(`kql`, `typed_kql`), and who asks (`defs.handles`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from defender_adx_pipeline.adx.client import Parameter
from defender_adx_pipeline.adx.kql import RECORDS
from defender_adx_pipeline.adx.snapshot_kql import CLOCKS_APART
from defender_adx_pipeline.adx.typed_tables import plain, typed_table_name
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, DefenderTable
from defender_adx_pipeline.quoting import kql_datetime, kql_name, kql_string

Bounds = tuple[datetime, datetime]

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_TYPES: tuple[tuple[type, str], ...] = ((str, "string"), (int, "long"), (datetime, "datetime"))


class ContinuationError(ValueError):
    """What was to be appended to a query is no KQL operator, or a parameter cannot be declared; nothing was sent."""


def typed_rows(table: DefenderTable, windows: Sequence[Bounds]) -> str:
    """The typed rows of half-open windows; of a snapshot table these are windows of SnapshotTime.

    Raises:
        ValueError: no window.
    """
    column = plain(SNAPSHOT_TIME if table.kind == "snapshot" else table.time_column or "")
    return f"{plain(typed_table_name(table))}\n| where {_within(column, windows)}"


def raw_rows(table: DefenderTable, destination: str, windows: Sequence[Bounds]) -> str:
    """The rows of a raw table whose records are of half-open windows: one dynamic column, Records.

    Only extents are read that were ingested since the first window began, as when the pipeline counts its rows.

    Raises:
        InvalidNameError: the destination could not be a Kusto table.
        ValueError: no window.
    """
    field = SNAPSHOT_TIME if table.kind == "snapshot" else table.time_column or ""
    within = _within(f"todatetime({RECORDS}[{kql_string(field)}])", windows)
    since = min(start for start, _ in windows) - CLOCKS_APART
    ingested = f"isnull(ingestion_time()) or ingestion_time() >= {kql_datetime(since)}"
    return f"{kql_name(destination)}\n| where {ingested}\n| where {within}"


def continued(query: str, continuation: str, parameters: Mapping[str, Parameter]) -> str:
    """A query with operators appended to it, and its parameters declared.

    Raises:
        ContinuationError: the continuation does not begin with `|`; the name of a parameter is no identifier, or its
            value neither str nor int nor datetime.
    """
    appended = continuation.strip()
    if appended and not appended.startswith("|"):
        raise ContinuationError(
            f"{appended[:60]!r} cannot be appended to the query of a partition: it has to begin with '|', as in"
            " '| summarize count() by DeviceId'. Nothing was sent."
        )
    body = f"{query}\n{appended}" if appended else query
    if not parameters:
        return body
    declared = ", ".join(f"{_identifier(name)}: {_type(name, value)}" for name, value in parameters.items())
    return f"declare query_parameters({declared});\n{body}"


def _within(field: str, windows: Iterable[Bounds]) -> str:
    parts = [f"{field} >= {kql_datetime(start)} and {field} < {kql_datetime(end)}" for start, end in windows]
    if not parts:
        raise ValueError("no window to read")
    return parts[0] if len(parts) == 1 else " or ".join(f"({part})" for part in parts)


def _identifier(name: str) -> str:
    if not _PARAMETER.fullmatch(name):
        raise ContinuationError(f"{name!r} cannot name a query parameter: letters, digits and '_'. Nothing was sent.")
    return name


def _type(name: str, value: Parameter) -> str:
    for python, kql in _TYPES:
        # A bool is an int for Python, and its text no long for Kusto.
        if isinstance(value, python) and not isinstance(value, bool):
            return kql
    raise ContinuationError(
        f"parameter {name} is a {type(value).__name__}: str, int and datetime can be given. Nothing was sent."
    )
