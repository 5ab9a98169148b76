"""The engine while calls go wrong by chance: exact in the end, and never Success while a row is missing."""

from collections.abc import Mapping
from datetime import timedelta

import pytest

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.local.chaos import CHOICES
from defender_adx_pipeline.migration.errors import MigrationError, NotConfirmedError
from defender_adx_pipeline_tests.migration.world import World

pytestmark = pytest.mark.long

HOUR = timedelta(hours=1)
FAILURES = (MigrationError, HuntingError, AdxError)
PASSES = 12
# The storage client waits fifteen seconds after a fault and cannot be told otherwise from here; `make chaos` has time.
NOTHING: Mapping[str, int] = {}
WITHOUT_STORAGE = {"storage": NOTHING}
DROPPED = {service: {"dropped": 1} if service == "worker" else NOTHING for service in CHOICES}


@pytest.mark.parametrize("seed", [2])
def test_a_table_is_exact_though_every_fifth_call_goes_wrong(world: World, table: str, seed: int) -> None:
    world.rows(table, 120, ago=3 * HOUR)
    window = world.last(5)
    world.tenant.faults.chaos(seed, 0.2, WITHOUT_STORAGE)
    passes = 0
    while passes < PASSES:
        passes += 1
        try:
            world.sync(table, window, slice_rows=40)
        except FAILURES as failure:
            assert table in str(failure)  # noqa: PT017 - which attempts fail is the seed's choice
        else:
            break
    fired = sum(sum(kinds.values()) for kinds in world.tenant.faults.tally().values())
    world.tenant.faults.calm()
    assert fired
    assert world.difference(table) == (0, 0)
    assert world.statuses(table) == ["Failed"] * (passes - 1) + ["Success"]


def test_a_message_that_the_service_loses_without_a_word_is_no_success(world: World, table: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    window = world.last(5)
    world.tenant.faults.chaos(1, 1.0, DROPPED)
    with pytest.raises(NotConfirmedError, match=table):
        world.sync(table, window, confirm_timeout=timedelta(seconds=0.5))
    assert world.tenant.faults.tally() == {"worker": {"dropped": 1}}
    assert (world.statuses(table), world.difference(table)) == (["Failed"], (20, 0))
    world.tenant.faults.calm()
    world.sync(table, window)
    assert (world.statuses(table), world.difference(table)) == (["Failed", "Success"], (0, 0))


@pytest.mark.parametrize("fault", ["bad_gateway", "gateway_timeout"])
def test_a_gateway_that_gives_up_on_a_count_is_asked_again(world: World, table: str, fault: str) -> None:
    world.rows(table, 20, ago=3 * HOUR)
    world.tenant.faults.add("hunting", fault, match="summarize Rows")
    world.sync(table, world.last(5))
    assert world.tenant.faults.fired() == 1
    assert (world.statuses(table), world.difference(table)) == (["Success"], (0, 0))
