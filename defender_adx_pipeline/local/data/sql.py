"""Pieces of SQL that make values out of row numbers. Not here: which column gets which (`values`).

A row is generated from two numbers: `i`, unique in its table, and `j`, from which its attributes come. They differ for
the few rows that repeat their neighbour but for the seventh digit of the time.
"""

import zlib
from collections.abc import Sequence

SECOND = 10_000_000
"""Ticks of 100 ns, the resolution of Kusto's datetime."""
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND


def salt(*parts: object) -> int:
    """A number that tells one use of the hash from another."""
    return zlib.crc32("|".join(map(str, parts)).encode())


def number(index: str, salted: int, below: int) -> str:
    """SQL: a whole number in [0, below) drawn for a row."""
    return f"CAST(hash({index}, {salted}) % {below} AS BIGINT)"


def text(value: str) -> str:
    """SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def pick(values: Sequence[str], index: str) -> str:
    """SQL: one of the texts, by a number that may exceed their count."""
    return f"[{', '.join(map(text, values))}][CAST({index} % {len(values)} AS INTEGER) + 1]"


def draw(values: Sequence[str], salted: int, index: str = "j") -> str:
    """SQL: one of the texts, drawn for a row."""
    return pick(values, number(index, salted, len(values)))


def guid_text(*parts: object) -> str:
    """SQL: a GUID as text; the last part is SQL, the others are constants."""
    constant = "|".join(map(str, parts[:-1]))
    return f"CAST(CAST(md5(concat({text(constant)}, '|', {parts[-1]})) AS UUID) AS VARCHAR)"


def instant(ticks: str) -> str:
    """SQL: a timestamp with its seventh digit, from ticks since 1970."""
    return f"make_timestamp_ns(({ticks}) * 100)"


def json_bag(**fields: str) -> str:
    """SQL: the text of a JSON object; the values are SQL that yields JSON text or a number."""
    parts = ", ',', ".join(text('"' + name + '":') + ", " + value for name, value in fields.items())
    return f"concat('{{', {parts}, '}}')"


def json_text(value: str) -> str:
    """SQL: a SQL text as JSON string."""
    return f"CAST(to_json({value}) AS VARCHAR)"
