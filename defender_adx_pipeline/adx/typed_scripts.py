"""The scripts of `kql/` about typed tables, written from the catalogue.

Here: the text of those files for any set of tables, with what each opens by saying. Not here: the single commands
(`typed_tables` and its neighbours), and the other generated scripts (`generated`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

from defender_adx_pipeline.adx.typed_docstrings import column_docstrings
from defender_adx_pipeline.adx.typed_policies import (
    caching,
    restricted,
    restricted_view_access,
    retention,
    tag_retention,
)
from defender_adx_pipeline.adx.typed_snapshots import typed_snapshot_functions
from defender_adx_pipeline.adx.typed_tables import (
    NO_TABLES,
    Existing,
    create_tables,
    expand_function,
    folder,
    one_command,
    update_policy,
    widening,
)
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.quoting import kql_string

_GENERATED = "// Generated from the catalogue by tools/generate_kql.py: change it there."

_RUN_BY_USER = "// Run by: Database User; Table Admin of the tables that exist already."
_RUN_BY_ADMIN = "// Run by: Database Admin, since a table that exists gets new columns and its function in one script."

_TABLES = f"""\
// 50 Typed tables: Defender's own names and types, so that a hunting query written for Defender runs here unchanged.
{_RUN_BY_USER}
{_GENERATED}
//
// An event table has its own name. Of a snapshot table, <Table>Snapshots has the rows of all snapshots, the unfinished
// ones too: read the functions of 53 instead. Columns are those of Microsoft's pages in their order, then those that
// tenants have though no page lists them. A new column of the catalogue is added at the end of a table that exists.
"""

_DOCSTRINGS = f"""\
// 51 What the columns of typed tables are.
// Run by: Table Admin of the typed tables.
{_GENERATED}
"""

_EXPAND = f"""\
// 52 Expand functions: raw records with the columns and types of the typed table. The update policies of 54 call them.
// Run by: Database User; Function Admin of the functions that exist already.
{_GENERATED}
//
// A value that does not fit its column becomes null, never another value, and stays in the raw table. Whole numbers are
// converted by way of their text for that reason: a number that is too large for an int would be cut without a word.
"""

_SNAPSHOTS = f"""\
// 53 Snapshot tables under their own names: <Table> is the latest published snapshot, <Table>History each day's latest.
// Run by: Database User; Function Admin of the functions that exist already.
{_GENERATED}
//
// Only published snapshots are served (VwPublishedSnapshots of 13), and each whole.
"""

_UPDATES = f"""\
// 54 Update policies: what is loaded into a raw table goes into its typed table in the same transaction.
// Run by: Table Admin of the typed tables, with Database Viewer.
{_GENERATED}
//
// Transactional: when an expand function fails, nothing of the slice is loaded and its run fails, so that raw and typed
// can never differ. With the tags: a slice can be found in the typed table, too. Rows that were loaded before this ran
// are not expanded.
"""

_POLICIES = f"""\
// 55 Policies of the typed tables.
// Run by: Table Admin of the raw and typed tables.
{_GENERATED}
//
// De-duplication: none. Raw rows are loaded exactly once, and each becomes one typed row in the same transaction. A
// materialized view over them would cost CPU all the time, and would take away true twins.
"""

_RETENTION = """\
// Retention: counted from when rows arrived, in days that whoever runs this gives; else policies stay as they are. Raw
// rows are kept as long as typed ones, since a value that does not fit its column is in the raw row alone.
"""

_CACHING = """\
// Hot cache: the days that Defender has as well, which most queries are about. Older rows are read from slower storage.
"""

_TAGS = """\
// Tags come along with the rows, and extents with many tags do not merge: they go when those of the raw tables go.
"""

_RESTRICTED = f"""\
// 56 Restricted tables: only principals with the role unrestrictedviewers read them, though others may read the rest.
// Run by: Database Admin.
{_GENERATED}
//
// These tables name employees in cases of insider risk and data loss; Defender shows them to few as well. Who reads
// them gets the role by: .add database ['{{Database}}'] unrestrictedviewers ('aadgroup=...;{{TenantId}}').
// For access by row, as in "analysts of one country see its users", set a row level security policy on the typed table
// alone: on a raw table it would hide rows from the pipeline's counts, and from the update policy.
"""

_PIPELINE_ROLE = """\
// The pipeline counts what arrived, also in restricted tables.
.add database ['{Database}'] unrestrictedviewers ('aadapp={ClientId};{TenantId}') 'Defender to ADX pipeline: counts'
"""

_RESTRICT = """\
// Restricted view access: on raw and typed table alike, since the rows are the same.
"""


def typed_tables(tables: Iterable[DefenderTable], existing: Existing = NO_TABLES) -> str:
    """Text of `50_typed_tables.kql`.

    Args:
        tables: the Defender tables.
        existing: the columns of typed tables that are there. Those that lack one get it first, each together with its
            expand function, so that no load fails for longer than that takes.
    """
    ordered = sorted(tables, key=lambda table: (table.category, table.name))
    groups = (list(members) for _, members in groupby(ordered, key=lambda table: table.category))
    grown = [
        f"{one_command(commands)}\n"
        for table in ordered
        if table.name in existing and (commands := widening(table, existing[table.name]))
    ]
    head = _TABLES.replace(_RUN_BY_USER, _RUN_BY_ADMIN) if grown else _TABLES
    return _joined(
        head,
        (*grown, *(create_tables(group, f"folder = {kql_string(folder(group[0]))}", existing) for group in groups)),
    )


def typed_docstrings(tables: Iterable[DefenderTable]) -> str:
    """Text of `51_typed_column_docstrings.kql`."""
    return _joined(_DOCSTRINGS, map(column_docstrings, _ordered(tables)))


def expand_functions(tables: Iterable[DefenderTable], existing: Existing = NO_TABLES) -> str:
    """Text of `52_expand_functions.kql`; `existing` as in `typed_tables`."""
    return _joined(_EXPAND, (expand_function(table, existing.get(table.name, ())) for table in _ordered(tables)))


def typed_snapshots(tables: Iterable[DefenderTable]) -> str:
    """Text of `53_typed_snapshots.kql`."""
    snapshots = (table for table in _ordered(tables) if table.kind == "snapshot")
    return _joined(_SNAPSHOTS, (text for table in snapshots for text in typed_snapshot_functions(table).values()))


def update_policies(tables: Iterable[DefenderTable]) -> str:
    """Text of `54_update_policies.kql`."""
    return _joined(_UPDATES, map(update_policy, _ordered(tables)))


def typed_policies(tables: Iterable[DefenderTable]) -> str:
    """Text of `55_typed_policies.kql`."""
    ordered = _ordered(tables)
    if not ordered:
        return _POLICIES
    first, *rest = map(tag_retention, ordered)
    return _joined(_POLICIES, (_RETENTION + retention(ordered), _CACHING + caching(ordered), _TAGS + first, *rest))


def restricted_tables(tables: Iterable[DefenderTable]) -> str:
    """Text of `56_restricted_tables.kql`."""
    chosen = restricted(_ordered(tables))
    return _joined(_RESTRICTED, (_PIPELINE_ROLE, _RESTRICT + restricted_view_access(chosen)) if chosen else ())


def _ordered(tables: Iterable[DefenderTable]) -> list[DefenderTable]:
    return sorted(tables, key=lambda table: table.name)


def _joined(head: str, parts: Iterable[str]) -> str:
    return "\n".join((head, *parts))


TYPED: Mapping[str, Callable[[Sequence[DefenderTable]], str]] = {
    "50_typed_tables.kql": typed_tables,
    "51_typed_column_docstrings.kql": typed_docstrings,
    "52_expand_functions.kql": expand_functions,
    "53_typed_snapshots.kql": typed_snapshots,
    "54_update_policies.kql": update_policies,
    "55_typed_policies.kql": typed_policies,
    "56_restricted_tables.kql": restricted_tables,
}
"""Files of `kql/` about typed tables, with what writes each."""

FOLLOWING: Mapping[str, Callable[[Sequence[DefenderTable], Existing], str]] = {
    "50_typed_tables.kql": typed_tables,
    "52_expand_functions.kql": expand_functions,
}
"""Those of them that follow the columns which typed tables have already."""
