"""KQL text: entity names and literals, quoted so that no value can end its own quotes.

Here: turning one name or one Python value into KQL text. Not here: whole statements
(`defender.hunting`, `adx.kql`), which are built from nothing but these pieces.

The escapes are those of `KustoFacts.GetStringLiteral` in microsoft/Kusto-Query-Language; the set of characters
allowed in entity names is the documented one ("Entity names" in the Kusto docs), letters here ASCII only.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

_ESCAPES = {
    "\\": "\\\\",
    '"': '\\"',
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}
# DEL, NEL and the two Unicode separators end a line for some readers, so they go out escaped like control characters.
_LINE_ENDERS = "\x7f\x85\u2028\u2029"
_UNITS: tuple[tuple[str, timedelta], ...] = (
    ("d", timedelta(days=1)),
    ("h", timedelta(hours=1)),
    ("m", timedelta(minutes=1)),
    ("s", timedelta(seconds=1)),
    ("ms", timedelta(milliseconds=1)),
    ("microsecond", timedelta(microseconds=1)),
)
_ARGUMENTS = 60
"""Texts joined by one call: `strcat_delim()` takes 64 arguments, and it is not said whether the delimiter is one."""

_NAME = re.compile(r"[A-Za-z0-9_ .\-]{1,1024}")


class InvalidNameError(ValueError):
    """A name that may not reach KQL: it has characters outside the documented set, or is reserved."""

    def __init__(self, name: object) -> None:
        super().__init__(
            f"{name!r} is not a Kusto entity name: letters, digits, '_', ' ', '.' and '-' are allowed, no leading or"
            " trailing blank, no leading or trailing '__'. Nothing was sent; correct the name where it is configured."
        )
        self.name = name


def kql_string(text: str) -> str:
    """A double-quoted KQL string literal."""
    return '"' + "".join(_escape(character) for character in text) + '"'


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if ord(character) < 32 or character in _LINE_ENDERS:
        return f"\\u{ord(character):04x}"
    return character


def kql_name(name: str) -> str:
    """A bracketed entity name, `['My Table']`.

    Raises:
        InvalidNameError: the name could not be a Kusto entity name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name != name.strip():
        raise InvalidNameError(name)
    if name.startswith("__") or name.endswith("__"):
        raise InvalidNameError(name)
    return f"['{name}']"


def kql_datetime(moment: datetime) -> str:
    """A datetime literal in UTC with six fractional digits.

    Raises:
        ValueError: the datetime is naive.
    """
    if moment.tzinfo is None:
        msg = f"a naive datetime has no place in a query: {moment.isoformat()}"
        raise ValueError(msg)
    return f"datetime({moment.astimezone(UTC).isoformat(timespec='microseconds').replace('+00:00', 'Z')})"


def kql_dynamic(value: Any) -> str:
    """A dynamic value, as `parse_json` of a string: `dynamic(...)` literals take KQL escapes, not JSON's."""
    return f"parse_json({kql_string(orjson.dumps(value).decode())})"


def kql_long(number: int) -> str:
    """A long literal."""
    return f"long({number:d})"


def kql_bool(value: bool) -> str:  # noqa: FBT001 - the value is the argument
    """A bool literal."""
    return "true" if value else "false"


def kql_timespan(span: timedelta) -> str:
    """A timespan literal that is exactly that long: `1h`, `90s`, `250microsecond`.

    Raises:
        ValueError: the span is zero or negative, which no bin can be.
    """
    if span <= timedelta(0):
        raise ValueError(f"a bin must be longer than nothing: {span}")
    unit, length = next((unit, length) for unit, length in _UNITS if not span % length)
    return f"{span // length}{unit}"


def kql_joined(texts: Sequence[str]) -> str:
    """An expression for several texts, at least one, as one with `|` between, in calls of as many as KQL takes.

    Args:
        texts: KQL expressions of type string.
    """
    if len(texts) == 1:
        return texts[0]
    parts = [texts[first : first + _ARGUMENTS] for first in range(0, len(texts), _ARGUMENTS)]
    if len(parts) == 1:
        return f'strcat_delim("|", {", ".join(texts)})'
    return kql_joined([kql_joined(part) for part in parts])
