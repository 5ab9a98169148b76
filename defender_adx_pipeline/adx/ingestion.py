"""Queued ingestion: a slice's blob is uploaded and queued, and it is loaded when its tag is in the table.

Here: queueing slices and confirming them. Not here: the azure ingest client and its traps (`safe_queued`), making blobs
(`blobs`), the ledger and what a failed slice means for the run (`migration`).

One slice is one blob, its id is the blob's `ingest-by:` tag and its `ingestIfNotExists` value, so ADX loads it once
however often it is queued ("Extent tags" in the Kusto docs). Queued is not loaded: ADX loads at least once, minutes
later or never, and says nothing to the client; only the tag tells.
"""

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

import orjson
import requests
from azure.kusto.data.data_format import DataFormat
from azure.kusto.data.exceptions import KustoError
from azure.kusto.ingest import IngestionProperties, ReportLevel, StreamDescriptor

from defender_adx_pipeline.adx import kql
from defender_adx_pipeline.adx.blobs import Blob
from defender_adx_pipeline.adx.client import AdxClient, Row
from defender_adx_pipeline.adx.errors import (
    BOOTSTRAP,
    AdxPermissionError,
    IngestionFailedError,
    MissingObjectError,
    StorageError,
    translate,
    without_secrets,
)
from defender_adx_pipeline.adx.safe_queued import SafeQueuedIngestClient
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.quoting import kql_name

LONGEST_PAUSE = timedelta(seconds=15)
CLOCK_SKEW = timedelta(minutes=10)
"""How far the cluster's clock may be behind ours when failures are looked up."""

_BLOB_NAME = "records.json.gz"  # the service tells compression by the ending
_GAVE_UP = "RetryAttemptsExceeded"
_SCHEMA = re.compile(rf"(?:\['{kql.RECORDS}'\]|{kql.RECORDS}):dynamic")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QueuedBlob:
    """One attempt to load a slice."""

    slice_id: str
    source_id: str
    """Names the blob and the message of this attempt alone."""
    table: str
    rows: int
    raw_bytes: int
    queued_at: datetime


@dataclass(frozen=True, slots=True)
class IngestionFailure:
    """A row of `.show ingestion failures`, without secrets."""

    failed_at: str
    source: str
    error_code: str
    details: str
    permanent: bool

    def concerns(self, source_id: str) -> bool:
        """Whether it tells of the blob of this attempt."""
        return f"__{source_id}__" in self.source


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What became of queued slices."""

    landed: frozenset[str]
    failed: Mapping[str, str]
    """Reason by slice id: ADX will not load these."""
    pending: frozenset[str]
    """Not decided when the time was up: they may still be loaded, so the ledger keeps them as queued."""

    def raise_for_failures(self, table: str) -> None:
        """Raise when ADX will not load a slice.

        Raises:
            IngestionFailedError: with the reasons.
        """
        if self.failed:
            raise IngestionFailedError(table, self.failed)


class SliceLoader:
    """Loads slices into the tables of one database. Safe to share between threads.

    Args:
        client: queries and commands of the database; its ingest endpoint is used.
        sleep: how to wait between polls, in seconds.
        monotonic: seconds that only grow, for time-outs.
        clock: the present.
    """

    def __init__(
        self,
        client: AdxClient,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._client = client
        self._sleep = sleep
        self._monotonic = monotonic
        self._clock = clock
        self._lock = threading.Lock()
        self._queue_client: SafeQueuedIngestClient | None = None

    def queue(self, table: str, slice_id: str, blob: Blob) -> QueuedBlob:
        """Upload a slice's blob and queue it. The blob stays open.

        Raises:
            StorageError: storage refused; `message_sent` says whether the slice may be loaded all the same.
            AdxError: the data management endpoint refused or could not be reached; nothing was queued.
        """
        if not kql.SLICE_ID.fullmatch(slice_id):
            raise ValueError(f"{slice_id!r} is not a slice id: 32 lower-case hexadecimal digits")
        kql_name(table)
        try:
            return self._client.retrying(lambda: self._queue_once(table, slice_id, blob), repeatable=True)
        except StorageError as error:
            if error.message_sent:
                raise
            logger.warning("%s; asking the service for its containers and queues anew", error)
        # The SAS at hand may have run out: the stock client keeps it for an hour whatever storage says.
        self._forget_resources()
        return self._client.retrying(lambda: self._queue_once(table, slice_id, blob), repeatable=True)

    def landed(self, table: str, slice_ids: Collection[str]) -> set[str]:
        """Those of the slices that are in the table, whoever loaded them.

        Raises:
            MissingObjectError: there is no such table.
        """
        asked = set(slice_ids)
        found: set[str] = set()
        for command in kql.landed_slices(table, sorted(asked)):
            for row in self._client.command(command, idempotent=True):
                found |= kql.slices_in_tags(str(row["Tags"]))
        return found & asked

    def failures(self, table: str, since: datetime) -> list[IngestionFailure]:
        """What ADX could not ingest into the table since an instant; it remembers for 14 days.

        Raises:
            AdxPermissionError: the identity may not see failures.
        """
        command = kql.ingestion_failures(self._client.database, table, since)
        return [_failure(row) for row in self._client.command(command, idempotent=True)]

    def confirm(
        self,
        table: str,
        queued: Sequence[QueuedBlob],
        *,
        timeout: timedelta,
        poll: timedelta = timedelta(milliseconds=250),
    ) -> Confirmation:
        """Wait until each slice is loaded or refused, or the time is up.

        Args:
            table: the table that all of them were queued for.
            queued: the attempts; a slice with several counts as refused when all of them were.
            timeout: how long to wait at most; the last look comes after it.
            poll: the first pause; pauses grow to 15 s.
        """
        waiting: dict[str, set[str]] = {}
        for item in queued:
            waiting.setdefault(item.slice_id, set()).add(item.source_id)
        since = min((item.queued_at for item in queued), default=self._clock()) - CLOCK_SKEW
        landed: set[str] = set()
        failed: dict[str, str] = {}
        pause, deadline = poll.total_seconds(), self._monotonic() + timeout.total_seconds()
        while waiting:
            # In this order: a duplicate that ADX refused for its tag shows up as a failure, too.
            refused = self._refused(table, waiting, since)
            landed |= self.landed(table, waiting)
            failed |= {slice_id: reason for slice_id, reason in refused.items() if slice_id not in landed}
            waiting = {key: value for key, value in waiting.items() if key not in landed and key not in failed}
            left = deadline - self._monotonic()
            if not waiting or left <= 0:
                break
            self._sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_PAUSE.total_seconds())
        return Confirmation(frozenset(landed), failed, frozenset(waiting))

    def check_destination(self, table: str) -> None:
        """Check that a table takes records as they are loaded here.

        Raises:
            MissingObjectError: there is no such table, its only column is not `Records: dynamic`, or it lacks the
                mapping DynamicJsonMap.
        """
        (schema,) = self._client.command(kql.table_schema(table), idempotent=True)
        if not _SCHEMA.fullmatch(str(schema["Schema"]).replace(" ", "")):
            raise MissingObjectError(
                f"{table}: its columns are {schema['Schema']}, and a destination has the one column"
                f" {kql.RECORDS}:dynamic. Nothing was loaded. Correct DestinationTable in MigrationConfiguration."
            )
        mappings = self._client.command(kql.json_mappings(table), idempotent=True)
        if not any(row["Name"] == kql.MAPPING and _maps_whole_record(row["Mapping"]) for row in mappings):
            raise MissingObjectError(
                f"{table}: it has no JSON mapping {kql.MAPPING} from the path $ to {kql.RECORDS}. Nothing was loaded."
                f" {BOOTSTRAP}."
            )

    def check_endpoint(self) -> None:
        """Ask the data management endpoint for what queueing needs, and queue nothing.

        Raises:
            AdxError: it refused, or could not be reached.
        """

        def ask() -> None:
            try:
                self._ingest_client().refresh()
            except (KustoError, requests.RequestException, LookupError, TypeError) as error:
                raise translate(error, f"queues and containers of {self._client.ingest_uri}") from None

        self._client.retrying(ask, repeatable=True)

    def close(self) -> None:
        """Close the connections to the data management endpoint; the client stays open."""
        self._forget_resources()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _queue_once(self, table: str, slice_id: str, blob: Blob) -> QueuedBlob:
        """One attempt, under a name of its own: a name used twice is refused by storage."""
        source_id = uuid.uuid4()
        what = f"{table}: queueing slice {slice_id} at {self._client.ingest_uri}"
        blob.stream.seek(0)
        stream = StreamDescriptor(
            blob.stream, source_id, is_compressed=True, stream_name=_BLOB_NAME, size=blob.raw_bytes
        )
        try:
            client = self._ingest_client()
            client.refresh()
            client.ingest_from_stream(stream, _properties(self._client.database, table, slice_id))
        except (KustoError, requests.RequestException, LookupError, TypeError) as error:
            raise translate(error, what) from None
        return QueuedBlob(slice_id, str(source_id), table, blob.rows, blob.raw_bytes, self._clock())

    def _refused(self, table: str, waiting: Mapping[str, set[str]], since: datetime) -> dict[str, str]:
        """Reason by slice, for slices of which every attempt failed for good."""
        try:
            failures = [item for item in self.failures(table, since) if item.permanent]
        except AdxPermissionError as error:
            # Only the tag decides; without this list a refused slice takes the whole time-out to be noticed.
            logger.warning("%s", error)
            return {}
        reasons: dict[str, str] = {}
        for slice_id, source_ids in waiting.items():
            found = {source: item for source in source_ids for item in failures if item.concerns(source)}
            if len(found) == len(source_ids):
                item = next(iter(found.values()))
                reasons[slice_id] = f"{item.error_code}: {item.details}"
        return reasons

    def _ingest_client(self) -> SafeQueuedIngestClient:
        with self._lock:
            if self._queue_client is None:
                self._queue_client = SafeQueuedIngestClient(
                    self._client.connection(self._client.ingest_uri), clock_scale=self._client.clock_scale
                )
            return self._queue_client

    def _forget_resources(self) -> None:
        with self._lock:
            client, self._queue_client = self._queue_client, None
        if client is not None:
            client.close()


def _properties(database: str, table: str, slice_id: str) -> IngestionProperties:
    """New for each blob: the azure client writes tags into what it is given, and the next blob would inherit them.

    multijson, since one bad record then refuses the blob, where json would skip it without a word.
    """
    return IngestionProperties(
        database=database,
        table=table,
        data_format=DataFormat.MULTIJSON,
        ingestion_mapping_reference=kql.MAPPING,
        ingest_by_tags=[slice_id],
        ingest_if_not_exists=[slice_id],
        report_level=ReportLevel.FailuresOnly,
    )


def _failure(row: Row) -> IngestionFailure:
    return IngestionFailure(
        failed_at=str(row["FailedOn"]),
        source=without_secrets(str(row["IngestionSourcePath"])),
        error_code=str(row["ErrorCode"]),
        details=without_secrets(str(row["Details"])),
        # A transient failure is tried again by the service, for up to two days, unless it says that it gave up.
        permanent=str(row["FailureKind"]).lower() == "permanent" or str(row["ErrorCode"]).endswith(_GAVE_UP),
    )


def _maps_whole_record(mapping: object) -> bool:
    """Whether a mapping puts the whole record into the one column; services spell it in two ways."""
    entries = orjson.loads(mapping) if isinstance(mapping, str) else mapping
    if not isinstance(entries, list) or len(entries) != 1:
        return False
    entry = {str(key).lower(): value for key, value in entries[0].items()}
    properties = {str(key).lower(): value for key, value in (entry.get("properties") or {}).items()}
    path = properties.get("path", entry.get("path"))
    return entry.get("column", entry.get("name")) == kql.RECORDS and path == "$"
