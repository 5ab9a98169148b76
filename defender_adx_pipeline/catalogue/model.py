"""One Defender table as a frozen, validated value. Not here: where the records come from (`reading`)."""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

TableKind = Literal["event", "snapshot"]
Paging = Literal["hash", "row_number"]

KQL_TYPES = frozenset({"string", "datetime", "dynamic", "long", "int", "bool", "guid", "real", "decimal", "timespan"})
"""The scalar types a column may have ("Scalar data types" in the Kusto docs)."""

SNAPSHOT_TIME = "SnapshotTime"
"""The field that every record of a snapshot has beside Defender's columns: when the snapshot was taken."""

MAX_LAG: dict[TableKind, timedelta] = {"event": timedelta(hours=1), "snapshot": timedelta(hours=36)}
"""How far behind a table may be before it counts as late. A tick comes every 15 minutes and leaves the last 10 to the
next one; a snapshot is taken once a day."""

_KEPT = timedelta(days=30)
"""How long Defender keeps rows ("Advanced hunting quotas"): a table that is as late as this has lost some."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class CatalogueError(ValueError):
    """A table record that contradicts itself or lacks something; the message names the table and the field."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a hunting table."""

    name: str
    type: str
    """KQL scalar type, one of `KQL_TYPES`."""


@dataclass(frozen=True, slots=True)
class DefenderTable:
    """One Advanced Hunting table as documented; a tenant may have more or fewer columns.

    Raises:
        CatalogueError: on construction, when the fields contradict each other.
    """

    name: str
    category: str
    kind: TableKind
    time_column: str | None
    """The column whose value places a row in a window; None where the table has no usable one."""
    columns: tuple[Column, ...]
    identity: tuple[str, ...] = ()
    """Columns that together name one row; empty where no key is documented, then the whole row is its identity."""
    identity_source: str = "none documented"
    mutable_columns: tuple[str, ...] = ()
    """Columns that Defender changes after the row was written: never part of an identity."""
    undocumented_columns: tuple[Column, ...] = ()
    """Columns seen in tenants although the page does not list them."""
    paging: Paging = "hash"
    """How a snapshot table is read in parts: `hash` in buckets by its identity, for all that have one. `row_number` in
    pages of its rows in one fixed order, for a table that none of its columns tell apart and that seldom changes."""
    preview: bool = False
    deprecated: str | None = None
    mde_api: bool = False
    graph_api: bool = True
    streaming: str = "not documented"
    page: str = ""
    note: str | None = None
    max_lag: timedelta | None = None
    """How far behind the table may be; None for what `MAX_LAG` says of its kind."""
    _types: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_names()
        object.__setattr__(self, "_types", {column.name: column.type for column in self.columns})
        self._check_references()

    @property
    def raw_table(self) -> str:
        """The table in ADX that receives the records unless the configuration row says otherwise."""
        return f"{self.name}Raw"

    @property
    def group(self) -> str:
        """The category as an identifier, for Dagster's asset groups."""
        return re.sub(r"[^a-z0-9]+", "_", self.category.lower())

    @property
    def allowed_lag(self) -> timedelta:
        """How long ago the instant may be up to which the table is complete, before it counts as late."""
        return MAX_LAG[self.kind] if self.max_lag is None else self.max_lag

    @property
    def dynamic_columns(self) -> tuple[str, ...]:
        """Names of the columns of KQL type dynamic."""
        return tuple(column.name for column in self.columns if column.type == "dynamic")

    @property
    def identity_columns(self) -> tuple[str, ...]:
        """The identity, or all documented columns but the mutable ones where no key is documented."""
        if self.identity:
            return self.identity
        return tuple(column.name for column in self.columns if column.name not in self.mutable_columns)

    def column_type(self, name: str) -> str | None:
        """KQL type of a documented column, or None. Names are case-sensitive."""
        return self._types.get(name)

    def _check_names(self) -> None:
        if not _IDENTIFIER.fullmatch(self.name):
            raise CatalogueError(f"table {self.name!r}: the name is not an identifier")
        if not self.columns:
            raise CatalogueError(f"table {self.name}: it has no columns")
        seen: set[str] = set()
        for column in (*self.columns, *self.undocumented_columns):
            if not _IDENTIFIER.fullmatch(column.name):
                raise CatalogueError(f"table {self.name}: column {column.name!r} is not an identifier")
            if column.type not in KQL_TYPES:
                raise CatalogueError(f"table {self.name}: column {column.name} has the unknown type {column.type!r}")
            if column.name in seen:
                raise CatalogueError(f"table {self.name}: column {column.name} is listed twice")
            seen.add(column.name)

    def _check_references(self) -> None:
        if self.kind not in ("event", "snapshot"):
            raise CatalogueError(f"table {self.name}: kind {self.kind!r} is neither 'event' nor 'snapshot'")
        if self.paging not in ("hash", "row_number"):
            raise CatalogueError(f"table {self.name}: paging {self.paging!r} is neither 'hash' nor 'row_number'")
        if self.paging == "row_number" and self.kind == "event":
            raise CatalogueError(
                f"table {self.name}: paging 'row_number' is for snapshot tables; an event table is read by its time"
            )
        if self.kind == "event" and self.time_column is None:
            raise CatalogueError(f"table {self.name}: an event table needs a time column")
        if self.time_column is not None and self._types.get(self.time_column) != "datetime":
            raise CatalogueError(f"table {self.name}: time column {self.time_column!r} is not a datetime column of it")
        for label, names in (("identity", self.identity), ("mutable_columns", self.mutable_columns)):
            unknown = [name for name in names if name not in self._types]
            if unknown:
                raise CatalogueError(f"table {self.name}: {label} names columns it does not have: {', '.join(unknown)}")
        if self.max_lag is not None and not timedelta(0) < self.max_lag < _KEPT:
            raise CatalogueError(
                f"table {self.name}: max_lag {self.max_lag} is not between zero and the {_KEPT.days} days that Defender"
                " keeps"
            )
        overlap = set(self.identity) & set(self.mutable_columns)
        if overlap:
            raise CatalogueError(f"table {self.name}: mutable columns in the identity: {', '.join(sorted(overlap))}")
