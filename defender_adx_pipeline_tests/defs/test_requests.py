"""What schedules and sensors share: priorities, what counts as under way, and the one setting that switches all on."""

import dagster as dg
import pytest
from dagster._core.execution.plan.objects import StepFailureData, StepSuccessData

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.definitions import defs
from defender_adx_pipeline.defs import requests
from defender_adx_pipeline.defs.partitions import RANGE_END, RANGE_START
from defender_adx_pipeline.defs.requests import (
    BACKFILL_TAG,
    HISTORY_TAG,
    PRIORITY_TAG,
    is_history,
    partition_run,
    tables_under_way,
)

LOGONS, FILES = (dg.AssetKey(["adx", f"{name}Raw"]) for name in ("DeviceLogonEvents", "DeviceFileEvents"))


def started(instance: dg.DagsterInstance, *keys: dg.AssetKey, **tags: str) -> str:
    job = defs().resolve_job_def("event_tables")
    run = instance.create_run_for_job(
        job, asset_selection=frozenset(keys) or None, status=dg.DagsterRunStatus.STARTED, tags=tags
    )
    return run.run_id


def ended(instance: dg.DagsterInstance, run_id: str, key: dg.AssetKey, data: StepSuccessData | StepFailureData) -> None:
    how = dg.DagsterEventType.STEP_SUCCESS if isinstance(data, StepSuccessData) else dg.DagsterEventType.STEP_FAILURE
    event = dg.DagsterEvent(
        event_type_value=how.value,
        job_name="event_tables",
        step_key=key.to_python_identifier(),
        event_specific_data=data,
    )
    instance.report_dagster_event(event, run_id)


def test_today_goes_before_history_and_what_cannot_be_had_tomorrow_before_both() -> None:
    order = [
        requests.SNAPSHOT_PRIORITY,
        requests.TICK_PRIORITY,
        requests.ACTIVATED_PRIORITY,
        requests.GAP_PRIORITY,
        requests.SWEEP_PRIORITY,
    ]
    assert order == sorted(order, reverse=True)
    # Runs of a backfill from the page have none of their own, which is 0.
    assert requests.TICK_PRIORITY > 0


def test_a_run_bears_its_priority_and_its_partitions() -> None:
    table = load_catalogue()["DeviceLogonEvents"]
    one = partition_run("2026-11-01", "2026-11-01", [table], run_key="k", priority=7)
    assert (one.partition_key, one.tags) == ("2026-11-01", {PRIORITY_TAG: "7"})
    span = partition_run("2026-11-01", "2026-11-02", [table], run_key="k", priority=7, tags={HISTORY_TAG: "gap"})
    assert span.partition_key is None
    assert span.tags == {
        PRIORITY_TAG: "7",
        HISTORY_TAG: "gap",
        RANGE_START: "2026-11-01",
        RANGE_END: "2026-11-02",
    }
    assert set(span.asset_selection or ()) == {LOGONS, dg.AssetKey(["adx", "DeviceLogonEvents"])}


def test_runs_of_backfills_sweeps_and_gaps_are_history_and_those_of_ticks_are_not() -> None:
    assert is_history({BACKFILL_TAG: "abc"})
    assert is_history({HISTORY_TAG: "gap"})
    assert not is_history({PRIORITY_TAG: "20"})


def test_a_backfill_keeps_no_tick_waiting_and_a_run_of_its_own_does() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        backfill = started(instance, LOGONS, **{BACKFILL_TAG: "abc"})
        run = started(instance, FILES)
        assert tables_under_way(instance) == {LOGONS: backfill, FILES: run}
        assert tables_under_way(instance, backfills=False) == {FILES: run}


@pytest.mark.parametrize("data", [StepSuccessData(1.0), StepFailureData(error=None, user_failure_data=None)])
def test_a_table_whose_step_has_ended_is_free_while_its_run_goes_on(data: StepSuccessData | StepFailureData) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = started(instance, LOGONS, FILES)
        ended(instance, run, LOGONS, data)
        assert tables_under_way(instance) == {FILES: run}


@pytest.mark.parametrize(("said", "expected"), [("true", "RUNNING"), ("false", "STOPPED"), ("maybe", "STOPPED")])
def test_one_setting_switches_every_schedule_and_sensor_on(
    monkeypatch: pytest.MonkeyPatch, said: str, expected: str
) -> None:
    monkeypatch.setenv("DEFENDER_AUTOMATION", said)
    assert (requests.schedule_status().value, requests.sensor_status().value) == (expected, expected)
