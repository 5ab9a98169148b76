"""A small bootstrapped tenant, its settings in the environment, and Dagster over it."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import pytest

from defender_adx_pipeline.definitions import defs
from defender_adx_pipeline.defs.partitions import RANGE_END, RANGE_START
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world, entered


class Dagster:
    """Runs assets of the code location on an instance of the test."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.definitions = defs()

    def materialize(
        self,
        table: str,
        *days: str,
        tags: dict[str, str] | None = None,
        extra: Sequence[Any] = (),
        only: Sequence[str] = ("raw",),
    ) -> dg.ExecuteInProcessResult:
        """Materialize assets of a table, `raw` or `typed` or both, for one day or for a range of them in one run."""
        keys = {"raw": dg.AssetKey(["adx", f"{table}Raw"]), "typed": dg.AssetKey(["adx", table])}
        assets = [self.definitions.resolve_assets_def(keys["raw"]), *extra]
        chosen: dict[str, Any] = {"partition_key": days[0]}
        if len(days) == 2:
            chosen = {"tags": {RANGE_START: days[0], RANGE_END: days[1]}}
        chosen["tags"] = {**chosen.get("tags", {}), **(tags or {})}
        return dg.materialize(
            assets,
            instance=self.instance,
            resources={"memory": dg.mem_io_manager},
            selection=[*(keys[name] for name in only), *(asset.key for asset in extra)],
            raise_on_error=False,
            **chosen,
        )

    def observations(self, table: str) -> list[dg.AssetObservation]:
        key = dg.AssetKey(["adx", f"{table}Raw"])
        records = self.instance.fetch_observations(key, limit=100).records
        return [record.asset_observation for record in reversed(records) if record.asset_observation]


@pytest.fixture(scope="session")
def shared_defs_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant) as world:
        yield world


@pytest.fixture
def world(shared_defs_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from entered(shared_defs_world, monkeypatch)


@pytest.fixture(scope="session")
def unused_tables(shared_defs_world: World) -> Iterator[str]:
    return iter([table.name for table in shared_defs_world.catalogue.events() if table.identity])


@pytest.fixture
def table(unused_tables: Iterator[str]) -> str:
    return next(unused_tables)


@pytest.fixture
def dagster(tmp_path: Any) -> Iterator[Dagster]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield Dagster(instance)
