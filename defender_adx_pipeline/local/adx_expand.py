"""Functions that do nothing but take fields out of raw records, as SQL of their own.

Here: recognising `T | project A = tostring(Records["A"]), B = todatetime(Records["B"]), ...` and its SQL. Not here:
every other query, which goes through the translator (`kql`).

Two things are as the service has them that the translator cannot do: a datetime keeps its seventh digit, and columns
whose names differ in case alone are taken (DuckDB holds the first of them). Besides, a hundred conversions become SQL
in a millisecond instead of a tenth of a second, and every load of a raw table runs one of these functions.
"""

import re
from collections.abc import Iterator

from defender_adx_pipeline.local.adx_schema import DUCKDB_TYPES, quoted

Expansion = tuple[str, list[tuple[str, str, str]]]
"""Source table, and of each column its name, its SQL over the source and its KQL type."""

_NAME = r"(?:\['(?P<{0}q>[^'\\]+)'\]|(?P<{0}>[A-Za-z_]\w*))"
_BODY = re.compile(rf"\s*{_NAME.format('source')}\s*\|\s*project\s+(?P<fields>.+?)\s*", re.DOTALL)
_FIELD = re.compile(
    rf"{_NAME.format('column')}\s*=\s*(?:(?P<outer>to[a-z]+)\()?(?P<text>tostring\()?"
    rf"{_NAME.format('bag')}\[\"(?P<key>[^\"\\]+)\"\](?P<close>\)*)"
)
_KINDS = {
    "tostring": "string",
    "todatetime": "datetime",
    "tolong": "long",
    "toint": "int",
    "toreal": "real",
    "todouble": "real",
    "tobool": "bool",
    "toguid": "guid",
    "todecimal": "decimal",
    None: "dynamic",
}
# Whole numbers only by way of their text: of a number in a bag the service makes a whole one in ways of its own.
_BY_TEXT = frozenset({"tolong", "toint", "todecimal"})


def expansion(body: str) -> Expansion | None:
    """The parts of a function's body, or None where it is more than a projection of fields."""
    match = _BODY.fullmatch(body)
    if match is None:
        return None
    columns = list(_fields(match["fields"]))
    if not columns or None in columns:
        return None
    return match["source"] or match["sourceq"], [column for column in columns if column]


def _fields(text: str) -> Iterator[tuple[str, str, str] | None]:
    end = 0
    while match := _FIELD.match(text, end):
        outer = match["outer"]
        opened = bool(outer) + bool(match["text"])
        if outer not in _KINDS or (outer in _BY_TEXT) != bool(match["text"]) or len(match["close"]) != opened:
            break
        kind = _KINDS[outer]
        bag = quoted(match["bag"] or match["bagq"])
        yield match["column"] or match["columnq"], _sql(bag, match["key"], kind), kind
        end = match.end()
        if end == len(text):
            return
        comma = re.compile(r"\s*,\s*").match(text, end)
        if comma is None:
            break
        end = comma.end()
    yield None


def _sql(bag: str, key: str, kind: str) -> str:
    path = "'$.\"" + key.replace("'", "''") + "\"'"
    text = f"({bag} ->> {path})"
    if kind == "dynamic":
        return f"({bag} -> {path})"
    if kind == "string":
        return f"coalesce({text}, '')"
    if kind == "datetime":
        # An offset other than Z is rare, and its seventh digit is not kept.
        shifted = f"CAST(TRY_CAST({text} AS TIMESTAMPTZ) AT TIME ZONE 'UTC' AS TIMESTAMP_NS)"
        moment = f"TRY_CAST(rtrim({text}, 'Zz') AS TIMESTAMP_NS)"
        return f"CASE WHEN regexp_matches({text}, '[+-][0-9][0-9]:?[0-9][0-9]$') THEN {shifted} ELSE {moment} END"
    if kind in ("long", "int"):
        # DuckDB would round "1.5".
        whole = f"regexp_full_match({text}, '\\s*[+-]?[0-9]+\\s*')"
        return f"CASE WHEN {whole} THEN TRY_CAST({text} AS {DUCKDB_TYPES[kind]}) END"
    return f"TRY_CAST({text} AS {DUCKDB_TYPES[kind]})"
