"""From an HTTP answer that is not a result to the error that says what to do.

Here: reading error bodies of all shapes, and one table from status, code and message to error class. Not here: the
classes (`errors`) and retrying (`retrying`). Sources: "Handle advanced hunting errors", "Advanced hunting quotas", the
error pages of the Defender APIs and Microsoft Graph's throttling guidance; messages as seen on the wire.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from defender_adx_pipeline.defender.errors import (
    HuntingError,
    MalformedAnswerError,
    PermanentError,
    PermissionDeniedError,
    QueryContext,
    RejectedTokenError,
    RequestTooLargeError,
    Throttle,
    ThrottledError,
    ThrottleWindow,
    TooLargeError,
    TransientError,
    UnresolvedNameError,
)
from defender_adx_pipeline.instants import utc_now

_LONGEST_MESSAGE = 500
_SECRETS = re.compile(
    r"(?i)\bbearer\s+[^\s\"',;]+|\beyJ[\w-]{8,}\.[\w.-]*|\b(client_secret|client_assertion)=[^\s&\"']+"
)
_TITLE = re.compile(r"(?is)<title[^>]*>(.*?)</title>")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer other than a result, read as far as it can be."""

    status: int
    code: str
    message: str
    request_id: str | None
    headers: Mapping[str, str]


def redact(text: str) -> str:
    """One line of foreign text, shortened, with anything that looks like a token or secret masked."""
    line = " ".join(_SECRETS.sub("***", text).split())
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 1] + "…"


def read_refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    """Read an error body: the JSON of Graph or of the Defender APIs, HTML of a gateway, or nothing at all."""
    request_id = headers.get("request-id")
    try:
        error: Any = orjson.loads(body)["error"]
        code, message = str(error.get("code") or ""), str(error.get("message") or "")
        inner = error.get("innerError") or error.get("innererror") or {}
        request_id = request_id or inner.get("request-id") or error.get("target")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        text = body.decode("utf-8", "replace")
        title = _TITLE.search(text)
        code, message = "", title.group(1) if title else re.sub(r"<[^>]*>", " ", text)
    return Refusal(status, redact(code), redact(message), redact(str(request_id)) if request_id else None, headers)


_Builder = Callable[[Refusal, dict[str, Any]], HuntingError]


@dataclass(frozen=True, slots=True)
class _Rule:
    """One row of the table: the first whose statuses and pattern match decides."""

    statuses: tuple[int, ...] | range
    pattern: re.Pattern[str] | None
    """Found in "code: message"; None takes every answer of these statuses."""
    build: _Builder

    def matches(self, refusal: Refusal) -> bool:
        if refusal.status not in self.statuses:
            return False
        return self.pattern is None or bool(self.pattern.search(f"{refusal.code}: {refusal.message}"))


def _named(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


def _throttled(refusal: Refusal, rest: dict[str, Any]) -> HuntingError:
    throttle = parse_throttle(refusal.message, refusal.headers)
    return ThrottledError(
        f"a quota of the tenant is spent ({throttle.window}): {_said(refusal)}",
        throttle=throttle,
        todo="Analysts and other apps spend from the same quota; raise DEFENDER_QUOTA_RESERVE if this keeps coming.",
        **rest,
    )


def _too_large(refusal: Refusal, rest: dict[str, Any]) -> HuntingError:
    return TooLargeError(f"the answer is too large: {_said(refusal)}", todo="Ask for a smaller slice.", **rest)


def _body_too_large(refusal: Refusal, rest: dict[str, Any]) -> HuntingError:
    return RequestTooLargeError(
        f"the query text is above the limit of about 1 MB: {_said(refusal)}",
        todo="This is a defect of the pipeline: the query must be made shorter. Nothing was read.",
        **rest,
    )


_UNRESOLVED = _named(r"failed to resolve [\w ]*?'([^']*)'")


def _unresolved(refusal: Refusal, rest: dict[str, Any]) -> HuntingError:
    match = _UNRESOLVED.search(refusal.message)
    name = match.group(1) if match else ""
    return UnresolvedNameError(
        f"the tenant does not know {name!r}: {_said(refusal)}",
        name=name,
        todo="If it is a table: it needs a licence or product that this tenant lacks, or the app lacks the hunting"
        " permission ThreatHunting.Read.All; set IsActive=false for it, or grant the permission. If it is a column: the"
        " schema has drifted from the catalogue. Nothing was read and the watermark was not moved.",
        **rest,
    )


def _rejected_token(refusal: Refusal, rest: dict[str, Any]) -> HuntingError:
    return RejectedTokenError(
        f"the API refused the token: {_said(refusal)}",
        todo="If a new token is refused too, check AZURE_TENANT_ID, AZURE_CLIENT_ID and DEFENDER_CLOUD.",
        **rest,
    )


def _denied(refusal: Refusal, rest: dict[str, Any]) -> HuntingError:
    return PermissionDeniedError(
        f"the app may not run hunting queries: {_said(refusal)}",
        todo="Grant the application permission ThreatHunting.Read.All of Microsoft Graph (for DEFENDER_API=xdr"
        " AdvancedHunting.Read.All, for mde AdvancedQuery.Read.All) to the app registration and give admin consent"
        " (Entra admin center, App registrations, API permissions).",
        **rest,
    )


def _transient(refusal: Refusal, rest: dict[str, Any]) -> HuntingError:
    return TransientError(f"the service failed: {_said(refusal)}", **rest)


def _not_an_answer(refusal: Refusal, rest: dict[str, Any]) -> HuntingError:
    return MalformedAnswerError(
        f"the answer holds an error: {_said(refusal)}", todo="The whole answer was discarded.", **rest
    )


def _wrong_address(refusal: Refusal, rest: dict[str, Any]) -> HuntingError:
    return PermanentError(
        f"there is no hunting API at this address: {_said(refusal)}",
        todo="Check DEFENDER_API_URL, DEFENDER_API and DEFENDER_CLOUD.",
        **rest,
    )


def _permanent(refusal: Refusal, rest: dict[str, Any]) -> HuntingError:
    return PermanentError(
        f"the query was refused: {_said(refusal)}", todo="The same query would be refused again.", **rest
    )


_SIZE = _named(
    r"exceeded the allowed (result size|limits)|execution was preempted|execution (has )?timed out"
    # The same in the words of the Kusto engine underneath ("Query limits" in the Kusto docs).
    r"|E_QUERY_RESULT_SET_TOO_LARGE|E_RUNAWAY_QUERY|E_LOW_MEMORY_CONDITION"
)
_SPENT = _named(r"calls quota exceeded|exceeded processing resources|run queries again in|^TooManyRequests:|^429:")

RULES: tuple[_Rule, ...] = (
    _Rule((429,), None, _throttled),
    _Rule((200, 400, 403, 503), _SPENT, _throttled),
    _Rule((200, 400, 500), _SIZE, _too_large),
    # A gateway gives up on answers that are too large or take too long, so a plain retry meets the same end.
    _Rule((502, 504), None, _too_large),
    _Rule((413,), None, _body_too_large),
    _Rule((200, 400), _UNRESOLVED, _unresolved),
    _Rule((401,), None, _rejected_token),
    _Rule((403,), None, _denied),
    _Rule((408, *range(500, 600)), None, _transient),
    # An error where a result should be: nobody knows what it stands for, so it is asked again, within bounds.
    _Rule(range(200, 300), None, _not_an_answer),
    _Rule((*range(300, 400), 404, 405), None, _wrong_address),
)
"""The table, in order: the first row that matches decides; what no row matches is permanent.

200 stands in it since an answer may hold an `error` where its result should be, or beside a part of it.
"""


def classify(
    status: int, headers: Mapping[str, str], body: bytes, *, context: QueryContext | None = None
) -> HuntingError:
    """The error for an answer that is not a result.

    Args:
        status: HTTP status.
        headers: answer headers, found case-insensitively.
        body: the body, of any shape.
        context: what the query was for.
    """
    refusal = read_refusal(status, headers, body)
    rest: dict[str, Any] = {
        "context": context,
        "status": status,
        "code": refusal.code or None,
        "request_id": refusal.request_id,
    }
    build = next((rule.build for rule in RULES if rule.matches(refusal)), _permanent)
    if build is _too_large and status in (502, 504) and context is not None and not context.splittable:
        build = _transient
    return build(refusal, rest)


def is_untrusted(error: Exception) -> bool:
    """Whether a TLS error is about a certificate that is not trusted: trying again is no use then."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error) or "certificate verify failed" in str(error)


def _said(refusal: Refusal) -> str:
    return f'"{refusal.message}"' if refusal.message else "the service gave no reason"


_WINDOWS: dict[str, ThrottleWindow] = {"00:01:00": "minute", "01:00:00": "hour"}
_PER = re.compile(r"\d+\s+per\s+(\d\d:\d\d:\d\d)")
_AGAIN = re.compile(r"(?i)(?:again|retry|wait)\b.*?(?:in|for|after)\s+(.*)")
_LAST_SECONDS = re.compile(r"(?i)\b(\d+(?:\.\d+)?) seconds?\W*$")
_CLOCK = re.compile(r"(?:(\d+)\.)?(\d{1,2}):(\d\d):(\d\d)(?:\.\d+)?")
_UNITS = re.compile(r"(?i)(\d+(?:\.\d+)?)\s*(d|h|ms|m|s)[a-z]*\b")
_SECONDS_OF = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_CPU_CYCLE = timedelta(minutes=15)


def parse_throttle(message: str, headers: Mapping[str, str], *, now: datetime | None = None) -> Throttle:
    """Which quota is spent and how long to hold back.

    The window comes from the message ("45 per 00:01:00", "1500 per 01:00:00", "processing resources"). The pause is the
    longer of `Retry-After` and the duration in the message; where neither is told, a minute for the minute quota, ten
    minutes for the hour's, the next 15-minute cycle for the CPU share, and None otherwise (the caller backs off).
    """
    moment = now or utc_now()
    per = _PER.search(message)
    window: ThrottleWindow = _WINDOWS.get(per.group(1), "unknown") if per else "unknown"
    if re.search(r"(?i)processing resources|\bcpu\b", message):
        window = "cpu"
    told = [
        seconds
        for seconds in (_retry_after(headers.get("Retry-After"), moment), _duration_in(message))
        if seconds is not None
    ]
    if told:
        return Throttle(window, max(told))
    guess = {"minute": 60.0, "hour": 600.0, "cpu": _until_next_cycle(moment), "unknown": None}
    return Throttle(window, guess[window])


def _retry_after(value: str | None, now: datetime) -> float | None:
    if not value:
        return None
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _duration_in(message: str) -> float | None:
    """Seconds after "again in": `00:05:00`, `37 seconds`, `5 minutes`, or a bare number.

    Without "again", the number before a last word "seconds": field tools read the second-last word of any message.
    """
    again = _AGAIN.search(message)
    if again is None:
        last = _LAST_SECONDS.search(message)
        return float(last.group(1)) if last else None
    clock = _CLOCK.search(again.group(1))
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)
    units = _UNITS.findall(again.group(1))
    if units:
        return sum(float(number) * _SECONDS_OF[unit.lower()] for number, unit in units)
    number = re.search(r"\d+", again.group(1))
    return float(number.group()) if number else None


def _until_next_cycle(now: datetime) -> float:
    into = timedelta(minutes=now.minute % 15, seconds=now.second, microseconds=now.microsecond)
    return (_CPU_CYCLE - into).total_seconds()
