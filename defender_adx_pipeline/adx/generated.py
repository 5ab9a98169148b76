"""The scripts of `kql/` that list the Defender tables, written from the catalogue.

Here: the text of those files for any set of tables. Not here: scripts that are the same for every catalogue (they are
written by hand in `kql/`), the functions of one snapshot table (`snapshot_views`), the scripts about typed tables
(`typed_scripts`), reading and running any of them (`scripts`, `schema`). `tools/generate_kql.py` commits the result.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import groupby

import orjson

from defender_adx_pipeline.adx.kql import MAPPING, RECORDS
from defender_adx_pipeline.adx.snapshot_views import snapshot_functions
from defender_adx_pipeline.adx.typed_scripts import TYPED
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.instants import EPOCH_1900, to_text
from defender_adx_pipeline.quoting import kql_bool, kql_name, kql_string

CONFIGURATION_COLUMNS = {
    "SourceTable": "string",
    "DestinationTable": "string",
    "WatermarkColumn": "string",
    "LastRefreshedTime": "datetime",
    "LastRefreshedTimeInString": "string",
    "LoadType": "string",
    "IsActive": "bool",
}
"""Columns of MigrationConfiguration, in the order of `10_migration_configuration.kql`."""

_GENERATED = "// Generated from the catalogue by tools/generate_kql.py: change it there."

_RAW_TABLES = f"""\
// 20 Raw tables: one per Defender table, each record whole in one dynamic column, and the mapping that puts it there.
// Run by: Database User; Table Admin of the tables that exist already.
{_GENERATED}
"""

_POLICIES = f"""\
// 21 Policies of the raw tables. Each run sets them anew.
// Run by: Table Admin of the raw tables.
{_GENERATED}
//
// How long data is kept, and how much of it on fast disks, is left to you. Until you say otherwise a table keeps
// everything, all of it hot. For example:
//     .alter-merge table DeviceEventsRaw policy retention softdelete = 730d
//     .alter table DeviceEventsRaw policy caching hot = 31d
// Keep retention above 30 days: what Defender still has and ADX has dropped would count as missing and be loaded again.
"""

_BATCHING = """\
// A slice is one blob with a tag of its own, so it is sealed at once, whatever stands here. The limit of 30 seconds is
// for blobs that somebody else queues into these tables, and for those that the service holds back.
"""

_INGESTION_TIME = """\
// Counting what arrived looks only at extents ingested since the window began, so the tables have to keep the time of
// ingestion. On is the default; this says so.
"""

_TAGS = """\
// `ingest-by:` tags are how a slice is known to be loaded, so that it is never loaded twice. They have to outlive every
// replay: Defender keeps 30 days, the queue 7 more. After 45 days they may go: extents with many tags do not merge.
"""

_SNAPSHOT_VIEWS = f"""\
// 22 Functions over the snapshot tables: the latest state, that of a day, what changed between two days, since when.
// Run by: Database User; Function Admin of the functions that exist already.
{_GENERATED}
//
// They serve published snapshots only (VwPublishedSnapshots of 13), and each whole: which one is settled once in a
// query, and it is published after all its rows are there. Of a day the latest one counts; a day without one gives no
// rows. Days are UTC days, given as any instant of the day: `VwDeviceTvmInfoGatheringAt(ago(1d))`.
// Columns: the key of the table as text, and Records, a whole record: `| extend Name = tostring(Records.DeviceName)`.
// A snapshot cannot be ingested before it was taken, so extents older than an hour before that are not read. Rows of an
// older script have no SnapshotTime; they are in the raw table and not served here.
// A table whose configuration row names another DestinationTable needs functions of its own, with that name in them.
"""

_MONITORED = f"""\
// 60 Monitoring: the configured tables, with what the catalogue says of each. 61 to 64 are over these.
// Run by: Database User; Function Admin of the functions that exist already.
{_GENERATED}
"""

_MONITORED_BODY = """\
    VwLatestMigrationConfiguration
    | join kind=leftouter Known on SourceTable
    | extend IsLoaded = LastRefreshedTime > datetime(1900-01-01)
    | project SourceTable, DestinationTable, IsActive, Kind, AllowedMinutes,
        Watermark = iff(IsLoaded, LastRefreshedTime, datetime(null)),
        // What lies before a watermark was confirmed when it was written; a first full load begins anew.
        IsTrusted = IsLoaded and LoadType !~ "Full"
"""

_ROWS = f"""\
// 40 First configuration row of every table. Event tables are loaded incrementally, from as far back as Defender keeps;
// of snapshot tables, which have no watermark column, the whole state is taken once a day.
// Run by: Table Ingestor of MigrationConfiguration with Database Viewer; the pipeline's own roles are enough.
{_GENERATED}
//
// A table that has a row is left alone, so running this again never sets a watermark back.
// `.append` goes by position. The last line names the columns in the order that the table has them. Bootstrap asks for
// that (`MigrationConfiguration | getschema`): a table made by an older script has LastRefreshedTimeInString last.
"""


def raw_tables(tables: Iterable[DefenderTable]) -> str:
    """Text of `20_raw_tables.kql`."""
    ordered = sorted(tables, key=lambda table: (table.category, table.name))
    parts = [_RAW_TABLES]
    for category, members in groupby(ordered, key=lambda table: table.category):
        names = ",\n".join(f"    {_raw(table)} ({RECORDS}: dynamic)" for table in members)
        folder = kql_string(f"Defender/{category.capitalize()}/Raw")
        parts.append(f".create-merge tables\n{names}\nwith (folder = {folder})\n")
    path = orjson.dumps([{"column": RECORDS, "Properties": {"Path": "$"}}]).decode()
    parts.extend(
        f".create-or-alter table {_raw(table)} ingestion json mapping \"{MAPPING}\" '{path}'\n" for table in ordered
    )
    return "\n".join(parts)


def policies(tables: Iterable[DefenderTable]) -> str:
    """Text of `21_raw_table_policies.kql`."""
    ordered = sorted(tables, key=lambda table: (table.category, table.name))
    if not ordered:
        return _POLICIES
    names = ",\n".join(f"    {_raw(table)}" for table in ordered)
    batching = {"MaximumBatchingTimeSpan": "00:00:30", "MaximumNumberOfItems": 500, "MaximumRawDataSizeMB": 1024}
    tags = [{"TagPrefix": "ingest-by:", "RetentionPeriod": "45.00:00:00"}]
    first, *rest = (f".alter table {_raw(table)} policy extent_tags_retention {_policy(tags)}\n" for table in ordered)
    return "\n".join(
        [
            _POLICIES,
            f"{_BATCHING}.alter tables (\n{names}\n) policy ingestionbatching {_policy(batching)}\n",
            f"{_INGESTION_TIME}.alter tables (\n{names}\n) policy ingestiontime true\n",
            _TAGS + first,
            *rest,
        ]
    )


def snapshot_views(tables: Iterable[DefenderTable]) -> str:
    """Text of `22_snapshot_views.kql`."""
    snapshots = sorted((table for table in tables if table.kind == "snapshot"), key=lambda table: table.name)
    return "\n".join((_SNAPSHOT_VIEWS, *(text for table in snapshots for text in snapshot_functions(table).values())))


def monitored_tables(tables: Iterable[DefenderTable]) -> str:
    """Text of `monitoring/60_monitored_tables.kql`."""
    rows = ",\n".join(
        f"        {kql_string(table.name)}, {kql_string(table.kind)}, {table.allowed_lag / timedelta(minutes=1):g}"
        for table in sorted(tables, key=lambda table: table.name)
    )
    what = kql_string("The configured tables. Event tables are followed by time, of snapshot tables each day is kept.")
    return (
        f'{_MONITORED}\n.create-or-alter function with (folder = "Migration/Monitoring",\n    docstring = {what})\n'
        "MonitorTables() {\n    let Known = datatable(SourceTable: string, Kind: string, AllowedMinutes: real) [\n"
        f"{rows}\n    ];\n{_MONITORED_BODY}}}\n"
    )


def configuration_rows(tables: Iterable[DefenderTable]) -> str:
    """Text of `40_configuration_rows.kql`."""
    rows = ",\n".join("    " + _row(table) for table in sorted(tables, key=lambda table: table.name))
    if not rows:
        return _ROWS
    columns = ", ".join(f"{name}: {kind}" for name, kind in CONFIGURATION_COLUMNS.items())
    return (
        f"{_ROWS}\n.append MigrationConfiguration <|\n"
        f"datatable({columns}) [\n{rows}\n]\n"
        "| where SourceTable !in ((MigrationConfiguration | project SourceTable))\n"
        "| project {MigrationConfigurationColumns}\n"
    )


def _row(table: DefenderTable) -> str:
    snapshot = table.kind == "snapshot"
    values = (
        kql_string(table.name),
        kql_string(table.raw_table),
        # "None" is how the older script's rows say it.
        kql_string("None" if snapshot else table.time_column or ""),
        f"datetime({EPOCH_1900.date().isoformat()})",
        kql_string(to_text(EPOCH_1900)),
        kql_string("Full" if snapshot else "Incr"),
        kql_bool(True),  # noqa: FBT003 - the value is the argument
    )
    return ", ".join(values)


def _policy(value: object) -> str:
    return f"```{orjson.dumps(value).decode()}```"


def _raw(table: DefenderTable) -> str:
    """The raw table's name: an identifier, as the catalogue has checked, and not one that Kusto reserves."""
    kql_name(table.raw_table)
    return table.raw_table


GENERATED: Mapping[str, Callable[[Sequence[DefenderTable]], str]] = {
    "20_raw_tables.kql": raw_tables,
    "21_raw_table_policies.kql": policies,
    "22_snapshot_views.kql": snapshot_views,
    "40_configuration_rows.kql": configuration_rows,
    "monitoring/60_monitored_tables.kql": monitored_tables,
    **TYPED,
}
"""Files of `kql/` that depend on the catalogue, with what writes each."""
