"""Whether a tenant's tables still have the columns that the typed tables in ADX have, and mending it.

Here: asking both sides, and sending what mends a difference. Not here: what counts as one, and the commands
(`adx.typed_drift`). No load waits for any of it: the raw table keeps each record whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from defender_adx_pipeline.adx import typed_drift
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.errors import AdxError, AdxPermissionError, MissingObjectError
from defender_adx_pipeline.adx.kql import table_columns
from defender_adx_pipeline.adx.typed_drift import Difference
from defender_adx_pipeline.adx.typed_schema import columns_of, existing_columns
from defender_adx_pipeline.adx.typed_tables import (
    expand_function,
    expand_name,
    one_command,
    typed_table_name,
    widening,
)
from defender_adx_pipeline.catalogue import Column, DefenderTable
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.defender.errors import UnresolvedNameError
from defender_adx_pipeline.migration.errors import MigrationError


class NoTypedTableError(MigrationError):
    """A Defender table whose typed table is not there. Nothing was changed."""


class DriftNotMendedError(MigrationError):
    """A command that mends a difference failed; the message says what then happens to loads, and what to do."""


@dataclass(frozen=True, slots=True)
class Drift:
    """The columns of one table on both sides."""

    table: DefenderTable
    tenant_columns: tuple[Column, ...] | None
    """None: the tenant does not have the table, or does not show it to this app."""
    typed_columns: tuple[Column, ...] | None
    """None: there is no typed table."""

    @property
    def is_in_tenant(self) -> bool:
        """Whether the tenant has the table."""
        return self.tenant_columns is not None

    @property
    def has_typed_table(self) -> bool:
        """Whether ADX has the typed table."""
        return self.typed_columns is not None

    @property
    def differences(self) -> tuple[Difference, ...]:
        """What differs; nothing where one of the two sides does not have the table."""
        if self.tenant_columns is None or self.typed_columns is None:
            return ()
        return typed_drift.differences(self.table, self.tenant_columns, self.typed_columns)

    @property
    def statements(self) -> tuple[str, ...]:
        """The commands that mend it, in the order in which they are sent."""
        if self.tenant_columns is None or self.typed_columns is None:
            return ()
        return typed_drift.mending(self.table, self.tenant_columns, self.typed_columns)


def read_drift(hunting_client: HuntingClient, adx: AdxClient, table: DefenderTable) -> Drift:
    """Compare one table. Costs one hunting call, where the client has not asked for the table's columns before.

    Raises:
        HuntingError: Defender could not be asked; a table that the tenant does not have is no error.
        AdxError: the database could not be asked.
    """
    (drift,) = read_drifts(hunting_client, adx, (table,))
    return drift


def read_drifts(hunting_client: HuntingClient, adx: AdxClient, tables: Iterable[DefenderTable]) -> Iterator[Drift]:
    """Compare several tables, one after the other: a hunting call for each, one command to ADX for all.

    Raises:
        As `read_drift`, when the table's turn comes.
    """
    listed = tuple(tables)
    typed = existing_columns(adx, listed)
    for table in listed:
        yield Drift(table, _tenant_columns(hunting_client, table), typed.get(table.name))


def drift_of(table: DefenderTable, tenant_columns: Sequence[Column], adx: AdxClient) -> Drift:
    """Compare one table whose columns in the tenant are known already: no hunting call.

    Raises:
        AdxError: the database could not be asked.
    """
    return Drift(table, tuple(tenant_columns), columns_of(adx, table))


def mending_of(adx: AdxClient, drift: Drift) -> tuple[str, ...]:
    """The commands that are due for one table: for its differences, or for an expand function that does not fit it.

    Such a function is left behind when only the first of two commands was carried out, or when somebody adds a column
    by hand; every load of the table fails until it is mended.

    Raises:
        NoTypedTableError: there is no typed table to mend.
        AdxError: the database could not be asked.
    """
    if drift.typed_columns is None:
        raise NoTypedTableError(
            f"{drift.table.name}: there is no table {typed_table_name(drift.table)}. Nothing was changed. Run"
            " `defender-adx bootstrap`, which makes it with the documented columns, and then this again."
        )
    if drift.statements or _columns(adx, expand_name(drift.table)) == _columns(adx, typed_table_name(drift.table)):
        return drift.statements
    return widening(drift.table, drift.typed_columns) or (expand_function(drift.table, drift.typed_columns),)


def apply_drift(adx: AdxClient, drift: Drift) -> tuple[str, ...]:
    """Send what mends one table, as one database script; takes Database Admin.

    A load of this table that falls between its commands fails as a whole: neither raw nor typed rows of the slice are
    there, the slice stays Queued in the ledger, and the next run sends it again. Nothing is lost.

    Returns:
        The commands that were applied; none where nothing had to be.

    Raises:
        NoTypedTableError: there is no typed table to mend.
        DriftNotMendedError: a command failed.
        AdxError: the database could not be asked.
    """
    statements = mending_of(adx, drift)
    if statements:
        try:
            adx.command(one_command(statements), idempotent=True)
        except AdxError as error:
            raise DriftNotMendedError(_failure(drift.table, error)) from error
    return statements


def _columns(adx: AdxClient, name: str) -> tuple[Column, ...] | None:
    """What a table has, or a function gives; None where there is none."""
    try:
        rows = adx.query(table_columns(name))
    except MissingObjectError:
        return None
    return tuple(Column(str(row["ColumnName"]), str(row["ColumnType"])) for row in rows)


def _tenant_columns(hunting_client: HuntingClient, table: DefenderTable) -> tuple[Column, ...] | None:
    try:
        return hunting_client.schema(table.name)
    except UnresolvedNameError:
        return None


def _failure(table: DefenderTable, error: AdxError) -> str:
    todo = "Correct what it names"
    if isinstance(error, AdxPermissionError):
        todo = "The script takes Database Admin: sign in with an identity that has it, or ask for it"
    return (
        f"{table.name}: {error} {todo}, then run `defender-adx schema apply {table.name}` again. If only the first of"
        f" its commands was carried out, {typed_table_name(table)} has columns that {expand_name(table)}() lacks, and"
        " loads of this table fail until then: their slices stay Queued in the ledger, and the next run sends them"
        " again. Nothing is lost."
    )
