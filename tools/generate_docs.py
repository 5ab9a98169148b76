"""Write the two pages of `docs/` that are lists: `python tools/generate_docs.py`.

Here: `docs/settings.md` out of the settings, `docs/tables.md` out of the catalogue. Not here: what people write. A test
fails while the files differ from what this writes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le, Lt, MinLen
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from defender_adx_pipeline.adx.typed_tables import typed_table_name
from defender_adx_pipeline.catalogue import DefenderTable, load_catalogue
from defender_adx_pipeline.settings import Settings

FOLDER = Path(__file__).parent.parent / "docs"

_SETTINGS = """# Settings

{written}

All come from the environment and are read once by each process. An unknown name that begins with `DEFENDER_` or `ADX_`,
or a value that is not allowed, is one error that names the variable; an empty one counts as not set. Durations are
ISO 8601 (`PT10M`), `HH:MM:SS` or seconds. A URL has no query, and is `https` but on loopback.

What one must set: [quick start](quick-start.md#your-own-tenant). `defender-adx doctor` tries them."""

_TABLES = """# Tables

{written}

{tables} tables: {events} event tables, read by time, and {snapshots} snapshot tables, which hold the state of now.

- A category is an asset group in Dagster. `<Table>Raw` keeps the records as JSON. Typed rows of a snapshot table are in
  `<Table>Snapshots`, and the function `<Table>` gives those of the latest published snapshot.
- Rows are told apart by their identity; where none is documented, by all columns but those that Defender changes later.
- The check `watermark_lag` fails above the lag threshold (`max_lag`).
- `DEFENDER_TABLES_FILE` adds tables or changes these: a JSON list of records as in `catalogue/tables.json`, of a known
  table only the fields that differ, such as `[{{"name": "DeviceTvmHardwareFirmware", "paging": "row_number"}}]`."""

_PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Sign-in", ("azure_", "defender_auth")),
    ("Defender", ("defender_cloud", "defender_api")),
    ("Azure Data Explorer", ("adx_", "defender_retention")),
    ("Quota of hunting calls", ("defender_calls", "defender_quota")),
    ("Windows and answers", ("defender_start", "defender_settle", "defender_overlap", "defender_s")),
    ("Everything else", ("",)),
)
"""Title of each part, and how the names of its settings begin. A setting is in the first part that takes it."""

_TYPES: Mapping[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}


def _written(source: str) -> str:
    return f"<!-- Written by tools/generate_docs.py; change {source} and run `make generated`. -->"


def settings_page() -> str:
    """`docs/settings.md`: every setting with type, default, range and meaning."""
    lines = [_SETTINGS.format(written=_written("defender_adx_pipeline/settings.py"))]
    left = dict(Settings.model_fields)
    for title, starts in _PARTS:
        fields = {name: field for name, field in left.items() if name.startswith(starts)}
        left = {name: field for name, field in left.items() if name not in fields}
        if fields:
            lines += ["", f"## {title}", "", _row("variable", "value", "default", "meaning"), "|---|---|---|---|"]
            lines += [_setting(name, field) for name, field in fields.items()]
    return "\n".join(lines) + "\n"


def _setting(name: str, field: FieldInfo) -> str:
    kinds = [kind for kind in _alternatives(field.annotation) if kind is not type(None)]
    kind = " or ".join(_kind(one) for one in kinds)
    bounds = _bounds(field.metadata)
    value = f"{kind}, {bounds}" if bounds else kind
    meaning = str(field.description) + (" **Secret**: masked wherever it is shown." if SecretStr in kinds else "")
    return _row(f"`{name.upper()}`", value, _default(field), meaning)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (UnionType, Union) else (annotation,)


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if annotation is SecretStr:
        return "text"
    if annotation in _TYPES:
        return _TYPES[annotation]
    if annotation is timedelta:
        return "duration"
    if hasattr(annotation, "__metadata__"):  # an annotated string is an address here
        return "URL"
    return str(getattr(annotation, "__name__", annotation))


def _bounds(metadata: Iterable[Any]) -> str:
    said = []
    for bound in metadata:
        match bound:
            case Ge(ge=value) if value != timedelta(0):  # durations are none of them negative
                said.append(f"{_plain(value)} or more")
            case Le(le=value):
                said.append(f"at most {_plain(value)}")
            case Lt(lt=value):
                said.append(f"less than {_plain(value)}")
            case MinLen():
                said.append("not empty")
    return ", ".join(said)


def _default(field: FieldInfo) -> str:
    if field.default is None or field.default is PydanticUndefined:
        return "not set"
    return f"`{_plain(field.default)}`"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, timedelta):
        return _duration(value)
    return str(value)


def _duration(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    for size, unit in ((86400, "D"), (3600, "H"), (60, "M")):
        if seconds and seconds % size == 0:
            return f"P{'' if unit == 'D' else 'T'}{seconds // size}{unit}"
    return f"PT{seconds}S"


def tables_page() -> str:
    """`docs/tables.md`: every table of the catalogue, by category."""
    tables = tuple(load_catalogue().values())
    events = sum(table.kind == "event" for table in tables)
    snapshots = len(tables) - events
    written = _written("defender_adx_pipeline/catalogue/tables.json")
    lines = [_TABLES.format(written=written, tables=len(tables), events=events, snapshots=snapshots)]
    for group in sorted({table.group for table in tables}):
        listed = [table for table in tables if table.group == group]
        lines += ["", f"## {listed[0].category}", "", _row(*_HEADS), _RULE]
        lines += [_row(*_table(table)) for table in listed]
        notes = [f"- `{table.name}`: {note}" for table in listed if (note := "; ".join(_notes(table)))]
        lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


_HEADS = ("table", "kind", "time column", "identity", "columns", "typed rows", "lag threshold")
_RULE = "|" + "---|" * len(_HEADS)


def _table(table: DefenderTable) -> tuple[str, ...]:
    page = table.page.removesuffix(".md")
    name = f"[{table.name}](https://learn.microsoft.com/{page})" if page else f"`{table.name}`"
    return (
        name,
        table.kind if table.paging == "hash" else f"{table.kind}, by row number",
        f"`{table.time_column}`" if table.time_column else "",
        ", ".join(f"`{column}`" for column in table.identity) or "whole row",
        str(len(table.columns)),
        f"`{typed_table_name(table)}`",
        f"{table.allowed_lag / timedelta(hours=1):g} h",
    )


def _notes(table: DefenderTable) -> Iterator[str]:
    if table.preview:
        yield "preview"
    if table.deprecated:
        yield f"**deprecated**: {table.deprecated}"
    if table.mutable_columns:
        yield f"Defender changes {', '.join(table.mutable_columns)} later"
    if table.undocumented_columns:
        yield f"also seen: {', '.join(column.name for column in table.undocumented_columns)}"
    if table.note:
        yield table.note


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


PAGES: Mapping[str, Callable[[], str]] = {"settings.md": settings_page, "tables.md": tables_page}
"""File in `docs/` -> what it has to be."""


def main() -> None:
    """Write both pages."""
    for name, write in PAGES.items():
        (FOLDER / name).write_text(write(), encoding="utf-8")


if __name__ == "__main__":
    main()
