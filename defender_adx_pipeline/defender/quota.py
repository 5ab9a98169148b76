"""The tenant's quota of hunting calls, kept ahead of time by all processes of this host and shared fairly by tables.

Here: one limiter over a SQLite file. Not here: what a 429 says (`classification`) and who calls (`client`).

How the quota is kept exactly, whether the service counts in fixed or in sliding windows: a call occupies its place from
the moment it is admitted until one window after its answer came. The service saw it at some moment in between, so any
window of the service holds only calls that were counted here too, however long the network took. A limiter that stamps
calls when it admits them (pyrate-limiter's buckets, for one) breaks the limit when an earlier call was slow to arrive.

How it is shared: whoever waits has a row in the file. A free place goes to the table that had the fewest calls in the
shortest window, and within a table to whoever waits longest, so a table that floods shares with the others. Calls about
history come after all others and leave them a fifth: a backfill does not keep a tick waiting for an hour. A waiter
shows with every look that it is alive; one that was killed or stopped is passed over after 3 s, and cannot block.

Sources: "Advanced hunting API" (45 calls per minute, 1,500 per hour and tenant).
"""

import logging
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from defender_adx_pipeline.defender.errors import QuotaExhaustedError, QuotaStoreError
from defender_adx_pipeline.settings import Settings

_LOG = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    id INTEGER PRIMARY KEY, weight INTEGER NOT NULL, admitted REAL NOT NULL, settled REAL
);
CREATE INDEX IF NOT EXISTS calls_settled ON calls (settled);
CREATE TABLE IF NOT EXISTS waiters (
    id INTEGER PRIMARY KEY AUTOINCREMENT, weight INTEGER NOT NULL, asked_for TEXT NOT NULL, since REAL NOT NULL,
    seen REAL NOT NULL, history INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS pause (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), until REAL NOT NULL);
"""
_LATER_COLUMNS = {  # files of earlier versions lack them
    ("calls", "asked_for"): "ALTER TABLE calls ADD COLUMN asked_for TEXT NOT NULL DEFAULT ''",
    ("waiters", "history"): "ALTER TABLE waiters ADD COLUMN history INTEGER NOT NULL DEFAULT 0",
}
_RANKING = """
SELECT waiters.id, waiters.weight FROM waiters LEFT JOIN (
    SELECT asked_for, sum(weight) AS had FROM calls WHERE settled IS NULL OR settled > ? GROUP BY asked_for
) AS spent ON spent.asked_for = waiters.asked_for ORDER BY history, coalesce(had, 0), since, waiters.id
"""
_LOST_AFTER = 300.0  # seconds: signing in and connecting take less, so the service has seen the call by then, or never
_POLL = 0.05  # seconds between looks while only calls under way, or a waiter that is about to look, stand before us
_LONGEST_NAP = 1.0  # seconds between two signs of life
_GONE_AFTER = 3.0  # seconds without a sign of life
_HISTORY_SHARE = 0.8  # of the quota, what calls about days before today's may spend: a tick finds the rest
_VISIBLE_WAIT = 1.0  # seconds: shorter waits are not worth a line


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `calls` in any `seconds`."""

    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Permit:
    """One admitted call."""

    waited: float
    """Seconds from asking to being admitted."""


class Quota(Protocol):
    """Gives permission for calls, one at a time."""

    def call(self, weight: int = 1, *, table: str | None = None) -> AbstractContextManager[Permit]:
        """A context in which the call is made; entering it waits for a place. `table` is what the call is for."""

    def pause(self, seconds: float, why: str = "the quota is spent") -> None:
        """Hold back all processes for that long: the service said that the quota is spent."""

    def close(self) -> None:
        """Let go of what is held open. The quota may be used again afterwards."""


@dataclass(slots=True)
class _Waiter:
    """Somebody who asks for a place; `ticket` is its row."""

    weight: int
    table: str
    since: float
    is_history: bool = False
    ticket: int | None = None

    def sign(self, connection: sqlite3.Connection, now: float) -> None:
        """Show that it is alive; whoever was taken for dead gets its turn back."""
        signed = connection.execute("UPDATE waiters SET seen = ? WHERE id = ?", (now, self.ticket))
        if signed.rowcount == 0:
            cursor = connection.execute(
                "INSERT INTO waiters (weight, asked_for, since, seen, history) VALUES (?, ?, ?, ?, ?)",
                (self.weight, self.table, self.since, now, self.is_history),
            )
            self.ticket = cursor.lastrowid

    def leave(self, connection: sqlite3.Connection) -> None:
        """Stand in nobody's way any longer."""
        connection.execute("DELETE FROM waiters WHERE id = ?", (self.ticket,))
        self.ticket = None


@dataclass(frozen=True, slots=True)
class _Look:
    """What a waiter saw."""

    free_in: float
    """Seconds until there may be a place; 0 when there is one and it is another's turn."""
    my_turn_in: float
    """The same with those before served first, as far as that can be told."""
    before: int
    """Waiters whose turn comes first."""
    paused: bool
    call_id: int | None = None
    """The call that was admitted."""


class FileQuota:
    """A quota shared through a file by all threads and processes of this host.

    Args:
        file: the SQLite file; made when it is not there. Not on a network drive: SQLite's locks do not hold there.
        limits: all are kept.
        max_wait: seconds after which a waiting call gives up.
        tell: given one line about each wait and each pause that is worth it; the log by default.
        named: the quota in words, for these lines.
        is_history: whether the calls are about days before today's: they come after all others that wait.
        lost_after: seconds after which a call without an answer is taken for one whose process died. Its place stays
            taken for one window more: the service may have counted it.
        now: the time in seconds that all processes share.
    """

    def __init__(
        self,
        file: Path,
        limits: tuple[Limit, ...],
        *,
        max_wait: float = 4200.0,
        tell: Callable[[str], None] | None = None,
        named: str | None = None,
        is_history: bool = False,
        lost_after: float = _LOST_AFTER,
        now: Callable[[], float] = time.time,
    ) -> None:
        if not limits or any(limit.calls < 1 or limit.seconds <= 0 for limit in limits):
            raise ValueError(f"a quota needs limits of at least one call: {limits}")
        self._file = file
        self._limits = limits
        self._max_wait = max_wait
        self._tell = tell or _LOG.info
        self._named = named or " and ".join(f"{limit.calls} in {limit.seconds:g} s" for limit in limits)
        self._is_history = is_history
        self._lost_after = lost_after
        self._now = now
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits that are kept, the reserve taken off."""
        return self._limits

    @property
    def file(self) -> Path:
        """The file that the quota is shared through."""
        return self._file

    @contextmanager
    def call(self, weight: int = 1, *, table: str | None = None) -> Iterator[Permit]:
        """A context in which the call is made; entering it waits for a place.

        Args:
            weight: how many places it takes.
            table: what it is for; calls that name none share as one table.

        Raises:
            QuotaExhaustedError: no place within `max_wait`. Nothing was sent.
        """
        waited, call_id = self._admit(weight, table or "")
        try:
            yield Permit(waited)
        finally:
            with self._transaction() as connection:
                connection.execute("UPDATE calls SET settled = ? WHERE id = ?", (self._now(), call_id))

    def pause(self, seconds: float, why: str = "the quota is spent") -> None:
        """Hold back all processes for that long; a longer pause that is under way stays.

        Args:
            seconds: from now.
            why: what the service said, for the line that is told.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO pause VALUES (1, ?)"
                " ON CONFLICT (only_row) DO UPDATE SET until = max(until, excluded.until)",
                (self._now() + max(0.0, seconds),),
            )
        self._tell(f"all processes that share the quota hold back for {seconds:.1f} s: {why}")

    def close(self) -> None:
        """Let go of the file. The quota may be used again afterwards."""
        with self._lock:
            self._disconnect()

    def _admit(self, weight: int, table: str) -> tuple[float, int]:
        if not 1 <= weight <= min(limit.calls for limit in self._limits):
            raise ValueError(f"no quota of {self._limits} ever has room for a call of weight {weight}")
        began, told = time.monotonic(), False
        waiter = _Waiter(weight, table, self._now(), self._is_history)
        try:
            while True:
                with self._transaction() as connection:
                    look = self._look(connection, waiter)
                waited = time.monotonic() - began
                if look.call_id is not None:
                    return waited, look.call_id
                if waited + min(look.free_in, _POLL) > self._max_wait:
                    raise QuotaExhaustedError(
                        f"no call was free within {self._max_wait:.0f} s",
                        todo=f"Other runs spend the quota kept in {self._file}. Nothing was sent; run again later.",
                    )
                if not told and max(look.free_in, waited) > _VISIBLE_WAIT:
                    self._tell(self._waiting(look))
                    told = True
                time.sleep(min(look.free_in or _POLL, _LONGEST_NAP, max(self._max_wait - waited, _POLL)))
        finally:
            self._leave(waiter)

    def _look(self, connection: sqlite3.Connection, waiter: "_Waiter") -> "_Look":
        """Show that the waiter is alive, and take a place for it when there is one and it is its turn."""
        now = self._now()
        self._tidy(connection, now)
        waiter.sign(connection, now)
        paused = connection.execute("SELECT until FROM pause").fetchone()
        pause = max(0.0, paused[0] - now) if paused else 0.0
        free_in = max(pause, self._room_in(connection, waiter.weight, now))
        since = now - min(limit.seconds for limit in self._limits)
        ranking = connection.execute(_RANKING, (since,)).fetchall()
        before = list(takewhile(lambda row: row[0] != waiter.ticket, ranking))
        if free_in > 0 or before:
            # What stands before us takes its places first; for longer than a window ahead nobody can tell.
            weight = min(waiter.weight + sum(row[1] for row in before), *(limit.calls for limit in self._limits))
            return _Look(free_in, max(pause, self._room_in(connection, weight, now)), len(before), paused=pause > 0)
        cursor = connection.execute(
            "INSERT INTO calls (weight, admitted, asked_for) VALUES (?, ?, ?)", (waiter.weight, now, waiter.table)
        )
        waiter.leave(connection)
        return _Look(0.0, 0.0, 0, paused=False, call_id=int(cursor.lastrowid or 0))

    def _leave(self, waiter: "_Waiter") -> None:
        """Whoever gives up stands in nobody's way."""
        if waiter.ticket is not None:
            # Where the file cannot be used, the row ages out.
            with suppress(QuotaStoreError), self._transaction() as connection:
                waiter.leave(connection)

    def _waiting(self, look: "_Look") -> str:
        about = f"waiting about {max(look.my_turn_in, 1.0):.0f} s for the tenant's quota of hunting calls"
        shared = f"({self._named}; shared by all processes that use {self._file})"
        if look.paused:
            return f"{about}: Defender refused a call, and all hold back {shared}"
        return f"{about}, behind {look.before} others {shared}" if look.before else f"{about} {shared}"

    def _room_in(self, connection: sqlite3.Connection, weight: int, now: float) -> float:
        """Seconds until there may be room; 0 when there is."""
        return max(_room_in(connection, limit, weight, now) for limit in self._limits)

    def _tidy(self, connection: sqlite3.Connection, now: float) -> None:
        # A clock that was set back must not hold calls for as long as it was set.
        connection.execute("UPDATE calls SET settled = ? WHERE settled > ?", (now, now))
        connection.execute("UPDATE calls SET admitted = ? WHERE admitted > ?", (now, now))
        connection.execute(
            "UPDATE calls SET settled = admitted + ? WHERE settled IS NULL AND admitted <= ?",
            (self._lost_after, now - self._lost_after),
        )
        connection.execute("UPDATE waiters SET seen = ? WHERE seen > ?", (now, now))
        connection.execute("DELETE FROM waiters WHERE seen <= ?", (now - _GONE_AFTER,))
        oldest = now - max(limit.seconds for limit in self._limits)
        connection.execute("DELETE FROM calls WHERE settled <= ?", (oldest,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                connection = self._connected()
                # IMMEDIATE takes the write lock before anything is read: what was counted holds until the commit.
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            except (sqlite3.Error, OSError) as error:
                raise QuotaStoreError(
                    f"the quota file {self._file} cannot be used: {error}",
                    todo="Check DEFENDER_QUOTA_STORE: a file on a local disk that this user may write. If it is"
                    " damaged, delete it and wait an hour, or the quota may be overspent.",
                ) from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and self._owner == os.getpid():
            return self._connection
        # A connection must not cross a fork: the child leaves its parent's alone.
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(self._file, timeout=60.0, isolation_level=None, check_same_thread=False)
        # Turning on the write-ahead log fails, without waiting, while another process does the same.
        with FileLock(f"{self._file}.lock", timeout=60):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
            for (table, column), statement in _LATER_COLUMNS.items():
                if column not in {row[1] for row in connection.execute(f"PRAGMA table_info ({table})")}:
                    connection.execute(statement)
        self._connection, self._owner = connection, os.getpid()
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None and self._owner == os.getpid():
            self._connection.close()
        self._connection = None


def _room_in(connection: sqlite3.Connection, limit: Limit, weight: int, now: float) -> float:
    since = now - limit.seconds
    with closing(
        connection.execute(
            "SELECT weight, settled FROM calls WHERE settled IS NULL OR settled > ? ORDER BY settled IS NULL, settled",
            (since,),
        )
    ) as cursor:
        occupied = cursor.fetchall()
    surplus = sum(row[0] for row in occupied) + weight - limit.calls
    for taken, settled in occupied:
        if surplus <= 0:
            break
        if settled is None:
            return _POLL
        surplus -= taken
        if surplus <= 0:
            return max(float(settled) - since, 0.001)
    return 0.0


def quota_from_settings(
    settings: Settings,
    *,
    tell: Callable[[str], None] | None = None,
    max_wait: float | None = None,
    is_history: bool = False,
) -> FileQuota:
    """The quota of these settings, less the reserve for analysts, on the quota clock.

    Processes with the same tenant share one file, also when none is configured.

    The arguments are those of `FileQuota`. Without `max_wait` it is an hour of the quota clock and ten minutes; calls
    about history leave a part of both limits to those about today.
    """
    scale = settings.defender_quota_clock_scale
    share = (1 - settings.defender_quota_reserve) * (_HISTORY_SHARE if is_history else 1)
    minute, hour = settings.defender_calls_per_minute, settings.defender_calls_per_hour
    limits = (Limit(max(1, int(minute * share)), 60 / scale), Limit(max(1, int(hour * share)), 3600 / scale))
    return FileQuota(
        settings.defender_quota_store or default_store(settings),
        limits,
        max_wait=600 + 3600 / scale if max_wait is None else max_wait,
        tell=tell,
        named=f"{minute} per minute and {hour} per hour, less {1 - share:.0%} for "
        + ("analysts and today's rows" if is_history else "analysts"),
        is_history=is_history,
        # A clock that runs faster is the local tenant's, which no call takes long to reach.
        lost_after=max(_LOST_AFTER / scale, 30.0),
    )


def default_store(settings: Settings) -> Path:
    """The file of a tenant when `DEFENDER_QUOTA_STORE` is not set: in the user's part of the temporary directory."""
    tenant = sha256(f"{settings.azure_tenant_id}|{settings.defender_api_url}".encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"defender-adx-{user}" / f"quota-{tenant}.sqlite"
