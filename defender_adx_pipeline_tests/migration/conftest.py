"""The tenant that the engine's tests share, and a table for each of them."""

import time
from collections.abc import Callable, Iterator

import pytest

from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world, entered


@pytest.fixture(scope="session")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant) as world:
        yield world


@pytest.fixture
def world(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from entered(shared_world, monkeypatch)


@pytest.fixture(scope="session")
def unused_tables(shared_world: World) -> Iterator[str]:
    """Tables with a documented identity first: the others are told apart by their whole rows."""
    return iter([table.name for table in sorted(shared_world.catalogue.events(), key=lambda table: not table.identity)])


@pytest.fixture
def table(unused_tables: Iterator[str]) -> str:
    """An event table that no other test has touched."""
    return next(unused_tables)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits until a condition holds, at most ten seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            time.sleep(0.02)

    return wait
