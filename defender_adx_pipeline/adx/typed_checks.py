"""Values that do not fit their column: null in the typed table, and still in the raw one.

Here: the queries that count them and show them. Not here: the conversion (`typed_tables.converted`).
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from defender_adx_pipeline.adx.kql import RECORDS
from defender_adx_pipeline.adx.typed_tables import converted, plain, typed_columns
from defender_adx_pipeline.catalogue import Column, DefenderTable
from defender_adx_pipeline.quoting import kql_datetime, kql_string

ROWS = "CheckedRecords"
"""Column of the answer of `unfit_counts`: how many records were looked at."""

# Every value is a string, and every one may stand in a dynamic column.
_FITS_ALWAYS = frozenset({"string", "dynamic"})


class UncheckedColumnError(ValueError):
    """A column whose values always fit, or that the table does not have."""


def checked_columns(table: DefenderTable) -> tuple[Column, ...]:
    """The columns that a value may not fit into."""
    return tuple(column for column in typed_columns(table) if column.type not in _FITS_ALWAYS)


def count_names(table: DefenderTable) -> Mapping[str, Column]:
    """The columns by the names that their counts have: their own, but `LogonID_2` beside `LogonId`.

    Names in an answer differ by more than case, since readers of answers often fold it.
    """
    names: dict[str, Column] = {}
    taken: Counter[str] = Counter()
    for column in checked_columns(table):
        taken[column.name.casefold()] += 1
        number = taken[column.name.casefold()]
        names[column.name if number == 1 else f"{column.name}_{number}"] = column
    return names


def unfit_counts(table: DefenderTable, ingested_since: datetime | None = None) -> str:
    """Query that counts, for each of `checked_columns`, the records whose value does not fit.

    Args:
        table: the Defender table.
        ingested_since: look only at records ingested since then; at all of them when absent.

    Returns:
        KQL whose answer is one row: `ROWS`, and a count under each name of `count_names`.
    """
    counts = "".join(f",\n    {plain(name)} = countif({_unfit(column)})" for name, column in count_names(table).items())
    return f"{_source(table, ingested_since)}\n| summarize {ROWS} = count(){counts}"


def unfit_records(table: DefenderTable, column: str, *, rows: int = 20, ingested_since: datetime | None = None) -> str:
    """Query for some of the records whose value does not fit a column: Value (as text) and Records.

    Raises:
        UncheckedColumnError: the column is none of `checked_columns`.
    """
    found = next((one for one in checked_columns(table) if one.name == column), None)
    if found is None:
        names = ", ".join(one.name for one in checked_columns(table))
        raise UncheckedColumnError(
            f"{table.name}: no value can fail to fit a column {column!r}; look at one of {names}."
        )
    return (
        f"{_source(table, ingested_since)}\n| where {_unfit(found)}\n| take {int(rows)}\n"
        f"| project Value = tostring({_field(found)}), {RECORDS}"
    )


def _source(table: DefenderTable, since: datetime | None) -> str:
    limit = "" if since is None else f"\n| where ingestion_time() >= {kql_datetime(since)}"
    return f"{plain(table.raw_table)}{limit}"


def _unfit(column: Column) -> str:
    # Graph writes the null of a value type as {}, and an older script loaded that as it came.
    return f'tostring({_field(column)}) !in ("", "{{}}") and isnull({converted(column)})'


def _field(column: Column) -> str:
    return f"{RECORDS}[{kql_string(column.name)}]"
