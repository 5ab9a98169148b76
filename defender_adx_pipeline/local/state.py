"""What the local tenant remembers of its traffic: one record per request, bounded and thread-safe.

Here: the log that tests and the demo read to see who asked what, and the admin app's view of it. Not here: the data of
the two sides (`source`, `adx_store`) and what goes wrong on request (`faults`).
"""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

KEPT_HEADERS = (
    "accept",
    "content-encoding",
    "content-length",
    "content-type",
    "retry-after",
    "x-ms-app",
    "x-ms-blob-type",
    "x-ms-client-request-id",
    "x-ms-client-version",
    "x-ms-version",
)
"""Request headers worth keeping. Never `Authorization`: a log must not hold a token."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request that a server of the tenant took, and how it was answered.

    `path` has no query string: there a storage request carries its SAS.
    """

    number: int
    service: str
    method: str
    path: str
    user_agent: str
    headers: Mapping[str, str]
    status: int | None
    """None when the connection was dropped without an answer."""
    started: datetime
    seconds: float
    statement: str | None = None
    """The KQL or command text, where the request carried one."""
    table: str | None = None
    fault: str | None = None
    """Kind of the injected fault, if one was."""

    def as_json(self) -> dict[str, object]:
        """The record as the admin app shows it."""
        return {
            "number": self.number,
            "service": self.service,
            "method": self.method,
            "path": self.path,
            "user_agent": self.user_agent,
            "headers": dict(self.headers),
            "status": self.status,
            "started": self.started.isoformat(),
            "seconds": round(self.seconds, 6),
            "statement": self.statement,
            "table": self.table,
            "fault": self.fault,
        }


@dataclass(slots=True)
class RequestLog:
    """The last `limit` requests, oldest first."""

    limit: int = 50_000
    _entries: deque[LoggedRequest] = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _count: int = field(init=False, default=0)
    _by_service: Counter[str] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        self._entries = deque(maxlen=self.limit)

    def next_number(self) -> int:
        """A number for a request that begins now; numbers grow by one per request of any service."""
        with self._lock:
            self._count += 1
            return self._count

    def add(self, entry: LoggedRequest) -> None:
        """Keep a finished request."""
        with self._lock:
            self._entries.append(entry)
            self._by_service[entry.service] += 1

    def entries(
        self, *, service: str | None = None, since: datetime | int | None = None, statement: str | None = None
    ) -> list[LoggedRequest]:
        """Finished requests, in the order of their end.

        Args:
            service: only those of one service ("hunting", "entra", "engine", "ingest", "storage").
            since: only those that began at or after a time, or whose number is greater than a number.
            statement: only those whose statement contains this text.
        """
        with self._lock:
            found = list(self._entries)
        return [
            entry
            for entry in found
            if (service is None or entry.service == service)
            and (since is None or _is_after(entry, since))
            and (statement is None or statement in (entry.statement or ""))
        ]

    def last_number(self) -> int:
        """The number of the newest request, for a later `entries(since=...)`."""
        with self._lock:
            return self._count

    def counts(self) -> dict[str, int]:
        """Finished requests by service since the start, also those that the log has let go of."""
        with self._lock:
            return dict(sorted(self._by_service.items()))

    def clear(self) -> None:
        """Forget everything but the counts."""
        with self._lock:
            self._entries.clear()


def _is_after(entry: LoggedRequest, since: datetime | int) -> bool:
    if isinstance(since, int):
        return entry.number > since
    return entry.started >= since


def utcnow() -> datetime:
    """The present, timezone-aware: the tenant's default clock."""
    return datetime.now(tz=UTC)
