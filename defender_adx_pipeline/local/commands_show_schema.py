"""The `.show ... schema` commands: tables, columns and functions, as JSON, as a script or as rows.

Here: the whole schema of a table or of the database, always with all columns that a table has, also those whose names
differ in case alone. Not here: the other `.show` commands (`commands_show`).
"""

import re
from collections.abc import Iterator
from typing import Any

import orjson

from defender_adx_pipeline.local.adx_schema import Document, StoredTable
from defender_adx_pipeline.local.commands_context import Context
from defender_adx_pipeline.local.commands_text import Reader
from defender_adx_pipeline.local.frames import Table

NET_TYPES = {
    "string": "System.String",
    "datetime": "System.DateTime",
    "dynamic": "System.Object",
    "long": "System.Int64",
    "int": "System.Int32",
    "bool": "System.SByte",
    "guid": "System.Guid",
    "real": "System.Double",
    "decimal": "System.Data.SqlTypes.SqlDecimal",
    "timespan": "System.TimeSpan",
}
LISTED = (("TableName", "string"), ("DatabaseName", "string"), ("Folder", "string"), ("DocString", "string"))
_PLAIN = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def table_schema(context: Context, reader: Reader, table: StoredTable) -> Table:
    """`.show table T schema as csl|json`."""
    reader.need("as")
    if reader.take("csl"):
        return schema_row(context, table, table.cslschema)
    reader.need("json")
    return schema_row(context, table, orjson.dumps(_table_json(context, table)).decode())


def schema_row(context: Context, table: StoredTable, schema: str) -> Table:
    """A table's schema as one row."""
    columns = (("TableName", "string"), ("Schema", "string"), *LISTED[1:])
    return Table(columns, [(table.name, schema, context.store.database, table.folder, table.docstring)])


def database_schema(context: Context, reader: Reader) -> Table:
    """The rest of `.show database [D] schema [as json | as csl script [with (...)]]`."""
    if reader.take("as"):
        if reader.take("json"):
            return Table((("DatabaseSchema", "string"),), [(orjson.dumps(_database_json(context)).decode(),)])
        reader.need("csl", "script")
        # What its options leave out (policies, mappings, principals) is not in this script at all.
        reader.properties()
        return Table((("DatabaseSchemaScript", "string"),), [(text,) for text in _script(context)])
    rows: list[tuple[Any, ...]] = []
    for table in context.store.tables().values():
        rows += [
            (context.store.database, table.name, name, NET_TYPES[kind], table.folder, table.docstring)
            for name, kind in table.columns
        ]
    columns = ("DatabaseName", "TableName", "ColumnName", "ColumnType", "Folder", "DocString")
    return Table([(name, "string") for name in columns], rows)


def _table_json(context: Context, table: StoredTable) -> Document:
    said = context.store.get("docstrings", table.name, "columns") or {}
    columns = [
        {"Name": name, "Type": NET_TYPES[kind], "CslType": kind} | ({"DocString": said[name]} if name in said else {})
        for name, kind in table.columns
    ]
    return {"Name": table.name, "Folder": table.folder, "DocString": table.docstring, "OrderedColumns": columns}


def _database_json(context: Context) -> Document:
    functions = {
        name: {"Name": name, "Body": f"{{ {body['body']} }}", "Folder": body["folder"], "DocString": body["docstring"]}
        for _, name, body in context.store.documents("function")
    }
    database = {
        "Name": context.store.database,
        "Tables": {table.name: _table_json(context, table) for table in context.store.tables().values()},
        "MaterializedViews": {name: {"Name": name} for _, name, _ in context.store.documents("view")},
        "Functions": functions,
    }
    return {"Databases": {context.store.database: database}}


def _script(context: Context) -> Iterator[str]:
    """The commands that make the tables and functions anew."""
    for table in context.store.tables().values():
        columns = ", ".join(f"{_name(name)}:{kind}" for name, kind in table.columns)
        properties = _properties(table.folder, table.docstring)
        yield f".create-merge table {_name(table.name)} ({columns}) with {properties}"
    for _, name, body in context.store.documents("function"):
        head = f".create-or-alter function with {_properties(body['folder'], body['docstring'])}"
        yield f"{head} {_name(name)}({body['parameters']}) {{\n    {body['body']}\n}}"


def _properties(folder: str, docstring: str) -> str:
    return f"(folder = {orjson.dumps(folder).decode()}, docstring = {orjson.dumps(docstring).decode()})"


def _name(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else f"['{name}']"
