"""Wrong settings, an unreachable cluster, a missing role or permission, an expired secret: one readable error each.

Wherever it shows: as the failure of a run, as the error of a tick, and as a line of `defender-adx doctor`.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import orjson
import pytest
from dagster._core.definitions.sensor_definition import SensorDefinition
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster_shared.error import SerializableErrorInfo
from typer.testing import CliRunner

import defender_adx_pipeline
from defender_adx_pipeline.adx import connecting
from defender_adx_pipeline.cli import app
from defender_adx_pipeline.definitions import defs
from defender_adx_pipeline.defs.downstream import AdxIOManager, AdxResource, KqlHandle, adx_asset
from defender_adx_pipeline.defs.readable import EvaluationError
from defender_adx_pipeline.defs.wrong_settings import wrong_settings
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world

pytestmark = pytest.mark.long

TABLE = "DeviceLogonEvents"
SECRET = "hunter2-hunter2-hunter2"
EVALUATED = ("event_tables_tick", "event_tables_sweep", "snapshot_tables_daily")
SENSORS = ("table_activated", "runs_without_a_word", "gap_finder", "health")


@dataclass(frozen=True)
class Trouble:
    """What is wrong, how it is made, and what every message about it has to say."""

    name: str
    make: Callable[[World, pytest.MonkeyPatch, int], None]
    says: tuple[str, ...]
    """What happened, and what to do."""
    doctor: str
    """The line of `doctor` that has failed."""
    asks_adx: bool = True
    """Whether ADX has to do with it: then no tick can be evaluated."""
    observed: bool = True
    """Whether an attempt begins: without settings there is no engine that could tell of it."""


def bad_setting(world: World, patch: pytest.MonkeyPatch, port: int) -> None:
    patch.setenv("DEFENDER_OVERLAP", "four hours")


def no_cluster_set(world: World, patch: pytest.MonkeyPatch, port: int) -> None:
    patch.delenv("ADX_CLUSTER_URI")
    # Allowed with an address on loopback only.
    patch.delenv("DEFENDER_QUOTA_CLOCK_SCALE")


def unreachable(world: World, patch: pytest.MonkeyPatch, port: int) -> None:
    patch.setenv("ADX_CLUSTER_URI", f"http://127.0.0.1:{port}")


def no_viewer(world: World, patch: pytest.MonkeyPatch, port: int) -> None:
    world.tenant.faults.add("engine", "forbidden", times=None)


def no_permission(world: World, patch: pytest.MonkeyPatch, port: int) -> None:
    world.tenant.faults.add("hunting", "forbidden", times=None)


def expired(world: World, patch: pytest.MonkeyPatch, port: int) -> None:
    patch.setenv("AZURE_CLIENT_SECRET", SECRET)
    world.tenant.faults.add("entra", "expired_secret", times=None)


TROUBLES = [
    Trouble("a wrong setting", bad_setting, ("DEFENDER_OVERLAP",), "settings", observed=False),
    Trouble("a setting that is not there", no_cluster_set, ("ADX_CLUSTER_URI", "Set "), "ADX: sign-in", observed=False),
    Trouble("no cluster", unreachable, ("127.0.0.1", "Check ADX_CLUSTER_URI"), "ADX: sign-in"),
    Trouble("no role", no_viewer, ("Database Viewer", "`.add database "), "ADX: sign-in"),
    Trouble("no permission", no_permission, ("ThreatHunting.Read.All", "consent"), "Defender", asks_adx=False),
    Trouble("an expired secret", expired, ("expired", "AZURE_CLIENT_SECRET"), "ADX: sign-in"),
]
every_trouble = pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
every_trouble_with_adx = pytest.mark.parametrize(
    "trouble", [trouble for trouble in TROUBLES if trouble.asks_adx], ids=lambda trouble: trouble.name
)


@pytest.fixture(scope="module")
def shared_defs_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, [TABLE]) as world:
        yield world


def readable(said: str, trouble: Trouble) -> None:
    for part in trouble.says:
        assert part in said
    for noise in ("Traceback", "pydantic", "ValidationError", "azure.kusto", SECRET, "errors.pydantic.dev", ".. "):
        assert noise not in said


def headline(error: SerializableErrorInfo) -> str:
    """What the Dagster UI shows first: the message of the outermost error, here with its class."""
    return error.message.strip()


# --- (a) a run ---------------------------------------------------------------------------------


@every_trouble
def test_a_run_fails_with_one_readable_error_and_an_observation_where_adx_can_be_asked(
    world: World, dagster: Dagster, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int, trouble: Trouble
) -> None:
    trouble.make(world, monkeypatch, free_tcp_port)
    result = dagster.materialize(TABLE, world.now.date().isoformat())
    assert not result.success
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.error is not None
    error = failure.error
    assert error.cls_name == "Failure"
    readable(headline(error), trouble)
    assert TABLE in headline(error)
    # Nothing below it that somebody would have to read: its stack is Dagster's and ours.
    assert error.cause is None
    report = failure.user_failure_data
    assert report is not None
    assert "What to do" in str(report.metadata["report"].value)
    observations = dagster.observations(TABLE)
    assert [seen.metadata["Status"].value for seen in observations] == (["Failed"] if trouble.observed else [])
    for seen in observations:
        readable(str(seen.metadata["FailureReason"].value), trouble)
    if not trouble.asks_adx:
        readable(world.audits(TABLE)[-1]["FailureReason"], trouble)


@every_trouble_with_adx
def test_rows_that_a_downstream_asset_cannot_be_given_are_one_readable_error(
    world: World, dagster: Dagster, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int, trouble: Trouble
) -> None:
    trouble.make(world, monkeypatch, free_tcp_port)
    upstream = adx_asset(TABLE)

    @dg.asset(ins={"rows": dg.AssetIn(key=upstream.key)}, partitions_def=upstream.partitions_def)
    def mine(rows: KqlHandle) -> None: ...

    definitions = dg.Definitions(assets=[upstream, mine], resources={"adx_io_manager": AdxIOManager(adx=AdxResource())})
    job = definitions.resolve_implicit_job_def_def_for_assets([mine.key])
    assert job is not None
    key = world.now.date().isoformat()
    result = job.execute_in_process(partition_key=key, instance=dagster.instance, raise_on_error=False)
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.error is not None
    readable(headline(failure.error), trouble)
    assert f"adx/{TABLE}" in headline(failure.error)
    assert failure.error.cause is None


# --- (b) a tick --------------------------------------------------------------------------------


def tick_error(name: str, world: World, dagster: Dagster) -> SerializableErrorInfo | None:
    """What the daemon would store of a tick that fails, as its code server tells it."""
    repository = dagster.definitions.get_repository_def()
    chosen = {"instance": dagster.instance, "repository_def": repository}
    with ExitStack() as stack:
        try:
            if repository.has_schedule_def(name):
                context = dg.build_schedule_context(
                    **chosen, resources=dagster.definitions.resources, scheduled_execution_time=world.now
                )
                repository.get_schedule_def(name).evaluate_tick(stack.enter_context(context))
            else:
                sensor: SensorDefinition = repository.get_sensor_def(name)
                resources = {"adx": AdxResource(), "defender": dagster.definitions.resources["defender"]}
                needed = {key: resources[key] for key in sensor.required_resource_keys}
                seen = dg.build_sensor_context(**chosen, resources=needed)
                sensor.evaluate_tick(stack.enter_context(seen))
        except Exception:  # noqa: BLE001 - as the code server does
            return serializable_error_info_from_exc_info(sys.exc_info())
    return None


@every_trouble_with_adx
def test_the_error_of_a_tick_is_one_readable_sentence_with_the_mend(
    world: World, dagster: Dagster, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int, trouble: Trouble
) -> None:
    trouble.make(world, monkeypatch, free_tcp_port)
    # Where no run has ended, `runs_without_a_word` has nothing to ask ADX for.
    every = (
        (*EVALUATED, *SENSORS) if trouble.make is bad_setting else (*EVALUATED, *set(SENSORS) - {"runs_without_a_word"})
    )
    for name in every:
        error = tick_error(name, world, dagster)
        assert error is not None, name
        assert error.cls_name == EvaluationError.__name__, headline(error)
        assert error.cause is None
        readable(headline(error), trouble)
        assert f"{name}: " in headline(error)
        assert "`defender-adx doctor`" in headline(error)


def test_without_the_hunting_permission_a_tick_is_evaluated_and_its_runs_say_so(world: World, dagster: Dagster) -> None:
    world.tenant.faults.add("hunting", "forbidden", times=None)
    assert tick_error("event_tables_tick", world, dagster) is None


def test_every_schedule_and_sensor_with_code_of_its_own_is_looked_at() -> None:
    repository = defs().get_repository_def()
    known = {*EVALUATED, *SENSORS, "wrong_settings"}
    # These evaluate no code of ours: a job, every day.
    plain = {"typed_values_daily", "no_duplicates_daily"}
    names = {each.name for each in (*repository.schedule_defs, *repository.sensor_defs)}
    assert names - plain == known


def test_an_error_that_is_a_bug_keeps_its_stack(
    world: World, dagster: Dagster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object) -> None:
        raise ZeroDivisionError("of nobody's making")

    monkeypatch.setattr(AdxResource, "migration_state", broken)
    for name in ("event_tables_tick", "runs_without_a_word"):
        error = tick_error(name, world, dagster)
        assert error is not None
        # Of a sensor, Dagster puts its own error around it a level further out.
        bug = error.cause or error
        assert bug.cls_name == "ZeroDivisionError"
        assert any("broken" in frame for frame in bug.stack)


def test_a_cluster_that_answers_nothing_at_all_is_told_within_the_minute_of_a_tick(
    world: World, dagster: Dagster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dagster ends an evaluation after 60 s and then says no more than that it took too long.
    monkeypatch.setattr(connecting, "CONNECT_SECONDS", 0.2)
    with closing(socket.socket()) as listening, ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        # Its queue is full from here on: the kernel drops what would connect, as a firewall does.
        for _ in range(3):
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(address)
        monkeypatch.setenv("ADX_CLUSTER_URI", f"http://127.0.0.1:{address[1]}")
        error = tick_error("event_tables_tick", world, dagster)
    assert error is not None
    assert "timed out" in headline(error)
    assert "Check ADX_CLUSTER_URI" in headline(error)


# --- before anything runs ----------------------------------------------------------------------


def test_wrong_settings_are_seen_as_a_failing_tick_of_their_own_sensor(
    world: World, dagster: Dagster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.build_sensor_context(instance=dagster.instance) as context:
        assert "the settings are right" in str(wrong_settings.evaluate_tick(context).skip_message)
    monkeypatch.setenv("DEFENDER_OVERLAP", "four hours")
    error = tick_error("wrong_settings", world, dagster)
    assert error is not None
    assert "DEFENDER_OVERLAP" in headline(error)


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        ({}, "STOPPED", ""),
        ({"DEFENDER_OVERLAP": "four hours"}, "RUNNING", "DEFENDER_OVERLAP"),
        ({"AZURE_CLIENT_SECRET": ""}, "RUNNING", "AZURE_CLIENT_SECRET"),
        ({"DEFENDER_TABLES_FILE": "/there/is/none.json"}, "RUNNING", "none.json"),
    ],
    ids=["right", "a bad value", "none given", "a file that is not there"],
)
def test_the_sensor_runs_by_itself_where_settings_were_wrong_at_the_start_and_everything_else_loads(
    world: World, tmp_path: Path, settings: dict[str, str], status: str, said: str
) -> None:
    program = (
        "import sys, json; from defender_adx_pipeline.definitions import defs;"
        "repository = defs().get_repository_def(); sensor = repository.get_sensor_def('wrong_settings');"
        "print(json.dumps([sensor.default_status.value, sensor.description, len(repository.assets_defs_by_key)]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **world.tenant.environment(), **settings, "DAGSTER_HOME": str(tmp_path)},
        cwd=Path(defender_adx_pipeline.__file__).parent.parent,
        capture_output=True,
        check=True,
    )
    default, description, assets = orjson.loads(result.stdout.splitlines()[-1])
    assert default == status
    assert said in description
    assert assets >= 195
    assert said in result.stderr.decode()


# --- (c) doctor --------------------------------------------------------------------------------


@every_trouble
def test_doctor_says_it_in_one_line_with_the_mend(
    world: World, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int, trouble: Trouble
) -> None:
    trouble.make(world, monkeypatch, free_tcp_port)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    findings = orjson.loads(result.stdout.splitlines()[-1])["findings"]
    failed = {finding["what"]: finding["said"] for finding in findings if finding["verdict"] == "failed"}
    (said,) = [text for what, text in failed.items() if what.startswith(trouble.doctor)]
    assert "\n" not in said.strip()
    readable(said, trouble)
