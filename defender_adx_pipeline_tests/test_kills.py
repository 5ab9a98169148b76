"""A killed run leaves nothing missing and nothing twice: a few points; `make kills` draws twenty."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from defender_adx_pipeline.migration.connections import Database, open_database
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.kill_points import BY_NAME, MOMENTS, Point, draw
from defender_adx_pipeline_tests.kills import TABLES, Kills, dagster_run, plain_sync, settings_in_environment

TABLE = "DeviceInfo"
SEED = 11


@pytest.fixture(scope="module")
def killing(open_tenant: OpenTenant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kills, Database]]:
    home: Path = tmp_path_factory.mktemp("kills")
    with open_tenant(home, tables=[TABLE], scale=0.4, quota_clock_scale=1000.0) as tenant:
        kills = Kills(tenant, [TABLE], plain_sync)
        with settings_in_environment(kills.environment()), open_database() as database:
            yield kills, database


def exact(kills: Kills) -> dict[str, int]:
    outcome = kills.outcome
    assert outcome.reasons == []
    return {
        "missing": outcome.missing,
        "duplicates": outcome.duplicates,
        "watermark_past_hole": outcome.watermark_past_hole,
    }


NOTHING_WRONG = {"missing": 0, "duplicates": 0, "watermark_past_hole": 0}


@pytest.mark.parametrize(
    "point",
    [
        Point(BY_NAME["queue message"], 4, "after", batching_delay=0.05, held=True),
        Point(BY_NAME["watermark"], 1, "before", batching_delay=0.05),
    ],
    ids=str,
)
def test_a_sync_that_is_killed_loses_and_doubles_nothing(killing: tuple[Kills, Database], point: Point) -> None:
    kills, database = killing
    middle = kills.outcome.middle
    kills.case(database, point)
    assert kills.outcome.middle == middle + 1
    assert exact(kills) == NOTHING_WRONG


def test_a_dagster_run_whose_process_is_killed_takes_its_steps_along_and_leaves_no_pool_slot_taken(
    killing: tuple[Kills, Database],
) -> None:
    shared, database = killing
    kills = Kills(shared.tenant, [TABLE], dagster_run)
    kills.case(database, Point(BY_NAME["upload"], 2, "during", whole_group=False, batching_delay=0.05))
    assert kills.outcome.middle == 1
    assert exact(kills) == NOTHING_WRONG


@pytest.mark.kills
@pytest.mark.timeout(1800)
def test_dagster_runs_that_are_killed_at_random_points_lose_and_double_nothing(open_tenant: OpenTenant) -> None:
    with open_tenant(tables=TABLES, scale=0.3, quota_clock_scale=1000.0) as tenant:
        kills = Kills(tenant, TABLES)
        with settings_in_environment(kills.environment()), open_database() as database:
            requests, seconds = kills.uninterrupted(database)
            for point in draw(random.Random(SEED), requests, seconds, len(MOMENTS) + 1):
                kills.case(database, point)
    assert exact(kills) == NOTHING_WRONG
    assert kills.outcome.ok
