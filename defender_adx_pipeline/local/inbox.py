"""Where the ingestion worker finds messages and blobs, and leaves its reports.

Here: the tenant's own storage, and an external account over HTTP. Not here: what a message means (`worker`).
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.blob import BlobClient

from defender_adx_pipeline.local.ingest_endpoint import READY, ExternalStorage
from defender_adx_pipeline.local.loading import IngestionError
from defender_adx_pipeline.local.storage_store import SasError, StorageStore, StoredMessage

HOLD = 600.0
"""Seconds for which a taken message is hidden from other readers."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message as taken from a queue."""

    text: str
    acknowledge: Callable[[], None]
    """Delete it: without this it comes again."""


class Inbox(Protocol):
    """Where messages and blobs come from, and reports go."""

    def receive(self, count: int) -> list[Received]:
        """Take messages; others do not see them for a while."""
        ...

    def release(self) -> None:
        """Let messages that a reader took before its death be seen again."""
        ...

    def count(self) -> int:
        """Messages that are there, taken ones included."""
        ...

    def clear(self) -> None:
        """Forget all messages."""
        ...

    def wait(self, seconds: float) -> None:
        """Return when a message may have come, at the latest after `seconds`."""
        ...

    def fetch(self, url: str) -> AbstractContextManager[Path]:
        """A context in which the blob lies in a file.

        Raises:
            IngestionError: the blob is missing, or the SAS does not allow to read it.
        """
        ...

    def report(self, queue: str, text: str) -> None:
        """Put a status message into one of the shared status queues."""
        ...


@dataclass(frozen=True, slots=True)
class LocalInbox:
    """The tenant's own storage, without HTTP in between."""

    store: StorageStore

    def receive(self, count: int) -> list[Received]:
        """See `Inbox`."""
        return [
            Received(message.text, self._deleter(message))
            for queue in READY
            for message in self.store.messages(queue, count, hide=HOLD)
        ]

    def _deleter(self, message: StoredMessage) -> Callable[[], None]:
        def delete() -> None:
            self.store.delete_message(message.queue, message.id, message.receipt)

        return delete

    def release(self) -> None:
        """See `Inbox`. At once: a service's messages are hidden for minutes, and nobody here waits that long."""
        self.store.release_messages()

    def count(self) -> int:
        """See `Inbox`."""
        return sum(self.store.message_count(queue) for queue in READY)

    def clear(self) -> None:
        """See `Inbox`."""
        for queue in READY:
            self.store.clear_messages(queue)

    def wait(self, seconds: float) -> None:
        """See `Inbox`."""
        self.store.arrived.wait(seconds)
        self.store.arrived.clear()

    @contextmanager
    def fetch(self, url: str) -> Iterator[Path]:
        """See `Inbox`. The host is not looked at: after a restart it has another port."""
        parts = urlsplit(url)
        _, _, container, name = (parts.path.split("/", 3) + [""] * 4)[:4]
        container, name = unquote(container), unquote(name)
        try:
            self.store.check_sas(container, parts.query, "r")
        except SasError as error:
            raise IngestionError("Download_Forbidden", f"Access to the blob is forbidden: {error}") from error
        if self.store.blob(container, name) is None:
            raise IngestionError("Download_SourceNotFound", "The source blob was not found.")
        yield self.store.path(container, name)

    def report(self, queue: str, text: str) -> None:
        """See `Inbox`."""
        self.store.put_message(queue, text)


@dataclass(frozen=True, slots=True)
class ExternalInbox:
    """An external storage account, over HTTP with the storage SDKs."""

    storage: ExternalStorage

    def receive(self, count: int) -> list[Received]:
        """See `Inbox`."""
        found: list[Received] = []
        with self.storage.queues() as service:
            for queue in READY:
                pages = service.get_queue_client(queue).receive_messages(
                    max_messages=count, messages_per_page=count, visibility_timeout=int(HOLD)
                )
                found += [Received(one.content, self._deleter(queue, one.id, one.pop_receipt)) for one in pages]
        return found

    def _deleter(self, queue: str, id_: str, receipt: str) -> Callable[[], None]:
        def delete() -> None:
            with self.storage.queues() as service:
                service.get_queue_client(queue).delete_message(id_, receipt)

        return delete

    def release(self) -> None:
        """See `Inbox`. They come by themselves when `HOLD` is over; an account has no way to hasten it."""

    def count(self) -> int:
        """See `Inbox`."""
        with self.storage.queues() as service:
            queues = [service.get_queue_client(name).get_queue_properties() for name in READY]
        return sum(int(queue.approximate_message_count or 0) for queue in queues)

    def clear(self) -> None:
        """See `Inbox`."""
        with self.storage.queues() as service:
            for queue in READY:
                service.get_queue_client(queue).clear_messages()

    def wait(self, seconds: float) -> None:
        """See `Inbox`."""
        time.sleep(max(seconds, 0.1))

    @contextmanager
    def fetch(self, url: str) -> Iterator[Path]:
        """See `Inbox`."""
        with tempfile.TemporaryDirectory() as folder, BlobClient.from_blob_url(url) as client:
            path = Path(folder) / "blob"
            try:
                with path.open("wb") as stream:
                    client.download_blob().readinto(stream)
            except ResourceNotFoundError as error:
                raise IngestionError("Download_SourceNotFound", "The source blob was not found.") from error
            except AzureError as error:
                raise IngestionError("Download_Forbidden", "The source blob could not be read.") from error
            yield path

    def report(self, queue: str, text: str) -> None:
        """See `Inbox`."""
        with self.storage.queues() as service:
            service.get_queue_client(queue).send_message(text)
