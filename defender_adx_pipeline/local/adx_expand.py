"""Functions that do nothing but take fields out of raw records, as SQL of their own.

Here: recognising `T | project A = tostring(Records["A"]), B = todatetime(Records["B"]), ...` and its SQL. Not here:
every other query, which goes through the translator (`kql`).

Two things are as the service has them that the translator cannot do: a datetime keeps its seventh digit, and columns
whose names differ in case alone are taken (DuckDB holds the first of them). Besides, a hundred conversions become SQL
in a millisecond instead of a tenth of a second, and every load of a raw table runs one of these functions.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from defender_adx_pipeline.local.adx_schema import DUCKDB_TYPES, quoted


@dataclass(frozen=True, slots=True)
class Expansion:
    """A projection of fields, in its parts."""

    source: str
    """The table."""
    bag: str
    """Its dynamic column."""
    fields: tuple[tuple[str, str, str], ...]
    """Column, key in the bag and KQL type of each."""

    def held(self) -> tuple[tuple[str, str, str], ...]:
        """The fields that DuckDB can hold: of columns whose names differ in case alone the first."""
        found: dict[str, tuple[str, str, str]] = {}
        for column, key, kind in self.fields:
            found.setdefault(column.casefold(), (column, key, kind))
        return tuple(found.values())

    def select(self, source: str, hidden: Iterable[str] = ()) -> str:
        """The query as SQL over what is called `source` there, whose `hidden` columns come through after the others.

        A record is parsed once for its values and once for its texts. Were each field taken by itself, DuckDB would
        keep a parsed copy of 2,048 records for each: 70 fields of 2,000 records took more than 1.8 GB.
        """
        held = self.held()
        paths = ", ".join("'$.\"" + key.replace("'", "''") + "\"'" for _, key, _ in held)
        columns = ", ".join(
            f"{_sql(place, kind)} AS {quoted(column)}" for place, (column, _, kind) in enumerate(held, start=1)
        )
        bag = quoted(self.bag)
        taken = f"json_extract_string({bag}, [{paths}]) AS texts, json_extract({bag}, [{paths}]) AS bags"
        through = "".join(f", {quoted(name)}" for name in hidden)
        return f"SELECT {columns}{through} FROM (SELECT {taken}{through} FROM {source})"  # noqa: S608 - quoted


_NAME = r"(?:\['(?P<{0}q>[^'\\]+)'\]|(?P<{0}>[A-Za-z_]\w*))"
_BODY = re.compile(rf"\s*{_NAME.format('source')}\s*\|\s*project\s+(?P<fields>.+?)\s*", re.DOTALL)
_FIELD = re.compile(
    rf"{_NAME.format('column')}\s*=\s*(?:(?P<outer>to[a-z]+)\()?(?P<text>tostring\()?"
    rf"{_NAME.format('bag')}\[\"(?P<key>[^\"\\]+)\"\](?P<close>\)*)"
)
_COMMA = re.compile(r"\s*,\s*")
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


@lru_cache(maxsize=256)
def expansion(body: str) -> Expansion | None:
    """The parts of a function's body, or None where it is more than a projection of fields of one column."""
    match = _BODY.fullmatch(body)
    fields = list(_fields(match["fields"])) if match else []
    bags = {field["bag"] or field["bagq"] for field in fields}
    if match is None or len(bags) != 1:
        return None
    columns = tuple((field["column"] or field["columnq"], field["key"], _KINDS[field["outer"]]) for field in fields)
    return Expansion(match["source"] or match["sourceq"], bags.pop(), columns)


def _fields(text: str) -> list[re.Match[str]]:
    """The fields of a projection; none where one of them is something else."""
    found: list[re.Match[str]] = []
    end = 0
    while match := _FIELD.match(text, end):
        outer = match["outer"]
        opened = bool(outer) + bool(match["text"])
        if outer not in _KINDS or (outer in _BY_TEXT) != bool(match["text"]) or len(match["close"]) != opened:
            return []
        found.append(match)
        end = match.end()
        if end == len(text):
            return found
        comma = _COMMA.match(text, end)
        if comma is None:
            return []
        end = comma.end()
    return []


def _sql(place: int, kind: str) -> str:
    text = f"texts[{place}]"
    if kind == "dynamic":
        return f"bags[{place}]"
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
