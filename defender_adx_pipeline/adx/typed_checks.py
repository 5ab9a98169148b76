"""Values that do not fit their column: null in the typed table, and still in the raw one.

Here: the queries that count them and show them. Not here: the conversion (`typed_tables.converted`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from defender_adx_pipeline.adx.kql import RECORDS
from defender_adx_pipeline.adx.typed_tables import converted, plain, record_field, typed_columns
from defender_adx_pipeline.catalogue import Column, DefenderTable
from defender_adx_pipeline.quoting import kql_datetime, kql_string

ROWS = "CheckedRecords"
"""Column of the answer of `unfit_counts`: how many records were looked at."""

# Every value is a string, and every one may stand in a dynamic column.
_FITS_ALWAYS = frozenset({"string", "dynamic"})


class UncheckedColumnError(ValueError):
    """A column whose values always fit, or that the table does not have."""


def checked_columns(table: DefenderTable, existing: Sequence[Column] = ()) -> tuple[Column, ...]:
    """The columns that a value may not fit into.

    Args:
        table: the Defender table.
        existing: the columns that the typed table in ADX has. A value that does not fit a column and does fit its twin
            (`typed_tables.twin`) has its place.
    """
    return tuple(
        columns[0]
        for columns in _columns_by_field(table, existing).values()
        if _FITS_ALWAYS.isdisjoint(column.type for column in columns)
    )


def count_names(table: DefenderTable, existing: Sequence[Column] = ()) -> Mapping[str, Column]:
    """The columns by the names that their counts have: their own, but `LogonID_2` beside `LogonId`.

    Names in an answer differ by more than case, since readers of answers often fold it.
    """
    names: dict[str, Column] = {}
    taken: Counter[str] = Counter()
    for column in checked_columns(table, existing):
        taken[column.name.casefold()] += 1
        number = taken[column.name.casefold()]
        names[column.name if number == 1 else f"{column.name}_{number}"] = column
    return names


def unfit_counts(
    table: DefenderTable, ingested_since: datetime | None = None, *, existing: Sequence[Column] = ()
) -> str:
    """Query that counts, for each of `checked_columns`, the records whose value does not fit.

    Args:
        table: the Defender table.
        ingested_since: look only at records ingested since then; at all of them when absent.
        existing: as in `checked_columns`.

    Returns:
        KQL whose answer is one row: `ROWS`, and a count under each name of `count_names`.
    """
    fields = _columns_by_field(table, existing)
    counts = "".join(
        f",\n    {plain(name)} = countif({_unfit(column.name, fields[column.name])})"
        for name, column in count_names(table, existing).items()
    )
    return f"{_source(table, ingested_since)}\n| summarize {ROWS} = count(){counts}"


def unfit_records(
    table: DefenderTable,
    column: str,
    *,
    rows: int = 20,
    ingested_since: datetime | None = None,
    existing: Sequence[Column] = (),
) -> str:
    """Query for some of the records whose value does not fit a column: Value (as text) and Records.

    Raises:
        UncheckedColumnError: the column is none of `checked_columns`.
    """
    checked = [one.name for one in checked_columns(table, existing)]
    if column not in checked:
        raise UncheckedColumnError(
            f"{table.name}: no value can fail to fit a column {column!r}; look at one of {', '.join(checked)}."
        )
    return (
        f"{_source(table, ingested_since)}\n| where {_unfit(column, _columns_by_field(table, existing)[column])}"
        f"\n| take {int(rows)}\n| project Value = tostring({_field(column)}), {RECORDS}"
    )


def _columns_by_field(table: DefenderTable, existing: Sequence[Column]) -> Mapping[str, tuple[Column, ...]]:
    """The columns that are filled from each field of a record: one, and its twins after it."""
    columns = typed_columns(table, existing)
    fields: dict[str, tuple[Column, ...]] = {}
    for column in columns:
        field = record_field(table, column, columns)
        fields[field] = (*fields.get(field, ()), column)
    return fields


def _source(table: DefenderTable, since: datetime | None) -> str:
    limit = "" if since is None else f"\n| where ingestion_time() >= {kql_datetime(since)}"
    return f"{plain(table.raw_table)}{limit}"


def _unfit(field: str, columns: Sequence[Column]) -> str:
    nowhere = " and ".join(f"isnull({converted(column, field)})" for column in columns)
    # Graph writes the null of a value type as {}, and an older script loaded that as it came.
    return f'tostring({_field(field)}) !in ("", "{{}}") and {nowhere}'


def _field(name: str) -> str:
    return f"{RECORDS}[{kql_string(name)}]"
