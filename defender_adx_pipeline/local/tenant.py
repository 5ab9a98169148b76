"""The local tenant in one process: all servers, their state in one folder, and the settings that lead clients to them.

Here: putting the parts together, start and stop. Not here: any of the parts.
"""

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import orjson

from defender_adx_pipeline.catalogue import Catalogue, load_catalogue
from defender_adx_pipeline.local.admin import admin_routes
from defender_adx_pipeline.local.adx_store import AdxStore
from defender_adx_pipeline.local.adx_updates import UpdatePolicies
from defender_adx_pipeline.local.adx_views import Views
from defender_adx_pipeline.local.commands import CommandRunner
from defender_adx_pipeline.local.data.generate import fill
from defender_adx_pipeline.local.engine import (
    KUSTO_AUDIENCE,
    Access,
    QueryEngine,
    command_route,
    engine_routes,
    metadata_route,
)
from defender_adx_pipeline.local.entra import Application, TokenIssuer, TokenRefusedError, entra_routes
from defender_adx_pipeline.local.faults import FaultScript
from defender_adx_pipeline.local.hunting import hunting_routes
from defender_adx_pipeline.local.inbox import ExternalInbox, Inbox, LocalInbox
from defender_adx_pipeline.local.ingest_endpoint import ExternalStorage, Identities, IngestEndpoint, LocalStorage
from defender_adx_pipeline.local.limits import CallQuota, HuntingLimits
from defender_adx_pipeline.local.servers import Observed, Server, application, throwaway_certificate
from defender_adx_pipeline.local.source import SourceStore
from defender_adx_pipeline.local.state import RequestLog, utcnow
from defender_adx_pipeline.local.storage import storage_routes
from defender_adx_pipeline.local.storage_store import StorageStore
from defender_adx_pipeline.local.worker import IngestionWorker

__all__ = ["CLIENT_ID", "DATABASE", "TENANT_ID", "ExternalStorage", "LocalTenant"]

TENANT_ID = "5f1a6e0c-7c1d-4c5e-9d0a-2b8f4e6a1c30"
CLIENT_ID = "0c9d2b7e-3a54-4f68-8e21-6d5b9f7a4c12"
CLIENT_SECRET = "local-tenant-secret"  # noqa: S105 - of the stand-in only
DATABASE = "defender"
_START_SECONDS = 20.0
_BLOB_LIFE = timedelta(days=2)
"""Uploaded blobs are swept after this time; ingestion is long over by then."""


class LocalTenant:
    """Stand-ins for Entra ID, Advanced Hunting and Azure Data Explorer on loopback.

    Args:
        home: folder of the state; a tenant started again over it goes on where the last one ended.
        seed: of the generated rows.
        scale: multiplies their number; 0 generates none.
        tables: event tables to generate; None is all.
        catalogue: the tables that the tenant has; None is the shipped catalogue.
        samples: file of real records as JSON lines, added to the source once.
        quota_clock_scale: a quota minute lasts 60/scale seconds.
        limits: of hunting; None is as documented.
        batching_delay: seconds from a queued message to its ingestion.
        clock: what time the tenant takes it for.
        storage: an external storage account in place of the tenant's server.
        ports: fixed ports by service; the others are free ones.
        require_auth: refuse Kusto calls without a token.
    """

    def __init__(
        self,
        home: Path,
        *,
        seed: int = 7,
        scale: float = 1.0,
        tables: Collection[str] | None = None,
        catalogue: Catalogue | None = None,
        samples: Path | None = None,
        quota_clock_scale: float = 1.0,
        limits: HuntingLimits | None = None,
        batching_delay: float = 0.2,
        clock: Callable[[], datetime] = utcnow,
        storage: ExternalStorage | None = None,
        ports: Mapping[str, int] | None = None,
        require_auth: bool = False,
    ) -> None:
        self.home = Path(home)
        self.catalogue = catalogue or load_catalogue()
        self.clock = clock
        self.log = RequestLog()
        self.faults = FaultScript()
        self.quota_clock_scale = quota_clock_scale
        self.limits = limits or HuntingLimits()
        self.batching_delay = batching_delay
        self._generate = {"seed": seed, "scale": scale, "tables": tables}
        self._samples = samples
        self._external = storage
        self._ports = dict(ports or {})
        self._require_auth = require_auth
        self._servers: dict[str, Server] = {}
        self._closing = ExitStack()
        self._lock = threading.Lock()
        self.source: SourceStore
        self.adx: AdxStore
        self.storage: StorageStore
        self.issuer: TokenIssuer
        self.worker: IngestionWorker

    def start(self) -> Self:
        """Open the state and start all servers and the worker; a started tenant stays as it is."""
        with self._lock:
            if self._servers:
                return self
            self.home.mkdir(parents=True, exist_ok=True)
            with ExitStack() as undo:
                self._open(undo)
                self._serve(undo)
                self._closing = undo.pop_all()
        return self

    def stop(self) -> None:
        """Stop the servers and the worker, and close the state; it can be started again."""
        with self._lock:
            self._closing.close()

    def _serve(self, undo: ExitStack) -> None:
        servers = self._build()
        listeners = {}
        for name, server in servers.items():
            listeners[name] = server.bind()
            undo.callback(listeners[name].close)
        self._servers = servers
        undo.callback(self._stop_servers)
        for name, server in servers.items():
            server.serve(listeners[name])
        deadline = time.monotonic() + _START_SECONDS
        for server in servers.values():
            server.wait(deadline)
        self.worker.start()
        undo.callback(self.worker.stop)
        record = {"pid": os.getpid(), "environment": self.environment()}
        # Others wait for this file to appear: it appears whole.
        draft = self._state_file.with_suffix(".draft")
        draft.touch(mode=0o600)
        draft.write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2))
        draft.replace(self._state_file)
        undo.callback(self._state_file.unlink, missing_ok=True)

    def _stop_servers(self) -> None:
        for server in self._servers.values():
            server.stop()
        for server in self._servers.values():
            server.join()
        self._servers = {}

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def url(self, service: str) -> str:
        """Base URL of a service: defender, entra, engine, ingest, storage or admin.

        Raises:
            RuntimeError: the tenant is not started.
        """
        if service not in self._servers:
            raise RuntimeError(f"the local tenant has no running {service} server: start it first")
        return self._servers[service].url

    def environment(self) -> dict[str, str]:
        """Every setting that leads the pipeline to this tenant."""
        return {
            "AZURE_TENANT_ID": TENANT_ID,
            "AZURE_CLIENT_ID": CLIENT_ID,
            "AZURE_CLIENT_SECRET": CLIENT_SECRET,
            "AZURE_AUTHORITY_HOST": self.url("entra"),
            "REQUESTS_CA_BUNDLE": str(self.home / "ca.pem"),
            "DEFENDER_AUTH": "secret",
            "DEFENDER_API": "graph",
            "DEFENDER_API_URL": self.url("defender"),
            "ADX_CLUSTER_URI": self.url("engine"),
            "ADX_INGEST_URI": self.url("ingest"),
            "ADX_DATABASE": DATABASE,
            "DEFENDER_QUOTA_STORE": str(self.home / "quota.sqlite"),
            "DEFENDER_QUOTA_CLOCK_SCALE": f"{self.quota_clock_scale:g}",
            "LOCAL_TENANT_ADMIN_URL": self.url("admin"),
        }

    @property
    def _state_file(self) -> Path:
        return self.home / "tenant.json"

    def _open(self, undo: ExitStack) -> None:
        self.source = SourceStore(self.home / "defender.duckdb", self.catalogue, self.clock)
        undo.callback(self.source.close)
        if self._generate["scale"]:
            fill(self.source, **self._generate)  # type: ignore[arg-type]
        if self._samples is not None:
            # Only a tenant with samples needs their reader.
            from defender_adx_pipeline.local.samples import load_samples  # noqa: PLC0415

            load_samples(self.source, self._samples)
        self.adx = AdxStore(self.home / "adx.duckdb", database=DATABASE, clock=self.clock)
        undo.callback(self.adx.close)
        self.storage = StorageStore(self.home / "storage", clock=self.clock)
        undo.callback(self.storage.close)
        self.storage.sweep(_BLOB_LIFE)
        self.issuer = TokenIssuer(TENANT_ID, [Application(CLIENT_ID, CLIENT_SECRET)], clock=self.clock)

    def _build(self) -> dict[str, Server]:
        ca_file, certificate = throwaway_certificate(self.home)
        if not ca_file.exists():
            raise RuntimeError(f"the CA file {ca_file} is missing")
        views = Views(self.adx)
        self.adx.after_load = UpdatePolicies(self.adx, views)
        engine = QueryEngine(self.adx, views)
        access = Access(self._principal, required=self._require_auth, principal=f"aadapp={CLIENT_ID};{TENANT_ID}")
        resources = self._external or LocalStorage(self.storage, lambda: self._servers["storage"].url)
        resources.prepare()
        identities = Identities(self.storage.key)
        inbox: Inbox = ExternalInbox(self._external) if self._external else LocalInbox(self.storage)
        self.worker = IngestionWorker(self.adx, inbox, identities, self.faults, self.batching_delay)
        management = IngestEndpoint(resources, identities, self.clock)
        quota = CallQuota(self.limits, scale=self.quota_clock_scale)
        routes: dict[str, list[Any]] = {
            "entra": [*entra_routes(self.issuer)],
            "defender": [*hunting_routes(self.source, self.issuer, quota, self.limits)],
            "engine": [*engine_routes(engine, CommandRunner(self.adx, engine).run, access, self._metadata)],
            "ingest": [metadata_route(self._metadata), command_route(management.run, access)],
            "storage": [*storage_routes(self.storage)],
            "admin": [*admin_routes(self.log, self.faults, self.source, self.adx, self.worker)],
        }
        return {name: self._server(name, routes[name], certificate) for name in routes}

    def _server(self, name: str, routes: list[Any], certificate: tuple[Path, Path]) -> Server:
        app: Any = application(routes)
        if name != "admin":
            service = {"defender": "hunting"}.get(name, name)
            app = Observed(app, service, self.log, self.faults, reads_statement=name != "storage")
        return Server(name, app, self._ports.get(name, 0), certificate if name == "entra" else None)

    def _principal(self, authorization: str) -> str | None:
        audiences = (KUSTO_AUDIENCE, self._servers["engine"].url, self._servers["ingest"].url)
        try:
            claims = self.issuer.check(authorization, audiences)
        except TokenRefusedError:
            return None
        return f"aadapp={claims.client_id};{TENANT_ID}"

    def _metadata(self) -> dict[str, Any]:
        return {
            "AzureAD": {
                "LoginEndpoint": self._servers["entra"].url,
                "LoginMfaRequired": False,
                "KustoClientAppId": "db662dc1-0cfe-4e1c-a843-19a68e65be58",
                "KustoClientRedirectUri": "http://localhost",
                "KustoServiceResourceId": KUSTO_AUDIENCE,
                "FirstPartyAuthorityUrl": f"{self._servers['entra'].url}/{TENANT_ID}",
            }
        }
