"""The example of docs/: it runs as a code location of its own, and finds what the source rows say."""

import importlib.util
import warnings
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import orjson
import pandas as pd
import pytest

import defender_adx_pipeline
from defender_adx_pipeline.defs.downstream import adx_asset
from defender_adx_pipeline.instants import parse_instant, to_text
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world

pytestmark = pytest.mark.long

TABLE = "DeviceLogonEvents"
EXAMPLE = Path(defender_adx_pipeline.__file__).parent.parent / "docs" / "examples" / "new_local_admins.py"
DAY = timedelta(days=1)
BACK = 14

Pair = tuple[str, str]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("new_local_admins", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shared_defs_world(open_tenant: OpenTenant) -> Iterator[World]:
    """Of one table, with twenty days of logons in Defender: many accounts and devices, and the cases at the edges."""
    with bootstrapped_world(open_tenant, [TABLE]) as world:
        world.tenant.source.insert_rows(TABLE, list(logons(judged(world))))
        yield world


def judged(world: World) -> datetime:
    """The first instant of the day that is judged: yesterday."""
    return world.now.replace(hour=0, minute=0, second=0, microsecond=0) - DAY


def logons(day: datetime) -> Iterator[dict[str, Any]]:
    admin = {"ActionType": "LogonSuccess", "IsLocalAdmin": True}
    tick = timedelta(microseconds=1)
    cases: list[tuple[str, datetime, dict[str, Any]]] = [
        ("new", day + DAY / 2, admin),
        ("new", day + DAY / 3, admin),
        ("at-its-first-instant", day, admin),
        ("at-its-last-instant", day + DAY - tick, admin),
        ("the-day-after", day + DAY, admin),
        ("seen-at-the-first-instant-of-the-look-back", day - BACK * DAY, admin),
        ("seen-at-the-first-instant-of-the-look-back", day + DAY / 2, admin),
        ("seen-just-before-the-look-back", day - BACK * DAY - tick, admin),
        ("seen-just-before-the-look-back", day + DAY / 2, admin),
        ("seen-just-before-the-day", day - tick, admin),
        ("seen-just-before-the-day", day + DAY / 2, admin),
        ("failed", day + DAY / 2, {**admin, "ActionType": "LogonFailed"}),
        ("no-admin", day + DAY / 2, {**admin, "IsLocalAdmin": False}),
        ("unknown-whether-admin", day + DAY / 2, {"ActionType": "LogonSuccess"}),
        ("only-a-user-before", day - DAY, {**admin, "IsLocalAdmin": False}),
        ("only-a-user-before", day + DAY / 2, admin),
        ("without-sid", day + DAY / 2, {**admin, "AccountSid": None}),
        ("without-sid-before", day - 3 * DAY, {**admin, "AccountSid": None}),
        ("Without-Sid-Before", day + DAY / 2, {**admin, "AccountSid": None}),
        ("window-manager", day + DAY / 2, {**admin, "AccountSid": "S-1-5-90-0-1"}),
        ("font-driver", day + DAY / 2, {**admin, "AccountSid": "S-1-5-96-0-1"}),
    ]
    for number, (name, moment, values) in enumerate(cases):
        yield row(number, f'device of "{name}"'.lower(), name, moment, values)
    for number in range(600):
        moment = day - 18 * DAY + number * 47 * timedelta(minutes=1)
        values = {**admin, "IsLocalAdmin": number % 3 != 0}
        yield row(
            1000 + number, f"device-{number % 7}", f"account-{number * number % 31 + number // 40}", moment, values
        )


def row(number: int, device: str, account: str, moment: datetime, values: dict[str, Any]) -> dict[str, Any]:
    return {
        "Timestamp": to_text(moment),
        "DeviceId": f"id of {device}",
        "DeviceName": device,
        "AccountDomain": "contoso",
        "AccountName": account,
        "AccountSid": f"S-1-5-21-{account.lower()}",
        "LogonType": "RemoteInteractive",
        "ReportId": number,
        **values,
    }


def expected(world: World) -> dict[Pair, int]:
    """New pairs of device and account with their logons of the day, from the rows that Defender has."""
    day, seen = judged(world), defaultdict[Pair, list[datetime]](list)
    for line in world.tenant.source.rows(TABLE):
        one = orjson.loads(line)
        sid = one.get("AccountSid") or ""
        if one.get("ActionType") != "LogonSuccess" or one.get("IsLocalAdmin") is not True:
            continue
        if not sid.startswith(("S-1-5-90-", "S-1-5-96-")):
            account = sid or f"{one['AccountDomain']}/{one['AccountName']}".lower()
            seen[one["DeviceId"], account].append(parse_instant(one["Timestamp"]))
    found = {}
    for pair, times in seen.items():
        before = [moment for moment in times if day - BACK * DAY <= moment < day]
        logged_on = [moment for moment in times if day <= moment < day + DAY]
        if logged_on and not before:
            found[pair] = len(logged_on)
    return found


def counted(rows: list[dict[str, Any]]) -> dict[Pair, int]:
    found = {(one["DeviceId"], one["Account"]): one["Logons"] for one in rows}
    assert len(found) == len(rows)
    return found


def load(world: World, dagster: Dagster) -> None:
    first, last = judged(world) - (BACK + 2) * DAY, judged(world) + DAY
    result = dagster.materialize(TABLE, first.date().isoformat(), last.date().isoformat(), only=("raw", "typed"))
    assert result.success
    assert world.difference(TABLE)[1] == 0


def test_the_example_finds_the_accounts_that_the_source_rows_say_are_new(
    world: World, dagster: Dagster, example: ModuleType
) -> None:
    load(world, dagster)
    key = judged(world).date().isoformat()
    definitions: dg.Definitions = example.defs
    result = definitions.resolve_job_def("new_local_admins_job").execute_in_process(
        partition_key=key, instance=dagster.instance
    )
    (event,) = result.get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    truth = expected(world)
    assert metadata["dagster/partition_row_count"].value == len(truth) > 10
    assert metadata["days_before_with_logons"].value == BACK
    assert "device of" in str(metadata["accounts"].value)
    assert counted(result.output_for_node("new_local_admins")) == truth
    names = {account for _, account in truth}
    for name in ("new", "at-its-first-instant", "at-its-last-instant", "seen-just-before-the-look-back"):
        assert f"S-1-5-21-{name}" in names
    assert "contoso/without-sid" in names
    assert "contoso/without-sid-before" not in names


def test_with_data_frames_of_the_same_days_the_same_accounts_are_new(
    world: World, dagster: Dagster, example: ModuleType
) -> None:
    load(world, dagster)
    upstream = adx_asset(TABLE)
    day = judged(world)

    @dg.asset(
        ins={"rows": dg.AssetIn(key=upstream.key, partition_mapping=example.fifteen_days)},
        partitions_def=example.days,
        io_manager_key="memory",
    )
    def by_frame(rows: pd.DataFrame) -> dict[Pair, int]:
        sid = rows["AccountSid"].fillna("")
        logons = rows[
            (rows["ActionType"] == "LogonSuccess")
            & rows["IsLocalAdmin"].fillna(value=False)
            & ~sid.str.startswith(("S-1-5-90-", "S-1-5-96-"))
        ]
        named = (logons["AccountDomain"] + "/" + logons["AccountName"]).str.lower()
        account = logons["AccountSid"].where(logons["AccountSid"].fillna("") != "", named)
        times = pd.to_datetime(logons["Timestamp"], format="ISO8601", utc=True)
        grouped = times.groupby([logons["DeviceId"], account]).agg(["min", "count"])
        return {pair: int(one["count"]) for pair, one in grouped[grouped["min"] >= day].iterrows()}  # type: ignore[misc]

    definitions = dg.Definitions(
        assets=[upstream, by_frame],
        resources={"adx_io_manager": example.defs.resources["adx_io_manager"], "memory": dg.mem_io_manager},
    )
    job = definitions.resolve_implicit_job_def_def_for_assets([by_frame.key])
    assert job is not None
    result = job.execute_in_process(partition_key=day.date().isoformat(), instance=dagster.instance)
    assert result.output_for_node("by_frame") == expected(world)


def test_where_fewer_days_were_moved_the_run_warns_and_says_how_many(
    world: World, dagster: Dagster, example: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    load(world, dagster)
    early = (judged(world) - 10 * DAY).date().isoformat()
    result = example.defs.resolve_job_def("new_local_admins_job").execute_in_process(
        partition_key=early, instance=dagster.instance
    )
    (event,) = result.get_asset_materialization_events()
    before = event.step_materialization_data.materialization.metadata["days_before_with_logons"].value
    assert before == 6
    messages = [entry.user_message for entry in dagster.instance.all_logs(result.run_id)]
    assert any("only 6 of the 14 days before have logons in ADX" in message for message in messages)


def test_the_schedule_judges_a_day_when_it_is_over(example: ModuleType) -> None:
    moment = datetime(2026, 11, 24, 5, tzinfo=UTC)
    repository = example.defs.get_repository_def()
    with dg.build_schedule_context(scheduled_execution_time=moment, repository_def=repository) as context:
        (request,) = repository.get_schedule_def("new_local_admins_daily").evaluate_tick(context).run_requests
    assert request.partition_key == "2026-11-23"
