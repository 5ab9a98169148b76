"""How often each row of a table was given out by hunting, so that a benchmark can say "each row was read once".

Here: which queries give out rows, and the counting; off until started. Not here: running queries (`hunting`). A row is
known by the columns that the catalogue names as its identity, so a row that changed between two answers is one row. An
answer counts when it was worked out, also when a fault then keeps it from its reader.
"""

import re
import threading
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from defender_adx_pipeline.catalogue import DefenderTable

_TEXT = re.compile(r"(?s)//[^\n]*|@\"(?:[^\"]|\"\")*\"|@'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_SOURCE = re.compile(r"(?s)\s*(?:let\b[^;]*;\s*)*(?:\[\s*['\"]([^'\"]+)['\"]\s*\]|([A-Za-z_]\w*))")
# After these there are numbers or groups, not rows of the table.
_NO_ROWS = re.compile(r"\|\s*(?:summarize|count|distinct|getschema|make-series|top-nested|sample-distinct)\b")


@dataclass(frozen=True, slots=True)
class Scanned:
    """What was given out of one table since the count began."""

    calls: int
    """Answers with rows of the table, empty ones too."""
    rows: int
    distinct: int
    """Different rows among them."""
    repeated: int
    """Rows that were given out more than once."""
    most: int
    """How often the row that was given out most often was."""
    unknown: int
    """Of `rows`, those without the columns of their identity: they are in none of the three before."""


@dataclass(slots=True)
class _Tally:
    calls: int = 0
    unknown: int = 0
    rows: "array[int]" = field(default_factory=lambda: array("Q"))
    """A hash of each row's identity, 8 bytes."""


class ScanCounter:
    """The count since `start`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[str, _Tally] | None = None

    @property
    def on(self) -> bool:
        """Whether rows are counted."""
        return self._tallies is not None

    def start(self) -> None:
        """Count from now on, from zero."""
        with self._lock:
            self._tallies = {}

    def stop(self) -> None:
        """Count no more, and forget."""
        with self._lock:
            self._tallies = None

    def add(self, table: str, rows: int, identities: Sequence[int] | None) -> None:
        """Count one answer: so many rows of a table, and a hash of each one's identity, None where it has none."""
        with self._lock:
            if self._tallies is None:
                return
            tally = self._tallies.setdefault(table, _Tally())
            tally.calls += 1
            if identities is None:
                tally.unknown += rows
            else:
                tally.rows.extend(identities)

    def report(self) -> dict[str, Scanned]:
        """What was given out, by table; 1,000,000 rows take a second."""
        with self._lock:
            copies = {name: (tally, tally.rows[:]) for name, tally in (self._tallies or {}).items()}
        return {name: _scanned(tally.calls, tally.unknown, rows) for name, (tally, rows) in copies.items()}


def scanned_table(query: str, tables: Mapping[str, DefenderTable]) -> DefenderTable | None:
    """The table whose rows a query gives out; None for counts and groups, and where it begins with no table."""
    if _NO_ROWS.search(_TEXT.sub("''", query)):
        return None
    match = _SOURCE.match(query)
    return tables.get(match[1] or match[2]) if match else None


def _scanned(calls: int, unknown: int, rows: "array[int]") -> Scanned:
    times = Counter(rows)
    return Scanned(
        calls=calls,
        rows=len(rows) + unknown,
        distinct=len(times),
        repeated=sum(count > 1 for count in times.values()),
        most=max(times.values(), default=0),
        unknown=unknown,
    )
