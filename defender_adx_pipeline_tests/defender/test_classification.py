from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from requests.structures import CaseInsensitiveDict

from defender_adx_pipeline.defender.classification import classify, parse_throttle
from defender_adx_pipeline.defender.errors import (
    Action,
    HuntingError,
    MalformedAnswerError,
    PermanentError,
    PermissionDeniedError,
    QueryContext,
    RejectedTokenError,
    RequestTooLargeError,
    ThrottledError,
    TooLargeError,
    TransientError,
    UnresolvedNameError,
)

CONTEXT = QueryContext(table="EmailEvents", purpose="read rows", window="[2026-08-01T00:00:00Z, 2026-08-01T01:00:00Z)")
NGINX = b"<html>\r\n<head><title>%s</title></head>\r\n<body><center><h1>x</h1></center><hr>nginx</body>\r\n</html>"


def graph(code: str, message: str) -> bytes:
    inner = {"date": "2026-08-01T00:00:00", "request-id": "3b4e-req", "client-request-id": "c"}
    return orjson.dumps({"error": {"code": code, "message": message, "innerError": inner}})


def graph_lower(code: str, message: str) -> bytes:
    return graph(code, message).replace(b"innerError", b"innererror")


def mde(code: str, message: str) -> bytes:
    return orjson.dumps({"error": {"code": code, "message": message, "target": "|7c-target."}})


UNRESOLVED = "'where' operator: Failed to resolve table or column expression named 'EmailEvents'."
RESULT_SIZE = (
    "Query execution has exceeded the allowed result size. Optimize your query by limiting the %s of results and try"
    " again."
)
LIMITS = (
    "Query execution has exceeded the allowed limits. The query execution was preempted. This could possibly be due to"
    " high CPU and/or memory resource consumption. Optimize your query."
)
CPU = "You have exceeded processing resources allocated to this tenant. You can run queries again in 00:07:30."

PER_MINUTE = "API calls quota exceeded! maximum allowed 45 per 00:01:00"
PORTAL = b'{"statusCode": 429, "message": "Rate limit is exceeded. Try again in 12 seconds."}'

ROWS: list[tuple[int, bytes, type[HuntingError], Action, str]] = [
    (429, mde("429", "API calls quota exceeded! maximum allowed 45 per 00:01:00"), ThrottledError, "pause", "minute"),
    (429, mde("429", "API calls quota exceeded! maximum allowed 1500 per 01:00:00"), ThrottledError, "pause", "hour"),
    (429, graph("TooManyRequests", CPU), ThrottledError, "pause", "cpu"),
    (400, graph("BadRequest", CPU), ThrottledError, "pause", "cpu"),
    (429, NGINX % b"429 Too Many Requests", ThrottledError, "pause", "unknown"),
    (429, b"", ThrottledError, "pause", "unknown"),
    (429, b"Too many requests, slow down.", ThrottledError, "pause", "slow down"),
    (429, PORTAL, ThrottledError, "pause", "12 seconds"),
    (503, graph("TooManyRequests", "Please retry later."), ThrottledError, "pause", "retry later"),
    (400, mde("429", "Please retry later."), ThrottledError, "pause", "retry later"),
    (403, mde("Forbidden", PER_MINUTE), ThrottledError, "pause", "minute"),
    (200, mde("429", PER_MINUTE), ThrottledError, "pause", "minute"),
    (200, graph("BadRequest", RESULT_SIZE % "number"), TooLargeError, "split", "allowed result size"),
    (200, graph("BadRequest", UNRESOLVED), UnresolvedNameError, "fail", "IsActive=false"),
    (200, graph("UnknownError", ""), MalformedAnswerError, "retry", "holds an error"),
    (500, mde("InternalServerError", LIMITS), TooLargeError, "split", "preempted"),
    (400, graph("BadRequest", RESULT_SIZE % "number"), TooLargeError, "split", "allowed result size"),
    (400, mde("BadRequest", RESULT_SIZE % "amount"), TooLargeError, "split", "allowed result size"),
    (400, graph("BadRequest", LIMITS), TooLargeError, "split", "preempted"),
    (
        400,
        graph("BadRequest", "Partial query failure: 0x80DA0007 (E_RUNAWAY_QUERY)"),
        TooLargeError,
        "split",
        "RUNAWAY",
    ),
    (504, graph("UnknownError", ""), TooLargeError, "split", "gave no reason"),
    (502, NGINX % b"502 Bad Gateway", TooLargeError, "split", "502 Bad Gateway"),
    (413, NGINX % b"413 Request Entity Too Large", RequestTooLargeError, "fail", "1 MB"),
    (400, graph("BadRequest", UNRESOLVED), UnresolvedNameError, "fail", "IsActive=false"),
    (401, graph("InvalidAuthenticationToken", "Access token has expired."), RejectedTokenError, "renew", "expired"),
    (401, b"", RejectedTokenError, "renew", "AZURE_TENANT_ID"),
    (403, graph("Authorization_RequestDenied", "Insufficient privileges"), PermissionDeniedError, "fail", "ThreatHunt"),
    (403, mde("Forbidden", "Missing roles"), PermissionDeniedError, "fail", "admin consent"),
    (403, mde("DisabledFeature", "The feature is disabled."), PermissionDeniedError, "fail", "disabled"),
    (403, NGINX % b"403 Forbidden", PermissionDeniedError, "fail", "403 Forbidden"),
    (401, mde("Unauthorized", "Invalid token"), RejectedTokenError, "renew", "Invalid token"),
    (500, graph("UnknownError", ""), TransientError, "retry", "HTTP 500"),
    (503, NGINX % b"503 Service Temporarily Unavailable", TransientError, "retry", "503 Service"),
    (408, b"", TransientError, "retry", "HTTP 408"),
    (500, mde("InternalServerError", "Something went wrong"), TransientError, "retry", "went wrong"),
    (503, graph_lower("ServiceUnavailable", "The service is unavailable."), TransientError, "retry", "unavailable"),
    (501, b"plain words", TransientError, "retry", "plain words"),
    (400, mde("BadRequest", "Syntax error: Query could not be parsed at '|'"), PermanentError, "fail", "Syntax error"),
    (400, mde("InvalidRequestBody", "Missing Query"), PermanentError, "fail", "InvalidRequestBody"),
    (400, b"\xff\x00", PermanentError, "fail", "HTTP 400"),
    (404, mde("NotFound", "Resource not found"), PermanentError, "fail", "DEFENDER_API_URL"),
    (302, b"", PermanentError, "fail", "DEFENDER_API_URL"),
    (418, b"[1]", PermanentError, "fail", "HTTP 418"),
]


@pytest.mark.parametrize(("status", "body", "kind", "action", "says"), ROWS)
def test_every_answer_has_its_class_its_action_and_says_where(
    status: int, body: bytes, kind: type[HuntingError], action: Action, says: str
) -> None:
    error = classify(status, CaseInsensitiveDict(), body, context=CONTEXT)
    assert type(error) is kind
    assert error.action == action
    text = str(error)
    assert "read rows of EmailEvents [2026-08-01T00:00:00Z, 2026-08-01T01:00:00Z)" in text
    assert says in text
    assert "<" not in text
    assert "\n" not in text


def test_the_request_id_for_microsoft_is_in_the_error() -> None:
    for shape in (graph, graph_lower):
        assert "request 3b4e-req" in str(classify(500, CaseInsensitiveDict(), shape("UnknownError", "")))
    assert "request |7c-target." in str(classify(500, CaseInsensitiveDict(), mde("InternalServerError", "x")))
    assert "request h-1" in str(classify(500, CaseInsensitiveDict({"Request-Id": "h-1"}), b""))


@pytest.mark.parametrize("named", ["table or column expression named", "scalar expression named", "entity"])
def test_an_unresolved_name_is_told(named: str) -> None:
    message = f"Failed to resolve {named} 'NewColumn'. Fix semantic errors in your query."
    error = classify(400, CaseInsensitiveDict(), graph("BadRequest", message))
    assert isinstance(error, UnresolvedNameError)
    assert error.name == "NewColumn"


def test_a_gateway_that_gives_up_on_what_cannot_be_split_is_worth_a_retry() -> None:
    context = QueryContext(table="EmailEvents", purpose="schema", splittable=False)
    for status in (502, 504):
        assert classify(status, CaseInsensitiveDict(), b"", context=context).action == "retry"
    size = graph("BadRequest", RESULT_SIZE % "number")
    assert classify(400, CaseInsensitiveDict(), size, context=context).action == "split"


def test_tokens_that_a_proxy_echoes_are_masked() -> None:
    jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    page = f"<html>Authorization: Bearer {jwt} client_secret=Hunter2~ client_assertion={jwt} and {jwt}</html>".encode()
    text = str(classify(400, CaseInsensitiveDict(), page))
    assert "eyJ" not in text
    assert "Hunter2" not in text
    assert "***" in text


def test_a_long_page_is_cut() -> None:
    assert len(str(classify(400, CaseInsensitiveDict(), b"x " * 100_000))) < 1000


NOW = datetime(2026, 8, 1, 12, 17, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("message", "headers", "window", "pause"),
    [
        ("API calls quota exceeded! maximum allowed 45 per 00:01:00", {}, "minute", 60),
        ("API calls quota exceeded! maximum allowed 1500 per 01:00:00", {}, "hour", 600),
        ("API calls quota exceeded! maximum allowed 45 per 00:01:00", {"Retry-After": "12"}, "minute", 12),
        ("You have exceeded processing resources allocated to this tenant.", {}, "cpu", 750),
        (CPU, {}, "cpu", 450),
        (CPU, {"Retry-After": "10"}, "cpu", 450),
        ("You can run queries again in 5 minutes.", {}, "unknown", 300),
        ("You can run queries again in 1 hour and 30 minutes", {}, "unknown", 5400),
        ("Too many requests. Please try again in 37 seconds.", {}, "unknown", 37),
        ("Retry after 8", {}, "unknown", 8),
        ("slow down", {}, "unknown", None),
        ("Too many calls: 23 seconds", {}, "unknown", 23),
        ("API calls quota exceeded! maximum allowed 45 per 00:01:00, 23 seconds.", {}, "minute", 23),
        ("API calls quota exceeded! maximum allowed 1500 per 01:00:00. Try again in 1 day", {}, "hour", 86400),
        ("Try again in 1500 ms", {}, "unknown", 1.5),
        ("API calls quota exceeded! maximum allowed 1500 per 01:00:00", {"Retry-After": "10"}, "hour", 10),
        ("", {"retry-after": "Sat, 01 Aug 2026 12:18:00 GMT"}, "unknown", 30),
        ("", {"Retry-After": "Sat, 01 Aug 2026 12:00:00 GMT"}, "unknown", 0),
        ("", {"Retry-After": "soon"}, "unknown", None),
        ("", {"Retry-After": "inf"}, "unknown", None),
        ("", {"Retry-After": "-5"}, "unknown", 0),
    ],
)
def test_the_pause_is_read_from_message_and_header(
    message: str, headers: dict[str, str], window: str, pause: float | None
) -> None:
    throttle: Any = parse_throttle(message, CaseInsensitiveDict(headers), now=NOW)
    assert (throttle.window, throttle.pause_seconds) == (window, pause)
