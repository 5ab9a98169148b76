"""What assets and the IO manager get from Dagster: a Defender resource and an ADX resource.

Here: configuration-only classes over the plain clients (`defender.client`, `adx.client`), one set of connections per
step. Not here: the clients. Settings come from the environment of the process that runs the step; see `settings`.
"""

import dagster as dg
from pydantic import PrivateAttr

from defender_adx_pipeline.adx.client import ATTEMPTS, AdxClient
from defender_adx_pipeline.adx.ingestion import SliceLoader
from defender_adx_pipeline.catalogue import Catalogue, load_catalogue
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.defender.quota import quota_from_settings
from defender_adx_pipeline.defender.retrying import RetryPolicy
from defender_adx_pipeline.defs.requests import is_history
from defender_adx_pipeline.migration.attempt import Migration
from defender_adx_pipeline.migration.auditing import AuditCallback
from defender_adx_pipeline.migration.connections import adx_client
from defender_adx_pipeline.migration.planner import EngineOptions
from defender_adx_pipeline.migration.state import StateStore
from defender_adx_pipeline.settings import Settings, load_settings

_HURRIED_ATTEMPTS = 3
"""Of a statement to ADX in a tick: 36 s where each gives up connecting after 10 s, with the waits of 2 and 4 s."""

_SHORT_WAIT = 10.0
"""Seconds that a short question waits for a place in the quota."""


class DefenderResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Advanced Hunting of one tenant (`DEFENDER_API`: Graph unless said otherwise)."""

    _client: HuntingClient | None = PrivateAttr(default=None)
    _is_history: bool = PrivateAttr(default=False)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Note whether the run is about days before today's, whose calls come after all others."""
        self._is_history = context.run is not None and is_history(context.run.tags)

    @property
    def client(self) -> HuntingClient:
        """The hunting client of this step.

        Raises:
            SettingsError: a variable is missing or bad.
        """
        if self._client is None:
            # Waits for the quota stand in the log of the step, or a run that waits looks like one that hangs.
            settings, tell = load_settings(), dg.get_dagster_logger().info
            quota = quota_from_settings(settings, tell=tell, is_history=self._is_history)
            self._client = HuntingClient.from_settings(settings, quota=quota)
        return self._client

    def impatient_client(self) -> HuntingClient:
        """A client for one short question, which fails instead of waiting; whoever asks for it closes it.

        Dagster gives an evaluation of a schedule a minute, and without an answer there are other ways to go on.

        Raises:
            SettingsError: a variable is missing or bad.
        """
        settings = load_settings()
        return HuntingClient.from_settings(
            settings,
            quota=quota_from_settings(settings, max_wait=_SHORT_WAIT),
            retries=RetryPolicy(transient_tries=1, throttled_for=0.0, clock_scale=settings.defender_quota_clock_scale),
            timeouts=(5.0, 25.0),
        )

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the connections, also after a failure."""
        del context
        if self._client is not None:
            self._client.close()
            self._client = None


class AdxResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One database of an Azure Data Explorer cluster (`ADX_CLUSTER_URI`, `ADX_DATABASE`)."""

    _client: AdxClient | None = PrivateAttr(default=None)
    _loader: SliceLoader | None = PrivateAttr(default=None)
    _attempts: int = PrivateAttr(default=ATTEMPTS)

    @property
    def settings(self) -> Settings:
        """The settings of this process.

        Raises:
            SettingsError: a variable is missing or bad.
        """
        return load_settings()

    @property
    def catalogue(self) -> Catalogue:
        """The known tables, those of DEFENDER_TABLES_FILE among them."""
        return load_catalogue(self.settings.defender_tables_file)

    @property
    def client(self) -> AdxClient:
        """Queries and commands."""
        if self._client is None:
            self._client = adx_client(self.settings, attempts=self._attempts)
        return self._client

    def hurry(self) -> None:
        """From now on, give up a statement in time for the minute that Dagster gives an evaluation of a tick."""
        self._attempts = _HURRIED_ATTEMPTS

    @property
    def loader(self) -> SliceLoader:
        """Queued ingestion."""
        if self._loader is None:
            self._loader = SliceLoader(self.client)
        return self._loader

    def migration_state(self) -> StateStore:
        """Configuration, ledger and audit log of this database."""
        return StateStore(self.client, self.catalogue)

    def migration(self, hunting_client: HuntingClient, observe: AuditCallback, audit_id: str) -> Migration:
        """The engine over this database, for the attempt whose audit row has that id."""
        return Migration(
            hunting_client=hunting_client,
            adx=self.client,
            loader=self.loader,
            catalogue=self.catalogue,
            options=EngineOptions.from_settings(self.settings),
            observe=observe,
            audit_id=audit_id,
        )

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the connections, also after a failure."""
        del context
        if self._loader is not None:
            self._loader.close()
        if self._client is not None:
            self._client.close()
        self._client = self._loader = None
