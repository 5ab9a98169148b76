"""The azure ingest client, past its traps.

Here: what has to be different in azure-kusto-ingest 6.0.4 so that nothing is lost silently and no SAS is printed. Not
here: what is ingested and how it is confirmed (`ingestion`).
"""

import logging
import threading
from collections.abc import Sequence
from datetime import timedelta
from io import SEEK_END
from typing import IO, Any

from azure.core.exceptions import AzureError
from azure.kusto.data import KustoConnectionStringBuilder
from azure.kusto.ingest import BlobDescriptor, IngestionProperties, IngestionResult, QueuedIngestClient
from azure.kusto.ingest.base_ingest_client import IngestionStatus
from azure.kusto.ingest.ingestion_blob_info import IngestionBlobInfo
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient, TextBase64EncodePolicy
from tenacity import Retrying, stop_after_attempt

from defender_adx_pipeline.adx.errors import StorageError, without_secrets

_RESOURCES_TIMEOUT = timedelta(minutes=2)  # of one request for containers and queues, or for the identity token


class _WithoutSas(logging.Filter):
    """urllib3 logs the whole URL of each request when its level is DEBUG, and a SAS is part of the URL."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(record.getMessage()), None
        return True


_without_sas = _WithoutSas()


class SafeQueuedIngestClient(QueuedIngestClient):
    """The azure client without its ways of losing data silently (azure-kusto-ingest 6.0.4, unchanged upstream).

    - It tries container after container with one stream that it never rewinds: after a first failure the next one gets
      an empty blob, and the call succeeds.
    - A PUT whose reply got lost is sent again and refused, since the blob is there: with the same consequence.
    - Without a queue it returns None, without a container it raises AttributeError.
    - It hides why storage refused, and its errors carry the SAS.
    - It waits an hour for the list of containers and queues, and repeats throttled requests for it in its own way.

    A storage request is tried four times, with waits of 15 to 45 s between, 93 s in all at most; each try has 20 s to
    connect and 60 s without a byte. Up to three containers and three queues are tried.

    Args:
        connection: to the data management endpoint.
        clock_scale: how much faster than real time the waits for storage pass: a local tenant's clock.
    """

    def __init__(self, connection: KustoConnectionStringBuilder, *, clock_scale: float = 1.0) -> None:
        # The endpoint is ours to choose: the client would put "ingest-" before any host that it does not know.
        super().__init__(connection, auto_correct_endpoint=False)
        self._refreshing = threading.Lock()
        self._storage_waits: dict[str, Any] = {
            "initial_backoff": 15 / clock_scale,
            "increment_base": 3 if clock_scale == 1 else 0,
            "random_jitter_range": 3 / clock_scale,
        }
        manager: Any = self._resource_manager
        manager._kusto_client._mgmt_default_timeout = _RESOURCES_TIMEOUT  # noqa: SLF001 - no public way
        # Whoever calls repeats the whole, and waits as long as the service asks.
        manager._retryer = Retrying(stop=stop_after_attempt(1), reraise=True)  # noqa: SLF001 - no public way
        logging.getLogger("urllib3.connectionpool").addFilter(_without_sas)

    def refresh(self) -> None:
        """Ask for the service's containers, queues and identity token, if those at hand are an hour old.

        The stock client has no lock here, and many threads would ask at once.
        """
        with self._refreshing:
            self._resource_manager.get_containers()
            self._resource_manager.get_authorization_context()  # type: ignore[no-untyped-call]

    def upload_blob(  # type: ignore[override]  # noqa: PLR0917 - the base class
        self,
        containers: Sequence[Any],
        descriptor: Any,
        database: str,
        table: str,
        stream: IO[bytes],
        proxy_dict: dict[str, str] | None,
        timeout: int,
        max_retries: int,
    ) -> BlobDescriptor:
        """Upload to the first container that takes it, from the beginning of the stream each time.

        Raises:
            StorageError: none took it, or there is none.
        """
        name = f"{database}__{table}__{descriptor.source_id}__{descriptor.stream_name}"
        start = stream.tell()
        length = stream.seek(0, SEEK_END) - start
        refusals = ["the service named no container (TempStorage)"] if not containers else []
        for container in containers[:max_retries]:
            stream.seek(start)
            try:
                with BlobServiceClient(container.account_uri, proxies=proxy_dict, **self._storage_waits) as service:
                    blob = service.get_blob_client(container.object_name, name)
                    # overwrite: the name is this attempt's own, so a blob of that name is a reply that got lost.
                    blob.upload_blob(stream, length=length, overwrite=True, timeout=timeout)
            except AzureError as error:
                self._rate(container, took_it=False)
                refusals.append(_reason(error))
                continue
            self._rate(container, took_it=True)
            return BlobDescriptor(blob.url, descriptor.size, descriptor.source_id)
        # Raised outside of the except clause, since a traceback would print the SAS of the error being handled.
        raise StorageError(
            f"{table}: no container took the blob: {'; '.join(refusals)}. Nothing was queued.", message_sent=False
        )

    def ingest_from_blob(
        self, blob_descriptor: BlobDescriptor, ingestion_properties: IngestionProperties
    ) -> IngestionResult:
        """Queue an uploaded blob: the first queue that takes the message has it.

        Raises:
            StorageError: no queue took the message, or there is none.
        """
        queues = self._resource_manager.get_ingestion_queues()[: self._MAX_RETRIES]
        info = IngestionBlobInfo(
            blob_descriptor,
            ingestion_properties=ingestion_properties,
            auth_context=self._resource_manager.get_authorization_context(),  # type: ignore[no-untyped-call]
            application_for_tracing=self.application_for_tracing,
            client_version_for_tracing=self.client_version_for_tracing,
        )
        message = info.to_json()  # type: ignore[no-untyped-call]
        refusals = [] if queues else ["the service named no queue (SecuredReadyForAggregationQueue)"]
        database, table = ingestion_properties.database, ingestion_properties.table
        for queue in queues:
            try:
                self._send(queue, message)
            except AzureError as error:
                self._rate(queue, took_it=False)
                refusals.append(_reason(error))
                continue
            self._rate(queue, took_it=True)
            return IngestionResult(
                IngestionStatus.QUEUED, database, table, blob_descriptor.source_id, blob_descriptor.path
            )
        raise StorageError(
            f"{table}: the blob was uploaded and no queue took its message: {'; '.join(refusals)}.",
            message_sent=bool(queues),
        )

    def _send(self, queue: Any, message: str) -> None:
        with (
            QueueServiceClient(queue.account_uri, proxies=self._proxy_dict, **self._storage_waits) as service,
            service.get_queue_client(queue.object_name, message_encode_policy=TextBase64EncodePolicy()) as client,
        ):
            client.send_message(message, timeout=self._SERVICE_CLIENT_TIMEOUT_SECONDS)

    def _rate(self, resource: Any, *, took_it: bool) -> None:
        """Tell the client's ranking of storage accounts, which decides whom it asks first."""
        self._resource_manager.report_resource_usage_result(resource.storage_account_name, took_it)


def _reason(error: BaseException) -> str:
    """The first line of a storage error, without the SAS that its URLs carry."""
    lines = without_secrets(str(error)).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
