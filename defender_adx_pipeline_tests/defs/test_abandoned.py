"""Runs whose process is gone are told from those that live, and are ended. Real kills are in `test_kills`."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from defender_adx_pipeline.defs.abandoned import LAUNCH_TAG, alive, end_abandoned_runs, end_with_run

POOL = "adx_DeviceInfoRaw"
STEP = "adx__DeviceInfoRaw"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides={"telemetry": {"enabled": False}}) as made:
        made.event_log_storage.set_concurrency_slots(POOL, 1)
        yield made


def started_run(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    """A run that holds the one slot of the pool."""
    run = dg.DagsterRun(job_name="event_tables", status=dg.DagsterRunStatus.STARTED, tags=tags)
    instance.add_run(run)
    assert instance.event_log_storage.claim_concurrency_slot(POOL, run.run_id, STEP).is_claimed
    return run.run_id


def taken(instance: dg.DagsterInstance) -> int:
    return instance.event_log_storage.get_concurrency_info(POOL).active_slot_count


def test_a_run_whose_process_is_gone_fails_and_frees_its_slot(instance: dg.DagsterInstance) -> None:
    run_id = started_run(instance, {LAUNCH_TAG: "gone"})
    assert end_abandoned_runs(instance) == [run_id]
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert taken(instance) == 0
    assert end_abandoned_runs(instance) == []


def test_a_run_whose_process_lives_is_left_alone(instance: dg.DagsterInstance) -> None:
    run_id = started_run(instance, {LAUNCH_TAG: "lives"})
    with alive(instance, "lives"):
        assert end_abandoned_runs(instance) == []
        assert taken(instance) == 1
    assert end_abandoned_runs(instance) == [run_id]


def test_a_run_that_the_launcher_did_not_start_is_left_alone(instance: dg.DagsterInstance) -> None:
    started_run(instance, {})
    assert end_abandoned_runs(instance) == []
    assert taken(instance) == 1


def test_a_process_that_is_no_step_does_not_end_with_anything() -> None:
    assert end_with_run() is None
