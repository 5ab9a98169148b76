"""Runs whose process is gone are told from those that live, and are ended. Real kills are in `test_kills`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import psutil
import pytest

from defender_adx_pipeline.defs.abandoned import Worker, end_abandoned_runs, end_with_run, sign_run

POOL = "adx_DeviceInfoRaw"
STEP = "adx__DeviceInfoRaw"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides={"telemetry": {"enabled": False}}) as made:
        made.event_log_storage.set_concurrency_slots(POOL, 1)
        yield made


def started_run(instance: dg.DagsterInstance, worker: Worker | None = None, parent: str | None = None) -> dg.DagsterRun:
    """A run that holds the one slot of the pool."""
    run = dg.DagsterRun(
        job_name="event_tables",
        status=dg.DagsterRunStatus.STARTED,
        tags=worker.tags() if worker else {},
        parent_run_id=parent,
        root_run_id=parent,
    )
    instance.add_run(run)
    assert instance.event_log_storage.claim_concurrency_slot(POOL, run.run_id, STEP).is_claimed
    return run


def taken(instance: dg.DagsterInstance) -> int:
    return instance.event_log_storage.get_concurrency_info(POOL).active_slot_count


@pytest.fixture
def killed() -> Worker:
    """A process that was there."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        worker = Worker.process(process.pid)
        assert not worker.is_gone()
        process.kill()
    return worker


def test_a_run_whose_process_is_gone_fails_and_frees_its_slot(instance: dg.DagsterInstance, killed: Worker) -> None:
    run = started_run(instance, killed)
    assert end_abandoned_runs(instance) == [run.run_id]
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status == dg.DagsterRunStatus.FAILURE
    assert taken(instance) == 0
    assert end_abandoned_runs(instance) == []


def test_a_process_that_nobody_has_taken_note_of_is_gone_too() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        worker = Worker.process(process.pid)
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        assert worker.is_gone()


def test_a_run_whose_process_lives_is_left_alone(instance: dg.DagsterInstance) -> None:
    started_run(instance, Worker.here())
    assert end_abandoned_runs(instance) == []
    assert taken(instance) == 1


def test_another_process_with_the_number_of_a_run_is_not_taken_for_it(instance: dg.DagsterInstance) -> None:
    run = started_run(instance, replace(Worker.here(), began=Worker.here().began - 3600.0))
    assert end_abandoned_runs(instance) == [run.run_id]


def test_of_a_run_on_another_machine_nobody_here_can_tell(instance: dg.DagsterInstance, killed: Worker) -> None:
    started_run(instance, replace(killed, host="another machine"))
    assert end_abandoned_runs(instance) == []


def test_a_run_that_nobody_works_on_yet_is_left_alone(instance: dg.DagsterInstance) -> None:
    started_run(instance)
    assert end_abandoned_runs(instance) == []
    assert taken(instance) == 1


@pytest.mark.parametrize("signed", [False, True], ids=["a launch's worker", "a step's worker"])
def test_a_run_that_is_started_once_more_is_not_held_to_the_worker_of_the_first(
    instance: dg.DagsterInstance, killed: Worker, signed: bool
) -> None:
    first = dg.DagsterRun(job_name="event_tables").run_id
    started_run(instance, replace(killed, run_id=first if signed else ""), parent=first)
    assert end_abandoned_runs(instance) == []


def test_the_first_step_writes_on_the_run_who_works_on_it(instance: dg.DagsterInstance) -> None:
    run = started_run(instance)
    sign_run(instance, run)
    signed = instance.get_run_by_id(run.run_id)
    assert signed is not None
    worker = Worker.of(signed)
    assert worker is not None
    assert (worker.pid, worker.run_id) == (os.getpid(), run.run_id)


def test_a_process_that_is_no_step_does_not_end_with_anything() -> None:
    assert end_with_run() is None
