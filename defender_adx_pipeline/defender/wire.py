"""Answers of Advanced Hunting into records, and records into the bytes that ADX ingests.

Here: the wire format of Microsoft Graph, of the Defender XDR API and of the Defender for Endpoint API, undone exactly.
Not here: HTTP (`client`). A record is one dict with the hunting column names, true/false, numbers and datetimes as they
were given; a null column is left out.

Sources: "security: runHuntingQuery" in the Graph docs, "Advanced hunting API" of Defender XDR, and answers published
by users of Graph (graph2otel, microsoft-graph-docs).
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import orjson

from defender_adx_pipeline.defender.classification import classify
from defender_adx_pipeline.defender.errors import MalformedAnswerError, QueryContext

_SIDE_CAR = "@odata.type"
_TEXT_ARRAY = "Collection(String)"
_BOOLEAN_TYPES = frozenset({"sbyte", "boolean", "bool"})
# Longer integers do not fit 64 bits, and orjson would make floats of them without a word.
_LONG_DIGITS = re.compile(r"\d{19}")

_PLAIN, _BOOLEAN, _TEXT, _DROPPED = range(4)
_SCALARS = frozenset({str, int, float})


@dataclass(frozen=True, slots=True)
class WireColumn:
    """One column of an answer's schema."""

    name: str
    type: str
    """As the API names it: .NET names such as `String`, `DateTime`, `SByte` (bool), `Int64`, `Double`, `Object`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A decoded answer."""

    columns: tuple[WireColumn, ...]
    rows: list[dict[str, Any]] = field(repr=False)
    """The records, in the order of the answer, which means nothing."""
    bytes: int
    """Size of the body, uncompressed."""
    maybe_truncated: bool = False
    """The answer has as many rows as the API gives at most: there may be more, and nothing in it would tell."""

    def take_records(self) -> Iterator[dict[str, Any]]:
        """The records one by one, each given up as it is taken, so that memory shrinks on the way. Once only."""
        self.rows.reverse()
        while self.rows:
            yield self.rows.pop()


def decode(
    body: bytes,
    *,
    tostring_columns: Sequence[str] = (),
    row_cap: int | None = None,
    context: QueryContext | None = None,
) -> Answer:
    """Decode the body of a 200 answer. Rows are changed in place: nothing is held twice.

    Args:
        body: the body.
        tostring_columns: columns that the query asked for as `tostring(column)`; they become JSON values again.
        row_cap: how many rows the API gives at most.
        context: what the query was for, for errors.

    Raises:
        MalformedAnswerError: not JSON, truncated, without schema or results, or results that are not a list of objects.
        HuntingError: the answer holds an error, whatever else it holds; see `classification`.
    """
    parsed = _load(body, context)
    if error := _member(parsed, "error"):
        # Also beside rows: they would be a part of the result.
        raise classify(200, {}, json.dumps({"error": error}).encode(), context=context)
    columns = _columns(parsed, context)
    rows = _member(parsed, "results")
    if not isinstance(rows, list):
        raise MalformedAnswerError("the answer has no list of results", todo=_DISCARDED, context=context)
    kinds = {column.name: _BOOLEAN if column.type.lower() in _BOOLEAN_TYPES else _PLAIN for column in columns}
    kinds.update(dict.fromkeys(tostring_columns, _TEXT))
    for row in rows:
        if row.__class__ is not dict:
            raise MalformedAnswerError("a result is not an object", todo=_DISCARDED, context=context)
        _normalise(row, kinds)
    return Answer(columns, rows, len(body), row_cap is not None and len(rows) >= row_cap)


_DISCARDED = "The whole answer was discarded."


def _load(body: bytes, context: QueryContext | None) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        # The standard parser also takes lone surrogates, which file names of malware do contain.
        try:
            parsed = json.loads(body, parse_constant=_no_constant, parse_float=_finite)
        except (ValueError, RecursionError):
            kind = "empty" if not body.strip() else "HTML" if body.lstrip()[:1] == b"<" else "not JSON, or cut short"
            raise MalformedAnswerError(
                f"the answer ({len(body)} bytes) is {kind}", todo=_DISCARDED, context=context
            ) from None
    if not isinstance(parsed, dict):
        raise MalformedAnswerError("the answer is not a JSON object", todo=_DISCARDED, context=context)
    return parsed


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("beyond a double")
    return number


def _member(mapping: dict[str, Any], name: str) -> Any:
    """A member in either casing: Graph documents `schema` and `Schema`, `results` and `Results`."""
    return mapping.get(name, mapping.get(name.capitalize()))


def _columns(parsed: dict[str, Any], context: QueryContext | None) -> tuple[WireColumn, ...]:
    schema = _member(parsed, "schema")
    try:
        columns = tuple(WireColumn(_member(entry, "name"), _member(entry, "type")) for entry in schema)
    except (TypeError, AttributeError):
        columns = ()
    if not columns or not all(isinstance(c.name, str) and isinstance(c.type, str) for c in columns):
        raise MalformedAnswerError("the answer has no usable schema", todo=_DISCARDED, context=context)
    return columns


def _normalise(row: dict[str, Any], kinds: dict[str, int]) -> None:
    """Undo the wire's quirks in one row, in place. `kinds` learns the keys that the schema did not name."""
    dropped = None
    for key, value in row.items():
        kind = kinds.get(key)
        if kind is None:
            kind = kinds[key] = _DROPPED if key.endswith(_SIDE_CAR) else _PLAIN
        if kind == _PLAIN and value.__class__ in _SCALARS:
            continue
        new = _CONVERSIONS[kind](value)
        if new is None:
            dropped = [key] if dropped is None else [*dropped, key]
        elif new is not value:
            row[key] = new
    if dropped is not None:
        for key in dropped:
            del row[key]


def _boolean(value: Any) -> Any:
    return bool(value) if value.__class__ is int else _plain(value)


def _nothing(value: Any) -> None:
    del value


def _plain(value: Any) -> Any:
    """A value that came as it is. `{}` is how Graph writes the null of a value type, and a null dynamic."""
    if value.__class__ is dict:
        return _without_side_cars(value) or None
    if value.__class__ is list:
        return [_element(item) for item in value]
    return value


def _without_side_cars(value: Any) -> Any:
    if value.__class__ is dict:
        texts = {
            key[: -len(_SIDE_CAR)]
            for key, mark in value.items()
            if key.endswith(_SIDE_CAR) and isinstance(mark, str) and mark.endswith(_TEXT_ARRAY)
        }
        return {
            key: _plain(item) if key in texts and item.__class__ is list else _without_side_cars(item)
            for key, item in value.items()
            if not key.endswith(_SIDE_CAR)
        }
    if value.__class__ is list:
        return [_without_side_cars(item) for item in value]
    return value


def _element(item: Any) -> Any:
    """An element of a dynamic array: Graph writes every object in it as a string of JSON."""
    if item.__class__ is str and item[:1] in ("{", "["):
        decoded = _json_value(item)
        return decoded if isinstance(decoded, dict | list) else item
    return _without_side_cars(item)


def _spliced(value: Any) -> Any:
    """What `tostring()` of a dynamic stands for: JSON, or plain text when the dynamic was a string."""
    if value.__class__ is not str:
        return _plain(value)
    if not value:
        return None
    decoded = _json_value(value)
    return value if decoded is _NOT_JSON else decoded


_NOT_JSON = object()


def _json_value(text: str) -> Any:
    """The value of JSON text without loss, or `_NOT_JSON`."""
    if not _LONG_DIGITS.search(text):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            if text[0] not in '{["':
                return _NOT_JSON
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        return _NOT_JSON


_CONVERSIONS = (_plain, _boolean, _spliced, _nothing)
"""By kind of column: `_PLAIN`, `_BOOLEAN`, `_TEXT`, `_DROPPED`."""


def encode_record(record: dict[str, Any]) -> bytes:
    """One record as one line of JSON, without the line's end."""
    try:
        return orjson.dumps(record)
    except TypeError:
        # Integers beyond 64 bits and lone surrogates, which orjson refuses: the standard library writes both.
        return json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")
