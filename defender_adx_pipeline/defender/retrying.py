"""How often and how long a hunting call is tried again, by the action its error asks for.

Here: the bounds and the waits of one query. Not here: which answer is which error (`classification`), and sending
(`client`). Splitting is the planner's: a too-large answer is raised at once.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying

from defender_adx_pipeline.defender.errors import Action, HuntingError, ThrottledError
from defender_adx_pipeline.defender.quota import Quota

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds of one query. Seconds are real seconds."""

    transient_tries: int = 5
    """Calls in all that may end in a transient error."""
    first_wait: float = 15.0
    """Before the second try; doubles from try to try, plus up to a quarter of jitter."""
    longest_wait: float = 120.0
    throttled_for: float = 960.0
    """How long a query may be held back by throttling in all: a whole 15-minute CPU cycle and a minute."""
    first_pause: float = 10.0
    """Pause when the service does not tell one; doubles from refusal to refusal."""
    longest_pause: float = 3600.0
    """No quota has a longer window, so a longer pause that is told is not believed."""
    clock_scale: float = 1.0
    """How much faster than real time the service's quota clock runs."""

    @classmethod
    def scaled(cls, scale: float) -> "RetryPolicy":
        """The same policy for a service whose clock runs `scale` times as fast: a local tenant."""
        plain = cls()
        return cls(
            first_wait=plain.first_wait / scale,
            longest_wait=plain.longest_wait / scale,
            # Not below half a minute: real network time does not scale.
            throttled_for=max(plain.throttled_for / scale, 30.0),
            first_pause=plain.first_pause / scale,
            longest_pause=plain.longest_pause / scale,
            clock_scale=scale,
        )


class RetryRun:
    """The tries of one query. Used once.

    Args:
        policy: the bounds.
        quota: told of pauses, so that every process holds back; waiting for them happens there, before the next call.
        renew: called once, when the API refused the token: the next attempt uses a new one.
        sleep: waits; replaceable.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        quota: Quota,
        renew: Callable[[], object],
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._policy = policy
        self._quota = quota
        self._renew = renew
        self._sleep = sleep
        self._counts: dict[Action, int] = {"retry": 0, "pause": 0, "renew": 0}
        self._calls = 0
        self._throttled = 0
        self._preempted = 0
        self._paused = 0.0
        self._next_wait = 0.0

    @property
    def retries(self) -> int:
        """How many calls were made after the first."""
        return max(0, self._calls - 1)

    @property
    def throttled(self) -> int:
        """How many calls were refused because a quota of the tenant was spent, CPU among them."""
        return self._throttled

    @property
    def preempted(self) -> int:
        """How many calls were refused because the tenant's share of CPU was spent."""
        return self._preempted

    def run(self, attempt: Callable[[], _T]) -> _T:
        """Call `attempt` until it answers or the bounds are met.

        Raises:
            HuntingError: the last one, when trying again is no use or no longer allowed.
        """

        def counted() -> _T:
            self._calls += 1
            return attempt()

        retrying = Retrying(
            retry=self._again, wait=lambda _: self._next_wait, sleep=self._sleep, reraise=True, before_sleep=_tell
        )
        return retrying(counted)

    def _again(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, HuntingError):
            return False
        self._next_wait = 0.0
        if error.action in self._counts:
            self._counts[error.action] += 1
        if error.action == "renew":
            return self._renewed()
        if isinstance(error, ThrottledError):
            return self._held_back(error)
        return error.action == "retry" and self._waits()

    def _renewed(self) -> bool:
        if self._counts["renew"] > 1:
            return False
        self._renew()
        return True

    def _waits(self) -> bool:
        tried = self._counts["retry"]
        wait = min(self._policy.first_wait * 2 ** (tried - 1), self._policy.longest_wait)
        self._next_wait = wait * random.uniform(1.0, 1.25)  # noqa: S311 - jitter
        return tried < self._policy.transient_tries

    def _held_back(self, error: ThrottledError) -> bool:
        self._throttled += 1
        self._preempted += error.throttle.window == "cpu"
        own = self._policy.first_pause * 2 ** (self._counts["pause"] - 1)
        told = error.throttle.pause_seconds
        # Told once, the service knows best; told again at once, its word was too short.
        pause = own if told is None else told / self._policy.clock_scale
        if self._counts["pause"] > 1:
            pause = max(pause, own)
        pause = min(pause, self._policy.longest_pause)
        # Also when this query gives up: the others must not meet the same refusal.
        self._quota.pause(pause, str(error))
        self._paused += pause
        return self._paused <= self._policy.throttled_for


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, HuntingError):
        _LOG.warning("trying again (%d): %s", state.attempt_number, error)
