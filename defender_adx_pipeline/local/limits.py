"""The limits of Advanced Hunting and the windows that count its calls. Not here: what a refusal looks like (`wire`)."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_MINUTE, _HOUR = 60.0, 3600.0


@dataclass(slots=True)
class HuntingLimits:
    """What the service allows; the defaults are the documented ones ("Advanced hunting quotas", "Microsoft Graph
    security API overview" in Microsoft's docs). Limits of answers may be changed while the tenant runs.
    """  # noqa: D205 - one sentence

    rows: int = 100_000
    """Rows of one answer; more are cut off, and Graph documents no flag for it."""
    bytes: int = 50_000_000
    """Bytes of one answer; a larger one is refused with 400."""
    request_bytes: int = 1_000_000
    """Bytes of a request body; a larger one is refused with 413 by the proxy in front."""
    calls_per_minute: int = 45
    calls_per_hour: int = 1_500
    days: int = 30
    """How far back a query sees; no more than what is kept."""
    seconds: float = 180.0
    """Run time of one query."""
    retry_after: int | None = None
    """Seconds of a Retry-After header on 429; hunting promises none."""


@dataclass(frozen=True, slots=True)
class QuotaExceeded:
    """A call beyond the quota, in the words of the service."""

    allowed: int
    window: str
    """`00:01:00` or `01:00:00`."""


class CallQuota:
    """Calls in the last minute and the last hour, for a whole tenant. Thread-safe.

    Args:
        limits: how many calls.
        scale: how much faster than real time the windows pass; a minute lasts 60/scale seconds.
        monotonic: seconds that only grow.
    """

    def __init__(
        self, limits: HuntingLimits, *, scale: float = 1.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._windows = (
            (limits.calls_per_minute, _MINUTE / scale, "00:01:00"),
            (limits.calls_per_hour, _HOUR / scale, "01:00:00"),
        )
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._calls: deque[float] = deque()

    def take(self) -> QuotaExceeded | None:
        """Count one call, or say which window is full; a refused call is not counted."""
        with self._lock:
            now = self._monotonic()
            while self._calls and self._calls[0] <= now - self._windows[-1][1]:
                self._calls.popleft()
            for allowed, seconds, name in self._windows:
                if sum(1 for moment in self._calls if moment > now - seconds) >= allowed:
                    return QuotaExceeded(allowed, name)
            self._calls.append(now)
            return None
