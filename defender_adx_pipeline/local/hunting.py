"""The hunting endpoints of Graph, Defender XDR and Defender for Endpoint over a `SourceStore`.

Here: requests, permissions, quota, limits, running the query. Not here: how answers are written (`wire`), the data
(`source`). Every endpoint leaves the query in `request.state.statement`, for whoever logs requests.

Sources: "security: runHuntingQuery", "Advanced hunting API", "Run advanced queries" in Microsoft's docs.
"""

import random
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from defender_adx_pipeline.local.entra import TokenIssuer, TokenRefusedError
from defender_adx_pipeline.local.kql import KqlFailure, Translation, execute, translate
from defender_adx_pipeline.local.limits import CallQuota, HuntingLimits
from defender_adx_pipeline.local.scans import scanned_table
from defender_adx_pipeline.local.source import SourceStore
from defender_adx_pipeline.local.wire import (
    REQUEST_TOO_LARGE_HTML,
    Api,
    Encoding,
    ErrorAnswer,
    bad_query,
    out_of_resources,
    result_too_large,
    too_many_calls,
)

_FETCH = 4_000
_DEFAULT_TIMESPAN = timedelta(days=30)
"""What Graph takes for a request without one ("security: runHuntingQuery"); the other two have no timespan."""
# Answers that Kusto gives in a definite order; any other comes in any order.
_ORDERED = re.compile(r"\|\s*((sort|order)\s+by\b|top\s+\d|getschema\b)")
_DURATION = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of the three APIs."""

    api: Api
    path: str
    audiences: tuple[str, ...]
    role: str
    """App role that a token must carry."""


ENDPOINTS = (
    Endpoint(
        "graph",
        "/v1.0/security/runHuntingQuery",
        ("https://graph.microsoft.com", "00000003-0000-0000-c000-000000000000"),
        "ThreatHunting.Read.All",
    ),
    Endpoint("xdr", "/api/advancedhunting/run", ("https://api.security.microsoft.com",), "AdvancedHunting.Read.All"),
    Endpoint(
        "mde",
        "/api/advancedqueries/run",
        ("https://api.securitycenter.microsoft.com", "https://api.securitycenter.windows.com"),
        "AdvancedQuery.Read.All",
    ),
)


class _Refused(Exception):  # noqa: N818 - carries an answer, is not a fault
    def __init__(self, answer: ErrorAnswer) -> None:
        super().__init__(answer.message)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class HuntingService:
    """What the endpoints share: one tenant's data, tokens, quota and limits."""

    source: SourceStore
    issuer: TokenIssuer
    quota: CallQuota
    limits: HuntingLimits

    def answer(self, endpoint: Endpoint, query: str, timespan: str | None) -> bytes:
        """The body of a successful answer.

        Raises:
            _Refused: the query does not resolve, or its answer breaks a limit.
        """
        started = time.perf_counter()
        self.source.query_comes(query)
        now = self.source.clock()
        start, end = _timespan(timespan, now)
        if endpoint.api == "graph" and not timespan:
            start = now - _DEFAULT_TIMESPAN
        oldest = now - timedelta(days=self.limits.days)
        table = scanned_table(query, self.source.catalogue) if self.source.scans.on else None
        with self.source.hunting_cursor(start, end, oldest=oldest) as cursor, self._time_limit(cursor):
            try:
                translation = translate(cursor, query, schema=self.source.schema())
                encoding = Encoding(endpoint.api, translation.columns, random.Random())  # noqa: S311 - no secret
                identity = _positions(translation, table.identity_columns if table else ())
                rows, identities = self._rows(cursor, translation, encoding, identity)
            except KqlFailure as failure:
                raise _Refused(bad_query(str(failure))) from failure
            except duckdb.InterruptException as error:
                raise _Refused(out_of_resources()) from error
        if not _ORDERED.search(query):
            random.shuffle(rows)
        before, after = encoding.envelope(round(time.perf_counter() - started, 7))
        content = "".join([before, ",".join(rows), after]).encode()
        if len(content) > self.limits.bytes:
            raise _Refused(result_too_large())
        if table is not None:
            self.source.scans.add(table.name, len(rows), identities if identity else None)
        return content

    def _rows(
        self,
        cursor: duckdb.DuckDBPyConnection,
        translation: Translation,
        encoding: Encoding,
        identity: Sequence[int],
    ) -> tuple[list[str], list[int]]:
        """The rows as JSON, and a hash over the columns at the positions of `identity`, if any, of each."""
        names = [f"c{number}" for number in range(len(translation.columns))]
        dynamic = encoding.dynamic
        wanted = ", ".join(
            [
                encoding.row_sql(),
                f"hash({', '.join(names[number] for number in identity)})" if identity else "0",
                *(f"CAST({names[number]} AS VARCHAR)" for number, _ in dynamic),
            ]
        )
        # The cap is silent: Graph documents no sign of a cut answer.
        execute(
            cursor,
            translation,
            f"SELECT {wanted} FROM ({translation.sql}) AS answer({', '.join(names)}) LIMIT {self.limits.rows}",  # noqa: S608
        )
        rows: list[str] = []
        identities: list[int] = []
        size = 0
        while batch := cursor.fetchmany(_FETCH):
            if identity:
                identities.extend(row[1] for row in batch)
            for row in batch:
                fields = row[0]
                for (_, name), stored in zip(dynamic, row[2:], strict=True):
                    fields += encoding.dynamic_field(name, stored)
                rows.append(f"{{{fields[1:]}}}")
            # Characters first, which are never more than bytes; the exact size is taken of the whole body.
            size += sum(map(len, rows[-len(batch) :]))
            if size > self.limits.bytes:
                raise _Refused(result_too_large())
        return rows, identities

    @contextmanager
    def _time_limit(self, cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
        done = threading.Event()

        def stop() -> None:
            if done.wait(self.limits.seconds):
                return
            # An interrupt that comes between two statements is lost, so it is repeated until one has hit.
            while not done.wait(0.02):
                cursor.interrupt()

        watch = threading.Thread(target=stop, daemon=True)
        watch.start()
        try:
            yield
        finally:
            done.set()
            watch.join()


def _positions(translation: Translation, columns: Sequence[str]) -> list[int]:
    """Where the columns stand in an answer; empty unless all of them do."""
    places = {name: number for number, (name, _) in enumerate(translation.columns)}
    return [places[name] for name in columns] if all(name in places for name in columns) else []


def hunting_routes(source: SourceStore, issuer: TokenIssuer, quota: CallQuota, limits: HuntingLimits) -> list[Route]:
    """The routes of all three APIs; they share one quota, as they do for a tenant."""
    service = HuntingService(source, issuer, quota, limits)
    return [_route(service, endpoint) for endpoint in ENDPOINTS]


def _route(service: HuntingService, endpoint: Endpoint) -> Route:
    async def run(request: Request) -> Response:
        body = await request.body()
        return await run_in_threadpool(_respond, service, endpoint, request, body)

    return Route(endpoint.path, run, methods=["POST"])


def _respond(service: HuntingService, endpoint: Endpoint, request: Request, body: bytes) -> Response:
    if len(body) > service.limits.request_bytes:
        return Response(REQUEST_TOO_LARGE_HTML, 413, media_type="text/html")
    try:
        _authorize(service.issuer, endpoint, request)
        query, timespan = _read(endpoint, body)
        request.state.statement = query
        _take_call(service, endpoint)
        content = service.answer(endpoint, query, timespan)
    except _Refused as refused:
        answer = refused.answer
        headers = {"Retry-After": str(answer.retry_after)} if answer.retry_after is not None else None
        content = answer.body(endpoint.api, service.source.clock())
        return Response(content, answer.status, headers, media_type="application/json")
    return Response(content, media_type="application/json")


def _authorize(issuer: TokenIssuer, endpoint: Endpoint, request: Request) -> None:
    own = f"{request.url.scheme}://{request.url.netloc}"
    try:
        claims = issuer.check(request.headers.get("authorization"), (*endpoint.audiences, own))
    except TokenRefusedError as error:
        code = "InvalidAuthenticationToken" if endpoint.api == "graph" else "Unauthorized"
        raise _Refused(ErrorAnswer(401, code, str(error))) from error
    if endpoint.role in claims.roles:
        return
    if endpoint.api == "graph":
        text = "Insufficient privileges to complete the operation."
        raise _Refused(ErrorAnswer(403, "Authorization_RequestDenied", text))
    text = (
        f"The application does not have any of the required application permissions ({endpoint.role})"
        " to access the resource."
    )
    raise _Refused(ErrorAnswer(403, "Forbidden", text))


def _read(endpoint: Endpoint, body: bytes) -> tuple[str, str | None]:
    """Query and timespan of a request; XDR and MDE take their one parameter by its exact name."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        code = "BadRequest" if endpoint.api == "graph" else "InvalidRequestBody"
        raise _Refused(ErrorAnswer(400, code, "Request body is incorrect.")) from error
    if not isinstance(given, Mapping):
        raise _Refused(ErrorAnswer(400, "BadRequest", "Request body is incorrect."))
    if endpoint.api == "graph":
        fields: Mapping[str, Any] = {str(name).lower(): value for name, value in given.items()}
        query, timespan = fields.get("query"), fields.get("timespan")
    else:
        query, timespan = given.get("Query"), None
    if not isinstance(query, str) or not query.strip():
        code = "BadRequest" if endpoint.api == "graph" else "MissingRequiredParameter"
        raise _Refused(ErrorAnswer(400, code, "Parameter 'Query' is missing or empty."))
    return query, timespan


def _take_call(service: HuntingService, endpoint: Endpoint) -> None:
    refused = service.quota.take()
    if refused is not None:
        answer = too_many_calls(endpoint.api, refused.allowed, refused.window, service.limits.retry_after)
        raise _Refused(answer)


def _timespan(text: str | None, now: datetime) -> tuple[datetime | None, datetime | None]:
    """The bounds of an ISO 8601 timespan: `P30D`, `start/end`, `P30D/end`, `start/P30D` or a start."""
    if not text:
        return None, None
    first, _, second = text.partition("/")
    try:
        if not second:
            duration = _duration(first)
            return (now - duration, None) if duration is not None else (_instant(first), None)
        before, after = _duration(first), _duration(second)
        if before is not None:
            end = _instant(second)
            return end - before, end
        start = _instant(first)
        return start, start + after if after is not None else _instant(second)
    except ValueError as error:
        raise _Refused(bad_query(f"Invalid timespan '{text}'.")) from error


def _duration(text: str) -> timedelta | None:
    match = _DURATION.fullmatch(text)
    if match is None or text in ("P", "PT"):
        return None
    weeks, days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
