"""The data-management ("ingest-") endpoint: where to upload, where to queue, and who the uploader is.

Here: `.get ingestion resources` and `.get kusto identity token`, and the refusal of everything else, as a client that
asks the wrong endpoint sees it. Not here: what becomes of a queued message (`worker`).
"""

import base64
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas
from azure.storage.queue import QueueSasPermissions, QueueServiceClient, generate_queue_sas

from defender_adx_pipeline.local.commands_text import Reader
from defender_adx_pipeline.local.frames import Table, syntax_error
from defender_adx_pipeline.local.storage_store import ACCOUNT, StorageStore

CONTAINERS = ("tempstorage0", "tempstorage1")
READY = ("ready-0", "ready-1")
FAILED, SUCCESSFUL = "failed-0", "successful-0"
QUEUES = (*READY, FAILED, SUCCESSFUL)
LIFE = timedelta(hours=12)

_KINDS = {FAILED: "FailedIngestionsQueue", SUCCESSFUL: "SuccessfulIngestionsQueue"}
_VERSION = (
    ("BuildVersion", "string"),
    ("BuildTime", "datetime"),
    ("ServiceType", "string"),
    ("ProductVersion", "string"),
)


class Resources(Protocol):
    """Where clients upload and queue."""

    def rows(self, now: datetime) -> list[tuple[str, str]]:
        """(ResourceTypeName, StorageRoot with its SAS)."""
        ...


@dataclass(frozen=True, slots=True)
class LocalStorage:
    """The tenant's own storage server."""

    store: StorageStore
    url: Callable[[], str]
    """`http://127.0.0.1:<port>`."""

    def prepare(self) -> None:
        """Make the containers and queues."""
        for name in CONTAINERS:
            self.store.create_container(name)
        for name in QUEUES:
            self.store.create_queue(name)

    def rows(self, now: datetime) -> list[tuple[str, str]]:
        """See `Resources`."""
        root, until = f"{self.url()}/{ACCOUNT}", now + LIFE
        found = [("TempStorage", f"{root}/{name}?{self.store.sas(name, 'racwdl', until)}") for name in CONTAINERS]
        found += [(_kind(name), f"{root}/{name}?{self.store.sas(name, 'raup', until)}") for name in QUEUES]
        # Python clients never use the table, but ask for all resources again and again while it is missing.
        return [*found, ("IngestionsStatusTable", f"{root}/ingestionsstatus?{self.store.sas('status', 'r', until)}")]


@dataclass(frozen=True, slots=True)
class ExternalStorage:
    """Another storage account in place of the tenant's server, such as the Azurite emulator."""

    account_url_blob: str
    """`http://127.0.0.1:10000/devstoreaccount1`."""
    account_url_queue: str
    key: str = field(repr=False)
    account: str = ACCOUNT

    def prepare(self) -> None:
        """Make the containers and queues that are missing."""
        with self.blobs() as blobs:
            have = {container.name for container in blobs.list_containers()}
            for name in CONTAINERS:
                if name not in have:
                    blobs.create_container(name)
        with self.queues() as queues:
            queued = {queue.name for queue in queues.list_queues()}
            for name in QUEUES:
                if name not in queued:
                    queues.create_queue(name)

    def blobs(self) -> BlobServiceClient:
        """A client with the account's key."""
        return BlobServiceClient(
            self.account_url_blob, credential={"account_name": self.account, "account_key": self.key}
        )

    def queues(self) -> QueueServiceClient:
        """A client with the account's key."""
        credential = {"account_name": self.account, "account_key": self.key}
        return QueueServiceClient(self.account_url_queue, credential=credential)

    def rows(self, now: datetime) -> list[tuple[str, str]]:
        """See `Resources`."""
        until = now + LIFE
        found = []
        for name in CONTAINERS:
            allowed = ContainerSasPermissions(read=True, write=True, create=True, add=True, delete=True, list=True)
            sas = generate_container_sas(self.account, name, account_key=self.key, permission=allowed, expiry=until)
            found.append(("TempStorage", f"{self.account_url_blob}/{name}?{sas}"))
        for name in QUEUES:
            may = QueueSasPermissions(read=True, add=True, update=True, process=True)
            sas = generate_queue_sas(self.account, name, account_key=self.key, permission=may, expiry=until)
            found.append((_kind(name), f"{self.account_url_queue}/{name}?{sas}"))
        return [*found, ("IngestionsStatusTable", f"{self.account_url_queue}/ingestionsstatus?sv=none")]


@dataclass(frozen=True, slots=True)
class Identities:
    """The identity tokens that go into every queued message as its `authorizationContext`."""

    key: bytes = field(repr=False)

    def issue(self, principal: str) -> str:
        """A token that names a principal."""
        body = base64.urlsafe_b64encode(principal.encode()).decode()
        return f"{body}.{self._sign(body)}"

    def principal(self, token: str) -> str | None:
        """Whose token it is, or None when it is not one of ours."""
        body, _, signature = token.partition(".")
        if not signature or not hmac.compare_digest(self._sign(body), signature):
            return None
        return base64.urlsafe_b64decode(body).decode()

    def _sign(self, body: str) -> str:
        return hmac.digest(self.key, b"identity" + body.encode(), "sha256").hex()


@dataclass(frozen=True, slots=True)
class IngestEndpoint:
    """Runs the commands of the data-management endpoint."""

    resources: Resources
    identities: Identities
    clock: Callable[[], datetime]

    def run(self, text: str, principal: str) -> Table:
        """Run one command.

        Raises:
            KustoFault: any command but the few that this endpoint has.
        """
        reader = Reader(text)
        if reader.take(".", "get", "ingestion", "resources"):
            columns = (("ResourceTypeName", "string"), ("StorageRoot", "string"))
            return Table(columns, self.resources.rows(self.clock()))
        if reader.take(".", "get", "kusto", "identity", "token"):
            return Table((("AuthorizationContext", "string"),), [(self.identities.issue(principal),)])
        if reader.take(".", "show", "version"):
            row = ("1.0.9999.0", "2026-08-01T00:00:00.0000000Z", "DataManagement", "local tenant")
            return Table(_VERSION, [row])
        raise syntax_error("The command is not known to the data-management endpoint", text)


def _kind(queue: str) -> str:
    return _KINDS.get(queue, "SecuredReadyForAggregationQueue")
