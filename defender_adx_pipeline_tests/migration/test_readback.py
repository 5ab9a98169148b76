"""Typed rows that are more than one answer of ADX: read in halves, each row once."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

from defender_adx_pipeline.adx.errors import PartialResultError
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.local import engine
from defender_adx_pipeline.migration.readback import typed_rows
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world, entered

pytestmark = pytest.mark.long

TABLES = ("AlertInfo", "AlertEvidence")
"""One whose rows are told by a key, and one whose rows are told by all of their columns."""


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, TABLES) as world:
        yield world


@pytest.fixture
def world(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from entered(shared_world, monkeypatch)


@pytest.mark.parametrize(
    ("name", "step"), [(TABLES[0], timedelta(seconds=7)), (TABLES[0], timedelta(0)), (TABLES[1], timedelta(0))]
)
def test_a_window_of_more_than_an_answer_is_read_in_halves_by_time_or_by_key(
    world: World, name: str, step: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    table: DefenderTable = world.catalogue[name]
    ago = timedelta(hours=30 if step else 20)
    world.rows(name, 40, ago=ago, step=step)
    assert world.sync(name, world.last(31)) is not None
    window = Window(world.now - ago, world.now - ago + 40 * step + timedelta(microseconds=2))
    whole = list(typed_rows(world.adx, table, window))
    assert len(whole) == 40
    monkeypatch.setattr(engine, "MAX_ROWS", 10)
    parts = list(typed_rows(world.adx, table, window))
    assert Counter(map(repr, parts)) == Counter(map(repr, whole))


def test_a_microsecond_of_more_than_thousands_of_answers_is_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.rows(TABLES[0], 1, ago=timedelta(hours=50))
    assert world.sync(TABLES[0], world.last(51)) is not None
    monkeypatch.setattr(engine, "MAX_ROWS", 0)
    instant = Window(world.now - timedelta(hours=50), world.now - timedelta(hours=50) + timedelta(microseconds=1))
    with pytest.raises(PartialResultError, match="the answer is not whole"):
        list(typed_rows(world.adx, world.catalogue[TABLES[0]], instant))
