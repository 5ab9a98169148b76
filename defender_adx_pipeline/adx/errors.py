"""What can go wrong at Azure Data Explorer, by what to do about it.

Here: the error classes and `translate`, which turns what the azure clients raise into one of them. Not here: retries
(`client`) and the decision what a failed slice means for the run (`migration`).

Messages never repeat a SAS: `without_secrets` removes the query part of every storage URL. Rests on
azure-kusto-python 6.0: KustoThrottlingError is not a KustoServiceError, a 401 is told apart by its HTTP status only.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import requests
import urllib3.exceptions as urllib3_errors
from azure.kusto.data.exceptions import (
    KustoApiError,
    KustoAuthenticationError,
    KustoError,
    KustoMultiApiError,
    KustoNetworkError,
    KustoServiceError,
    KustoThrottlingError,
    KustoTokenParsingError,
)

BOOTSTRAP = "Run `defender-adx bootstrap` with an identity that is Database Admin"

_MISSING = re.compile(
    r"EntityNotFound|Failed to resolve (?:table|entity|function)|[Uu]nknown function|was not found|could not be found"
    r"|DatabaseNotExist|MappingReferenceWasNotFound"
)
# "Query limits" in the Kusto docs: result size, and memory of one operator. E_LOW_MEMORY_CONDITION is not among them:
# other queries may have used the memory of the node.
_TOO_LARGE = re.compile(r"E_QUERY_RESULT_SET_TOO_LARGE|80DA0003|exceeded the allowed (?:limits|size)|E_RUNAWAY_QUERY")
_THROTTLED = re.compile(r"TooManyRequests|Throttled(?:Exception)?\b|aborted due to throttling")
# A SAS is the query part of a URL with a signature; some messages carry it with the path only.
_SAS = re.compile(r"\?[^\s'\"<>)\]]*?\bsig=[^\s'\"<>)\]]*")
_SIGNATURE = re.compile(r"(?i)\bsig=[^&\s'\"<>)\]]+")
_BEARER = re.compile(r"(?i)\bBearer\s+[A-Za-z0-9._~+/=-]+")


class AdxError(Exception):
    """Something at Azure Data Explorer failed; the message says what, for which table, and what to do."""


class AdxUnreachableError(AdxError):
    """The cluster did not give a whole answer: network, DNS, time-out, or it is not available right now."""

    def __init__(self, message: str, *, never_ran: bool = False) -> None:
        super().__init__(message)
        self.never_ran = never_ran
        """Whether the request is known not to have been carried out. False means that nobody knows."""


class AdxThrottledError(AdxError):
    """The cluster refused the request because it has too many; the request was not carried out."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the service asked to wait, where it did."""


class AdxAuthenticationError(AdxError):
    """The cluster does not accept the token, or none could be had."""

    def __init__(self, message: str, *, rejected: bool = False) -> None:
        super().__init__(message)
        self.rejected = rejected
        """Whether the cluster refused a token, so that a new one is worth a try; nothing was carried out."""


class AdxPermissionError(AdxError):
    """The identity lacks a role."""


class MissingObjectError(AdxError):
    """A database, table, column mapping or function is not there."""


class PartialResultError(AdxError):
    """The answer was cut or marked as incomplete, so none of it may be used as if it were whole."""

    def __init__(self, message: str, *, too_large: bool = False, transient: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large
        """Whether a limit was the reason, so that a smaller window would help and the same query fails again."""
        self.transient = transient and not too_large
        """Whether the same query may succeed when it is run again."""


class QueryFailedError(AdxError):
    """The cluster understood the statement and refuses it; the same statement will fail again."""


class StorageError(AdxError):
    """A blob or a queue message could not be written to the storage of the ingestion service."""

    def __init__(self, message: str, *, message_sent: bool) -> None:
        super().__init__(message)
        self.message_sent = message_sent
        """Whether the ingestion message may have reached a queue, so that the slice may still be loaded."""


class IngestionFailedError(AdxError):
    """Slices were queued and ADX reports that it will not load them."""

    def __init__(self, table: str, reasons: Mapping[str, str]) -> None:
        shown = "; ".join(f"{slice_id}: {reason}" for slice_id, reason in list(reasons.items())[:3])
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        super().__init__(
            f"{table}: ADX did not load {len(reasons)} slice(s): {shown}{more}. Their rows are not in ADX; the ledger"
            " keeps the slices and the next run loads them again. See `.show ingestion failures`."
        )
        self.table = table
        self.reasons = dict(reasons)


class RecordTooLargeError(AdxError):
    """A record is larger than a dynamic value may be; ADX would store null in its place without a word."""

    def __init__(self, table: str, identity: str, size: int, limit: int) -> None:
        super().__init__(
            f"{table}: the record {identity} has {size} bytes, and ADX turns a dynamic value above {limit} bytes into"
            " null without an error. It was kept out of the blob; nothing of it was loaded."
        )
        self.table = table
        self.identity = identity
        self.size = size


def without_secrets(text: str) -> str:
    """The text without SAS query parts, signatures and bearer tokens."""
    text = _SAS.sub("?<sas removed>", text)
    return _BEARER.sub("Bearer <removed>", _SIGNATURE.sub("sig=<removed>", text))


def _detail(text: str) -> str:
    """What somebody else said, to be set into a sentence: without secrets, and without a full stop of its own."""
    return without_secrets(text).rstrip(". ")


def translate(error: BaseException, what: str) -> AdxError:
    """The error of this module that says what an azure client's error means.

    Raise it `from None`: errors of the azure client repeat answers, which hold rows, storage keys and tokens, and a
    traceback prints what an error was raised from.

    Args:
        error: what `azure.kusto.data`, requests or urllib3 raised.
        what: what was being done to which database and table, as the beginning of a sentence.
    """
    if isinstance(error, AdxError):
        return error
    # azure-kusto-data 6.0 reads the body of a refusal as Kusto's JSON before it looks at the status, so a proxy's HTML
    # comes up as a JSON or key error; the status is in the error that it was handling.
    if not isinstance(error, KustoError) and (refusal := _refusal_behind(error)) is not None:
        return _from_status(refusal.response, str(refusal), what)
    for kind, translated in _BY_CLASS:
        if isinstance(error, kind):
            return translated(error, what)
    return _malformed(error, what)


def partial_result(what: str, detail: str, *, transient: bool = False) -> PartialResultError:
    """The error for an answer that says itself that it is not whole.

    Args:
        what: the statement.
        detail: what the answer says.
        transient: whether all that it says is called transient by the service.
    """
    too_large = bool(_TOO_LARGE.search(detail))
    advice = "Ask for a smaller window." if too_large else "Run it again."
    return PartialResultError(
        f"{what}: the answer is not whole, so none of it was used: {_detail(detail)}. An answer holds at most"
        f" 500,000 rows and 64 MB. {advice}",
        too_large=too_large,
        transient=transient,
    )


def _refusal_behind(error: BaseException) -> requests.HTTPError | None:
    context = error.__context__
    while context is not None and not isinstance(context, requests.HTTPError):
        context = context.__context__
    return context


def _from_throttling(error: KustoThrottlingError, what: str) -> AdxThrottledError:
    return _throttled(error.args[1] if len(error.args) > 1 else None, what)


def _throttled(response: Any, what: str) -> AdxThrottledError:
    return AdxThrottledError(
        f"{what}: the cluster throttles requests (429) and went on doing so. Nothing was done; run it again later, or"
        " give the cluster more capacity.",
        retry_after=_retry_after(response),
    )


def _retry_after(response: Any) -> float | None:
    value = getattr(response, "headers", {}).get("Retry-After", "")
    return float(value) if re.fullmatch(r"\d{1,6}(\.\d+)?", value) else None


def no_token(error: BaseException, what: str) -> AdxError:
    """The error for a token that could not be had, out of what the token provider raised."""
    reason = _detail(str(error))
    # The providers' own errors say whether asking again is any use (`action`); they belong to no module known here.
    if getattr(error, "action", None) == "retry":
        return AdxUnreachableError(
            f"{what}: no token for the cluster for the moment: {reason}. It was not carried out.", never_ran=True
        )
    return AdxAuthenticationError(f"{what}: no token for the cluster: {reason}. Check the AZURE_* settings.")


def _unauthenticated(error: KustoAuthenticationError, what: str) -> AdxError:
    return no_token(error.exception, what)


def _partial(error: KustoMultiApiError, what: str) -> PartialResultError:
    errors = error.get_api_errors()
    details = [f"{item.code}: {item.description or item.message}" for item in errors]
    transient = all(item.permanent is False for item in errors)
    return partial_result(what, "; ".join(details) or "an error stands among the rows", transient=transient)


def _unreachable(error: KustoNetworkError, what: str) -> AdxUnreachableError:
    cause = error.__cause__
    never_ran = _never_connected(cause)
    known = "It was not carried out." if never_ran else "Whether it was carried out is not known."
    return AdxUnreachableError(
        f"{what}: no answer from {error.endpoint}: {_detail(str(cause))}. {known} Check ADX_CLUSTER_URI, DNS,"
        " firewall and proxy.",
        never_ran=never_ran,
    )


def _never_connected(error: BaseException | None) -> bool:
    """Whether no connection came about, so that the server cannot have seen the request."""
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError):
        return True
    if not isinstance(error, requests.ConnectionError) or not error.args:
        return False
    reason = error.args[0]
    reason = reason.reason if isinstance(reason, urllib3_errors.MaxRetryError) else reason
    return isinstance(reason, urllib3_errors.NewConnectionError | urllib3_errors.ConnectTimeoutError)


def _from_api(error: KustoApiError, what: str) -> AdxError:
    api = error.get_api_error()
    detail = _detail(f"{api.code}: {api.description or api.message}")
    status = getattr(error.http_response, "status_code", None)
    if status in (401, 403):
        return _from_status(error.http_response, detail, what)
    if _THROTTLED.search(f"{api.code} {api.type} {detail}"):
        return _throttled(error.http_response, what)
    if _MISSING.search(detail):
        return MissingObjectError(f"{what}: {detail}. {BOOTSTRAP}; check ADX_DATABASE and the name of the table.")
    if _TOO_LARGE.search(detail):
        return partial_result(what, detail)
    # `@permanent` is the service's own word; without it the status decides.
    if api.permanent is False or (api.permanent is None and status is not None and status >= 500):
        return AdxUnreachableError(f"{what}: the cluster could not do it right now: {detail}. Run it again.")
    return QueryFailedError(f"{what}: the cluster refuses it: {detail}. It would be refused again.")


def _from_service(error: KustoServiceError, what: str) -> AdxError:
    if error.http_response is None:
        return _malformed(error, what)
    if error.http_response.status_code == 200:
        # Its text is an answer, and answers hold rows, storage keys and identity tokens.
        size = len(str(error))
        return AdxUnreachableError(f"{what}: the answer ({size} characters) is cut or not Kusto's. Run it again.")
    return _from_status(error.http_response, str(error), what)


def _from_status(response: Any, text: str, what: str) -> AdxError:
    status = response.status_code
    detail = _detail(text)[:400]
    if status == 429:
        return _throttled(response, what)
    if status == 401:
        return AdxAuthenticationError(
            f"{what}: the cluster does not accept the token (401). Check AZURE_TENANT_ID, AZURE_CLIENT_ID and that the"
            " token is for this cluster; a clock that is wrong by minutes has the same effect.",
            rejected=True,
        )
    if status == 403:
        return AdxPermissionError(
            f"{what}: the identity lacks a role (403): {detail}. It needs Database Viewer and Database Ingestor:"
            " `.add database ['<database>'] viewers ('aadapp=<client id>;<tenant id>')`, and the same with ingestors."
        )
    if status == 404:
        return QueryFailedError(f"{what}: {detail} (404). Check ADX_CLUSTER_URI and ADX_INGEST_URI.")
    if status >= 500 or status in (408, 502, 504):
        return AdxUnreachableError(f"{what}: the cluster could not do it right now ({status}): {detail}. Run it again.")
    return QueryFailedError(f"{what}: the cluster answered {status}: {detail}.")


def _malformed(error: BaseException, what: str) -> AdxError:
    broken = (
        KustoTokenParsingError,
        KustoServiceError,
        requests.RequestException,
        urllib3_errors.HTTPError,
        ValueError,
        LookupError,
        TypeError,
    )
    detail = _detail(f"{type(error).__name__}: {error}")[:400]
    if isinstance(error, broken):
        return AdxUnreachableError(f"{what}: the answer ended early or is not Kusto's: {detail}. Run it again.")
    if isinstance(error, KustoError):
        return QueryFailedError(f"{what}: {detail}.")
    return AdxError(f"{what}: {detail}.")


# The more special class first.
_BY_CLASS: tuple[tuple[type[KustoError], Callable[[Any, str], AdxError]], ...] = (
    (KustoThrottlingError, _from_throttling),
    (KustoAuthenticationError, _unauthenticated),
    (KustoMultiApiError, _partial),
    (KustoNetworkError, _unreachable),
    (KustoApiError, _from_api),
    (KustoServiceError, _from_service),
)
