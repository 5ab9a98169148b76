"""Real records, exported by anyone from Advanced Hunting as JSON lines, given back to their tables.

Here: reading a file (also the answer of a `union`, where columns whose type differs between tables carry a suffix such
as `ReportId_long`), finding each record's table, and moving all times by whole days into the 30 days that Defender
keeps, digits as they were. Not here: storage (`source`) and made-up data (`data`).
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from defender_adx_pipeline.catalogue import Catalogue, Column, DefenderTable
from defender_adx_pipeline.local.data.enumerations import ACTIONS
from defender_adx_pipeline.local.source import RETENTION, SourceStore

_SUFFIX = re.compile(r"(.+)_(string|datetime|dynamic|long|int|bool|guid|real|decimal|timespan)")
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)([T ]\d\d:\d\d:\d\d(?:\.\d{1,7})?)(?:Z|\+00:?00)?")
_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ODATA = "@odata.type"
_NEWEST = timedelta(minutes=20)
_LEAST_COLUMNS = 3
"""A record that fits its best table in fewer columns than this could be anything."""


class SampleError(ValueError):
    """A file of samples that cannot be used; the message names the line. Nothing of the file was stored."""


@dataclass(frozen=True, slots=True)
class Field:
    """One non-empty value of a record: its column without suffix, and the type that the suffix gave, if any."""

    name: str
    type: str | None
    value: Any


@dataclass(frozen=True, slots=True)
class Sample:
    """One record of a file, given back to its table."""

    line: int
    table: str
    fields: tuple[Field, ...]

    def time(self, table: DefenderTable) -> str:
        """The event time as the file has it."""
        return next(str(field.value) for field in self.fields if field.name == table.time_column)


@dataclass(frozen=True, slots=True)
class LoadedSamples:
    """What became of a file."""

    days: int
    """Days by which every datetime column was moved."""
    records: Mapping[str, list[dict[str, Any]]]
    """By table, the records as they were stored."""

    @property
    def rows(self) -> dict[str, int]:
        """Rows by table."""
        return {table: len(records) for table, records in self.records.items()}


def load_samples(store: SourceStore, path: Path) -> LoadedSamples:
    """Store the records of a file, moved into the last 30 days; a file stored before is not stored again.

    Columns that the catalogue does not list for a table, but that have a value, become columns of the stored table; a
    column that differs from a listed one only in case takes the file's spelling, since DuckDB holds one of the two.

    Raises:
        SampleError: the file cannot be read, a line is not a record of any table, or its times span too many days.
    """
    samples = read_samples(path, store.catalogue)
    mark = f"samples {hashlib.sha256(path.read_bytes()).hexdigest()}"
    done = store.mark(mark)
    days = int(done) if done is not None else _days_to_move(samples, store)
    by_table: dict[str, list[Sample]] = {}
    for sample in samples:
        by_table.setdefault(sample.table, []).append(sample)
    loaded: dict[str, list[dict[str, Any]]] = {}
    for name, own in by_table.items():
        table = store.catalogue[name]
        added = _further_columns(table, own)
        kinds = {column.name.casefold(): column for column in (*table.columns, *added)}
        loaded[name] = [_record(sample, kinds, days) for sample in own]
        if done is None:
            for column, spelling in _respelled(table, own).items():
                store.rename_column(name, column, spelling)
            store.add_columns(name, added)
    if done is None:
        for name, records in loaded.items():
            store.insert_rows(name, records)
        store.set_mark(mark, str(days))
    return LoadedSamples(days, loaded)


def read_samples(path: Path, catalogue: Catalogue) -> list[Sample]:
    """Read a file of JSON lines and find each record's table; empty lines are passed over.

    Raises:
        SampleError: the file cannot be read, or a line is not a record of any table.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SampleError(f"Samples {path} cannot be read: {error.strerror}. Give a file of JSON lines.") from error
    samples = [
        _sample(f"{path}, line {number}", number, line, catalogue)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not samples:
        raise SampleError(f"Samples {path}: the file has no records. Give one JSON object a line.")
    return samples


def _sample(place: str, number: int, line: bytes, catalogue: Catalogue) -> Sample:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise SampleError(f"Samples {place}: not JSON ({error}). Nothing of the file was stored.") from error
    if not isinstance(record, dict):
        raise SampleError(f"Samples {place}: a JSON object is needed. Nothing of the file was stored.")
    table = _table_of(record, catalogue)
    if table is None:
        raise SampleError(
            f"Samples {place}: the record fits no table of the catalogue. Nothing of the file was stored. Export rows"
            " of Advanced Hunting with their time and their columns, one JSON object a line."
        )
    fields = tuple(_canonical(field, table) for field in _fields(record, catalogue))
    sample = Sample(number, table.name, fields)
    if not _INSTANT.fullmatch(sample.time(table)):
        raise SampleError(f"Samples {place}: {table.time_column} {sample.time(table)!r} is not a UTC instant.")
    _check_values(place, table, fields)
    return sample


def _table_of(record: Mapping[str, Any], catalogue: Catalogue) -> DefenderTable | None:
    """The table whose columns fit best: by the number of values, then a known ActionType, then all column names.

    Sparse records of the Device tables fit several of them equally; what the event is called tells them apart.
    """
    fields = _fields(record, catalogue)
    action = record.get("ActionType")
    names = {_base_name(key, catalogue)[0].casefold() for key in record}
    best: tuple[tuple[int, bool, float], DefenderTable] | None = None
    for table in catalogue.events():
        kinds = {column.name.casefold(): column.type for column in table.columns}
        if not any(field.name == table.time_column for field in fields):
            continue
        fitting = sum(_fits(field, kinds.get(field.name.casefold())) for field in fields)
        known = len(names & set(kinds)) / len(kinds)
        score = (fitting, action in ACTIONS.get(table.name, ()), known)
        if fitting >= _LEAST_COLUMNS and (best is None or score > best[0]):
            best = (score, table)
    return best[1] if best else None


def _fields(record: Mapping[str, Any], catalogue: Catalogue) -> list[Field]:
    fields = []
    for key, value in record.items():
        if key.endswith(_ODATA) or value is None or value == "":
            continue
        name, kind = _base_name(key, catalogue)
        fields.append(Field(name, kind, value))
    return fields


def _base_name(key: str, catalogue: Catalogue) -> tuple[str, str | None]:
    """A column and its suffix. `AuthenticationRequirement_string` has one; a column really named so would not."""
    match = _SUFFIX.fullmatch(key)
    if match is None or any(table.column_type(key) for table in catalogue.values()):
        return key, None
    return match[1], match[2]


def _fits(field: Field, kind: str | None) -> bool:
    """Whether a value is evidence for a column of a type. `{}` is the hunting API's null of any type: it is none."""
    if kind is None or (field.type is not None and field.type != kind) or field.value == {}:
        return False
    return kind == "dynamic" or _CHECKS.get(kind, _is_number)(field.value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "datetime": lambda value: isinstance(value, str) and _INSTANT.fullmatch(value) is not None,
    "guid": lambda value: isinstance(value, str) and _GUID.fullmatch(value) is not None,
    "timespan": lambda value: isinstance(value, str),
    "bool": lambda value: not isinstance(value, str | dict | list) and value in (True, False),
}


def _canonical(field: Field, table: DefenderTable) -> Field:
    """A field with the side-car marks taken out of dynamic values and 0/1 made into bool."""
    kind = field.type or table.column_type(field.name) or _kind_of(field.value)
    value = _without_marks(field.value)
    if kind != "dynamic" and field.value == {}:
        value = None
    if kind == "bool" and value in (0, 1):
        value = bool(value)
    return Field(field.name, kind, value)


def _without_marks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_marks(item) for key, item in value.items() if not key.endswith(_ODATA)}
    if isinstance(value, list):
        return [_without_marks(item) for item in value]
    return value


def _check_values(place: str, table: DefenderTable, fields: Iterable[Field]) -> None:
    for field in fields:
        kind = table.column_type(field.name)
        if kind is None or field.value is None or kind in ("dynamic", "string"):
            continue
        if not _fits(Field(field.name, None, field.value), kind):
            shown = orjson.dumps(field.value).decode()[:60]
            raise SampleError(
                f"Samples {place}: {table.name}.{field.name} is {kind}, {shown} is not. Nothing of the file was stored."
            )


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "long"
    if isinstance(value, float):
        return "real"
    return "string" if isinstance(value, str) else "dynamic"


def _further_columns(table: DefenderTable, samples: Iterable[Sample]) -> list[Column]:
    """Columns with a value that the table is not documented to have; dynamic where records disagree on the type."""
    known = {column.name.casefold() for column in table.columns}
    kinds: dict[str, set[str]] = {}
    for sample in samples:
        for field in sample.fields:
            if field.name.casefold() not in known and field.value is not None:
                kinds.setdefault(field.name, set()).add(field.type or _kind_of(field.value))
    return [Column(name, found.pop() if len(found) == 1 else "dynamic") for name, found in kinds.items()]


def _respelled(table: DefenderTable, samples: Iterable[Sample]) -> dict[str, str]:
    """Documented columns that the records write in another case, by documented name."""
    documented = {column.name.casefold(): column.name for column in table.columns}
    used = {field.name for sample in samples for field in sample.fields}
    return {
        documented[name.casefold()]: name
        for name in used
        if name.casefold() in documented and name not in documented.values()
    }


def _record(sample: Sample, kinds: Mapping[str, Column], days: int) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for field in sample.fields:
        if field.value is None:
            continue
        kind, value = kinds[field.name.casefold()].type, field.value
        if kind == "datetime":
            value = _moved(str(value), days)
        elif kind == "string" and not isinstance(value, str):
            value = orjson.dumps(value).decode()
        record[field.name] = value
    return record


def _moved(text: str, days: int) -> str:
    """An instant some days later; everything but the date stays the text it was."""
    match = _INSTANT.fullmatch(text)
    if match is None:
        return text
    return (date.fromisoformat(match[1]) + timedelta(days=days)).isoformat() + match[2].replace(" ", "T") + "Z"


def _days_to_move(samples: Sequence[Sample], store: SourceStore) -> int:
    """Whole days that bring the newest record as close to the present as may be.

    Raises:
        SampleError: the oldest record would then be older than what Defender keeps.
    """
    times = [(_moment(sample.time(store.catalogue[sample.table])), sample) for sample in samples]
    now = store.clock()
    newest = max(moment for moment, _ in times)
    oldest, first = min(times, key=lambda pair: pair[0])
    days = (now - _NEWEST - newest) // timedelta(days=1)
    if oldest + timedelta(days=days) <= now - RETENTION:
        raise SampleError(
            f"Samples: the record of line {first.line} is {(newest - oldest).days} days older than the newest; Defender"
            f" keeps {RETENTION.days} days. Nothing of the file was stored. Split the file."
        )
    return days


def _moment(text: str) -> datetime:
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise SampleError(f"Samples: {text!r} is not a UTC instant. Nothing of the file was stored.")
    return datetime.fromisoformat((match[1] + match[2].replace(" ", "T"))[:26]).replace(tzinfo=UTC)
