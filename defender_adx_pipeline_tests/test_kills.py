"""Killed runs leave nothing missing and nothing twice, and audits that add up: one chain; `make kills` draws many."""

import random
from collections.abc import Iterator

import pytest

from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.kill_points import (
    BEFORE_CONFIRMATION,
    BY_NAME,
    CHAIN,
    MOMENTS,
    TARGETS,
    Point,
    draw,
)
from defender_adx_pipeline_tests.kills import JOBS, Kills, opened, run_kills, tell

TABLE = "DeviceInfo"


@pytest.fixture(scope="module")
def kills(open_tenant: OpenTenant) -> Iterator[Kills]:
    with open_tenant(tables=[TABLE], scale=0.4, quota_clock_scale=1000.0) as tenant, opened(tenant, [TABLE]) as made:
        yield made


@pytest.mark.kills
def test_runs_that_are_killed_one_after_the_other_lose_and_double_nothing_and_are_accounted_for(kills: Kills) -> None:
    chain = [
        Point(BY_NAME["queue message"], 2, "after", target="group", held=True),
        Point(BY_NAME["upload"], 2, "during", target="run", batching_delay=0.05),
        Point(BY_NAME["look for tags"], 1, "during", target="step", batching_delay=0.05),
        Point(BY_NAME["watermark"], 1, "before", target="group", batching_delay=0.05),
    ]
    list(kills.chain(chain))
    assert kills.outcome.reasons == []
    assert kills.outcome.facts() == {
        "cases": 4,
        "middle": 4,
        "missing": 0,
        "duplicates": 0,
        "watermark_past_hole": 0,
        "unexplained": 0,
    }


def test_the_points_come_from_the_seed_in_chains_of_every_kind() -> None:
    requests = dict.fromkeys((moment.name for moment in MOMENTS), 12)
    chains = draw(random.Random(3), requests, 5.0, 300)
    assert chains == draw(random.Random(3), requests, 5.0, 300)
    points = [point for chain in chains for point in chain]
    assert len(points) == 300
    assert {len(chain) for chain in chains[:-1]} == set(range(CHAIN[0], CHAIN[1] + 1))
    assert {point.moment for point in points} == {*MOMENTS, None}
    assert {point.target for point in points} == set(TARGETS)
    assert all(1 <= point.number <= 12 for point in points)
    # A run that goes on must not wait for an answer that never comes, nor for blobs that nobody loads.
    assert not any(point.position == "before" for point in points if point.target in ("step", "worker"))
    held = [point for point in points if point.held]
    assert held
    assert all(point.moment and point.moment.name in BEFORE_CONFIRMATION for point in held)


@pytest.mark.kills
@pytest.mark.timeout(3600)
def test_dagster_runs_that_are_killed_at_random_points_lose_and_double_nothing() -> None:
    outcome = run_kills(JOBS * (len(MOMENTS) + 1), 11, say=tell)
    assert outcome.reasons == []
    assert outcome.ok
