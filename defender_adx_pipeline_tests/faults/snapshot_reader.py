"""A reader that polls the latest view while snapshots are taken: each poll sees one state, whole.

Here: polling over the API with a client of its own, and the verdict over every poll. Not here: the runs meanwhile.
"""

import re
import threading
from dataclasses import dataclass
from typing import Any, Self

import orjson

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline_tests.faults.bench import Bench
from defender_adx_pipeline_tests.faults.snapshot_rows import MARKER, TABLE

QUERY = (
    f"Vw{TABLE}Latest() | summarize Rows = count(), Sum = sum(toint(extract('[0-9]+', 0, tostring(Records.DeviceId))))"
    f" by SnapshotTime, Marker = tostring(Records.{MARKER})"
)
"""One row where all rows are of one state, and its number and their sum say which rows there are."""


@dataclass(frozen=True, slots=True)
class State:
    """A state that Defender had, as a poll sees it."""

    marker: str
    rows: int
    sum: int


def state_of(bench: Bench) -> State:
    """What Defender has now.

    Raises:
        ValueError: rows of several markers.
    """
    rows = [_read(line) for line in bench.tenant.source.rows(TABLE)]
    (marker,) = {marker for marker, _ in rows}
    return State(marker, len(rows), sum(number for _, number in rows))


class Reader:
    """Polls until it is left.

    Args:
        adx: a client of its own.
        first: what is published; the states after it have to be told in the order in which they come.
    """

    def __init__(self, adx: AdxClient, first: State) -> None:
        self._adx = adx
        self._lock = threading.Lock()
        self._states = [first]
        self._least = 0
        self._seen = -1
        self._taken_at = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="reader", daemon=True)
        self.polls = 0
        self.by_state: dict[str, int] = {}
        """Polls by the marker of the state that they saw."""
        self.objections: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join(60.0)

    def expect(self, state: State) -> None:
        """Defender has another state: from now on it may be seen."""
        with self._lock:
            self._states.append(state)

    def must_see_the_last(self) -> None:
        """A run has succeeded: polls that begin from now on see the last state."""
        with self._lock:
            self._least = len(self._states) - 1

    def _poll(self) -> None:
        while not self._over.is_set():
            with self._lock:
                least = self._least
            try:
                rows = self._adx.query(QUERY)
            except AdxError as error:
                rows = []
                self._object(f"{type(error).__name__}: {error}")
            with self._lock:
                self.polls += 1
                self._judge(rows, least)

    def _judge(self, rows: list[dict[str, Any]], least: int) -> None:
        if len(rows) != 1:
            self._object(f"a poll sees {len(rows)} states at once: {rows}")
            return
        (row,) = rows
        seen, taken_at = State(row["Marker"], int(row["Rows"]), int(row["Sum"])), str(row["SnapshotTime"])
        if seen not in self._states:
            self._object(f"a poll sees a part or a mixture: {seen}; Defender had {self._states[-2:]}")
            return
        place = self._states.index(seen)
        if place < max(least, self._seen) or taken_at < self._taken_at:
            self._object(f"a poll sees {seen} of {taken_at} after a later one")
        self._seen, self._taken_at = place, taken_at
        self.by_state[seen.marker] = self.by_state.get(seen.marker, 0) + 1

    def _object(self, objection: str) -> None:
        self.objections.append(objection[:500])


def _read(line: bytes) -> tuple[str, int]:
    record = orjson.loads(line)
    found = re.search("[0-9]+", record["DeviceId"])
    return record[MARKER], int(found.group()) if found else 0
