"""Commands that write rows: `.append`, `.set`, `.set-or-append`, `.set-or-replace`, `.ingest inline`.

Here: rows from a query or from the command's own text. Not here: `.update table` (`commands_update`), and queued
ingestion (`worker`).
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from defender_adx_pipeline.local import loading
from defender_adx_pipeline.local.adx_schema import AlreadyIngestedError, Extent, StoredTable
from defender_adx_pipeline.local.adx_updates import UpdatePolicyError
from defender_adx_pipeline.local.commands_context import Context
from defender_adx_pipeline.local.commands_text import Reader
from defender_adx_pipeline.local.engine import as_fault
from defender_adx_pipeline.local.frames import KustoFault, Table
from defender_adx_pipeline.local.kql import KqlFailure, Translation, translate

RESULT_COLUMNS = (
    ("ExtentId", "guid"),
    ("OriginalSize", "real"),
    ("ExtentSize", "real"),
    ("CompressedSize", "real"),
    ("IndexSize", "real"),
    ("RowCount", "long"),
)
NO_EXTENT = "00000000-0000-0000-0000-000000000000"


def append(context: Context, reader: Reader) -> Table:
    """`.append T <| query`: the table must exist."""
    return _from_query(context, reader, create="never", replace=False)


def set_(context: Context, reader: Reader) -> Table:
    """`.set T <| query`: the table must not exist."""
    return _from_query(context, reader, create="always", replace=False)


def set_or_append(context: Context, reader: Reader) -> Table:
    """`.set-or-append T <| query`."""
    return _from_query(context, reader, create="missing", replace=False)


def set_or_replace(context: Context, reader: Reader) -> Table:
    """`.set-or-replace T <| query`: what the table held goes in the same transaction."""
    return _from_query(context, reader, create="missing", replace=True)


def ingest(context: Context, reader: Reader) -> Table:
    """`.ingest inline into table T [with (...)] <| data`."""
    reader.take("async")
    reader.need("inline", "into", "table")
    table = context.store.table(reader.name())
    properties = reader.properties()
    if not reader.text.startswith("<|", reader.at):
        reader.fail("'<|'")
    data = reader.rest()[2:].lstrip("\r\n ")
    format_ = properties.get("format", "csv").lower()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inline"
        path.write_text(data, encoding="utf-8")
        try:
            batch = loading.Batch(
                table=table.name,
                path=path,
                source="inline",
                compressed=False,
                format=format_,
                mapping=_mapping(context, table.name, properties, format_),
                tags=_list(properties, "tags"),
                if_not_exists=_list(properties, "ingestifnotexists"),
                skip_first=properties.get("ignorefirstrecord", "").lower() == "true",
            )
            return _result(loading.load_batch(context.store, batch))
        except loading.IngestionError as error:
            raise loading.as_fault(error) from error


def _from_query(context: Context, reader: Reader, *, create: str, replace: bool) -> Table:
    reader.take("async")
    name = reader.name()
    properties = reader.properties()
    if not reader.text.startswith("<|", reader.at):
        reader.fail("'<|' and a query")
    query = reader.rest()[2:].strip()
    if create == "never":
        context.store.table(name)
    try:
        prepared = context.views.prepare(query)
        with closing(context.store.cursor(prepared.level)) as cursor:
            schema = context.views.schema(cursor, prepared.level)
            translation = translate(cursor, prepared.text, functions=prepared.functions, schema=schema)
        _match_schema(context, name, translation, properties, create)
        extent = context.store.load(
            name,
            translation.sql,
            translation.parameters or None,
            tags=_list(properties, "tags"),
            unless=_list(properties, "ingestifnotexists"),
            level=prepared.level,
            replace=replace,
        )
    except AlreadyIngestedError:
        extent = None
    except UpdatePolicyError as error:
        raise loading.as_fault(loading.IngestionError(error.code, error.details)) from error
    except KqlFailure as failure:
        raise as_fault(failure) from failure
    return _result(extent)


def _match_schema(
    context: Context, name: str, translation: Translation, properties: Mapping[str, str], create: str
) -> None:
    """The query's columns go to the table's by position, and their types must be the same."""
    exists = name in context.store.tables()
    if create == "always" and exists:
        raise KustoFault(f"Table '{name}' already exists.", code="BadRequest_EntityAlreadyExists")
    if not exists:
        context.store.create_table(
            name,
            translation.columns,
            folder=properties.get("folder", ""),
            docstring=properties.get("docstring", ""),
            merge=False,
        )
        return
    check_columns_match(context.store.table(name), translation.columns)


def check_columns_match(table: StoredTable, columns: Sequence[tuple[str, str]]) -> None:
    """Check that a query's columns can go into a table: as many, and of the same types in the same order.

    Raises:
        KustoFault: they cannot.
    """
    if [kind for _, kind in table.held] == [kind for _, kind in columns]:
        return
    given = ",".join(f"'{column}:{kind}'" for column, kind in columns)
    held = ",".join(f"'{column}:{kind}'" for column, kind in table.columns)
    raise KustoFault(
        f"Query schema does not match table schema. QuerySchema=({given}), TableSchema=({held}).",
        code="BadRequest_QuerySchemaDoesNotMatchTableSchema",
    )


def _mapping(context: Context, table: str, properties: Mapping[str, str], format_: str) -> Any:
    reference = properties.get("ingestionmappingreference")
    if reference:
        return loading.stored_mapping(context.store, table, reference, loading.mapping_kind(format_))
    return _json(properties["ingestionmapping"], "ingestionMapping") if "ingestionmapping" in properties else None


def _list(properties: Mapping[str, str], name: str) -> tuple[str, ...]:
    value = _json(properties.get(name) or "[]", name)
    if not isinstance(value, list):
        raise KustoFault(f"The property '{name}' is not a list of strings.", code="BadRequest_InvalidProperty")
    return tuple(str(one) for one in value)


def _json(text: str, name: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise KustoFault(f"The property '{name}' is not JSON: {error}", code="BadRequest_InvalidProperty") from error


def _result(extent: Extent | None) -> Table:
    """What was written; an extent id of zeros where nothing was."""
    if extent is None:
        return Table(RESULT_COLUMNS, [(NO_EXTENT, 0.0, 0.0, 0.0, 0.0, 0)])
    size = float(extent.original_size)
    return Table(RESULT_COLUMNS, [(extent.extent_id, size, size / 8, size / 10, size / 40, extent.rows)])
