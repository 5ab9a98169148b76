"""How the columns of a tenant's table, of the catalogue and of the typed table differ, and what mends it.

Here: comparing the three, and the commands. Not here: reading the tenant's columns and the database's, and sending
anything (`migration.drift`). Nothing in a load depends on any of it: raw records have every field, whatever its name
and type.

What counts:

- Names are compared as they are written. `LogonId` and `LogonID` are two columns.
- Types are compared by what they mean: `sbyte` is bool, `double` real, `object` dynamic (`kql_type`).
- A type that `typed_tables.OVERRIDES` corrects is no drift, whether the tenant has the documented one or ours.
- A column of another type than the tenant's is mended by a twin: `ErrorCode_string` beside `ErrorCode`. With that there
  is no difference any more.
- A column that the tenant lacks is told and stays, with what it holds. It is told until the catalogue lists it no more,
  so that there is an end to it. Three kinds are not told: SnapshotTime, which is ours; those of `undocumented_columns`,
  which some tenants have and others do not; and the second of two spellings of one name, where both sides have the
  first (a page lists LogonId and LogonID of DeviceProcessEvents).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from defender_adx_pipeline.adx.typed_tables import (
    OVERRIDES,
    record_field,
    twin,
    typed_columns,
    widening,
)
from defender_adx_pipeline.catalogue import KQL_TYPES, SNAPSHOT_TIME, Column, DefenderTable

Kind = Literal["added", "dropped", "retyped", "lacking"]

# Names that the type of a column has in answers of Defender, of Kusto's .NET side, and in the Kusto docs.
_SYNONYMS = {
    "sbyte": "bool",
    "boolean": "bool",
    "double": "real",
    "single": "real",
    "float": "real",
    "int16": "int",
    "int32": "int",
    "uint32": "long",
    "int64": "long",
    "object": "dynamic",
    "date": "datetime",
    "datetimeoffset": "datetime",
    "time": "timespan",
    "sqldecimal": "decimal",
    "uuid": "guid",
    "uniqueid": "guid",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One column that is not the same in the tenant, in the catalogue and in the typed table."""

    table: str
    """The Defender table."""
    column: str
    kind: Kind
    """`added`: only the tenant has it. `lacking`: the catalogue has it and the typed table does not. `retyped`: the
    typed table has it with another type than the tenant. `dropped`: the typed table has it and the tenant does not."""
    tenant_type: str | None
    """Types are KQL's; None where that side does not have the column. One that is not KQL's is as the tenant said."""
    typed_type: str | None
    documented_type: str | None

    @property
    def new_column(self) -> str | None:
        """The column that `mending` adds for it, None where it adds none."""
        if self.kind == "lacking":
            return self.column
        if self.kind == "dropped" or self.tenant_type not in KQL_TYPES:
            return None
        return self.column if self.kind == "added" else twin(self.column, self.tenant_type).name

    def __str__(self) -> str:
        what = {
            "added": f"the tenant has it ({self.tenant_type}), and neither the catalogue nor the typed table does.",
            "lacking": f"it is documented ({self.documented_type}), and the typed table does not have it.",
            "retyped": f"the tenant has it as {self.tenant_type}, the typed table as {self.typed_type}.",
            "dropped": f"the typed table has it ({self.typed_type}), and the tenant does not.",
        }[self.kind]
        return f"{self.table}.{self.column}: {what} {self.advice}"

    @property
    def advice(self) -> str:
        """What that means for the rows, and what to do; in sentences."""
        if self.kind == "dropped":
            return (
                "Nothing has to be done: the column stays with the rows that have values, and is null in those that"
                " come. See that no query or alert depends on it. This is told until the catalogue lists the column no"
                " more: a later version of this package, or `columns` of the table in DEFENDER_TABLES_FILE."
            )
        if self.new_column is None:
            return (
                f"{self.tenant_type} is no type that this version knows, so nothing is done about it; the raw records"
                " have its values. Report it to the maintainers."
            )
        apply = f"Run `defender-adx schema apply {self.table}`"
        backfill = f"`defender-adx schema backfill {self.table}`"
        if self.kind == "retyped":
            return (
                f"Values that do not fit are null in the typed table and whole in the raw one. {apply}: it adds"
                f" {self.new_column}, with the values that come from then on; {backfill} gives it the older ones. Then"
                f" change queries that mean the new values to {self.new_column}."
            )
        return (
            f"The raw records have its values. {apply}: it adds the column, null in the rows that are there; {backfill}"
            " gives them their values."
        )


def kql_type(name: str) -> str:
    """A type as KQL calls it, from the names that answers have for it; one that is not known as it was given."""
    plain = name.rpartition(".")[2].casefold()
    plain = _SYNONYMS.get(plain, plain)
    return plain if plain in KQL_TYPES else name


def differences(
    table: DefenderTable, tenant_columns: Sequence[Column], existing: Sequence[Column]
) -> tuple[Difference, ...]:
    """Every difference, in the order of the tenant's columns, then in that of the typed table's.

    Args:
        table: the Defender table.
        tenant_columns: as `getschema` in the tenant says.
        existing: the columns of the typed table.
    """
    return tuple(_differences(table, tenant_columns, existing))


def mending(table: DefenderTable, tenant_columns: Sequence[Column], existing: Sequence[Column]) -> tuple[str, ...]:
    """The commands that do what `Difference.advice` says, in the order in which they are sent; none when none is due.

    Args:
        table: the Defender table.
        tenant_columns: as `getschema` in the tenant says.
        existing: the columns of the typed table.

    Raises:
        InvalidNameError: a name may not stand in a statement.
    """
    # As if it had the documented columns already, since the tenant may have one of those with another type, too.
    complete = typed_columns(table, existing)
    # A column that either side has already under the name of a twin stands in the twin's way: it is left out.
    taken = {column.name for column in (*tenant_columns, *complete)}
    wanted = [
        Column(one.new_column, one.tenant_type)
        for one in differences(table, tenant_columns, complete)
        if one.new_column and one.tenant_type and (one.new_column == one.column or one.new_column not in taken)
    ]
    return widening(table, existing, wanted)


def _differences(
    table: DefenderTable, tenant_columns: Sequence[Column], existing: Sequence[Column]
) -> Iterator[Difference]:
    tenant = {column.name: kql_type(column.type) for column in tenant_columns}
    typed = {column.name: column.type for column in existing}
    known = {column.name: column.type for column in typed_columns(table)}
    documented = {column.name: column.type for column in (*table.columns, *table.undocumented_columns)}
    # Twins are filled from the field of another column, and are there as long as that one is.
    fields = {column.name: record_field(table, column, existing) for column in existing}
    fed = {(fields[column.name], column.type) for column in existing}

    def difference(name: str, kind: Kind) -> Difference:
        return Difference(table.name, name, kind, tenant.get(name), typed.get(name), documented.get(name))

    for name, kind in tenant.items():
        if name not in typed:
            yield difference(name, "lacking" if name in known else "added")
        elif typed[name] != kind and (name, kind) not in fed and not _is_corrected(table, name, kind, typed[name]):
            yield difference(name, "retyped")
    # Not told where it is missing: SnapshotTime is ours, and of the others each tenant has some.
    untold = {SNAPSHOT_TIME, *(column.name for column in table.undocumented_columns)}
    for name in known:
        if name not in typed and name not in tenant and name not in untold:
            yield difference(name, "lacking")
    spelled = {name.casefold() for name in tenant if name in typed}
    for name in typed:
        is_gone = fields[name] == name and name not in tenant and name.casefold() not in spelled
        if is_gone and name in documented and name not in untold:
            yield difference(name, "dropped")


def _is_corrected(table: DefenderTable, name: str, tenant: str, typed: str) -> bool:
    """Whether the tenant has a type that the pages say and `OVERRIDES` corrects to the one of the typed table."""
    return OVERRIDES.get((table.name, name)) == typed and table.column_type(name) == tenant
