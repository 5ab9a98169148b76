"""What Defender and the sign-in service answer: every kind of refusal, at the first, a middle and the last call.

Here: every row of the table of errors, as cases. Not here: what the answers say (`local.presets`).
"""

from collections.abc import Iterator
from typing import Any

from defender_adx_pipeline_tests.faults.bench import Bench
from defender_adx_pipeline_tests.faults.calls import Kind
from defender_adx_pipeline_tests.faults.case import TABLE, Act, Case, Expect

GROUP = "Defender"
PAGES = {"first": 1, "middle": 2, "last": 4}
"""Pages of the rows of most cases, by their number."""

_ONCE = 1


def hunting(kind: Kind, name: str, *, first: int = 1, times: int | None = _ONCE, **own: Any) -> Act:
    """A named fault at calls of a kind."""

    def arm(bench: Bench) -> None:
        bench.calls.fault(TABLE, kind, name, first=first, times=times, **own)

    return arm


def both(*acts: Act) -> Act:
    """One thing after the other."""

    def arm(bench: Bench) -> None:
        for act in acts:
            act(bench)

    return arm


def sign_in(name: str, *, times: int | None = _ONCE, **own: Any) -> Act:
    """A named fault of the token endpoint."""

    def arm(bench: Bench) -> None:
        bench.tenant.faults.add("entra", name, match="oauth2", times=times, **own)

    return arm


def _case(name: str, arm: Act, expect: Expect = "exact", says: str = "", **rest: Any) -> Case:
    return Case(name=name, group=GROUP, expect=expect, arm=arm, says=says, **rest)


def _throttling() -> Iterator[Case]:
    for window in ("minute", "hour", "cpu"):
        for told, own in (("", {}), (", Retry-After", {"retry_after": 20})):
            yield _case(f"429 of the {window}{told}, on the count", hunting("count", f"throttled_{window}", **own))
            yield _case(f"429 of the {window}{told}, on page 2", hunting("page", f"throttled_{window}", first=2, **own))
    yield _case("429 on the schema", hunting("schema", "throttled_minute"))
    yield _case("429 five times on page 2", hunting("page", "throttled_minute", first=2, times=5))
    yield _case("429 on every page once", _each_page_once("throttled_minute"))
    yield _case(
        "429 for ever from page 2 on",
        hunting("page", "throttled_hour", first=2, times=None),
        "loud",
        "quota",
        patience=1.0,
    )


def _each_page_once(name: str) -> Act:
    def arm(bench: Bench) -> None:
        for first in (1, 3, 5, 7):
            bench.calls.fault(TABLE, "page", name, first=first)

    return arm


_SPLIT = {
    "400, result too large": "too_large",
    "400, preempted": "preempted",
    "502 with HTML": "bad_gateway",
    "504": "gateway_timeout",
}
_TRANSIENT = {
    "500": "server_error",
    "503": "unavailable",
    "503 with HTML": "page",
    "connection reset": "reset",
    "answer lost": "lost_reply",
    "answer cut off": "truncated_body",
    "truncated JSON": "truncated_json",
    "HTML with 200": "html_200",
    "empty body with 200": "empty_200",
}


def _sizes() -> Iterator[Case]:
    for told, name in _SPLIT.items():
        for place, number in PAGES.items():
            yield _case(f"{told}, on the {place} page", hunting("page", name, first=number))
        yield _case(f"{told}, on the count", hunting("count", name), "exact")
        yield _case(f"{told}, five times from page 2 on", hunting("page", name, first=2, times=5))
    yield _case("400, result too large, for ever", hunting("page", "too_large", first=2, times=None), "loud")
    yield _case("502 on every call, for ever", hunting("any", "bad_gateway", times=None), "loud")


def _transient() -> Iterator[Case]:
    for told, name in _TRANSIENT.items():
        yield _case(f"{told}, on the count", hunting("count", name))
        for place, number in PAGES.items():
            yield _case(f"{told}, on the {place} page", hunting("page", name, first=number))
        yield _case(f"{told}, for ever from page 2 on", hunting("page", name, first=2, times=None), "loud")
    yield _case("500 on every call, for ever", hunting("any", "server_error", times=None), "loud")
    yield _case("no answer to the count within the time-out", _hanging("count", 1, 1))
    yield _case("no answer to page 2 within the time-out", _hanging("page", 2, 1))
    yield _case("no answer for ever from page 2 on", _hanging("page", 2, None), "loud", "time-out")


def _hanging(kind: Kind, first: int, times: int | None) -> Act:
    def arm(bench: Bench) -> None:
        bench.pace.read_timeout = 0.5
        bench.calls.fault(TABLE, kind, "slow", first=first, times=times, seconds=3.0)

    return arm


def _refusals() -> Iterator[Case]:
    yield _case("401 once on the count", hunting("count", "expired_token"))
    yield _case("401 once on page 2", hunting("page", "expired_token", first=2))
    yield _case("401 for ever", hunting("any", "expired_token", times=None), "loud", "token")
    yield _case("403", hunting("any", "forbidden", times=None), "loud", "ThreatHunting.Read.All")
    yield _case("403 from page 3 on", hunting("page", "forbidden", first=3, times=None), "loud", "ThreatHunting")
    yield _case("413", hunting("page", "request_too_large", times=None), "loud", "1 MB")
    yield _case("400, name not resolved", hunting("any", "unresolved", times=None), "loud", "licence")
    yield _case("400, name not resolved, on page 3", hunting("page", "unresolved", first=3), "loud_then_exact", "drift")


def _sign_in() -> Iterator[Case]:
    yield _case("sign-in temporarily unavailable", sign_in("temporarily_unavailable"))
    yield _case("sign-in resets the connection", sign_in("reset"))
    yield _case("sign-in answers HTML", sign_in("page"))
    yield _case("sign-in unavailable for ever", sign_in("temporarily_unavailable", times=None), "loud")
    yield _case(
        "sign-in refuses the secret", sign_in("invalid_client", times=None), "loud", "AZURE_CLIENT_SECRET|secret"
    )


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _throttling()
    yield from _sizes()
    yield from _transient()
    yield from _refusals()
    yield from _sign_in()
