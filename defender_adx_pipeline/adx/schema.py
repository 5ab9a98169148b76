"""What the database has and what it lacks: applying the scripts of `kql/`, and telling what is there.

Here: bootstrap, which may be run again at any time, and `inspect`. Not here: the statements (`scripts`, `generated`).
A database made by the older script, whose VwLatestMigrationConfiguration is a materialized view and whose
MigrationConfiguration lacks a column, is taken over as it is. Typed tables keep the columns that they have.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from defender_adx_pipeline.adx.errors import AdxError, AdxPermissionError
from defender_adx_pipeline.adx.generated import CONFIGURATION_COLUMNS
from defender_adx_pipeline.adx.kql import MAPPING
from defender_adx_pipeline.adx.monitoring_kql import FUNCTIONS
from defender_adx_pipeline.adx.scripts import (
    Placeholders,
    SchemaScriptError,
    Statement,
    kql_folder,
    statements,
)
from defender_adx_pipeline.adx.snapshot_views import snapshot_functions
from defender_adx_pipeline.adx.state_kql import (
    AUDIT,
    CONFIGURATION,
    CONFIGURATION_VIEW,
    DEAD_LETTERS,
    LEDGER,
    LEDGER_COSTS,
    LEDGER_VIEW,
    SNAPSHOTS_VIEW,
)
from defender_adx_pipeline.adx.typed_schema import existing_columns
from defender_adx_pipeline.adx.typed_snapshots import typed_snapshot_functions
from defender_adx_pipeline.adx.typed_tables import NO_TABLES, SCRIPT, expand_name, typed_table_name
from defender_adx_pipeline.catalogue import DefenderTable, load_catalogue
from defender_adx_pipeline.quoting import kql_name

STATE_TABLES = (CONFIGURATION, AUDIT, LEDGER, DEAD_LETTERS)
STATE_VIEWS = (CONFIGURATION_VIEW, LEDGER_VIEW, SNAPSHOTS_VIEW)

_VIEW_FILE = "11_vw_latest_migration_configuration.kql"
_ROLES_FILE = "30_roles.kql"
_ROWS_FILE = "40_configuration_rows.kql"
_RESTRICTED_FILE = "56_restricted_tables.kql"

_UPDATE_POLICIES = ".show table * policy update"
# [Database].[Table]; only the table's name is of interest.
_ENTITY = re.compile(r"\[(?P<table>[^\[\]]+)\]$")

ViewShape = Literal["function", "materialized view"]

_MATERIALIZED_VIEW = (
    f"{CONFIGURATION_VIEW} is a materialized view, made by an older script. It was left as it is and is read as it is."
    " It serves the active row with the greatest LastRefreshedTime: a newer row that switches a table off, or sets its"
    " watermark back, has no effect there. To replace it, run"
    f" `.drop materialized-view {CONFIGURATION_VIEW}` and then `defender-adx bootstrap`; all rows are in"
    f" {CONFIGURATION} and stay. Until then, see that it is still enabled and healthy:"
    f" `.show materialized-view {CONFIGURATION_VIEW}`."
)
_NO_GRANTS = (
    "The roles of 30_roles.kql were not granted. The pipeline needs them once: see `defender-adx bootstrap --print`."
)
_HALFWAY = (
    " It gives a typed table new columns and then its expand function. If only the first was done, loads of that table"
    " fail until this is run again: their slices stay Queued in the ledger, and the next run sends them. Nothing is"
    " lost."
)


class SchemaClient(Protocol):
    """The part of `AdxClient` that is used here."""

    database: str

    def command(self, text: str, *, idempotent: bool) -> Sequence[Mapping[str, Any]]:
        """The rows that a management command answers."""
        ...

    def query(self, kql: str) -> Sequence[Mapping[str, Any]]:
        """The rows that a query answers."""
        ...


class BootstrapError(AdxError):
    """A statement of the scripts was refused; names its file and line, what was applied before it, and what to do."""


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """What `inspect` found."""

    missing: tuple[str, ...]
    """Tables, views, mappings, functions and update policies that are not there, each in words."""
    configuration_view: ViewShape | None
    """What VwLatestMigrationConfiguration is."""
    configuration_columns: Mapping[str, str]
    """Name and type of the columns of MigrationConfiguration, in its own order; empty when there is no such table."""

    @property
    def findings(self) -> tuple[str, ...]:
        """What is not as the scripts make it, though it works; in sentences."""
        return tuple(_findings(self))


@dataclass(frozen=True, slots=True)
class BootstrapReport:
    """What bootstrap did."""

    applied: tuple[Statement, ...]
    skipped: tuple[Statement, ...]
    found: tuple[str, ...]
    """What a person should know of this database, in sentences."""


def bootstrap(
    client: SchemaClient,
    *,
    client_id: str | None,
    tenant_id: str | None,
    tables: Iterable[DefenderTable] | None = None,
    grants: bool = True,
    typed: bool = True,
    retention_days: int | None = None,
) -> BootstrapReport:
    """Run the scripts, one statement after the other. Running them again changes nothing and resets no watermark.

    A typed table that is there keeps its columns, their order and their types, and its expand function follows them. It
    gets the columns that the catalogue has beyond those in one command with its function; a load that falls between the
    two fails as a whole, its slice stays Queued in the ledger, and the next run sends it again.

    Args:
        client: the database, with the rights that the scripts name (Database Admin has all of them).
        client_id: the pipeline's own identity, which gets the roles of `30_roles.kql`.
        tenant_id: the Entra tenant of that identity.
        tables: the Defender tables to make; all of the shipped catalogue when absent.
        grants: whether to grant the roles. Without them no table is restricted either: the pipeline could not read it.
        typed: whether to make the typed tables, too. What there is of them is left alone otherwise.
        retention_days: how long raw and typed tables keep rows; the policies stay as they are when absent.

    Raises:
        SchemaScriptError: a name is missing or cannot stand in a statement; nothing was sent.
        BootstrapError: a statement was refused; those before it are applied and may be run again.
    """
    if grants and (client_id is None or tenant_id is None):
        raise SchemaScriptError(
            "AZURE_CLIENT_ID and AZURE_TENANT_ID name the identity that gets the roles of 30_roles.kql: set both, or"
            " leave the roles out. Nothing was sent."
        )
    listed = None if tables is None else tuple(tables)
    names = Placeholders(client.database, client_id, tenant_id, retention_days=retention_days)
    before = inspect(client)
    skip = {_VIEW_FILE} if before.configuration_view == "materialized view" else set()
    skip |= set() if grants else {_ROLES_FILE, _RESTRICTED_FILE}
    known = tuple(load_catalogue().values()) if listed is None else listed
    existing = existing_columns(client, known) if typed else NO_TABLES
    planned = statements(names, tables=listed, typed=typed, existing=existing)
    skipped = [item for item in planned if item.file in skip or "RetentionDays" in item.placeholders]
    applied = _run(client, [item for item in planned if item not in skipped and item.file != _ROWS_FILE])
    # Only now the table has all its columns, and an append has to follow the order in which it has them.
    after = inspect(client)
    rows = statements(
        Placeholders(client.database, client_id, tenant_id, after.configuration_columns or CONFIGURATION_COLUMNS),
        tables=listed,
        typed=False,
    )
    applied += _run(client, [item for item in rows if item.file == _ROWS_FILE])
    return BootstrapReport(
        applied=tuple(applied),
        skipped=tuple(skipped),
        found=(*after.findings, *(() if grants else (_NO_GRANTS,))),
    )


def inspect(client: SchemaClient, tables: Collection[DefenderTable] = (), *, typed: bool = True) -> DatabaseState:
    """What the database has of the objects that the pipeline needs.

    Args:
        client: the database.
        tables: Defender tables whose raw table and mapping are looked for, too, and a snapshot table's functions.
        typed: whether to look for what makes and fills their typed tables, too.

    Raises:
        AdxError: the database could not be asked.
    """
    there = set(_names(client, ".show tables", column="TableName"))
    functions = set(_names(client, ".show functions"))
    materialized = set(_names(client, ".show materialized-views"))
    missing = [f"table {name}" for name in STATE_TABLES if name not in there]
    missing += [f"view {name}" for name in STATE_VIEWS if name not in functions | materialized]
    missing += [f"function {name}" for name in FUNCTIONS if name not in functions]
    ledger = _columns(client, LEDGER) if LEDGER in there else dict.fromkeys(LEDGER_COSTS, "")
    missing += [f"column {name} of table {LEDGER}" for name in LEDGER_COSTS if name not in ledger]
    missing += [f"table {table.raw_table}" for table in tables if table.raw_table not in there]
    missing += [
        f"mapping {MAPPING} of table {table.raw_table}"
        for table in tables
        if table.raw_table in there and MAPPING not in _mappings(client, table.raw_table)
    ]
    missing += [
        f"function {name}"
        for table in tables
        if table.kind == "snapshot"
        for name in snapshot_functions(table)
        if name not in functions
    ]
    if typed and tables:
        missing += _missing_typed(tables, there, functions, _updated(client))
    shape: ViewShape | None = "function" if CONFIGURATION_VIEW in functions else None
    return DatabaseState(
        missing=tuple(missing),
        configuration_view="materialized view" if CONFIGURATION_VIEW in materialized else shape,
        configuration_columns=_columns(client, CONFIGURATION) if CONFIGURATION in there else {},
    )


def _missing_typed(
    tables: Collection[DefenderTable], there: set[str], functions: set[str], updated: Mapping[str, str]
) -> Iterator[str]:
    """What the typed tables lack; `updated` has the update policy of each table, as text."""
    for table in tables:
        name, expand = typed_table_name(table), expand_name(table)
        if name not in there:
            yield f"typed table {name}"
        yield from (
            f"function {one}"
            for one in (expand, *(typed_snapshot_functions(table) if table.kind == "snapshot" else ()))
            if one not in functions
        )
        if name in there and f"{expand}()" not in updated.get(name, ""):
            yield f"update policy of table {name} with {expand}()"


def _updated(client: SchemaClient) -> dict[str, str]:
    """The update policy of each table that has one, as text; one command for all."""
    rows = client.command(_UPDATE_POLICIES, idempotent=True)
    found = ((_ENTITY.search(str(row["EntityName"])), str(row["Policy"])) for row in rows)
    return {match["table"]: policy for match, policy in found if match}


def _run(client: SchemaClient, planned: Sequence[Statement]) -> list[Statement]:
    for number, statement in enumerate(planned):
        try:
            client.command(statement.text, idempotent=True)
        except AdxError as error:
            advice = "Correct what it names"
            if isinstance(error, AdxPermissionError):
                advice = f"It takes: {statement.role}. Sign in with an identity that has it, or ask for it"
            raise BootstrapError(
                f"kql/{statement.file}, line {statement.line}: {error} {advice}, then run `defender-adx bootstrap`"
                f" again: the {number} statements before this one are applied, and applying them again changes nothing."
                f"{_HALFWAY if statement.text.startswith(SCRIPT) else ''}"
            ) from error
    return list(planned)


def _names(client: SchemaClient, command: str, *, column: str = "Name") -> Iterator[str]:
    return (str(row[column]) for row in client.command(command, idempotent=True))


def _mappings(client: SchemaClient, table: str) -> set[str]:
    return set(_names(client, f".show table {kql_name(table)} ingestion json mappings"))


def _columns(client: SchemaClient, table: str) -> dict[str, str]:
    rows = client.query(f"{kql_name(table)} | getschema")
    return {str(row["ColumnName"]): str(row["ColumnType"]) for row in rows}


def _findings(state: DatabaseState) -> Iterator[str]:
    if state.configuration_view == "materialized view":
        yield _MATERIALIZED_VIEW
    columns = state.configuration_columns
    if not columns:
        return
    absent = [name for name in CONFIGURATION_COLUMNS if name not in columns]
    if absent:
        yield (
            f"{CONFIGURATION} has no column {', '.join(absent)}: `defender-adx bootstrap` adds it as the last one; the"
            " rows that are there keep it empty."
        )
    elif list(columns) != list(CONFIGURATION_COLUMNS):
        yield (
            f"The columns of {CONFIGURATION} stand in this order: {', '.join(columns)}. That works, since the pipeline"
            " goes by their names; rows appended by hand with `.append` or `.ingest inline` go by position."
        )
    wrong = [
        f"{name} is {columns[name]} and not {kind}"
        for name, kind in CONFIGURATION_COLUMNS.items()
        if columns.get(name, kind) != kind
    ]
    if wrong:
        yield f"{CONFIGURATION}: {'; '.join(wrong)}. Bootstrap cannot change a type: make the column anew."


__all__ = [
    "BootstrapError",
    "BootstrapReport",
    "DatabaseState",
    "Placeholders",
    "SchemaClient",
    "SchemaScriptError",
    "Statement",
    "bootstrap",
    "inspect",
    "kql_folder",
    "statements",
]
