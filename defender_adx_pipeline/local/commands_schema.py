"""Commands that make and change entities: tables, mappings, functions, views.

Here: `.create`, `.create-merge`, `.create-or-alter`, `.alter-merge` of columns, `.drop`, `.clear`. Not here: policies
(`commands_policy`), principals (`commands_access`), `.show` and commands that write rows.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from defender_adx_pipeline.local import commands_access, commands_policy
from defender_adx_pipeline.local.adx_schema import Document, Extent, StoredTable
from defender_adx_pipeline.local.commands_context import Context
from defender_adx_pipeline.local.commands_text import Reader
from defender_adx_pipeline.local.engine import as_fault
from defender_adx_pipeline.local.frames import KustoFault, Table, entity_not_found, format_datetime
from defender_adx_pipeline.local.kql import KqlFailure

TABLE_COLUMNS = (
    ("TableName", "string"),
    ("Schema", "string"),
    ("DatabaseName", "string"),
    ("Folder", "string"),
    ("DocString", "string"),
)
FUNCTION_COLUMNS = (
    ("Name", "string"),
    ("Parameters", "string"),
    ("Body", "string"),
    ("Folder", "string"),
    ("DocString", "string"),
)
MAPPING_COLUMNS = (
    ("Name", "string"),
    ("Kind", "string"),
    ("Mapping", "string"),
    ("LastUpdatedOn", "datetime"),
    ("Database", "string"),
    ("Table", "string"),
)
_MAPPING_KINDS = {"json", "csv", "avro", "parquet", "orc", "w3clogfile"}


def create(context: Context, reader: Reader) -> Table:
    """`.create table|tables|function|materialized-view`."""
    reader.take("async")
    if_missing = reader.take("ifnotexists")
    if reader.word() in ("table", "tables"):
        return _create_tables(context, reader, merge=False)
    if reader.take("function"):
        if_missing = reader.take("ifnotexists") or if_missing
        return _function(context, reader, replace=False, if_missing=if_missing)
    if reader.take("materialized-view"):
        return _materialized_view(context, reader, replace=False, if_missing=if_missing)
    return reader.fail("table, tables, function or materialized-view")


def create_merge(context: Context, reader: Reader) -> Table:
    """`.create-merge table T (...)` and `.create-merge tables A (...), B (...)`."""
    if reader.word() not in ("table", "tables"):
        reader.fail("table or tables")
    return _create_tables(context, reader, merge=True)


def create_or_alter(context: Context, reader: Reader) -> Table:
    """`.create-or-alter function|materialized-view|table ... ingestion mapping`."""
    if reader.take("function"):
        return _function(context, reader, replace=True, if_missing=False)
    if reader.take("materialized-view"):
        return _materialized_view(context, reader, replace=True, if_missing=False)
    reader.need("table")
    table = context.store.table(reader.name())
    reader.need("ingestion")
    return _mapping(context, reader, table)


def alter_merge(context: Context, reader: Reader) -> Table:
    """`.alter-merge ... policy ...`, `.alter-merge table T (...)`, which adds columns, and `... column-docstrings`."""
    ahead = Reader(reader.text, reader.at)
    if ahead.take("table") and ahead.name():
        if ahead.take("("):
            return _create_tables(context, reader, merge=True, existing=True)
        if ahead.word() == "column-docstrings":
            return _column_docstrings(context, reader)
    return commands_policy.alter_policy(context, reader, merge=True)


def drop(context: Context, reader: Reader) -> Table:
    """`.drop table|tables|function|materialized-view|extents|database ... role`; of a table: mapping, extent tags."""
    for word, kind, stored in (("function", "Function", "function"), ("materialized-view", "MaterializedView", "view")):
        if reader.take(word):
            name = reader.name()
            if not context.store.delete(stored, "", name) and not reader.take("ifexists"):
                raise entity_not_found(kind, name, context.store.database)
            reader.take("ifexists")
            return Table((("Name", "string"),), [(name,)])
    if reader.word() == "database":
        return commands_access.drop(context, reader)
    if reader.take("extents"):
        return _drop_extents(context, reader)
    return _drop_tables(context, reader)


def _drop_tables(context: Context, reader: Reader) -> Table:
    """Tables, or something of one table."""
    reader.take("async")
    many = reader.take("tables")
    if not many:
        reader.need("table")
    names = reader.names()
    if reader.take("extent"):
        return _drop_extent_tags(context, reader, context.store.table(names[0]).name)
    if reader.take("ingestion"):
        return _drop_mapping(context, reader, names[0])
    if_exists = reader.take("ifexists")
    for name in names:
        if not if_exists or name in context.store.tables():
            context.store.drop_table(name)
    return table_rows(context, list(context.store.tables().values()))


def clear(context: Context, reader: Reader) -> Table:
    """`.clear table T data` and `.clear database cache ...`."""
    if reader.take("database"):
        reader.need("cache")
        reader.rest()
        return Table((("NodeId", "string"), ("Status", "string")), [("local", "Cleared")])
    reader.need("table")
    table = context.store.table(reader.name())
    reader.need("data")
    context.store.drop_extents(table.name, None)
    return Table((("TableName", "string"), ("Status", "string")), [(table.name, "Cleared")])


def table_rows(context: Context, tables: Sequence[StoredTable]) -> Table:
    """Tables as the commands that make them print them."""
    rows = [(one.name, one.cslschema, context.store.database, one.folder, one.docstring) for one in tables]
    return Table(TABLE_COLUMNS, rows)


def _create_tables(context: Context, reader: Reader, *, merge: bool, existing: bool = False) -> Table:
    many = reader.any_word() == "tables"
    wanted: list[tuple[str, list[tuple[str, str]]]] = []
    while not wanted or (many and reader.take(",")):
        wanted.append((reader.name(), reader.columns()))
    properties = reader.properties()
    for name, columns in wanted:
        if context.store.get("view", "", name) is not None:
            raise _exists("MaterializedView", name)
        if existing:
            context.store.table(name)
        if not columns:
            reader.fail("at least one column")
    made = context.store.create_tables(
        wanted, folder=properties.get("folder", ""), docstring=properties.get("docstring", ""), merge=merge
    )
    return table_rows(context, made)


def _column_docstrings(context: Context, reader: Reader) -> Table:
    """`.alter-merge table T column-docstrings (A: "what it is", ...)`."""
    reader.need("table")
    table = context.store.table(reader.name())
    reader.any_word()
    reader.need("(")
    said: dict[str, str] = {}
    while not said or reader.take(","):
        name = reader.name()
        reader.need(":")
        said[name] = reader.string()
    reader.need(")")
    columns = {name for name, _ in table.columns}
    if unknown := [name for name in said if name not in columns]:
        raise entity_not_found("Column", unknown[0], context.store.database)
    old = context.store.get("docstrings", table.name, "columns") or {}
    context.store.put("docstrings", table.name, "columns", {**old, **said})
    return table_rows(context, [table])


def _mapping(context: Context, reader: Reader, table: StoredTable) -> Table:
    kind = reader.any_word()
    if kind not in _MAPPING_KINDS:
        reader.fail("an ingestion mapping kind")
    reader.need("mapping")
    name = reader.string()
    text = reader.long_string()
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise KustoFault(
            f"The ingestion mapping '{name}' is not JSON: {error}", code="BadRequest_InvalidMapping"
        ) from (error)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise KustoFault(f"The ingestion mapping '{name}' is not a list of columns.", code="BadRequest_InvalidMapping")
    body: Document = {"kind": kind, "mapping": value, "updated": format_datetime(context.store.clock())}
    context.store.put("mapping", table.name, name, body)
    return Table(MAPPING_COLUMNS, [mapping_row(context, table.name, name, body)])


def mapping_row(context: Context, table: str, name: str, body: Document) -> tuple[str, ...]:
    """One ingestion mapping as `.show ... mappings` prints it."""
    shown = orjson.dumps(body["mapping"]).decode()
    return (name, str(body["kind"]).capitalize(), shown, body["updated"], context.store.database, table)


def _drop_mapping(context: Context, reader: Reader, table: str) -> Table:
    reader.any_word()
    reader.need("mapping")
    name = reader.string()
    if not context.store.delete("mapping", context.store.table(table).name, name):
        raise entity_not_found("MappingPersistent", name, context.store.database)
    return Table((("Name", "string"),), [(name,)])


def _function(context: Context, reader: Reader, *, replace: bool, if_missing: bool) -> Table:
    properties = reader.properties()
    name = reader.name()
    parameters = reader.balanced("(", ")").strip()
    body = reader.balanced("{", "}").strip()
    if context.store.get("view", "", name) is not None:
        raise _exists("MaterializedView", name)
    old = context.store.get("function", "", name)
    if old is not None and not replace and not if_missing:
        raise _exists("Function", name)
    document: Document = {
        "parameters": parameters,
        "body": body,
        "folder": properties.get("folder", ""),
        "docstring": properties.get("docstring", ""),
    }
    if old is None or replace:
        context.store.put("function", "", name, document)
        if properties.get("skipvalidation", "").lower() != "true" and not parameters:
            _validate(context, "function", name, old)
    return Table(FUNCTION_COLUMNS, [function_row(name, context.store.get("function", "", name) or document)])


def function_row(name: str, body: Document) -> tuple[str, ...]:
    """One stored function as `.show functions` prints it."""
    return (name, f"({body['parameters']})", f"{{ {body['body']} }}", body["folder"], body["docstring"])


def _materialized_view(context: Context, reader: Reader, *, replace: bool, if_missing: bool) -> Table:
    properties = reader.properties()
    name = reader.name()
    reader.need("on", "table")
    source = context.store.table(reader.name())
    body = reader.balanced("{", "}").strip()
    old = context.store.get("view", "", name)
    if old is not None and not replace and not if_missing:
        raise _exists("MaterializedView", name)
    if context.store.get("function", "", name) is not None or name in context.store.tables():
        raise _exists("Function or table", name)
    document: Document = {
        "source": source.name,
        "body": body,
        "folder": properties.get("folder", ""),
        "docstring": properties.get("docstring", ""),
        "created": format_datetime(context.store.clock()),
    }
    if old is None or replace:
        context.store.put("view", "", name, document)
        _validate(context, "view", name, old)
    return Table((("Name", "string"), ("SourceTable", "string"), ("Query", "string")), [(name, source.name, body)])


def _validate(context: Context, kind: str, name: str, old: Document | None) -> None:
    """Take a definition back that does not bind; one that only this stand-in cannot translate stays."""
    try:
        context.views.check(name)
    except KqlFailure as failure:
        if "stand-in" in str(failure):
            return
        if old is None:
            context.store.delete(kind, "", name)
        else:
            context.store.put(kind, "", name, old)
        raise as_fault(failure) from failure


def _drop_extents(context: Context, reader: Reader) -> Table:
    """`.drop extents from T`, `.drop extents (id, ...) [from T]`, `.drop extents <| .show table T extents ...`."""
    ids: list[str] | None = None
    table: str | None = None
    if reader.take("<|"):
        ids = [str(row["ExtentId"]) for row in _rows_of(context, reader.rest())]
    elif reader.text.startswith("(", reader.at):
        ids = [part.strip().strip("'\"") for part in reader.balanced("(", ")").split(",")]
    if reader.take("from"):
        table = context.store.table(reader.name()).name
    elif ids is None:
        reader.fail("extent ids, 'from' or a command")
    dropped = context.store.drop_extents(table, ids)
    rows = [(extent.extent_id, extent.table, format_datetime(extent.created)) for extent in dropped]
    return Table((("ExtentId", "guid"), ("TableName", "string"), ("CreatedOn", "datetime")), rows)


def _drop_extent_tags(context: Context, reader: Reader, table: str) -> Table:
    """`.drop table T extent tags ('a', ...) [with (extentCreatedOnFrom=..., extentCreatedOnTo=...)]`, or `<| query`.

    The query gives `ExtentId` and `Tags`: for each extent those that it loses.
    """
    reader.need("tags")
    named = set(reader.strings()) if reader.text.startswith("(", reader.at) else None
    created = reader.properties()
    first, last = created.get("extentcreatedonfrom", ""), created.get("extentcreatedonto", "9999")
    listed: dict[str, set[str]] = {}
    if named is None:
        reader.need("<|")
        for row in _rows_of(context, reader.rest()):
            tags = row["Tags"]
            found = orjson.loads(tags) if str(tags).startswith("[") else str(tags).splitlines()
            listed.setdefault(str(row["ExtentId"]), set()).update(found)

    def dropped(extent: Extent) -> set[str]:
        if not first <= extent.created.isoformat() < last:
            return set()
        return listed.get(extent.extent_id, set()) if named is None else named

    changed = context.store.drop_tags(table, dropped)
    columns = (("OriginalExtentId", "string"), ("ResultExtentId", "string"), ("ResultExtentTags", "string"))
    rows = [(one.extent_id, one.extent_id, "\r\n".join(one.tags), "") for one in changed]
    return Table((*columns, ("Details", "string")), rows)


def _rows_of(context: Context, text: str) -> list[dict[str, Any]]:
    """What a query, or a command and the query it is piped into, gives."""
    if not text.lstrip().startswith("."):
        return context.engine.query(text).dicts()
    from defender_adx_pipeline.local.commands import CommandRunner  # noqa: PLC0415 - a command within a command

    return CommandRunner(context.store, context.engine).run(text, context.principal).dicts()


def _exists(kind: str, name: str) -> KustoFault:
    return KustoFault(
        f"Entity '{name}' of kind '{kind}' already exists.",
        code="BadRequest_EntityAlreadyExists",
        type_="Kusto.Data.Exceptions.EntityAlreadyExistsException",
    )
