"""The azure ingest client, past its traps.

Here: what has to be different in azure-kusto-ingest 6.0.4 so that nothing is lost silently and no SAS is printed. Not
here: what is ingested and how it is confirmed (`ingestion`).
"""

import logging
import threading
from collections.abc import Sequence
from io import SEEK_END
from typing import IO, Any

from azure.core.exceptions import AzureError
from azure.kusto.data import KustoConnectionStringBuilder
from azure.kusto.ingest import BlobDescriptor, IngestionProperties, IngestionResult, QueuedIngestClient
from azure.kusto.ingest.exceptions import KustoQueueError
from azure.storage.blob import BlobServiceClient

from defender_adx_pipeline.adx.errors import StorageError, without_secrets


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
    """

    def __init__(self, connection: KustoConnectionStringBuilder) -> None:
        # The endpoint is ours to choose: the client would put "ingest-" before any host that it does not know.
        super().__init__(connection, auto_correct_endpoint=False)
        self._refreshing = threading.Lock()
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
                with BlobServiceClient(container.account_uri, proxies=proxy_dict) as service:
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
        """Queue an uploaded blob.

        Raises:
            StorageError: no queue took the message, or there is none.
        """
        try:
            result = super().ingest_from_blob(blob_descriptor, ingestion_properties)
        except KustoQueueError as error:
            refusal, sent = _reason(error.__cause__ or error), True
        else:
            if result is not None:
                return result
            refusal, sent = "the service named no queue (SecuredReadyForAggregationQueue)", False
        raise StorageError(
            f"{ingestion_properties.table}: the blob was uploaded and no queue took its message: {refusal}.",
            message_sent=sent,
        )

    def _rate(self, container: Any, *, took_it: bool) -> None:
        """Tell the client's ranking of storage accounts, which decides whom it asks first."""
        self._resource_manager.report_resource_usage_result(container.storage_account_name, took_it)


def _reason(error: BaseException) -> str:
    """The first line of a storage error, without the SAS that its URLs carry."""
    lines = without_secrets(str(error)).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
