"""The Kusto engine's query side and its HTTP endpoints.

Here: v2 and v1 queries with what the engine adds to plain KQL, the metadata document, and the check of the caller's
token. Not here: what management commands do (`commands*`), and the data-management endpoint (`ingest_endpoint`).
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from defender_adx_pipeline.local import frames
from defender_adx_pipeline.local.adx_schema import INGESTION_TIME
from defender_adx_pipeline.local.adx_store import AdxStore
from defender_adx_pipeline.local.adx_views import Views, visible
from defender_adx_pipeline.local.commands_text import Reader
from defender_adx_pipeline.local.frames import KustoFault, Table
from defender_adx_pipeline.local.kql import KqlFailure, run_kql

KUSTO_AUDIENCE = "https://kusto.kusto.windows.net"
"""The audience that clusters of the public cloud publish; tokens for the cluster's own URL are taken as well."""
MAX_ROWS, MAX_BYTES = 500_000, 64 * 1024 * 1024
"""Query limits: a result above either is cut and ends in a partial failure ("Query limits" in the Kusto docs)."""

Runner = Callable[[str, str], Table]
"""Runs a management command: (text, principal) -> result."""


class TokenCheck(Protocol):
    """Says who an Authorization header belongs to."""

    def __call__(self, authorization: str) -> str | None:
        """The principal (`aadapp=<client id>;<tenant id>`), or None when the header is not good for this endpoint."""
        ...


@dataclass(slots=True)
class QueryEngine:
    """Runs KQL over the database."""

    store: AdxStore
    views: Views

    def query(self, text: str, parameters: Mapping[str, str | int] | None = None) -> Table:
        """Run one query.

        Args:
            text: KQL.
            parameters: values of declared query parameters, as the client sends them: KQL literals or raw text.

        Raises:
            KustoFault: the query does not parse, bind or run.
        """
        if Reader(text).take("."):
            raise frames.syntax_error("A management command was sent to the query endpoint", text)
        try:
            prepared = self.views.prepare(text)
            with closing(self.store.cursor(prepared.level)) as cursor:
                result = run_kql(
                    cursor,
                    prepared.text,
                    functions=prepared.functions,
                    parameters=parameters or None,
                    schema=self.views.schema(cursor, prepared.level),
                )
        except KqlFailure as failure:
            raise as_fault(failure) from failure
        places = visible([name for name, _ in result.columns], prepared.level)
        columns = [result.columns[place] for place in places]
        named = [("$IngestionTime" if name == INGESTION_TIME else name, kind) for name, kind in columns]
        if len(places) == len(result.columns):
            return Table(named, result.rows)
        return Table(named, [tuple(row[place] for place in places) for row in result.rows])


def as_fault(failure: KqlFailure) -> KustoFault:
    """A failed query in the engine's envelope."""
    text = str(failure)
    if text.startswith(("Query could not be parsed", "Syntax Error")):
        return KustoFault(
            f"Syntax error: {text}",
            message=f"Request is invalid and cannot be executed.\nSyntax error: {text}",
            type_="Kusto.Data.Exceptions.SyntaxException",
        )
    if text.startswith("Query execution failed"):
        return KustoFault(text, type_="Kusto.DataNode.Exceptions.QueryExecutionException")
    return frames.semantic_error(text.removeprefix("Semantic error: "))


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call an endpoint."""

    check: TokenCheck
    required: bool = False
    """Whether a call without a token is refused; the emulator's default is to take it."""
    principal: str = "aadapp=local;local"
    """Who a call without a token is taken for."""

    def principal_of(self, request: Request) -> str:
        """The caller.

        Raises:
            KustoFault: 401, a token is missing or not valid for this endpoint.
        """
        header = request.headers.get("authorization", "")
        if not header and not self.required:
            return self.principal
        principal = self.check(header) if header else None
        if principal is None:
            raise KustoFault(
                "Missing or invalid bearer token.", status=401, code="Unauthorized", message="Unauthorized"
            )
        return principal


def engine_routes(
    engine: QueryEngine, run_command: Runner, access: Access, metadata: Callable[[], Mapping[str, Any]]
) -> list[Route]:
    """The engine's endpoints.

    Args:
        engine: for queries.
        run_command: for management commands.
        access: who may call.
        metadata: the body of `/v1/rest/auth/metadata`.
    """

    def query(body: Mapping[str, Any], _: str) -> Table:
        return engine.query(str(body["csl"]), request_parameters(body))

    def command(body: Mapping[str, Any], principal: str) -> Table:
        return run_command(str(body["csl"]), principal)

    def known(database: str) -> bool:
        return database.casefold() in {engine.store.database.casefold(), "netdefaultdb", ""}

    return [
        metadata_route(metadata),
        Route("/v2/rest/query", _endpoint(query, access, known, "v2"), methods=["POST"]),
        Route("/v1/rest/query", _endpoint(query, access, known, "v1"), methods=["POST"]),
        Route("/v1/rest/mgmt", _endpoint(command, access, known, "v1"), methods=["POST"]),
    ]


def metadata_route(metadata: Callable[[], Mapping[str, Any]]) -> Route:
    """`/v1/rest/auth/metadata`, which both endpoints have."""

    async def answer(_: Request) -> Response:
        return Response(orjson.dumps(metadata()), media_type="application/json")

    return Route("/v1/rest/auth/metadata", answer, methods=["GET"])


def command_route(run_command: Runner, access: Access) -> Route:
    """`/v1/rest/mgmt` alone, for the data-management endpoint, which has no databases."""

    def command(body: Mapping[str, Any], principal: str) -> Table:
        return run_command(str(body["csl"]), principal)

    return Route("/v1/rest/mgmt", _endpoint(command, access, lambda _: True, "v1"), methods=["POST"])


def _endpoint(
    work: Callable[[Mapping[str, Any], str], Table], access: Access, known: Callable[[str], bool], version: str
) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        client_request_id = request.headers.get("x-ms-client-request-id", "")
        try:
            principal = access.principal_of(request)
            body = _body(await request.body())
            if not known(str(body.get("db") or "")):
                raise _unknown_database(str(body.get("db")))
            content = await run_in_threadpool(_answer, work, body, principal, version, client_request_id)
        except KustoFault as fault:
            return Response(
                orjson.dumps(fault.body(client_request_id)), status_code=fault.status, media_type="application/json"
            )
        return Response(content, media_type="application/json; charset=utf-8")

    return endpoint


def _answer(
    work: Callable[[Mapping[str, Any], str], Table],
    body: Mapping[str, Any],
    principal: str,
    version: str,
    client_request_id: str,
) -> bytes:
    table = work(body, principal)
    if version == "v1":
        return frames.v1(table)
    options = _properties(body).get("Options") or {}
    if options.get("notruncation"):
        return frames.v2(table, client_request_id=client_request_id)
    rows = table.rows[: min(MAX_ROWS, int(options.get("truncationmaxrecords") or MAX_ROWS))]
    kept = _within_bytes(rows, int(options.get("truncationmaxsize") or MAX_BYTES))
    if len(kept) == len(table.rows):
        return frames.v2(table, client_request_id=client_request_id)
    return frames.v2(Table(table.columns, kept), client_request_id=client_request_id, partial_failure=_too_large())


def _within_bytes(rows: Any, limit: int) -> Any:
    """As many rows as fit; only text can make a result that large."""
    size = 0
    for number, row in enumerate(rows):
        size += sum(len(value) if isinstance(value, str) else 8 for value in row)
        if size > limit:
            return rows[:number]
    return rows


def _too_large() -> KustoFault:
    text = (
        "Query result set has exceeded the internal record count or data size limit"
        f" {MAX_ROWS} (E_QUERY_RESULT_SET_TOO_LARGE; see https://aka.ms/kustoquerylimits)"
    )
    return KustoFault(
        text,
        code="LimitsExceeded",
        message="Request is invalid and cannot be executed.",
        type_="Kusto.Data.Exceptions.KustoServicePartialQueryFailureLimitsExceededException",
    )


def request_parameters(body: Mapping[str, Any]) -> dict[str, str | int]:
    """Query parameters of a request, out of the literals in which clients send them."""
    parameters = _properties(body).get("Parameters") or {}
    return {name: _literal(value) for name, value in parameters.items()}


def _literal(value: Any) -> str | int:
    text = str(value)
    for kind in ("datetime", "timespan", "guid", "long", "int", "real", "bool", "dynamic"):
        if text.startswith(f"{kind}(") and text.endswith(")"):
            inner = text[len(kind) + 1 : -1]
            return int(inner) if kind in ("long", "int") and inner.removeprefix("-").isdecimal() else inner
    return text


def _properties(body: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = body.get("properties")
    if isinstance(properties, str):  # the Python client sends a string of JSON
        return dict(orjson.loads(properties)) if properties else {}
    return properties or {}


def _body(raw: bytes) -> Mapping[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise KustoFault(f"The request body is not JSON: {error}", code="BadRequest_RequestBodyMalformed") from error
    if not isinstance(body, dict) or "csl" not in body:
        raise KustoFault("The request body has no 'csl'.", code="BadRequest_RequestBodyMalformed")
    return body


def _unknown_database(name: str) -> KustoFault:
    return KustoFault(
        f"Database '{name}' was not found.",
        code="BadRequest_EntityNotFound",
        message=f"Request is invalid and cannot be executed.\nEntity ID '{name}' of kind 'Database' was not found.",
        type_="Kusto.Data.Exceptions.DatabaseNotFoundException",
    )
