"""Watching snapshot tables around the runs of a case: what Defender had meanwhile, what is served before and after.

Here: remembering states. Not here: reading what is served and the verdict over it (`served`).
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from defender_adx_pipeline_tests.faults.served import Content, Served, Watched, read_served

if TYPE_CHECKING:
    from defender_adx_pipeline_tests.faults.bench import Bench


class SnapshotWatch:
    """The states of the snapshot tables of a case, and what every run made of them."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench
        self._lock = threading.RLock()
        self._states: dict[str, list[Content]] = {}
        self._since: dict[str, int] = {}
        self._kept: dict[tuple[str, str], Served] = {}
        self._going_on = 0

    def is_snapshot(self, table: str) -> bool:
        """Whether there is something to watch."""
        return self._bench.world.catalogue[table].kind == "snapshot"

    def of(self, tables: Sequence[str]) -> list[str]:
        """The snapshot tables among some."""
        return [table for table in tables if self.is_snapshot(table)]

    def reset(self) -> None:
        """A new case."""
        with self._lock:
            self.forget()
            self._kept.clear()

    def forget(self) -> None:
        """The states so far belong to the rows of the case."""
        with self._lock:
            self._states.clear()
            self._since.clear()

    def keep(self, table: str, view: str) -> None:
        """What a view serves now is what it has to serve for good."""
        self._kept[table, view] = self.served(table, view)

    def changed(self) -> Iterator[str]:
        """What is no longer as it was kept."""
        for (table, view), before in self._kept.items():
            now = self.served(table, view)
            if (now.taken_at, now.rows, now.objections) != (before.taken_at, before.rows, before.objections):
                yield f"Vw{table}{view} had {before.rows.total()} rows, and serves others now"

    def note(self, table: str) -> None:
        """Remember what Defender has now: before and after every change while a run goes on."""
        state = self._bench.truth(table)
        with self._lock:
            states = self._states.setdefault(table, [])
            if not states or states[-1] != state:
                states.append(state)

    def states(self, table: str) -> tuple[Content, ...]:
        """All states that were noted, the first one first."""
        with self._lock:
            return tuple(self._states.get(table, ()))

    def served(self, table: str, view: str = "Latest()") -> Served:
        """What a view serves, faults or not."""
        with self.without_faults():
            return read_served(self._bench.database.adx, table, partial(self._bench.counted, table), view)

    @contextmanager
    def without_faults(self) -> Iterator[None]:
        """Calls meanwhile meet no fault, and no fault counts them."""
        script = self._bench.tenant.faults
        with self._lock:
            take = script.take
            script.take = lambda *_, **__: None  # type: ignore[method-assign]
            try:
                yield
            finally:
                script.take = take  # type: ignore[method-assign]

    def begin(self, tables: Sequence[str]) -> Callable[[bool], list[Watched]]:
        """A run begins; call what is given back when it is over, with whether it has succeeded."""
        watched = self.of(tables)
        before: Mapping[str, Served] = {table: self.served(table) for table in watched}
        for table in watched:
            self.note(table)
        self._going_on += bool(watched)

        def end(success: bool) -> list[Watched]:
            self._going_on -= bool(watched)
            return [self._end(table, before[table], success) for table in watched]

        return end

    def _end(self, table: str, before: Served, success: bool) -> Watched:
        self.note(table)
        after = self.served(table)
        with self._lock:
            # A snapshot that was left open is gone on with: its rows may be of any state since it was begun.
            states = tuple(self._states[table][self._since.get(table, 0) :])
            if success and not self._going_on:
                self._since[table] = len(self._states[table]) - 1
        with self.without_faults():
            watermark = "" if self._going_on else self._bench.watermark(table)
        return Watched(table, before, after, states, watermark)
