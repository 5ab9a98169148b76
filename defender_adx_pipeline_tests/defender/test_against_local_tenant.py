"""The real client, sign-in and quota against the local tenant, which shares no code with them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.defender.errors import (
    AuthenticationError,
    HuntingError,
    PermissionDeniedError,
    QueryContext,
    RequestTooLargeError,
    TooLargeError,
    UnresolvedNameError,
)
from defender_adx_pipeline.local.entra import Application
from defender_adx_pipeline.local.limits import HuntingLimits
from defender_adx_pipeline.local.presets import PRESETS
from defender_adx_pipeline.local.tenant import CLIENT_ID, CLIENT_SECRET, LocalTenant
from defender_adx_pipeline.settings import ApiName, load_settings
from defender_adx_pipeline_tests.conftest import OpenTenant, Statements

TABLES = ("DeviceInfo", "EmailEvents", "CloudAppEvents", "AlertEvidence", "DeviceProcessEvents")
NOW = datetime.now(UTC)
SCALE = 120.0  # a quota minute lasts half a second

OpenClient = Callable[..., HuntingClient]


@pytest.fixture(scope="module")
def tenant(open_tenant: OpenTenant) -> Iterator[LocalTenant]:
    # A clock that stands still: no late row may become visible between a read and the look at what was stored.
    with open_tenant(tables=TABLES, scale=0.05, quota_clock_scale=SCALE, clock=lambda: NOW) as tenant:
        yield tenant


@pytest.fixture
def open_client(tenant: LocalTenant, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenClient]:
    clients: list[HuntingClient] = []

    def opened(of: LocalTenant = tenant, **overrides: Any) -> HuntingClient:
        for name, value in of.environment().items():
            if name != "LOCAL_TENANT_ADMIN_URL":
                monkeypatch.setenv(name, value)
        client = HuntingClient.from_settings(load_settings(**overrides))
        clients.append(client)
        return client

    yield opened
    for client in clients:
        client.close()
    tenant.faults.clear()


def last_days(days: float = 29) -> tuple[datetime, datetime]:
    end = NOW - timedelta(minutes=10)
    return end - timedelta(days=days), end


def read(client: HuntingClient, tenant: LocalTenant, table: str, start: datetime, end: datetime) -> list[Any]:
    dynamic = [column.name for column in client.schema(table) if column.type == "dynamic"]
    time_column = str(tenant.catalogue[table].time_column)
    query = hunting.window_rows(table, time_column, start, end, dynamic)
    context = QueryContext(table=table, purpose="read rows")
    return list(client.run(query, tostring_columns=dynamic, context=context).take_records())


def canonical(records: list[Any]) -> list[bytes]:
    return sorted(orjson.dumps(record, option=orjson.OPT_SORT_KEYS) for record in records)


@pytest.mark.parametrize("api", ["graph", "xdr", "mde"])
@pytest.mark.parametrize("table", TABLES)
def test_every_record_arrives_as_it_is_stored(
    tenant: LocalTenant, open_client: OpenClient, table: str, api: ApiName
) -> None:
    start, end = last_days()
    records = read(open_client(defender_api=api), tenant, table, start, end)
    stored = [orjson.loads(line) for line in tenant.source.rows(table, start, end)]
    assert len(stored) > 5
    assert canonical(records) == canonical(stored)


def test_counts_per_bin_add_up_to_the_count_and_to_the_rows(tenant: LocalTenant, open_client: OpenClient) -> None:
    client, (start, end) = open_client(), last_days(7)
    [total] = client.run(hunting.row_count("DeviceInfo", "Timestamp", start, end)).rows
    assert total["Count"] == len(read(client, tenant, "DeviceInfo", start, end)) > 0
    for grain in (timedelta(days=1), timedelta(hours=1), timedelta(seconds=1), timedelta(microseconds=1)):
        bins = client.run(hunting.time_counts("DeviceInfo", "Timestamp", start, end, grain)).rows
        assert sum(row["Rows"] for row in bins) == total["Count"]


def test_the_schema_is_the_tenants_with_kql_types(tenant: LocalTenant, open_client: OpenClient) -> None:
    schema = {column.name: column.type for column in open_client().schema("DeviceInfo")}
    documented = {column.name: column.type for column in tenant.catalogue["DeviceInfo"].columns}
    assert documented.items() <= schema.items()


FAULTS: list[dict[str, Any]] = [
    {"kind": "status", "status": 500},
    {"kind": "html", "status": 503},
    {"kind": "reset"},
    {"kind": "truncate"},
    {"kind": "lost_reply"},
    {"kind": "status", "status": 429, "body": '{"error":{"code":"429","message":"exceeded! 45 per 00:01:00"}}'},
    {"kind": "status", "status": 429, "headers": {"Retry-After": "30"}},
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_service_costs_calls_but_no_rows(
    tenant: LocalTenant, open_client: OpenClient, fault: dict[str, Any]
) -> None:
    client, (start, end) = open_client(), last_days()
    client.schema("EmailEvents")
    tenant.faults.add_json({"service": "hunting", "times": 2, **fault})
    records = read(client, tenant, "EmailEvents", start, end)
    assert canonical(records) == canonical(
        [orjson.loads(line) for line in tenant.source.rows("EmailEvents", start, end)]
    )
    assert client.usage.retries == 2


NAMED: dict[str, type[HuntingError] | None] = {
    # None: the next call answers.
    "page": None,
    "reset": None,
    "lost_reply": None,
    "truncated_body": None,
    "truncated_json": None,
    "slow": None,
    "throttled_minute": None,
    "throttled_hour": None,
    "throttled_cpu": None,
    "server_error": None,
    "unavailable": None,
    "expired_token": None,
    "html_200": None,
    "empty_200": None,
    "too_large": TooLargeError,
    "preempted": TooLargeError,
    "bad_gateway": TooLargeError,
    "gateway_timeout": TooLargeError,
    "request_too_large": RequestTooLargeError,
    "unresolved": UnresolvedNameError,
    "forbidden": PermissionDeniedError,
}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_each_named_fault_ends_in_an_answer_or_in_its_error(
    tenant: LocalTenant, open_client: OpenClient, name: str
) -> None:
    assert set(NAMED) == set(PRESETS["hunting"])
    client, expected = open_client(), NAMED[name]
    client._retries = replace(client._retries, first_wait=0.01)
    tenant.faults.add("hunting", name, **({"seconds": 0.01} if name == "slow" else {"retry_after": 1}))
    if expected is not None:
        with pytest.raises(expected, match="query of DeviceInfo"):
            client.run("DeviceInfo | count", context=QueryContext(table="DeviceInfo"))
        assert client.usage.calls == 1
        return
    assert client.run("DeviceInfo | count").rows[0]["Count"] > 0
    assert client.usage.retries == (name != "slow")
    assert client.usage.throttled == name.startswith("throttled")


@pytest.mark.parametrize("fault", [{"kind": "status", "status": 503}, {"kind": "reset"}])
def test_a_fault_of_the_sign_in_costs_tries_but_no_rows(
    tenant: LocalTenant, open_client: OpenClient, fault: dict[str, Any]
) -> None:
    tenant.faults.add_json({"service": "entra", "method": "POST", "times": 2, **fault})
    assert open_client().run("DeviceInfo | count").rows[0]["Count"] > 0


def test_a_token_that_was_revoked_is_renewed(tenant: LocalTenant, open_client: OpenClient) -> None:
    client = open_client()
    client.run("DeviceInfo | count")
    since = tenant.log.last_number()
    tenant.issuer.revoke(client._tokens.token("https://graph.microsoft.com/.default"))
    client.run("DeviceInfo | count")
    assert [entry.status for entry in tenant.log.entries(service="hunting", since=since)] == [401, 200]
    assert [entry.method for entry in tenant.log.entries(service="entra", since=since)].count("POST") == 1


def test_a_table_that_the_tenant_lacks_is_told(open_client: OpenClient, statements: Statements) -> None:
    statements.add_table("defender", "NoSuchTable", {"Timestamp": "datetime"})
    with pytest.raises(UnresolvedNameError, match="licence") as caught:
        open_client().schema("NoSuchTable")
    assert caught.value.name == "NoSuchTable"
    assert caught.value.table == "NoSuchTable"


def test_a_wrong_secret_is_told(tenant: LocalTenant, open_client: OpenClient) -> None:
    since = tenant.log.last_number()
    with pytest.raises(AuthenticationError, match="AADSTS7000215"):
        open_client(azure_client_secret="not-the-secret").run("DeviceInfo | count")
    assert tenant.log.entries(service="hunting", since=since) == []


@pytest.mark.parametrize(
    ("variable", "says"), [("azure_tenant_id", "AZURE_TENANT_ID"), ("azure_client_id", "AZURE_CLIENT_ID")]
)
def test_a_wrong_tenant_or_client_id_is_told(open_client: OpenClient, variable: str, says: str) -> None:
    with pytest.raises(AuthenticationError, match=says):
        open_client(**{variable: "11111111-2222-3333-4444-555555555555"}).run("DeviceInfo | count")


def test_an_app_without_the_permission_is_told(
    tenant: LocalTenant, open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tenant.issuer._applications, CLIENT_ID, Application(CLIENT_ID, CLIENT_SECRET, roles=()))
    with pytest.raises(PermissionDeniedError, match=r"ThreatHunting\.Read\.All"):
        open_client().run("DeviceInfo | count")


def test_limits_of_the_service_ask_for_a_split(open_tenant: OpenTenant, open_client: OpenClient) -> None:
    with open_tenant(tables=["DeviceInfo"], scale=0.02, limits=HuntingLimits(bytes=20_000)) as small:
        client, (start, end) = open_client(small), last_days()
        with pytest.raises(TooLargeError, match="allowed result size"):
            client.run(hunting.window_rows("DeviceInfo", "Timestamp", start, end))
        assert client.usage.calls == 1


CALLER = """
import sys
from defender_adx_pipeline.defender.client import HuntingClient, QueryContext
from defender_adx_pipeline.settings import load_settings
with HuntingClient.from_settings(load_settings()) as client:
    for number in range(int(sys.argv[1])):
        table = sys.argv[2 + number % len(sys.argv[2:])]
        client.run(f"{table} | count", context=QueryContext(table=table))
    print(client.usage.calls, client.usage.retries, client.usage.throttled)
"""


@pytest.mark.parametrize("bound", ["minute", "hour"])
def test_four_processes_with_tables_in_common_never_meet_a_429(open_tenant: OpenTenant, bound: str) -> None:
    # The processes together make about twice the calls that the limit in question allows in one window.
    minute, hour, scale = (45, 1500, 60.0) if bound == "minute" else (20, 45, 1800.0)
    limits = HuntingLimits(calls_per_minute=minute, calls_per_hour=hour)
    with open_tenant(tables=TABLES, scale=0, quota_clock_scale=scale, limits=limits) as strict:
        known = {"DEFENDER_CALLS_PER_MINUTE": str(minute), "DEFENDER_CALLS_PER_HOUR": str(hour)}
        environment = {**os.environ, **strict.environment(), **known}
        callers = [
            subprocess.Popen(
                [sys.executable, "-c", CALLER, "20", "EmailEvents", TABLES[number]],
                env=environment,
                stdout=subprocess.PIPE,
            )
            for number in range(4)
        ]
        outputs = [caller.communicate(timeout=90)[0].split() for caller in callers]
        assert outputs == [[b"20", b"0", b"0"]] * 4
        statuses = [entry.status for entry in strict.log.entries(service="hunting")]
    assert statuses == [200] * 80
