"""The `.show` commands.

Here: what the database says about itself. Not here: whole schemas (`commands_show_schema`), and commands that change
the database; `commands` pipes these results on.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from defender_adx_pipeline.local import commands_access
from defender_adx_pipeline.local.adx_schema import Document, Extent, StoredTable
from defender_adx_pipeline.local.commands_context import Context
from defender_adx_pipeline.local.commands_policy import POLICIES, POLICY_COLUMNS, policy_row
from defender_adx_pipeline.local.commands_schema import FUNCTION_COLUMNS, MAPPING_COLUMNS, function_row, mapping_row
from defender_adx_pipeline.local.commands_show_schema import (
    LISTED,
    NET_TYPES,
    database_schema,
    schema_row,
    table_schema,
)
from defender_adx_pipeline.local.commands_text import Reader
from defender_adx_pipeline.local.frames import Table, entity_not_found, format_datetime

FAILURE_COLUMNS = (
    ("OperationId", "guid"),
    ("Database", "string"),
    ("Table", "string"),
    ("FailedOn", "datetime"),
    ("IngestionSourcePath", "string"),
    ("Details", "string"),
    ("FailureKind", "string"),
    ("RootActivityId", "guid"),
    ("OperationKind", "string"),
    ("OriginatesFromUpdatePolicy", "bool"),
    ("ErrorCode", "string"),
    ("Principal", "string"),
    ("ShouldRetry", "bool"),
    ("User", "string"),
    ("IngestionProperties", "string"),
)
_EXTENT_COLUMNS = (
    ("ExtentId", "guid"),
    ("DatabaseName", "string"),
    ("TableName", "string"),
    ("MaxCreatedOn", "datetime"),
    ("OriginalSize", "real"),
    ("ExtentSize", "real"),
    ("CompressedSize", "real"),
    ("IndexSize", "real"),
    ("Blocks", "long"),
    ("Segments", "long"),
    ("ExtentContainerId", "guid"),
    ("RowCount", "long"),
    ("MinCreatedOn", "datetime"),
    ("Tags", "string"),
    ("Kind", "string"),
    ("DeletedRowCount", "long"),
)
_OPERATION_COLUMNS = (
    ("OperationId", "guid"),
    ("Operation", "string"),
    ("NodeId", "string"),
    ("StartedOn", "datetime"),
    ("LastUpdatedOn", "datetime"),
    ("Duration", "timespan"),
    ("State", "string"),
    ("Status", "string"),
    ("RootActivityId", "guid"),
    ("ShouldRetry", "bool"),
    ("Database", "string"),
    ("Principal", "string"),
)
_CONTAINER = "00000000-0000-0000-0000-000000000001"


def show(context: Context, reader: Reader) -> Table:
    """Run the rest of a command after `.show`."""
    kinds: dict[str, Callable[[Context, Reader], Table]] = {
        "table": _table,
        "tables": _tables,
        "function": _function,
        "functions": _functions,
        "materialized-view": _view,
        "materialized-views": _views,
        "database": _database,
        "databases": _databases,
        "ingestion": _ingestion,
        "operations": _operations,
        "version": _version,
        "principal": _principal,
    }
    word = reader.word()
    if word not in kinds:
        reader.fail("something that can be shown")
    reader.any_word()
    return kinds[word](context, reader)


def _table(context: Context, reader: Reader) -> Table:
    if reader.take("*"):
        reader.need("policy", "update")
        return Table(POLICY_COLUMNS, [policy_row(context, "Table", name, "update") for name in context.store.tables()])
    table = context.store.table(reader.name())
    aspects: dict[str, Callable[[], Table]] = {
        "cslschema": lambda: schema_row(context, table, table.cslschema),
        "details": lambda: _details(context, [table]),
        "extents": lambda: _extents(context, reader, table.name),
        "ingestion": lambda: _mappings(context, reader, [table.name]),
        "policy": lambda: _policy(context, reader, "Table", table.name),
        "principals": lambda: commands_access.principals_of(context, table.name),
        "schema": lambda: table_schema(context, reader, table),
    }
    word = reader.word()
    if not word:
        rows = [(name, NET_TYPES[kind], kind) for name, kind in table.columns]
        return Table((("AttributeName", "string"), ("AttributeType", "string"), ("CslType", "string")), rows)
    if word not in aspects:
        reader.fail("cslschema, details, extents, ingestion mappings, policy, principals or schema")
    reader.any_word()
    return aspects[word]()


def _tables(context: Context, reader: Reader) -> Table:
    tables = context.store.tables()
    if reader.text.startswith("(", reader.at):
        tables = {name: tables[name] for name in reader.names() if name in tables}
    if reader.take("details"):
        return _details(context, list(tables.values()))
    rows = [(one.name, context.store.database, one.folder, one.docstring) for one in tables.values()]
    return Table(LISTED, rows)


def _details(context: Context, tables: Sequence[StoredTable]) -> Table:
    columns = (
        *LISTED,
        ("TotalExtents", "long"),
        ("TotalExtentSize", "real"),
        ("TotalOriginalSize", "real"),
        ("TotalRowCount", "long"),
        ("MinExtentsCreationTime", "datetime"),
        ("MaxExtentsCreationTime", "datetime"),
    )
    rows = []
    for table in tables:
        extents = context.store.extents(table.name)
        size = float(sum(extent.original_size for extent in extents))
        times = [extent.created for extent in extents]
        head = (table.name, context.store.database, table.folder, table.docstring)
        count = context.store.row_count(table.name)
        rows.append((*head, len(extents), size, size, count, min(times, default=None), max(times, default=None)))
    return Table(columns, rows)


def _extents(context: Context, reader: Reader, table: str) -> Table:
    """`.show table T extents [(id, ...)] [hot] [where tags has 'x' [and tags !has 'y']]`."""
    extents = context.store.extents(table)
    if reader.text.startswith("(", reader.at):
        wanted = {part.strip().strip("'\"") for part in reader.balanced("(", ")").split(",")}
        extents = [extent for extent in extents if extent.extent_id in wanted]
    reader.take("hot")
    if reader.take("where"):
        extents = _with_tags(extents, reader)
        while reader.take("and"):
            extents = _with_tags(extents, reader)
    return Table(_EXTENT_COLUMNS, [_extent_row(context, extent) for extent in extents])


def _with_tags(extents: Sequence[Extent], reader: Reader) -> list[Extent]:
    reader.need("tags")
    unwanted = reader.take("!")
    operator = reader.any_word()
    if operator not in ("has", "contains"):
        reader.fail("has, !has, contains or !contains")
    text = reader.string()
    return [extent for extent in extents if any(_matches(tag, text, operator) for tag in extent.tags) != unwanted]


def _matches(tag: str, text: str, operator: str) -> bool:
    # `has` of this command takes the whole tag, case-insensitively ("Show extents": filter by tags).
    return text.casefold() == tag.casefold() if operator == "has" else text.casefold() in tag.casefold()


def _extent_row(context: Context, extent: Extent) -> tuple[Any, ...]:
    size, created = float(extent.original_size), extent.created
    head = (extent.extent_id, context.store.database, extent.table, created, size, size / 8, size / 10, size / 40)
    return (*head, 1, 1, _CONTAINER, extent.rows, created, "\r\n".join(extent.tags), "Regular", 0)


def _mappings(context: Context, reader: Reader, tables: Sequence[str]) -> Table:
    kind = reader.any_word()
    wanted: str | None = None
    if kind not in ("mappings", "mapping"):
        if not reader.take("mappings"):
            reader.need("mapping")
            wanted = reader.string()
    else:
        kind = ""
    rows = [
        mapping_row(context, table, name, body)
        for table in tables
        for _, name, body in context.store.documents("mapping", table)
        if (not kind or body["kind"] == kind) and (wanted is None or wanted == name)
    ]
    if wanted is not None and not rows:
        raise entity_not_found("MappingPersistent", wanted, context.store.database)
    return Table(MAPPING_COLUMNS, rows)


def _policy(context: Context, reader: Reader, kind: str, name: str) -> Table:
    if reader.take("*"):
        return Table(POLICY_COLUMNS, [policy_row(context, kind, name, policy) for policy in POLICIES])
    if reader.word() not in POLICIES:
        reader.fail("the name of a policy")
    return Table(POLICY_COLUMNS, [policy_row(context, kind, name, reader.any_word())])


def _functions(context: Context, _: Reader) -> Table:
    rows = [function_row(name, body) for _, name, body in context.store.documents("function")]
    return Table(FUNCTION_COLUMNS, rows)


def _function(context: Context, reader: Reader) -> Table:
    name = reader.name()
    body = context.store.get("function", "", name)
    if body is None:
        raise entity_not_found("Function", name, context.store.database)
    return Table(FUNCTION_COLUMNS, [function_row(name, body)])


_VIEW_COLUMNS = (
    ("Name", "string"),
    ("SourceTable", "string"),
    ("Query", "string"),
    ("MaterializedTo", "datetime"),
    ("LastRun", "datetime"),
    ("LastRunResult", "string"),
    ("IsHealthy", "bool"),
    ("IsEnabled", "bool"),
    ("Folder", "string"),
    ("DocString", "string"),
    ("AutoUpdateSchema", "bool"),
    ("EffectiveDateTime", "datetime"),
    ("Lookback", "timespan"),
)


def _view_row(context: Context, name: str, body: Document) -> tuple[Any, ...]:
    now = format_datetime(context.store.clock())
    head = (name, body["source"], body["body"], now, now, "Completed", True, True)
    return (*head, body["folder"], body["docstring"], False, body["created"], None)


def _views(context: Context, _: Reader) -> Table:
    rows = [_view_row(context, name, body) for _, name, body in context.store.documents("view")]
    return Table(_VIEW_COLUMNS, rows)


def _view(context: Context, reader: Reader) -> Table:
    name = reader.name()
    body = context.store.get("view", "", name)
    if body is None:
        raise entity_not_found("MaterializedView", name, context.store.database)
    return Table(_VIEW_COLUMNS, [_view_row(context, name, body)])


def _database(context: Context, reader: Reader) -> Table:
    if not reader.done() and reader.word() not in ("schema", "principals", "policy", "ingestion"):
        context.need_database(reader.name())
    if reader.take("principals"):
        return commands_access.principals_of(context, "")
    if reader.take("policy"):
        return _policy(context, reader, "Database", context.store.database)
    if reader.take("ingestion"):
        return _mappings(context, reader, list(context.store.tables()))
    if not reader.take("schema"):
        return _databases(context, reader)
    return database_schema(context, reader)


def _databases(context: Context, _: Reader) -> Table:
    columns = (
        ("DatabaseName", "string"),
        ("PersistentStorage", "string"),
        ("Version", "string"),
        ("IsCurrent", "bool"),
    )
    return Table(columns, [(context.store.database, "", f"v{context.store.version}.0", True)])


def _ingestion(context: Context, reader: Reader) -> Table:
    """`.show ingestion failures` and `.show ingestion [json] mappings`."""
    if not reader.take("failures"):
        return _mappings(context, reader, list(context.store.tables()))
    wanted = reader.properties().get("operationid")
    rows = [
        tuple(body[name] for name, _ in FAILURE_COLUMNS)
        for body in context.store.journal("failure")
        if wanted is None or body["OperationId"] == wanted
    ]
    return Table(FAILURE_COLUMNS, rows)


def _operations(context: Context, reader: Reader) -> Table:
    wanted: set[str] | None = None
    if reader.text.startswith("(", reader.at):
        wanted = {part.strip().strip("'\"") for part in reader.balanced("(", ")").split(",")}
    elif not reader.done():
        wanted = {reader.rest().strip().strip("'\"")}
    rows = [
        tuple(body[name] for name, _ in _OPERATION_COLUMNS)
        for body in context.store.journal("operation")
        if wanted is None or body["OperationId"] in wanted
    ]
    return Table(_OPERATION_COLUMNS, rows)


def _version(_: Context, __: Reader) -> Table:
    columns = (
        ("BuildVersion", "string"),
        ("BuildTime", "datetime"),
        ("ServiceType", "string"),
        ("ProductVersion", "string"),
        ("ServiceOffering", "string"),
    )
    built = format_datetime(datetime(2026, 8, 1, tzinfo=UTC))
    return Table(columns, [("1.0.9999.0", built, "Engine", "local tenant", '{"Type":"Local","Sku":"loopback"}')])


def _principal(context: Context, reader: Reader) -> Table:
    reader.need("roles")
    return commands_access.principals_of(context, "")
