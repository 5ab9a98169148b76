"""What keeps the pipeline from working, found by trying: settings, sign-in, permissions, roles, objects, quota.

Here: the checks, in the order in which one needs the other, each with what to do. Nothing is loaded or changed: the one
write is an append of no rows. Not here: printing (`cli.doctor`), and how each table stands (`cli.status`).

Every check tries once: whoever asks what is wrong wants to know it now, and not after the patience of a run.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from defender_adx_pipeline.adx import state_kql
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.errors import AdxError, AdxPermissionError
from defender_adx_pipeline.adx.ingestion import SliceLoader
from defender_adx_pipeline.adx.schema import inspect
from defender_adx_pipeline.catalogue import Catalogue, CatalogueError, TableKind, load_catalogue
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.defender.errors import HuntingError, QueryContext
from defender_adx_pipeline.defender.quota import quota_from_settings
from defender_adx_pipeline.defender.retrying import RetryPolicy
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.agenda import read_agenda
from defender_adx_pipeline.migration.connections import adx_client
from defender_adx_pipeline.migration.errors import MigrationError
from defender_adx_pipeline.migration.state import StateStore
from defender_adx_pipeline.settings import Settings, SettingsError, load_settings

Verdict = Literal["ok", "look", "failed", "not tried"]
"""`look`: it works, and a person should know of it."""

Said = tuple[Verdict, str]

_KINDS: tuple[TableKind, ...] = ("event", "snapshot")

_CLOCKS_APART = 60.0
"""Seconds that this machine's clock may differ from the cluster's without a word."""

_EXPECTED = (SettingsError, CatalogueError, HuntingError, AdxError, MigrationError)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis."""

    what: str
    verdict: Verdict
    said: str
    """What was seen, or the error: what happened and what to do."""


def diagnose() -> Iterator[Finding]:
    """One finding after the other, each as soon as it is known.

    A check whose ground is missing is `not tried`, and says which one that is.
    """
    try:
        settings = load_settings()
        catalogue = load_catalogue(settings.defender_tables_file)
    except (SettingsError, CatalogueError) as error:
        yield Finding("settings", "failed", str(error))
        yield Finding("everything else", "not tried", "the settings have to be right first")
        return
    yield Finding("settings", "ok", f"{settings.defender_api} API, sign-in by {settings.defender_auth}")
    with ExitStack() as stack:
        yield from _defender(settings, stack)
        yield from _adx(settings, catalogue, stack)


def _defender(settings: Settings, stack: ExitStack) -> Iterator[Finding]:
    """The hunting API, by one call."""

    def hunting() -> Said:
        once = RetryPolicy(transient_tries=1, throttled_for=0.0, clock_scale=settings.defender_quota_clock_scale)
        quota = quota_from_settings(settings)
        client = stack.enter_context(HuntingClient.from_settings(settings, quota=quota, retries=once))
        client.run("print Now = now()", context=QueryContext(purpose="doctor", splittable=False))
        limits = " and ".join(f"{limit.calls} calls in {limit.seconds:.0f} s" for limit in quota.limits)
        return "ok", f"a query was answered; {limits} are used at most, counted in {quota.file}"

    yield _tried("Defender: sign-in, permission, quota", hunting)


def _adx(settings: Settings, catalogue: Catalogue, stack: ExitStack) -> Iterator[Finding]:
    """The cluster, what the identity may do there, and what the database has."""
    reached: list[_Adx] = []

    def cluster() -> Said:
        adx = _Adx(settings, catalogue, stack.enter_context(adx_client(settings, attempts=1)))
        said = adx.clock()
        reached.append(adx)
        return said

    yield _tried("ADX: sign-in, Database Viewer", cluster)
    if not reached:
        yield Finding("ADX: everything else", "not tried", "the cluster has to answer first")
        return
    (adx,) = reached
    yield _tried("ADX: objects of kql/", adx.objects)
    yield _tried("ADX: Database Ingestor", adx.append, "ingestors")
    yield _tried("ADX: queued ingestion", adx.resources, "ingestors")
    yield _tried("ADX: Database Monitor", adx.failures, "monitors")
    yield _tried("configuration", adx.tables)


@dataclass(frozen=True, slots=True)
class _Adx:
    """Checks of a cluster that answers."""

    settings: Settings
    catalogue: Catalogue
    client: AdxClient

    def clock(self) -> Said:
        apart = (utc_now() - StateStore(self.client, self.catalogue).present()).total_seconds()
        if abs(apart) <= _CLOCKS_APART:
            return "ok", f"{self.settings.adx_cluster_uri}, database {self.settings.adx_database}"
        return "look", (
            f"this machine's clock is {apart:+.0f} s from that of the cluster. Windows end by the earlier of the two,"
            " so nothing is lost; set the clock right."
        )

    def objects(self) -> Said:
        state = inspect(self.client, tuple(self.catalogue.values()))
        if state.missing:
            shown = ", ".join(state.missing[:5]) + (f" and {len(state.missing) - 5} more" if state.missing[5:] else "")
            raise MigrationError(f"not there: {shown}. Run `defender-adx bootstrap` as Database Admin.")
        if state.findings:
            return "look", " ".join(state.findings)
        return "ok", "every table, view, mapping and function is there"

    def append(self) -> Said:
        self.client.command(f".append {state_kql.AUDIT} <| {state_kql.AUDIT} | take 0", idempotent=True)
        return "ok", f"{state_kql.AUDIT} takes rows; none was appended"

    def resources(self) -> Said:
        with SliceLoader(self.client) as loader:
            loader.check_endpoint()
        return "ok", f"{self.client.ingest_uri} gives queues and containers"

    def failures(self) -> Said:
        self.client.command(".show ingestion failures | take 0", idempotent=True)
        return "ok", "why an ingestion failed can be read"

    def tables(self) -> Said:
        state = StateStore(self.client, self.catalogue)
        agendas = [read_agenda(state, self.catalogue, kind) for kind in _KINDS]
        problems = dict.fromkeys(reason for agenda in agendas for reason in agenda.problems.values())
        if problems:
            raise MigrationError(" ".join(problems))
        active = sum(len(agenda.active()) for agenda in agendas)
        return ("ok", f"{active} tables are active") if active else ("look", "no table is active; none will be loaded")


def _tried(what: str, check: Callable[[], Said], role: str | None = None) -> Finding:
    try:
        return Finding(what, *check())
    except AdxPermissionError as error:
        lacking = f" What it lacks here is {role}." if role else ""
        return Finding(what, "failed", f"{error}{lacking} `defender-adx bootstrap` grants what kql/30_roles.kql lists.")
    except _EXPECTED as error:
        return Finding(what, "failed", str(error))
