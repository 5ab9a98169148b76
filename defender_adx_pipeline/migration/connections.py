"""The clients of one process, wired as the settings say. For `defs` and `cli`, so that both sign in alike.

Not here: the clients themselves (`defender.client`, `adx.client`) and the engine (`attempt`).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from defender_adx_pipeline.adx.client import ATTEMPTS, AdxClient
from defender_adx_pipeline.adx.ingestion import SliceLoader
from defender_adx_pipeline.catalogue import Catalogue, load_catalogue
from defender_adx_pipeline.defender.auth import token_source
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.migration.attempt import Migration
from defender_adx_pipeline.migration.planner import EngineOptions
from defender_adx_pipeline.migration.state import StateStore
from defender_adx_pipeline.settings import Settings, load_settings


def adx_client(settings: Settings, *, attempts: int = ATTEMPTS) -> AdxClient:
    """A client that signs in to the cluster as the settings say.

    Args:
        settings: the settings.
        attempts: how often a statement that may be repeated is tried.

    Raises:
        SettingsError: a variable is missing.
    """
    settings.require("adx_cluster_uri")
    if settings.defender_auth == "none":
        return AdxClient.from_settings(settings, None, attempts=attempts)
    tokens, scope = token_source(settings), f"{settings.adx_cluster_uri}/.default"
    return AdxClient.from_settings(
        settings, lambda: tokens.token(scope), renew_token=lambda: tokens.renew(scope), attempts=attempts
    )


@dataclass(frozen=True, slots=True)
class Database:
    """A database, and what the settings say of it."""

    settings: Settings
    catalogue: Catalogue
    adx: AdxClient

    @property
    def state(self) -> StateStore:
        """Configuration, ledger and audit log."""
        return StateStore(self.adx, self.catalogue)


@contextmanager
def open_database() -> Iterator[Database]:
    """The database that the environment names; closed afterwards.

    Raises:
        SettingsError: a variable is missing or bad.
        CatalogueError: DEFENDER_TABLES_FILE is not valid.
    """
    settings = load_settings()
    catalogue = load_catalogue(settings.defender_tables_file)
    with adx_client(settings) as client:
        yield Database(settings, catalogue, client)


@contextmanager
def open_engine() -> Iterator[Migration]:
    """The engine between the tenant and the database that the environment names; closed afterwards.

    Raises:
        As `open_database`.
    """
    with ExitStack() as stack:
        database = stack.enter_context(open_database())
        hunting_client = stack.enter_context(HuntingClient.from_settings(database.settings))
        loader = stack.enter_context(SliceLoader(database.adx))
        yield Migration(
            hunting_client=hunting_client,
            adx=database.adx,
            loader=loader,
            catalogue=database.catalogue,
            options=EngineOptions.from_settings(database.settings),
        )
