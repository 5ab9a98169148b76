"""A tenant for the one module that imports these fixtures: the shared one has too few tables for all tests."""

from collections.abc import Iterator

import pytest

from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant) as world:
        yield world


@pytest.fixture(scope="module")
def unused_tables(shared_world: World) -> Iterator[str]:
    return iter([table.name for table in sorted(shared_world.catalogue.events(), key=lambda table: not table.identity)])
