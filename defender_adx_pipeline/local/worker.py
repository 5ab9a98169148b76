"""The ingestion worker: what the service does with a queued message.

Here: taking messages at least once, waiting for the batching delay, checking, loading, reporting, and dying on request
(`tenant.worker.crash(restart_after=0.2)`, then `start()` where that was None). Not here: what
becomes of the records (`loading`) and where messages and blobs lie (`inbox`).
"""

import base64
import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson
from azure.core.exceptions import AzureError

from defender_adx_pipeline.local.adx_schema import Document, Extent
from defender_adx_pipeline.local.adx_store import AdxStore
from defender_adx_pipeline.local.faults import Fault, FaultScript
from defender_adx_pipeline.local.frames import format_datetime
from defender_adx_pipeline.local.inbox import Inbox, Received
from defender_adx_pipeline.local.ingest_endpoint import FAILED, SUCCESSFUL, Identities
from defender_adx_pipeline.local.loading import Batch, IngestionError, load_batch, mapping_kind, stored_mapping

_LOG = logging.getLogger(__name__)
_POLL = 0.05
_REPORT_FAILURES, _REPORT_NONE, _REPORT_ALL = 0, 1, 2


class _DiedError(Exception):
    """The worker's life ends here."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A message that was taken and waits for its moment (monotonic seconds)."""

    moment: float
    received: Received
    spared: bool = False
    """Whether it has had its fault already."""


@dataclass(slots=True)
class IngestionWorker:
    """Ingests queued blobs in a thread of its own, one after the other.

    Args:
        store: the database.
        inbox: messages, blobs, status queues.
        identities: checks the `authorizationContext` of messages.
        faults: what goes wrong on request (service "worker", matched on the table and the source id).
        batching_delay: seconds from the arrival of a message until its blob is ingested.
    """

    store: AdxStore
    inbox: Inbox
    identities: Identities
    faults: FaultScript
    batching_delay: float = 0.2
    _stopping: threading.Event = field(init=False, default_factory=threading.Event)
    _dying: threading.Event = field(init=False, default_factory=threading.Event)
    _thread: threading.Thread | None = field(init=False, default=None)
    _pending: list[_Pending] = field(init=False, default_factory=list)
    _in_hand: bool = field(init=False, default=False)
    _down: float = field(init=False, default=0.0)

    def start(self) -> None:
        """Begin to take messages, those that an earlier life held and did not acknowledge among them."""
        self._stopping.clear()
        self._dying.clear()
        self.inbox.release()
        self._thread = threading.Thread(target=self._run, name="local-ingestion-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the blob in hand; messages that were taken but not ingested come again."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=60)
            self._thread = None
        self._pending.clear()

    def crash(self, restart_after: float | None = 0.2) -> bool:
        """Die at once, as `kill -9` does to the service's own process: nothing is acknowledged or reported any more.

        A blob whose load has begun is loaded, since a load is one transaction, and its message comes again; what was
        only taken from the queue comes again as well.

        Args:
            restart_after: seconds until the worker is back; None leaves it dead until `start`.

        Returns:
            Whether it died with a blob in hand.
        """
        thread, in_hand = self._thread, self._in_hand
        if thread is None or not thread.is_alive():
            return False
        self._down = restart_after if restart_after is not None else 0.0
        if restart_after is None:
            self._stopping.set()
        self._dying.set()
        if restart_after is None:
            thread.join(timeout=60)
            self._pending.clear()
        return in_hand

    def waiting(self) -> int:
        """Messages that are not acknowledged yet, those in hand among them."""
        return self.inbox.count()

    @property
    def alive(self) -> bool:
        """Whether it takes messages."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except AzureError as error:  # an external account that is gone for a moment
                _LOG.warning("the ingestion worker cannot reach its storage: %s", type(error).__name__)
                self._stopping.wait(1.0)
            except _DiedError:
                self._in_hand = False
                self._pending.clear()
                # A supervisor would start the process again; the thread lives, and remembers nothing.
                self._stopping.wait(self._down)
                self._dying.clear()
                self.inbox.release()

    def _survives(self) -> None:
        """Nothing is done past a point at which the worker is dead.

        Raises:
            _DiedError: it is.
        """
        if self._dying.is_set():
            raise _DiedError

    def _turn(self) -> None:
        now = time.monotonic()
        self._survives()
        for received in self.inbox.receive(32):
            self._pending.append(_Pending(now + self._delay(received), received))
        due = [one for one in self._pending if one.moment <= now]
        self._pending = [one for one in self._pending if one.moment > now]
        for one in due:
            if self._stopping.is_set():
                return
            self._survives()
            self._in_hand = True
            self._deliver(one)
            self._in_hand = False
        if not due:
            nearest = min((one.moment for one in self._pending), default=now + _POLL)
            self.inbox.wait(min(max(nearest - now, 0.001), _POLL))

    def _delay(self, received: Received) -> float:
        flush = (_parsed(received.text) or {}).get("FlushImmediately")
        return 0.0 if flush else self.batching_delay

    def _deliver(self, one: _Pending) -> None:
        message = _parsed(one.received.text)
        if message is None:
            _LOG.warning("a queue message that is not base64 JSON was dropped, as the service does")
            one.received.acknowledge()
            return
        fault = None
        if not one.spared:
            fault = self.faults.take("worker", str(message.get("TableName")), str(message.get("Id")))
        if fault is not None and self._holds_back(fault, one):
            return
        if fault is not None and fault.kind == "crash" and not fault.keep:
            self._die(fault)
        if fault is None or fault.kind != "drop":
            self.ingest(message, fault)
        self._survives()
        if fault is not None and fault.kind in ("duplicate", "lost_reply"):
            self.ingest(message)
        if fault is not None and fault.kind == "crash":
            self._die(fault)
        if fault is not None and fault.kind == "status" and fault.status >= 500 and fault.seconds:
            self._later(one, fault.seconds)
            return
        one.received.acknowledge()

    def _holds_back(self, fault: Fault, one: _Pending) -> bool:
        """Whether the fault puts the message off."""
        if fault.kind == "hang":
            self._stopping.wait(fault.seconds)
        if fault.kind == "delay":
            self._later(one, fault.seconds)
        if fault.kind == "reset":
            self._pending.append(_Pending(time.monotonic() + self.batching_delay, one.received))
        return fault.kind in ("delay", "reset")

    def _later(self, one: _Pending, seconds: float) -> None:
        self._pending.append(_Pending(time.monotonic() + seconds, one.received, spared=True))

    def _die(self, fault: Fault) -> None:
        self._down = fault.seconds
        raise _DiedError

    def ingest(self, message: Mapping[str, Any], fault: Fault | None = None) -> Extent | None:
        """Ingest the blob of one message and report it; failures are recorded, not raised.

        Args:
            message: the decoded queue message ("Ingestion message internal structure" in the Kusto docs).
            fault: an injected failure in place of the work.

        Returns:
            The new extent, or None when nothing was loaded.
        """
        operation = str(uuid.uuid4())
        started = self.store.clock()
        extent: Extent | None = None
        principal = self.identities.principal(str(_properties(message).get("authorizationContext") or ""))
        try:
            if fault is not None and fault.kind in ("status", "html"):
                code = fault.code or "General_RetryAttemptsExceeded"
                raise IngestionError(code, fault.body or "Injected failure.", permanent=fault.status < 500)  # noqa: TRY301
            extent = self._load(message, principal)
        except IngestionError as error:
            self._fail(message, operation, principal, error)
            state, status = "Failed", str(error)
        else:
            state, status = (
                ("Completed", "") if extent else ("Skipped", "ingestIfNotExists: the table has the tag already")
            )
            if extent and message.get("ReportLevel") == _REPORT_ALL:
                self.inbox.report(SUCCESSFUL, _encoded(_report(message, operation, SucceededOn=_now(self.store))))
        self._journal(operation, started, state, status, principal)
        return extent

    def _load(self, message: Mapping[str, Any], principal: str | None) -> Extent | None:
        properties = _properties(message)
        if principal is None:
            raise IngestionError("Forbidden", "Insufficient security permissions to execute the request.")
        if str(message.get("DatabaseName", "")).casefold() != self.store.database.casefold():
            raise IngestionError(
                "BadRequest_DatabaseNotExist", f"Database '{message.get('DatabaseName')}' does not exist."
            )
        url = str(message.get("BlobPath") or "")
        if not url:
            raise IngestionError("BadRequest_EmptyBlobUri", "Blob URI is empty.")
        table, format_ = str(message.get("TableName")), str(properties.get("format") or "csv").lower()
        if table not in self.store.tables():
            raise IngestionError("BadRequest_TableNotExist", f"Table '{table}' does not exist.")
        batch_mapping = self._mapping(table, format_, properties)
        with self.inbox.fetch(url) as path:
            return load_batch(
                self.store,
                Batch(
                    table=table,
                    path=path,
                    source=_without_sas(url),
                    compressed=urlsplit(url).path.endswith(".gz"),
                    format=format_,
                    mapping=batch_mapping,
                    tags=_strings(properties.get("tags")),
                    if_not_exists=_strings(properties.get("ingestIfNotExists")),
                    size=int(message.get("RawDataSize") or 0),
                    skip_first=str(properties.get("ignoreFirstRecord", "")).lower() == "true",
                ),
            )

    def _mapping(self, table: str, format_: str, properties: Mapping[str, Any]) -> Sequence[Mapping[str, Any]] | None:
        reference, inline = properties.get("ingestionMappingReference"), properties.get("ingestionMapping")
        if reference and inline:
            raise IngestionError("BadRequest_DuplicateMapping", "Both a mapping and a mapping reference were given.")
        if reference:
            return stored_mapping(self.store, table, str(reference), mapping_kind(format_))
        if not inline:
            return None
        try:
            parsed: Sequence[Mapping[str, Any]] = orjson.loads(inline) if isinstance(inline, str) else inline
        except orjson.JSONDecodeError as error:
            raise IngestionError("BadRequest_InvalidMapping", "Failed to parse the ingestion mapping.") from error
        return parsed

    def _fail(self, message: Mapping[str, Any], operation: str, principal: str | None, error: IngestionError) -> None:
        kind = "Permanent" if error.permanent else "Transient"
        failed = _now(self.store)
        body: Document = {
            "OperationId": operation,
            "Database": self.store.database,
            "Table": str(message.get("TableName")),
            "FailedOn": failed,
            "IngestionSourcePath": _without_sas(str(message.get("BlobPath") or "")),
            "Details": error.details,
            "FailureKind": kind,
            "RootActivityId": str(uuid.uuid4()),
            "OperationKind": "DataIngestPull",
            "OriginatesFromUpdatePolicy": error.from_update_policy,
            "ErrorCode": error.code,
            "Principal": principal or "",
            "ShouldRetry": not error.permanent,
            "User": "",
            "IngestionProperties": orjson.dumps(_public(_properties(message))).decode(),
        }
        self.store.record("failure", operation, body)
        if message.get("ReportLevel", _REPORT_NONE) in (_REPORT_FAILURES, _REPORT_ALL):
            report = _report(
                message,
                operation,
                FailedOn=failed,
                Details=error.details,
                ErrorCode=error.code,
                FailureStatus=kind,
                OriginatesFromUpdatePolicy=error.from_update_policy,
                ShouldRetry=not error.permanent,
            )
            self.inbox.report(FAILED, _encoded(report))

    def _journal(self, operation: str, started: Any, state: str, status: str, principal: str | None) -> None:
        now = self.store.clock()
        body: Document = {
            "OperationId": operation,
            "Operation": "DataIngestPull",
            "NodeId": "local",
            "StartedOn": format_datetime(started),
            "LastUpdatedOn": format_datetime(now),
            "Duration": f"00:00:{(now - started).total_seconds():010.7f}",
            "State": state,
            "Status": status,
            "RootActivityId": operation,
            "ShouldRetry": False,
            "Database": self.store.database,
            "Principal": principal or "",
        }
        self.store.record("operation", operation, body)


def _parsed(text: str) -> Mapping[str, Any] | None:
    try:
        message = orjson.loads(base64.b64decode(text, validate=True))
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def _properties(message: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = message.get("AdditionalProperties")
    return properties if isinstance(properties, dict) else {}


def _strings(value: Any) -> tuple[str, ...]:
    """`tags` and `ingestIfNotExists` are JSON lists inside a string."""
    try:
        found = orjson.loads(value) if isinstance(value, str) and value else value or []
    except orjson.JSONDecodeError as error:
        raise IngestionError("BadRequest_InvalidProperty", "A list of tags is not JSON.") from error
    return tuple(str(one) for one in found)


def _public(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in properties.items() if name != "authorizationContext"}


def _without_sas(url: str) -> str:
    return url.partition("?")[0]


def _now(store: AdxStore) -> str:
    return format_datetime(store.clock())


def _report(message: Mapping[str, Any], operation: str, **fields: Any) -> dict[str, Any]:
    return {
        "OperationId": operation,
        "Database": message.get("DatabaseName"),
        "Table": message.get("TableName"),
        "IngestionSourceId": message.get("Id"),
        "IngestionSourcePath": _without_sas(str(message.get("BlobPath") or "")),
        "RootActivityId": operation,
        **fields,
    }


def _encoded(report: Mapping[str, Any]) -> str:
    return base64.b64encode(orjson.dumps(report)).decode()
