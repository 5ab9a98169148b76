"""The Advanced Hunting client: one query in, one decoded answer out.

Here: HTTP with time-outs, the shared quota before every call, bounded retries, and counters. Not here: query texts
(`hunting`), the wire format (`wire`), errors (`errors`, `classification`), Dagster. Bodies and tokens are never logged.

Sources: "security: runHuntingQuery" (Graph), "Advanced hunting API" (Defender XDR, Defender for Endpoint).
"""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import orjson
import requests
import urllib3.exceptions
from requests.auth import AuthBase

from defender_adx_pipeline import __version__
from defender_adx_pipeline.catalogue import Column
from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defender.auth import TokenSource, token_source
from defender_adx_pipeline.defender.classification import classify, is_untrusted
from defender_adx_pipeline.defender.clouds import hunting_endpoint, hunting_scope
from defender_adx_pipeline.defender.errors import (
    AuthenticationError,
    MalformedAnswerError,
    PermanentError,
    QueryContext,
    TransientError,
)
from defender_adx_pipeline.defender.quota import Quota, quota_from_settings
from defender_adx_pipeline.defender.retrying import RetryPolicy, RetryRun
from defender_adx_pipeline.defender.wire import Answer, decode
from defender_adx_pipeline.settings import ApiName, Settings

__all__ = ["ROW_CAP", "Answer", "CallUsage", "HuntingClient", "QueryContext"]

ROW_CAP = 100_000
"""Rows that one answer holds at most, in all three APIs."""

_TIMEOUTS = (10.0, 200.0)
"""Connect and read, seconds. A query may run for 3 minutes (Graph, XDR) or 200 s (MDE)."""

_LONGEST_CALL = 900.0
"""Seconds for a whole answer: the read time-out starts anew with every byte, and an answer may come in drops."""

_PIECE = 1024 * 1024

_USER_AGENT = f"defender-adx-pipeline/{__version__}"


@dataclass(frozen=True, slots=True)
class CallUsage:
    """What queries have cost so far."""

    calls: int = 0
    retries: int = 0
    """Of these calls, those after the first of their query."""
    bytes: int = 0
    """Of answers, uncompressed."""
    seconds: float = 0.0
    """From sending to the end of the answer, all calls."""
    quota_wait: float = 0.0
    """Seconds waited for the shared quota, pauses included."""
    throttled: int = 0
    """Of the calls, those refused because a quota of the tenant was spent: calls per minute or hour, or CPU."""
    preempted: int = 0
    """Of these, the ones refused because the tenant's share of CPU was spent: a reason to ask for less at once."""

    def __sub__(self, before: "CallUsage") -> "CallUsage":
        return CallUsage(
            self.calls - before.calls,
            self.retries - before.retries,
            self.bytes - before.bytes,
            self.seconds - before.seconds,
            self.quota_wait - before.quota_wait,
            self.throttled - before.throttled,
            self.preempted - before.preempted,
        )


class _Bearer(AuthBase):
    """The token of one query as requests' auth, so that a .netrc entry for the host cannot replace it."""

    def __init__(self, tokens: TokenSource, scope: str) -> None:
        self._tokens = tokens
        self._scope = scope
        self._token = ""
        self._rejected = False

    def prepare(self, context: QueryContext) -> None:
        """Have a token that is good now."""
        try:
            self._token = (
                self._tokens.renew(self._scope, self._token) if self._rejected else self._tokens.token(self._scope)
            )
        except AuthenticationError as error:
            raise _for_query(error, context) from None
        self._rejected = False

    def reject(self) -> None:
        """The API refused the token: the next `prepare` gets another."""
        self._rejected = True

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class HuntingClient:
    """Runs hunting queries. Safe to use from several threads; close it, or use it as a context manager.

    Args:
        endpoint: full address that queries are posted to.
        tokens: where tokens come from.
        scope: what tokens are asked for.
        quota: shared by everybody who spends from the same tenant.
        api: which of the three APIs the endpoint is; only Graph takes a timespan.
        retries: the bounds of trying again.
        timeouts: connect and read, seconds.
        longest_call: seconds from sending to the end of the answer.
        row_cap: rows that one answer holds at most.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        tokens: TokenSource,
        scope: str,
        quota: Quota,
        api: ApiName = "graph",
        retries: RetryPolicy | None = None,
        timeouts: tuple[float, float] = _TIMEOUTS,
        longest_call: float = _LONGEST_CALL,
        row_cap: int = ROW_CAP,
    ) -> None:
        self._endpoint = endpoint
        self._tokens = tokens
        self._scope = scope
        self._quota = quota
        self._api = api
        self._retries = retries or RetryPolicy()
        self._timeouts = timeouts
        self._longest_call = longest_call
        self._row_cap = row_cap
        self._session = requests.Session()
        self._session.headers.update(
            {"User-Agent": _USER_AGENT, "Content-Type": "application/json; charset=utf-8", "Accept": "application/json"}
        )
        self._usage = CallUsage()
        self._usage_lock = threading.Lock()
        self._schemas: dict[str, tuple[Column, ...]] = {}

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        tokens: TokenSource | None = None,
        quota: Quota | None = None,
        retries: RetryPolicy | None = None,
        tell: Callable[[str], None] | None = None,
        timeouts: tuple[float, float] = _TIMEOUTS,
    ) -> "HuntingClient":
        """The client that the settings describe.

        Args:
            settings: all that is not given otherwise.
            tokens: where tokens come from.
            quota: shared by everybody who spends from the same tenant.
            retries: the bounds of trying again.
            tell: given one line about each wait for the quota and each pause; the log by default.
            timeouts: as the class.

        Raises:
            SettingsError: a variable that is needed to sign in is not set.
        """
        return cls(
            hunting_endpoint(settings),
            tokens=tokens or token_source(settings),
            scope=hunting_scope(settings),
            quota=quota or quota_from_settings(settings, tell=tell),
            api=settings.defender_api,
            retries=retries or RetryPolicy.scaled(settings.defender_quota_clock_scale),
            timeouts=timeouts,
        )

    @property
    def usage(self) -> CallUsage:
        """What this client has cost so far; subtract an earlier one for what happened between."""
        with self._usage_lock:
            return self._usage

    @property
    def longest_timespan(self) -> str | None:
        """The `timespan` under which a query sees all that a table has, whatever its `Timestamp`.

        Graph hides rows older than 30 days when none is sent ("security: runHuntingQuery"), also those of a table that
        keeps the state of now. The other two APIs take none and hide nothing.
        """
        return "P3650D" if self._api == "graph" else None

    def run(
        self,
        query: str,
        *,
        timespan: str | None = None,
        tostring_columns: Sequence[str] = (),
        context: QueryContext | None = None,
    ) -> Answer:
        """Run one query.

        Args:
            query: KQL.
            timespan: ISO 8601, Graph only; the service takes 30 days when it is not there.
            tostring_columns: columns that the query asks for as `tostring(column)`; they come back as JSON values.
            context: what the query is for: put into errors.

        Raises:
            TooLargeError: at once; ask for less.
            PermanentError: at once; asking again is no use.
            TransientError, ThrottledError: after the bounded tries.
            AuthenticationError, PermissionDeniedError: the app may not.
            QuotaExhaustedError: the shared quota had no call within its bound; nothing was sent.
        """
        context = context or QueryContext()
        body = self._body(query, timespan)
        bearer = _Bearer(self._tokens, self._scope)
        tries = RetryRun(self._retries, self._quota, bearer.reject)
        try:
            return tries.run(lambda: self._call(body, bearer, tostring_columns, context))
        finally:
            self._count(retries=tries.retries, throttled=tries.throttled, preempted=tries.preempted)

    def schema(self, table: str) -> tuple[Column, ...]:
        """Columns of a table as this tenant has them, in order. Asked once per client.

        Raises:
            UnresolvedNameError: the tenant does not have the table.
            HuntingError: as `run`.
        """
        if table not in self._schemas:
            context = QueryContext(table=table, purpose="schema", splittable=False)
            answer = self.run(hunting.table_schema(table), context=context)
            try:
                columns = tuple(Column(str(row["ColumnName"]), str(row["ColumnType"])) for row in answer.rows)
            except KeyError as missing:
                raise MalformedAnswerError(f"getschema answered without {missing}", context=context) from None
            if not columns:
                raise MalformedAnswerError("getschema answered with no columns", context=context)
            self._schemas[table] = columns
        return self._schemas[table]

    def close(self) -> None:
        """Close the connections and let go of the quota's file."""
        self._session.close()
        self._quota.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _body(self, query: str, timespan: str | None) -> bytes:
        body = {"Query": query}
        if timespan is not None:
            if self._api != "graph":
                raise ValueError(f"the {self._api} API takes no timespan; put the time into the query")
            body["Timespan"] = timespan
        return orjson.dumps(body)

    def _call(self, body: bytes, bearer: _Bearer, tostring_columns: Sequence[str], context: QueryContext) -> Answer:
        with self._quota.call(table=context.table) as permit:
            # Only now: waiting for the quota may have outlived a token.
            bearer.prepare(context)
            began = time.monotonic()
            try:
                response, content = self._post(body, bearer, context)
            finally:
                self._count(calls=1, seconds=time.monotonic() - began, quota_wait=permit.waited)
        self._count(received=len(content))
        if response.status_code != 200:
            raise classify(response.status_code, response.headers, content, context=context)
        return decode(content, tostring_columns=tostring_columns, row_cap=self._row_cap, context=context)

    def _post(self, body: bytes, bearer: _Bearer, context: QueryContext) -> tuple[requests.Response, bytes]:
        """Send, and receive the whole body.

        Errors of requests are not chained: they carry the request, whose headers hold the token.
        """
        began = time.monotonic()
        try:
            # A redirect would turn the POST into a GET, or carry the token elsewhere.
            with self._session.post(
                self._endpoint,
                data=body,
                auth=bearer,
                headers={"client-request-id": str(uuid.uuid4())},
                timeout=self._timeouts,
                allow_redirects=False,
                stream=True,
            ) as response:
                return response, self._received(response, began, context)
        except urllib3.exceptions.HTTPError as error:
            raise TransientError(
                f"the answer broke off ({type(error).__name__})", todo="It was discarded.", context=context
            ) from None
        except requests.exceptions.Timeout as error:
            kind = "connect" if isinstance(error, requests.exceptions.ConnectTimeout) else "answer"
            raise TransientError(f"no {kind} within the time-out", context=context) from None
        except requests.exceptions.ConnectionError as error:
            if is_untrusted(error):
                raise PermanentError(
                    "the service's certificate is not trusted",
                    todo="Check the trusted certificates (REQUESTS_CA_BUNDLE) and any proxy. Nothing was read.",
                    context=context,
                ) from None
            raise TransientError(
                f"the connection failed ({type(error).__name__})",
                todo="Check the network, DNS and proxy of this machine, and DEFENDER_API_URL.",
                context=context,
            ) from None
        except requests.exceptions.RequestException as error:
            raise PermanentError(
                f"the request could not be made ({type(error).__name__})",
                todo="Check DEFENDER_API_URL.",
                context=context,
            ) from None

    def _received(self, response: requests.Response, began: float, context: QueryContext) -> bytes:
        """The body, decompressed. `iter_content` waits for whole pieces, and nobody looks at the clock then."""
        pieces = []
        while piece := response.raw.read1(_PIECE, decode_content=True):
            pieces.append(piece)
            if time.monotonic() - began > self._longest_call:
                raise TransientError(
                    f"the answer did not end within {self._longest_call:g} s",
                    todo="It was discarded.",
                    context=context,
                )
        return b"".join(pieces)

    def _count(
        self,
        *,
        calls: int = 0,
        retries: int = 0,
        received: int = 0,
        seconds: float = 0.0,
        quota_wait: float = 0.0,
        throttled: int = 0,
        preempted: int = 0,
    ) -> None:
        with self._usage_lock:
            now = self._usage
            self._usage = replace(
                now,
                calls=now.calls + calls,
                retries=now.retries + retries,
                bytes=now.bytes + received,
                seconds=now.seconds + seconds,
                quota_wait=now.quota_wait + quota_wait,
                throttled=now.throttled + throttled,
                preempted=now.preempted + preempted,
            )


def _for_query(error: AuthenticationError, context: QueryContext) -> AuthenticationError:
    """The same error, told of a query: the token source knows neither table nor window."""
    return type(error)(
        f"{error.context}: {error.what}",
        todo=error.todo,
        context=context,
        status=error.status,
        code=error.code,
        request_id=error.request_id,
    )
