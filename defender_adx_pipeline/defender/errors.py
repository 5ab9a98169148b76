"""What went wrong with a hunting query, by what there is to do about it.

Here: the error classes. Not here: how an HTTP answer becomes one of them (`classification`), and retrying (`retrying`).
Every error carries the table, the window and the purpose of the query when the caller told them, never a token, a
secret or rows.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

Action = Literal["fail", "retry", "pause", "split", "renew"]
"""What a caller does: give up, try again later, hold all callers back, ask for less, get a new token."""

ThrottleWindow = Literal["minute", "hour", "cpu", "unknown"]


@dataclass(frozen=True, slots=True)
class QueryContext:
    """What a query is for: put into errors, never into the query."""

    table: str | None = None
    purpose: str = "query"
    window: str | None = None
    """The window that is read, as text: half-open, in UTC."""
    splittable: bool = True
    """Whether asking for less is possible. False turns "too large" of a gateway (502, 504) into a plain retry."""

    def __str__(self) -> str:
        parts = [self.purpose]
        if self.table:
            parts.append(f"of {self.table}")
        if self.window:
            parts.append(self.window)
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Throttle:
    """Which quota is spent, and how long to hold back in seconds of the quota clock; None when nobody told."""

    window: ThrottleWindow
    pause_seconds: float | None


class HuntingError(Exception):
    """A hunting query that gave no answer. Nothing was read by the call that raised it."""

    action: ClassVar[Action] = "fail"
    subject: ClassVar[str] = "Advanced Hunting"

    def __init__(
        self,
        what: str,
        *,
        todo: str = "",
        context: QueryContext | None = None,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        self.what = what
        self.todo = todo
        self.context = context or QueryContext()
        self.status = status
        self.code = code
        self.request_id = request_id
        super().__init__(self._text())

    @property
    def table(self) -> str | None:
        """The table that was asked, when the caller told it."""
        return self.context.table

    def _text(self) -> str:
        marks = []
        if self.status is not None:
            marks.append(f"HTTP {self.status}")
        if self.code and self.code != str(self.status):
            marks.append(self.code)
        if self.request_id:
            marks.append(f"request {self.request_id}")
        # What a server said often ends with a full stop, and the sentence goes on.
        head = f"{self.subject}, {self.context}: {self.what.rstrip('. ')}"
        tail = f" ({', '.join(marks)})" if marks else ""
        return f"{head}{tail}.{' ' + self.todo if self.todo else ''}"


class PermanentError(HuntingError):
    """The same query would fail again: no retry."""


class UnresolvedNameError(PermanentError):
    """The query names a table or column that this tenant does not have, or does not show to this app."""

    def __init__(self, what: str, *, name: str, **rest: object) -> None:
        self.name = name
        super().__init__(what, **rest)  # type: ignore[arg-type]


class RequestTooLargeError(PermanentError):
    """The query text is above the gateway's limit of about 1 MB."""


class PermissionDeniedError(PermanentError):
    """The app may not run hunting queries."""


class AuthenticationError(PermanentError):
    """No token could be had, or the API refused a new one."""

    subject = "Sign-in"


class RejectedTokenError(AuthenticationError):
    """The API refused the token that was sent: worth one new token."""

    action = "renew"
    subject = "Advanced Hunting"


class TransientError(HuntingError):
    """May go away by itself: wait, then try again, a bounded number of times."""

    action = "retry"


class MalformedAnswerError(TransientError):
    """The answer is not what the API promises: truncated, not JSON, or without rows."""


class SignInUnavailableError(TransientError, AuthenticationError):
    """The sign-in service could not be reached or was out of order."""

    action = "retry"


class TooLargeError(HuntingError):
    """The answer would be above a limit: ask for a smaller slice; the same query would fail again."""

    action = "split"


class ThrottledError(HuntingError):
    """A quota of the tenant is spent: every caller holds back."""

    action = "pause"

    def __init__(self, what: str, *, throttle: Throttle, **rest: object) -> None:
        self.throttle = throttle
        super().__init__(what, **rest)  # type: ignore[arg-type]


class QuotaExhaustedError(HuntingError):
    """The shared quota did not give a call within the bounded wait. Nothing was sent."""


class QuotaStoreError(HuntingError):
    """The file that the quota is shared through cannot be used. Nothing was sent."""
