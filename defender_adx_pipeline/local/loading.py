"""A file of records becomes one extent: formats, mappings, limits and their silent rules.

Here: what the ingestion of one blob does to its records ("Ingest data with malformed or invalid data", "JSON mapping").
Not here: queues and blobs (`worker`, `storage`) and the command around inline data (`commands_ingest`).
"""

import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from defender_adx_pipeline.local.adx_schema import AlreadyIngestedError, Extent, StoredTable
from defender_adx_pipeline.local.adx_store import AdxStore
from defender_adx_pipeline.local.adx_updates import UpdatePolicyError
from defender_adx_pipeline.local.frames import KustoFault

DYNAMIC_LIMIT = 1024 * 1024
"""A dynamic value above this many bytes becomes null, and a string is cut to it, without an error (Encoding policy)."""
JSON_FORMATS = ("json", "multijson", "singlejson")
TEXT_FORMATS = {"csv": ",", "tsv": "\t", "psv": "|", "scsv": ";"}

_STEP = re.compile(r"\.([A-Za-z_$@][\w$@-]*)|\[\s*'((?:[^'\\]|\\.)*)'\s*\]|\[\s*\"((?:[^\"\\]|\\.)*)\"\s*\]|\[(\d+)\]")
_UNIX = {
    "datetimefromunixseconds": "make_timestamp(TRY_CAST({text} AS BIGINT) * 1000000)",
    "datetimefromunixmilliseconds": "make_timestamp(TRY_CAST({text} AS BIGINT) * 1000)",
    "datetimefromunixmicroseconds": "make_timestamp(TRY_CAST({text} AS BIGINT))",
    "datetimefromunixnanoseconds": "make_timestamp_ns(TRY_CAST({text} AS BIGINT))",
}


class IngestionError(Exception):
    """An ingestion that failed, in the words of `.show ingestion failures`."""

    def __init__(self, code: str, details: str, *, permanent: bool = True, from_update_policy: bool = False) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code
        self.details = details
        self.permanent = permanent
        self.from_update_policy = from_update_policy


@dataclass(frozen=True, slots=True)
class Batch:
    """One file to ingest, and how."""

    table: str
    path: Path
    source: str
    """Where it came from, without its SAS."""
    compressed: bool
    format: str = "csv"
    mapping: Sequence[Mapping[str, Any]] | None = None
    tags: tuple[str, ...] = ()
    if_not_exists: tuple[str, ...] = ()
    size: int = 0
    skip_first: bool = False


def load_batch(store: AdxStore, batch: Batch) -> Extent | None:
    """Ingest a file as exactly one extent.

    Returns:
        The extent, or None when `ingestIfNotExists` found one already.

    Raises:
        IngestionError: nothing was ingested, and why.
    """
    table = store.tables().get(batch.table)
    if table is None:
        raise IngestionError("BadRequest_TableNotExist", f"Table '{batch.table}' does not exist.")
    if batch.path.stat().st_size == 0:
        raise IngestionError("BadRequest_EmptyBlob", "Blob is empty.")
    select, parameters, columns = _select(table, batch)
    try:
        extent = store.load(
            table.name,
            select,
            parameters,
            tags=batch.tags,
            size=batch.size or batch.path.stat().st_size,
            columns=columns,
            unless=batch.if_not_exists,
        )
    except AlreadyIngestedError:
        return None
    except UpdatePolicyError as error:
        raise IngestionError(error.code, error.details, from_update_policy=True) from error
    except (duckdb.InvalidInputException, duckdb.IOException, duckdb.ConversionException) as error:
        reason = str(error).splitlines()[0].replace(str(batch.path), batch.source)
        raise IngestionError("BadRequest_InvalidBlob", f"Blob is invalid: {reason}") from error
    except KustoFault as fault:
        raise IngestionError("BadRequest_TableNotExist", fault.description) from fault  # dropped in the meantime
    except duckdb.Error as error:
        details = f"The engine could not ingest the blob: {str(error).splitlines()[0]}"
        raise IngestionError("General_InternalServerError", details, permanent=False) from error
    if extent is None:
        raise IngestionError(
            "BadRequest_NoRecordsOrWrongFormat",
            "The blob is empty or the specified ingestion format does not match the blob content.",
        )
    return extent


def stored_mapping(store: AdxStore, table: str, name: str, kind: str) -> Sequence[Mapping[str, Any]]:
    """A mapping of the table by name.

    Raises:
        IngestionError: BadRequest_MappingReferenceWasNotFound.
    """
    body = store.get("mapping", table, name)
    if body is None or (kind and body["kind"] != kind):
        raise IngestionError(
            "BadRequest_MappingReferenceWasNotFound",
            f"Mapping reference '{name}' of type '{kind or 'json'}' for table '{table}' was not found.",
        )
    mapping: Sequence[Mapping[str, Any]] = body["mapping"]
    return mapping


def mapping_kind(format_: str) -> str:
    """The kind of mapping that a format uses."""
    return "json" if format_ in JSON_FORMATS else "csv" if format_ in TEXT_FORMATS else format_


def _select(table: StoredTable, batch: Batch) -> tuple[str, dict[str, Any], list[str]]:
    if batch.format in JSON_FORMATS:
        return _json_select(table, batch)
    if batch.format in TEXT_FORMATS:
        return _text_select(table, batch)
    raise IngestionError("BadRequest_FormatNotSupported", f"Format '{batch.format}' is not supported here.")


def _json_select(table: StoredTable, batch: Batch) -> tuple[str, dict[str, Any], list[str]]:
    parameters: dict[str, Any] = {"path": str(batch.path)}
    mapping = batch.mapping or [{"column": name, "Properties": {"Path": f"$['{name}']"}} for name, _ in table.held]
    kinds = dict(table.columns)
    expressions: list[str] = []
    columns: list[str] = []
    for number, raw in enumerate(mapping):
        entry = _entry(raw)
        column = str(entry.get("column", ""))
        if column not in kinds:
            raise IngestionError(
                "BadRequest_InconsistentMapping", f"The mapping names column '{column}', which '{table.name}' lacks."
            )
        columns.append(column)
        expressions.append(_value(entry, kinds[column], f"p{number}", parameters, batch.source))
    layout = _layout(batch)
    lenient = "true" if layout == "newline_delimited" else "false"
    reading = (
        f"read_json_objects($path, format='{layout}', ignore_errors={lenient},"
        f" compression='{'gzip' if batch.compressed else 'none'}')"
    )
    # A record that json lines could not parse comes as NULL: the service leaves it out without a word.
    return f"SELECT {', '.join(expressions)} FROM {reading} WHERE json IS NOT NULL", parameters, columns  # noqa: S608


def _entry(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping's entry with its keys in lower case and its Properties laid beside them."""
    flat = {key.lower(): value for key, value in raw.items()}
    properties = flat.pop("properties", None) or {}
    return {**flat, **{key.lower(): value for key, value in properties.items()}}


def _value(entry: Mapping[str, Any], kind: str, slot: str, parameters: dict[str, Any], source: str) -> str:
    transform = str(entry.get("transform") or "").lower()
    if "constvalue" in entry or transform == "sourcelocation":
        parameters[slot] = source if transform == "sourcelocation" else str(entry["constvalue"])
        return _typed(f"CAST(${slot} AS VARCHAR)", kind)
    if transform == "sourcelinenumber":
        return _typed("CAST(row_number() OVER () AS VARCHAR)", kind)
    path = str(entry.get("path") or "$")
    if path == "$":
        return f"CASE WHEN strlen(json) <= {DYNAMIC_LIMIT} THEN json END" if kind == "dynamic" else _typed("json", kind)
    parameters[slot] = json_path(path)
    if kind == "dynamic":
        return f"(CASE WHEN strlen(json -> ${slot}) <= {DYNAMIC_LIMIT} THEN json -> ${slot} END)"
    text = f"(json ->> ${slot})"
    return _UNIX[transform].format(text=text) if transform in _UNIX else _typed(text, kind)


def _typed(text: str, kind: str) -> str:
    """A text as a value of a column, null where it does not fit, as the service has it."""
    if kind == "string":
        return f"coalesce(left({text}, {DYNAMIC_LIMIT}), '')"
    if kind == "dynamic":
        return f"CASE WHEN json_valid({text}) THEN CAST({text} AS JSON) ELSE to_json({text}) END"
    if kind == "datetime":
        return f"TRY_CAST(rtrim({text}, 'Zz') AS TIMESTAMP_NS)"
    types = {"long": "BIGINT", "int": "INTEGER", "bool": "BOOLEAN", "guid": "UUID", "real": "DOUBLE"}
    return f"TRY_CAST({text} AS {types.get(kind, 'DECIMAL(38, 18)' if kind == 'decimal' else 'INTERVAL')})"


def json_path(path: str) -> str:
    """A mapping's path (`$.a['b c'][0]`) as DuckDB writes it (`$."a"."b c"[0]`).

    Raises:
        IngestionError: the path does not parse.
    """
    steps, at = ["$"], 1
    while path.startswith("$") and at < len(path):
        # `$.['a b']` is the documented spelling of names with blanks.
        match = _STEP.match(path, at + 1 if path.startswith(".[", at) else at)
        if not match:
            break
        at = match.end()
        name = next((group for group in match.groups()[:3] if group is not None), None)
        steps.append(f"[{match[4]}]" if name is None else '."' + name.replace("\\", "").replace('"', '\\"') + '"')
    if not path.startswith("$") or at < len(path):
        raise IngestionError("BadRequest_InvalidMapping", f"The mapping's path '{path}' is not a JSON path.")
    return "".join(steps)


def _layout(batch: Batch) -> str:
    """How the records lie in the file."""
    if batch.format == "json":
        return "newline_delimited"
    return "array" if _first_byte(batch) == b"[" else "unstructured"


def _first_byte(batch: Batch) -> bytes:
    try:
        with gzip.open(batch.path, "rb") if batch.compressed else batch.path.open("rb") as stream:
            while chunk := stream.read(64):
                if stripped := chunk.removeprefix(b"\xef\xbb\xbf").lstrip():
                    return stripped[:1]
    except (OSError, EOFError) as error:
        raise IngestionError("BadRequest_InvalidBlob", f"Blob is invalid: {error}") from error
    return b""


def _text_select(table: StoredTable, batch: Batch) -> tuple[str, dict[str, Any], list[str]]:
    """CSV and its relatives: columns by position, or by the mapping's ordinals."""
    kinds = dict(table.columns)
    if batch.mapping:
        entries = [_entry(raw) for raw in batch.mapping]
        wanted = [(str(one["column"]), int(one.get("ordinal", number))) for number, one in enumerate(entries)]
    else:
        wanted = [(name, number) for number, (name, _) in enumerate(table.columns)]
    if unknown := [name for name, _ in wanted if name not in kinds]:
        raise IngestionError("BadRequest_InconsistentMapping", f"The mapping names column '{unknown[0]}'.")
    width = 1 + max(ordinal for _, ordinal in wanted)
    fields = ", ".join(f"'f{number}': 'VARCHAR'" for number in range(width))
    expressions = ", ".join(_typed(f"f{ordinal}", kinds[name]) for name, ordinal in wanted)
    sql = (
        f"SELECT {expressions} FROM read_csv($path, header=false, auto_detect=false, columns={{{fields}}},"  # noqa: S608
        f" delim='{TEXT_FORMATS[batch.format]}', quote='\"', escape='\"', skip={int(batch.skip_first)},"
        f" new_line='\\n', compression='{'gzip' if batch.compressed else 'none'}')"
    )
    return sql, {"path": str(batch.path)}, [name for name, _ in wanted]


def as_fault(error: IngestionError) -> KustoFault:
    """The failure of an ingestion command."""
    return KustoFault(
        error.details,
        code=error.code,
        message=f"Request is invalid and cannot be executed.\n{error.code}: {error.details}",
        type_="Kusto.DataNode.Exceptions.IngestionException",
        permanent=error.permanent,
    )
