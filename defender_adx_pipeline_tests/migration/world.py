"""A bootstrapped local tenant and an engine over it, with the questions that tests ask of both sides.

Here: what the engine's tests share. Every test takes an event table of its own, so that one tenant serves them all.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from defender_adx_pipeline.adx import state_kql
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.ingestion import SliceLoader
from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.defender.retrying import RetryPolicy
from defender_adx_pipeline.instants import to_text, utc_now
from defender_adx_pipeline.local.source import distinct_columns
from defender_adx_pipeline.migration.attempt import Asked, Migration
from defender_adx_pipeline.migration.audit import AuditRow, Tally
from defender_adx_pipeline.migration.auditing import AuditCallback, no_observer
from defender_adx_pipeline.migration.connections import adx_client
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.planner import Clock, EngineOptions
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline.quoting import kql_name, kql_string
from defender_adx_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from defender_adx_pipeline.local.tenant import LocalTenant
    from defender_adx_pipeline_tests.conftest import OpenTenant

OPTIONS = EngineOptions(confirm_timeout=timedelta(seconds=20), slice_rows=100)
NO_WAITING = RetryPolicy.scaled(2000.0)


class World:
    """One tenant, one database, and engines over them."""

    def __init__(self, tenant: "LocalTenant", settings: Settings, stack: ExitStack) -> None:
        self.tenant = tenant
        self.settings = settings
        self.catalogue = load_catalogue()
        self.now = utc_now()
        self.observed: list[tuple[AuditRow, Tally]] = []
        self._stack = stack
        self.adx: AdxClient = stack.enter_context(adx_client(settings))
        self.loader: SliceLoader = stack.enter_context(SliceLoader(self.adx))
        self.hunting: HuntingClient = stack.enter_context(HuntingClient.from_settings(settings, retries=NO_WAITING))

    def bootstrap(self, tables: Sequence[str] = ()) -> None:
        """Make what a database needs for some tables, or for all of them."""
        bootstrap(
            self.adx,
            client_id=self.settings.azure_client_id,
            tenant_id=self.settings.azure_tenant_id,
            tables=tuple(self.catalogue[name] for name in tables or self.catalogue),
        )

    def migration(
        self,
        *,
        clock: Clock = utc_now,
        observe: AuditCallback = no_observer,
        audit_id: str | None = None,
        **options: Any,
    ) -> Migration:
        return Migration(
            hunting_client=self.hunting,
            adx=self.adx,
            loader=self.loader,
            catalogue=self.catalogue,
            options=replace(OPTIONS, **options),
            observe=observe,
            clock=clock,
            audit_id=audit_id,
        )

    def sync(self, table: str, window: Window | None = None, **options: Any) -> Tally | None:
        """One attempt: a window, or with None what a tick takes."""
        return self.migration(**options).sync(Asked(table, RunIdentity("test", "none"), window))

    def last(self, hours: float) -> Window:
        """The window of the last hours, up to what has settled."""
        return Window(self.now - timedelta(hours=hours), self.now)

    def rows(self, table: str, count: int, *, ago: timedelta, step: timedelta = timedelta(seconds=7)) -> list[dict]:
        """Put rows into Defender, the first one `ago` before now."""
        column, start = self.catalogue[table].time_column or "", self.now - ago
        made = [
            {column: to_text(start + number * step)[:-2] + f"{number % 10}Z", **self.key(table, number, start)}
            for number in range(count)
        ]
        self.tenant.source.insert_rows(table, made)
        return made

    def key(self, table: str, number: int, start: datetime) -> dict[str, Any]:
        """Values that make a row of the table unlike every other."""
        values: dict[str, Any] = {}
        for column in distinct_columns(self.catalogue[table]):
            if column.type == "string":
                values[column.name] = f'{column.name} {number} "of"\n{start.isoformat()} ü'
            elif column.type == "long":
                values[column.name] = 2**53 + number
            elif column.type == "bool" and number % 3:
                values[column.name] = number % 2 == 0
            elif column.type == "dynamic":
                values[column.name] = {"n": number, "list": [1, "two", {"three": True}]}
        return values

    def truth(self, table: str) -> Counter[bytes]:
        return _counted(orjson.loads(line) for line in self.tenant.source.rows(table))

    def loaded(self, table: str, destination: str | None = None) -> Counter[bytes]:
        rows = self.adx.query(f"{kql_name(destination or f'{table}Raw')} | project Record = tostring(Records)")
        return _counted(orjson.loads(row["Record"]) for row in rows)

    def difference(self, table: str, destination: str | None = None) -> tuple[int, int]:
        """How many rows are missing, and how many are there too often."""
        truth, loaded = self.truth(table), self.loaded(table, destination)
        return sum((truth - loaded).values()), sum((loaded - truth).values())

    def audits(self, table: str) -> list[dict[str, Any]]:
        query = f"MigrationAuditLog | where TableName == {kql_string(table)} | order by Timestamp asc"
        return self.adx.query(query)

    def statuses(self, table: str) -> list[str]:
        return [row["Status"] for row in self.audits(table)]

    def watermark(self, table: str) -> str:
        return self.migration().state.configuration(table).watermark

    def ledger(self, table: str, kind: str = "Slice") -> list[dict[str, Any]]:
        query = f"{state_kql.LEDGER_VIEW} | where SourceTable == {kql_string(table)} and Kind == {kql_string(kind)}"
        return self.adx.query(query)

    def configure(self, table: str, **changes: Any) -> None:
        """Append a configuration row, as a person would."""
        state = self.migration().state
        (row,) = [row for row in state.configuration_rows() if row["SourceTable"] == table]
        state._append(state_kql.CONFIGURATION, [{**row, **changes}])

    def hunting_calls(self, since: int) -> int:
        return len(self.tenant.log.entries(service="hunting")) - since


def _counted(rows: Iterable[Mapping[str, Any]]) -> Counter[bytes]:
    present = ({name: value for name, value in row.items() if value is not None} for row in rows)
    return Counter(orjson.dumps(row, option=orjson.OPT_SORT_KEYS) for row in present)


@contextmanager
def bootstrapped_world(open_tenant: "OpenTenant", tables: Sequence[str] = ()) -> Iterator[World]:
    """A tenant without rows whose database has the objects of some tables; the environment stays as it was.

    Without `tables`, those of every event table, and of one snapshot table: making the views of all of these would take
    as long as everything else.
    """
    with ExitStack() as stack:
        tenant = stack.enter_context(open_tenant(scale=0, quota_clock_scale=2000.0, batching_delay=0.05))
        with pytest.MonkeyPatch.context() as patch:
            world = World(tenant, settings_of(tenant, patch), stack)
            events = [table.name for table in world.catalogue.events()]
            world.bootstrap(tables or [*events, "DeviceTvmInfoGathering"])
        yield world


def entered(world: World, patch: pytest.MonkeyPatch) -> Iterator[World]:
    """The world with its settings in the environment, and no others; without faults afterwards."""
    for name in Settings.model_fields:
        patch.delenv(name.upper(), raising=False)
    for name, value in world.tenant.environment().items():
        patch.setenv(name, value)
    yield world
    world.tenant.faults.clear()


def settings_of(tenant: "LocalTenant", patch: Any) -> Settings:
    """The settings that lead to a tenant, from a clean environment."""
    for name, value in tenant.environment().items():
        patch.setenv(name, value)
    return load_settings()
