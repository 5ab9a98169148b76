"""Faults by name, in the words of the services, so that nobody has to write bodies.

Here: bodies and headers as they were seen or are documented. Not here: which call is hit (`faults`). Sources: "Handle
advanced hunting errors", "Advanced hunting API" and its error codes, Microsoft Graph's throttling guidance, "Query
limits" and "Ingestion error codes" in the Kusto docs, "Common REST API error codes" of Azure Storage, "Microsoft Entra
authentication and authorization error codes".
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import orjson

from defender_adx_pipeline.local.entra import error_body
from defender_adx_pipeline.local.fault_rules import BadFaultError, Fault, Kind, Service
from defender_adx_pipeline.local.frames import KustoFault, too_many_requests
from defender_adx_pipeline.local.state import utcnow
from defender_adx_pipeline.local.wire import (
    REQUEST_TOO_LARGE_HTML,
    Api,
    ErrorAnswer,
    bad_query,
    out_of_resources,
    result_too_large,
    too_many_calls,
)

_Builder = Callable[[Api], Fault]
_HTML = {"content-type": "text/html"}
_BAD_GATEWAY = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
_CPU = (
    "You have exceeded processing resources allocated to this tenant. You can run queries again in {after}."
    " Use the limited resources wisely."
)


def preset(service: Service, name: str, *, api: Api = "graph", retry_after: int | None = None, **own: Any) -> Fault:
    """A fault by name.

    Args:
        service: whose.
        name: one of `PRESETS[service]`.
        api: which hunting API answers; its error bodies differ.
        retry_after: seconds of a Retry-After header; none by itself.
        own: fields of `Fault` to set otherwise, such as `seconds`.

    Raises:
        BadFaultError: the service has no such preset, or a fault no such field.
    """
    known = PRESETS[service]
    if name not in known:
        raise BadFaultError(f"{service} has no fault {name!r}; named ones: {', '.join(sorted(known))}")
    if unknown := set(own) - {one.name for one in fields(Fault)}:
        raise BadFaultError(f"a fault has no field {', '.join(sorted(unknown))}")
    fault = known[name](api)
    if retry_after is not None:
        fault = replace(fault, headers={**fault.headers, "Retry-After": str(retry_after)})
    return replace(fault, name=name, **own)


def _plain(kind: Kind, **own: Any) -> _Builder:
    return lambda _: Fault(kind, **own)


def _refusal(answer: Callable[[Api], ErrorAnswer]) -> _Builder:
    def build(api: Api) -> Fault:
        refused = answer(api)
        return Fault("status", status=refused.status, body=refused.body(api, utcnow()).decode())

    return build


def _calls(allowed: int, window: str) -> _Builder:
    return _refusal(lambda api: too_many_calls(api, allowed, window, None))


def _said(status: int, graph: str, other: str, message: str) -> _Builder:
    """A refusal whose code the APIs spell in their own ways."""
    return _refusal(lambda api: ErrorAnswer(status, graph if api == "graph" else other, message))


def _kusto(fault: KustoFault) -> _Builder:
    return lambda _: Fault("status", status=fault.status, body=orjson.dumps(fault.body()).decode())


def _storage(status: int, code: str, message: str) -> _Builder:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    headers = {"content-type": "application/xml", "x-ms-error-code": code}
    return _plain("status", status=status, body=body, headers=headers)


def _entra(status: int, error: str, code: int, text: str) -> _Builder:
    def build(_: Api) -> Fault:
        return Fault("status", status=status, body=orjson.dumps(error_body(error, code, text, utcnow())).decode())

    return build


_ANYWHERE: Mapping[str, _Builder] = {
    "page": _plain("html", status=503),
    "reset": _plain("reset"),
    "lost_reply": _plain("lost_reply"),
    "truncated_body": _plain("truncate"),
    "slow": _plain("delay", seconds=0.5),
}
_KUSTO: Mapping[str, _Builder] = {
    **_ANYWHERE,
    "throttled": _kusto(too_many_requests()),
    "unavailable": _kusto(
        KustoFault(
            "The service is currently unavailable. Please retry.",
            status=503,
            code="Service unavailable",
            message="The service is currently unavailable.",
            type_="Kusto.Common.Svc.Exceptions.ServiceNotAvailableException",
            permanent=False,
        )
    ),
    "bad_gateway": _plain("status", status=502, body=_BAD_GATEWAY, headers=_HTML),
    "expired_token": _kusto(
        KustoFault("Token has expired.", status=401, code="Unauthorized", message="Unauthorized", permanent=False)
    ),
    "forbidden": _kusto(
        KustoFault(
            "Principal is not authorized to perform this operation.", status=403, code="Forbidden", message="Forbidden"
        )
    ),
    "truncated_json": _plain("cut"),
}

PRESETS: Mapping[Service, Mapping[str, _Builder]] = {
    "hunting": {
        **_ANYWHERE,
        "throttled_minute": _calls(45, "00:01:00"),
        "throttled_hour": _calls(1500, "01:00:00"),
        "throttled_cpu": _said(429, "TooManyRequests", "429", _CPU.format(after="00:00:20")),
        "too_large": _refusal(lambda _: result_too_large()),
        "preempted": _refusal(lambda _: out_of_resources()),
        "bad_gateway": _plain("status", status=502, body=_BAD_GATEWAY, headers=_HTML),
        "gateway_timeout": _said(504, "UnknownError", "UnknownError", ""),
        "server_error": _said(500, "UnknownError", "InternalServerError", ""),
        "unavailable": _said(503, "ServiceUnavailable", "ServiceUnavailable", "The service is unavailable."),
        "expired_token": _said(
            401, "InvalidAuthenticationToken", "Unauthorized", "Lifetime validation failed, the token is expired."
        ),
        "forbidden": _said(
            403,
            "Authorization_RequestDenied",
            "Forbidden",
            "Insufficient privileges to complete the operation.",
        ),
        "unresolved": _refusal(
            lambda _: bad_query(
                "'where' operator: Failed to resolve table or column expression named 'Elsewhere'."
                " Fix semantic errors in your query."
            )
        ),
        "request_too_large": _plain(
            "status", status=413, body=REQUEST_TOO_LARGE_HTML.decode(), headers={"content-type": "text/html"}
        ),
        "truncated_json": _plain("cut"),
        "html_200": _plain("html", status=200),
        "empty_200": _plain("status", status=200),
    },
    "entra": {
        **_ANYWHERE,
        "temporarily_unavailable": _entra(
            503, "temporarily_unavailable", 90033, "A transient error has occurred. Please try again."
        ),
        "invalid_client": _entra(401, "invalid_client", 7000215, "Invalid client secret provided."),
        "expired_secret": _entra(401, "invalid_client", 7000222, "The provided client secret keys are expired."),
    },
    "engine": {**_KUSTO, "partial": _plain("partial"), "partial_end": _plain("partial_end")},
    "ingest": _KUSTO,
    "storage": {
        **_ANYWHERE,
        "server_busy": _storage(503, "ServerBusy", "The server is busy."),
        "internal_error": _storage(500, "InternalError", "The server encountered an internal error. Please retry."),
        "expired_sas": _storage(
            403,
            "AuthenticationFailed",
            "Server failed to authenticate the request. Signature not valid in the specified time frame.",
        ),
    },
    "worker": {
        "refused": _plain(
            "status", status=400, code="General_AbandonedIngestion", body="Abandoned ingestion: injected, permanent."
        ),
        "transient_failure": _plain(
            "status",
            status=500,
            code="General_InternalServerError",
            body="Internal server error occurred: injected, the service tries again.",
            seconds=1.0,
        ),
        "given_up": _plain(
            "status", status=500, code="General_RetryAttemptsExceeded", body="Injected: tried again for too long."
        ),
        "late": _plain("delay", seconds=2.0),
        "twice": _plain("duplicate"),
        "lost_reply": _plain("lost_reply"),
        "put_back": _plain("reset"),
        "crash": _plain("crash", seconds=0.3),
        "crash_before": _plain("crash", seconds=0.3, keep=0.0),
        "dropped": _plain("drop"),
    },
}
"""Every named fault by service.

`crash` dies with the blob loaded and the message there, `crash_before` with nothing loaded; either way the message
comes again. `dropped` breaks the service's own promise and is never drawn by chance.
"""
