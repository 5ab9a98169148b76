"""The tenant's quota of hunting calls, kept ahead of time by all processes of this host.

Here: one limiter over a SQLite file. Not here: what a 429 says (`classification`) and who calls (`client`).

How the quota is kept exactly, whether the service counts in fixed or in sliding windows: a call occupies its place from
the moment it is admitted until one window after its answer came. The service saw it at some moment in between, so any
window of the service holds only calls that were counted here too, however long the network took. A limiter that stamps
calls when it admits them (pyrate-limiter's buckets, for one) breaks the limit when an earlier call was slow to arrive.

Sources: "Advanced hunting API" (45 calls per minute, 1,500 per hour and tenant).
"""

import logging
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
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
CREATE TABLE IF NOT EXISTS pause (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), until REAL NOT NULL);
"""
_LOST_AFTER = 300.0  # seconds: longer than any call may take, so its process has died
_POLL = 0.05  # seconds between looks while only calls under way stand before us
_LONGEST_NAP = 5.0  # seconds: a pause may have been lifted by nobody, but a clock may have been set
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

    def call(self, weight: int = 1) -> AbstractContextManager[Permit]:
        """A context in which the call is made; entering it waits for a place."""

    def pause(self, seconds: float) -> None:
        """Hold back all processes for that long: the service said that the quota is spent."""

    def close(self) -> None:
        """Let go of what is held open. The quota may be used again afterwards."""


class FileQuota:
    """A quota shared through a file by all threads and processes of this host.

    Args:
        file: the SQLite file; made when it is not there. Not on a network drive: SQLite's locks do not hold there.
        limits: all are kept.
        max_wait: seconds after which a waiting call gives up.
        on_wait: told the seconds that a call is about to wait, when they are worth telling; logs by default.
        now: the time in seconds that all processes share.
    """

    def __init__(
        self,
        file: Path,
        limits: tuple[Limit, ...],
        *,
        max_wait: float = 4200.0,
        on_wait: Callable[[float], None] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        if not limits or any(limit.calls < 1 or limit.seconds <= 0 for limit in limits):
            raise ValueError(f"a quota needs limits of at least one call: {limits}")
        self._file = file
        self._limits = limits
        self._max_wait = max_wait
        self._on_wait = on_wait or _log_wait
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
    def call(self, weight: int = 1) -> Iterator[Permit]:
        """A context in which the call is made; entering it waits for a place.

        Raises:
            QuotaExhaustedError: no place within `max_wait`. Nothing was sent.
        """
        waited, call_id = self._admit(weight)
        try:
            yield Permit(waited)
        finally:
            with self._transaction() as connection:
                connection.execute("UPDATE calls SET settled = ? WHERE id = ?", (self._now(), call_id))

    def pause(self, seconds: float) -> None:
        """Hold back all processes for that long; a longer pause that is under way stays."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO pause VALUES (1, ?)"
                " ON CONFLICT (only_row) DO UPDATE SET until = max(until, excluded.until)",
                (self._now() + max(0.0, seconds),),
            )

    def close(self) -> None:
        """Let go of the file. The quota may be used again afterwards."""
        with self._lock:
            self._disconnect()

    def _admit(self, weight: int) -> tuple[float, int]:
        if not 1 <= weight <= min(limit.calls for limit in self._limits):
            raise ValueError(f"no quota of {self._limits} ever has room for a call of weight {weight}")
        began, told = time.monotonic(), False
        while True:
            with self._transaction() as connection:
                now = self._now()
                free_in = self._free_in(connection, weight, now)
                if free_in <= 0:
                    cursor = connection.execute("INSERT INTO calls (weight, admitted) VALUES (?, ?)", (weight, now))
                    return time.monotonic() - began, int(cursor.lastrowid or 0)
            waited = time.monotonic() - began
            if waited + min(free_in, _POLL) > self._max_wait:
                raise QuotaExhaustedError(
                    f"no call was free within {self._max_wait:.0f} s",
                    todo=f"Other runs spend the quota kept in {self._file}. Nothing was sent; run again later.",
                )
            if not told and free_in > _VISIBLE_WAIT:
                self._on_wait(free_in)
                told = True
            time.sleep(min(free_in, _LONGEST_NAP, max(self._max_wait - waited, _POLL)))

    def _free_in(self, connection: sqlite3.Connection, weight: int, now: float) -> float:
        """Seconds until there may be room; 0 when there is."""
        self._tidy(connection, now)
        paused = connection.execute("SELECT until FROM pause").fetchone()
        longest = max(0.0, paused[0] - now) if paused else 0.0
        for limit in self._limits:
            longest = max(longest, _room_in(connection, limit, weight, now))
        return longest

    def _tidy(self, connection: sqlite3.Connection, now: float) -> None:
        # A clock that was set back must not hold calls for as long as it was set.
        connection.execute("UPDATE calls SET settled = ? WHERE settled > ?", (now, now))
        connection.execute("UPDATE calls SET admitted = ? WHERE admitted > ?", (now, now))
        connection.execute(
            "UPDATE calls SET settled = admitted + ? WHERE settled IS NULL AND admitted <= ?",
            (_LOST_AFTER, now - _LOST_AFTER),
        )
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


def _log_wait(seconds: float) -> None:
    _LOG.info("the tenant's quota of hunting calls is spent for now: waiting about %.1f s", seconds)


def quota_from_settings(settings: Settings, *, on_wait: Callable[[float], None] | None = None) -> FileQuota:
    """The quota of these settings, less the reserve for analysts, on the quota clock.

    Processes with the same tenant share one file, also when none is configured.
    """
    scale = settings.defender_quota_clock_scale
    share = 1 - settings.defender_quota_reserve
    limits = (
        Limit(max(1, int(settings.defender_calls_per_minute * share)), 60 / scale),
        Limit(max(1, int(settings.defender_calls_per_hour * share)), 3600 / scale),
    )
    return FileQuota(
        settings.defender_quota_store or default_store(settings), limits, max_wait=600 + 3600 / scale, on_wait=on_wait
    )


def default_store(settings: Settings) -> Path:
    """The file of a tenant when `DEFENDER_QUOTA_STORE` is not set: in the user's part of the temporary directory."""
    tenant = sha256(f"{settings.azure_tenant_id}|{settings.defender_api_url}".encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"defender-adx-{user}" / f"quota-{tenant}.sqlite"
