"""The Kusto client: queries and management commands of one database, with bounded retries.

Here: sending a statement and reading its answer whole or failing. Not here: the text of statements (`kql`) and
ingestion (`ingestion`).

Values: numbers and bools as Python has them; **datetimes as text, as Kusto wrote them, with up to seven fractional
digits** (`instants.parse_instant` makes a datetime, which has room for six only); dynamic values as they come, so a
query that needs them projects `tostring()`. Null is None.

Limits: an answer holds at most 500,000 rows and 64 MB ("Query limits" in the Kusto docs). Kusto cuts it there and says
so in the answer, among the rows or in the last frame; both become PartialResultError.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from time import sleep as real_sleep
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from azure.kusto.data import ClientRequestProperties, KustoClient, KustoConnectionStringBuilder
from azure.kusto.data.exceptions import KustoError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_random,
)

from defender_adx_pipeline import __version__
from defender_adx_pipeline.adx.connecting import connect_in_time
from defender_adx_pipeline.adx.errors import (
    AdxAuthenticationError,
    AdxError,
    AdxThrottledError,
    AdxUnreachableError,
    PartialResultError,
    no_token,
    partial_result,
    translate,
)
from defender_adx_pipeline.quoting import kql_datetime, kql_long
from defender_adx_pipeline.settings import Settings, is_loopback

Row = dict[str, Any]
Parameter = str | int | datetime
TokenProvider = Callable[[], str]

APPLICATION = f"defender-adx-pipeline/{__version__}"
"""What `.show queries` and the request log call us (the header x-ms-app)."""

QUERY_TIMEOUT = timedelta(minutes=4)
COMMAND_TIMEOUT = timedelta(minutes=10)
_LONGEST_WAIT = 60.0
ATTEMPTS = 7
"""How often a statement that may be repeated is tried."""

_LONGEST_TRYING = 900.0
"""Seconds after which no further attempt begins: each may take as long as its time-out."""

_CLIENT_ERRORS = (
    KustoError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    ValueError,
    LookupError,
    TypeError,
)

_T = TypeVar("_T")
logger = logging.getLogger(__name__)


def derived_ingest_uri(cluster_uri: str) -> str:
    """The data management endpoint of a cluster: `https://ingest-<host>`; a loopback address stays as it is."""
    parts = urlsplit(cluster_uri)
    host = parts.hostname or ""
    if is_loopback(host) or parts.netloc.startswith("ingest-"):
        return cluster_uri
    return parts._replace(netloc=f"ingest-{parts.netloc}").geturl()


class AdxClient:
    """Queries and commands of one database. Safe to share between threads.

    Args:
        cluster_uri: the query endpoint.
        database: the database of every statement.
        token_provider: gives a bearer token for the cluster; it is called for every request, so it has to cache. None
            signs nothing and works for plain http on loopback only.
        ingest_uri: the data management endpoint, derived from `cluster_uri` when absent.
        attempts: how often a statement that may be repeated is tried.
        first_wait: seconds before the second attempt; it doubles from there, to half a minute. By themselves the waits
            of one statement add up to 90 to 102 s; where the cluster says how long to wait, to 360 s at most.
        clock_scale: how much faster than real time the waits pass: a local tenant's clock.
        renew_token: called once per statement when the cluster refuses the token; the next request uses a new one.
        sleep: how to wait; tests give their own.
    """

    def __init__(
        self,
        cluster_uri: str,
        database: str,
        *,
        token_provider: TokenProvider | None = None,
        ingest_uri: str | None = None,
        attempts: int = ATTEMPTS,
        first_wait: float = 2.0,
        clock_scale: float = 1.0,
        renew_token: Callable[[], object] | None = None,
        sleep: Callable[[float], None] = real_sleep,
    ) -> None:
        self.cluster_uri = cluster_uri
        self.ingest_uri = ingest_uri or derived_ingest_uri(cluster_uri)
        self.database = database
        self._token_provider = token_provider
        self._attempts = attempts
        self._first_wait = first_wait
        self.clock_scale = clock_scale
        self._renew_token = renew_token
        self._sleep = sleep
        self._kusto = KustoClient(self.connection(cluster_uri))
        connect_in_time(self._kusto)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        token_provider: TokenProvider | None,
        *,
        renew_token: Callable[[], object] | None = None,
        attempts: int = ATTEMPTS,
    ) -> Self:
        """The client of the cluster and database that the settings name.

        Args:
            settings: cluster, database and clock.
            token_provider: see the class.
            renew_token: see the class.
            attempts: see the class.

        Raises:
            SettingsError: ADX_CLUSTER_URI is not set.
        """
        settings.require("adx_cluster_uri")
        return cls(
            str(settings.adx_cluster_uri),
            settings.adx_database,
            token_provider=token_provider,
            ingest_uri=settings.adx_ingest_uri,
            clock_scale=settings.defender_quota_clock_scale,
            renew_token=renew_token,
            attempts=attempts,
        )

    def connection(self, uri: str) -> KustoConnectionStringBuilder:
        """A connection to an endpoint of this cluster.

        A new one for every azure client: the ingest client writes its own endpoint into the one that it is given.

        Raises:
            ValueError: there is no token provider and the address is not plain http.
        """
        if self._token_provider is not None:
            connection = KustoConnectionStringBuilder.with_token_provider(uri, self._token_provider)
        elif uri.startswith("http://"):
            connection = KustoConnectionStringBuilder.with_no_authentication(uri)
        else:
            raise ValueError(f"{uri} needs a token: only plain http on loopback goes without. Set DEFENDER_AUTH.")
        connection.application_for_tracing = APPLICATION
        return connection

    def query(
        self, kql: str, *, parameters: Mapping[str, Parameter] | None = None, timeout: timedelta | None = None
    ) -> list[Row]:
        """All rows of a query, read-only and with strong consistency.

        Args:
            kql: the query; it declares its parameters with `declare query_parameters(...)`.
            parameters: their values; escaped here.
            timeout: how long the cluster may take, 4 minutes when absent.

        Raises:
            PartialResultError: the answer is not whole; nothing of it is returned.
            AdxError: by what to do; see `errors`.
        """

        def once() -> list[Row]:
            with closing(self._frames(kql, parameters, timeout)) as rows:
                return list(rows)

        return self.retrying(once, repeatable=True)

    def stream(
        self, kql: str, *, parameters: Mapping[str, Parameter] | None = None, timeout: timedelta | None = None
    ) -> Iterator[Row]:
        """The rows of a query one by one, in bounded memory.

        Retries end with the first row: afterwards an error is raised, and rows that were taken already are to be
        discarded by the caller. The limit of 500,000 rows and 64 MB holds here as well: read by windows.

        Raises:
            PartialResultError: the answer is not whole; raised at the end when Kusto says so only there.
            AdxError: by what to do; see `errors`.
        """

        def begin() -> tuple[Row | None, Iterator[Row]]:
            rows = self._frames(kql, parameters, timeout)
            return next(rows, None), rows

        first, rest = self.retrying(begin, repeatable=True)
        if first is not None:
            yield first
            yield from rest

    def command(self, text: str, *, idempotent: bool, timeout: timedelta | None = None) -> list[Row]:
        """The rows that a management command answers.

        Args:
            text: one command, starting with a dot.
            idempotent: whether carrying it out twice is the same as once. Only then is it repeated after a failure
                that leaves open whether it ran; a request that certainly did not run is repeated anyhow.
            timeout: how long the cluster may take, 10 minutes when absent.

        Raises:
            AdxError: by what to do; see `errors`.
        """
        what = self._what("command", text)
        properties = _properties(timeout or COMMAND_TIMEOUT)

        def once() -> list[Row]:
            try:
                answer = self._kusto.execute_mgmt(self.database, text, properties)
                errors = answer.get_exceptions()
            except _CLIENT_ERRORS as error:
                raise translate(error, what) from None
            if errors:
                raise partial_result(what, "; ".join(errors))
            table = answer.primary_results[0]
            return list(_rows(table.raw_columns, table.raw_rows))

        return self.retrying(once, repeatable=idempotent)

    def close(self) -> None:
        """Close the connections."""
        self._kusto.close()  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _frames(
        self, kql: str, parameters: Mapping[str, Parameter] | None, timeout: timedelta | None
    ) -> Generator[Row, None, None]:
        """The rows of the answer, then a check of its last frame.

        The client's streaming call, also for small answers: it is the only public way to the last frame
        (DataSetCompletion), where alone some incomplete answers say that they are (azure-kusto-data 6.0.4: the plain
        call counts no error then).
        """
        what = self._what("query", kql)
        timeout = timeout or QUERY_TIMEOUT
        properties = _properties(timeout)
        properties.set_option("request_readonly", True)  # noqa: FBT003 - the client's signature
        properties.set_option("queryconsistency", "strongconsistency")
        for name, value in (parameters or {}).items():
            properties.set_parameter(name, _literal(value))
        completion: Mapping[str, Any] | None = None
        try:
            answer = self._kusto.execute_streaming_query(self.database, kql, timeout, properties)
            for frame in answer.streamed_data:
                if frame.get("TableKind") == "PrimaryResult":
                    yield from _rows(frame["Columns"], frame["Rows"])
                elif "HasErrors" in frame:
                    completion = frame
        except _CLIENT_ERRORS as error:
            raise translate(error, what) from None
        _check_completion(completion, what)

    def retrying(self, call: Callable[[], _T], *, repeatable: bool) -> _T:
        """The result of a call, which is repeated after throttling and after failures that allow it.

        A refused token is renewed once: that request was not carried out.

        Args:
            call: raises errors of `errors`.
            repeatable: whether it may be repeated when nobody knows if it was carried out.

        Raises:
            AdxError: the last attempt's.
        """
        renewed = to_renew = False

        def attempt() -> _T:
            nonlocal to_renew
            if to_renew and self._renew_token:
                try:
                    self._renew_token()
                except Exception as error:
                    raise no_token(error, f"database {self.database}, a new token after a refused one") from error
                to_renew = False
            return call()

        def may_repeat(error: BaseException) -> bool:
            nonlocal renewed, to_renew
            if isinstance(error, AdxUnreachableError):
                return repeatable or error.never_ran
            if isinstance(error, PartialResultError):
                return repeatable and error.transient
            if isinstance(error, AdxAuthenticationError) and error.rejected and self._renew_token and not renewed:
                renewed = to_renew = True
                return True
            return isinstance(error, AdxThrottledError)

        growing = wait_exponential(multiplier=self._first_wait, max=_LONGEST_WAIT / 2) + wait_random(
            0, self._first_wait
        )

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, AdxThrottledError) else None
            return min(_LONGEST_WAIT, max(growing(state), asked or 0.0)) / self.clock_scale

        def tell(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            logger.warning("attempt %d of %d failed: %s", state.attempt_number, self._attempts, error)

        retrying = Retrying(
            retry=retry_if_exception(may_repeat),
            wait=wait,
            stop=stop_after_attempt(self._attempts) | stop_after_delay(_LONGEST_TRYING),
            sleep=self._sleep,
            before_sleep=tell,
            reraise=True,
        )
        return retrying(attempt)

    def _what(self, kind: str, text: str) -> str:
        """The statement as the beginning of an error message: enough of it to name the table, not the data in it."""
        line = " ".join(text.split())
        shown = line if len(line) <= 160 else f"{line[:160]}..."
        return f"{kind} in database {self.database} ({shown})"


def _literal(value: Parameter) -> str:
    """A query parameter as it travels: a string as it is, everything else as a KQL literal."""
    if isinstance(value, str):
        return value
    return kql_datetime(value) if isinstance(value, datetime) else kql_long(value)


def _properties(timeout: timedelta) -> ClientRequestProperties:
    if not timedelta(seconds=1) <= timeout <= timedelta(hours=1):
        raise ValueError(f"a time-out is between a second and an hour, not {timeout}")
    properties = ClientRequestProperties()  # type: ignore[no-untyped-call]
    properties.application = APPLICATION
    # A timedelta, not text: the client adds half a minute to it and waits that long for bytes to arrive.
    properties.set_option(ClientRequestProperties.request_timeout_option_name, timeout)
    return properties


def _rows(columns: list[Mapping[str, Any]], rows: Iterator[list[Any]] | list[list[Any]]) -> Generator[Row, None, None]:
    names = [column["ColumnName"] for column in columns]
    kinds = [str(column.get("ColumnType") or column.get("DataType")).lower() for column in columns]
    # Version 1 answers carry bool as SByte 0 or 1.
    bools = [index for index, kind in enumerate(kinds) if kind in ("bool", "boolean", "sbyte")]
    for row in rows:
        for index in bools:
            row[index] = None if row[index] is None else bool(row[index])
        yield dict(zip(names, row, strict=True))


def _check_completion(completion: Mapping[str, Any] | None, what: str) -> None:
    """Refuse an answer whose last frame is missing or tells of errors."""
    if completion is None:
        raise AdxUnreachableError(f"{what}: the answer ended before its last frame. Run it again.")
    errors = completion.get("OneApiErrors") or []
    if not (completion["HasErrors"] or completion.get("Cancelled") or errors):
        return
    inner = [item.get("error", item) for item in errors]
    details = [f"{item.get('code')}: {item.get('@message') or item.get('message')}" for item in inner]
    transient = all(item.get("@permanent") is False for item in inner)
    raise partial_result(what, "; ".join(details) or "the last frame says that it has errors", transient=transient)


__all__ = ["APPLICATION", "AdxClient", "AdxError", "Row", "derived_ingest_uri"]
