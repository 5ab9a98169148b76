import json
import socket
import time
from datetime import UTC, datetime, timedelta

import msal
import pytest
import requests

from defender_adx_pipeline.local.samples import SampleError
from defender_adx_pipeline.local.state import RequestLog
from defender_adx_pipeline.local.tenant import LocalTenant
from defender_adx_pipeline_tests.local.kusto import eventually, json_lines, kusto

SETTINGS = {
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_AUTHORITY_HOST",
    "REQUESTS_CA_BUNDLE",
    "DEFENDER_AUTH",
    "DEFENDER_API",
    "DEFENDER_API_URL",
    "ADX_CLUSTER_URI",
    "ADX_INGEST_URI",
    "ADX_DATABASE",
    "DEFENDER_QUOTA_STORE",
    "DEFENDER_QUOTA_CLOCK_SCALE",
    "LOCAL_TENANT_ADMIN_URL",
}


def token(tenant: LocalTenant) -> str:
    """A hunting token, through the real msal."""
    environment = tenant.environment()
    with requests.Session() as session:
        session.verify = environment["REQUESTS_CA_BUNDLE"]
        session.trust_env = False
        app = msal.ConfidentialClientApplication(
            environment["AZURE_CLIENT_ID"],
            client_credential=environment["AZURE_CLIENT_SECRET"],
            authority=f"{environment['AZURE_AUTHORITY_HOST']}/{environment['AZURE_TENANT_ID']}",
            instance_discovery=False,
            http_client=session,
        )
        return app.acquire_token_for_client(["https://graph.microsoft.com/.default"])["access_token"]


def hunt(tenant: LocalTenant, query: str) -> requests.Response:
    return requests.post(
        f"{tenant.environment()['DEFENDER_API_URL']}/v1.0/security/runHuntingQuery",
        json={"Query": query},
        headers={"Authorization": f"Bearer {token(tenant)}", "User-Agent": "the-test"},
        timeout=30,
    )


def test_the_environment_names_every_setting_and_its_servers_differ(open_tenant):
    with open_tenant(scale=0, quota_clock_scale=20) as tenant:
        environment = tenant.environment()
        assert set(environment) == SETTINGS
        assert environment["DEFENDER_QUOTA_CLOCK_SCALE"] == "20"
        addresses = [value for name, value in environment.items() if name.endswith(("_URI", "_URL", "_HOST"))]
        assert len(set(addresses)) == len(addresses) == 5
        assert all("127.0.0.1" in address or "localhost" in address for address in addresses)


def test_the_state_file_is_there_while_the_tenant_runs(open_tenant, tmp_path):
    with open_tenant(tmp_path, scale=0) as tenant:
        record = json.loads((tmp_path / "tenant.json").read_bytes())
        assert record["environment"] == tenant.environment()
        assert (tmp_path / "tenant.json").stat().st_mode & 0o077 == 0
    assert not (tmp_path / "tenant.json").exists()


def test_it_starts_quickly_and_starting_or_stopping_twice_does_nothing(tmp_path):
    tenant = LocalTenant(tmp_path, scale=0)
    began = time.monotonic()
    tenant.start()
    assert time.monotonic() - began < 10  # under a second on an idle machine
    before = tenant.environment()
    assert tenant.start().environment() == before
    tenant.stop()
    tenant.stop()
    with pytest.raises(RuntimeError, match="start it first"):
        tenant.environment()


def test_a_tenant_started_again_over_its_home_goes_on(open_tenant, tmp_path):
    with open_tenant(tmp_path, scale=0.1, tables=["DeviceInfo"]) as tenant, kusto(tenant) as adx:
        adx.command(".set-or-append Kept <| print A = 'x'")
        adx.command(".create-or-alter function Stored() { Kept | count }")
        rows = tenant.source.count_stored("DeviceInfo")
        assert rows > 0
        certificate = (tmp_path / "ca.pem").read_bytes()
    with open_tenant(tmp_path, scale=0.1, tables=["DeviceInfo"]) as tenant, kusto(tenant) as adx:
        assert adx.rows("Stored") == [[1]]
        assert tenant.source.count_stored("DeviceInfo") == rows
        assert (tmp_path / "ca.pem").read_bytes() == certificate


def test_ports_can_be_fixed(open_tenant):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open_tenant(scale=0, ports={"engine": port}) as tenant:
        assert tenant.environment()["ADX_CLUSTER_URI"] == f"http://127.0.0.1:{port}"


def test_hunting_and_its_faults_go_through_the_same_log(open_tenant):
    with open_tenant(scale=0.1, tables=["DeviceInfo"]) as tenant:
        assert hunt(tenant, "DeviceInfo | count").json()["results"][0]["Count"] > 0
        tenant.faults.add("hunting", "status", status=429, headers={"Retry-After": "5"}, match="DeviceInfo")
        assert hunt(tenant, "DeviceInfo | count").status_code == 429
        entries = tenant.log.entries(service="hunting")
        assert [(one.status, one.table, one.user_agent, one.fault) for one in entries] == [
            (200, "DeviceInfo", "the-test", None),
            (429, "DeviceInfo", "the-test", "status"),
        ]
        assert tenant.log.entries(service="entra")
        assert "Bearer" not in repr(entries)
        assert tenant.environment()["AZURE_CLIENT_SECRET"] not in repr(tenant.log.entries())


def test_the_admin_app_shows_the_log_and_both_sides_rows(open_tenant):
    with open_tenant(scale=0.1, tables=["DeviceInfo"]) as tenant, kusto(tenant) as adx:
        admin = tenant.environment()["LOCAL_TENANT_ADMIN_URL"]
        tables = {one["table"]: one["rows"] for one in requests.get(f"{admin}/source/tables", timeout=10).json()}
        answer = requests.get(f"{admin}/source/rows", params={"table": "DeviceInfo"}, timeout=10)
        records = [json.loads(line) for line in answer.content.splitlines()]
        assert len(records) == tables["DeviceInfo"]
        now = datetime.now(tz=UTC)
        new = {"Timestamp": f"{now:%Y-%m-%dT%H:%M:%S}.1234567Z", "DeviceId": "new", "__arrival": now.isoformat()}
        added = requests.post(
            f"{admin}/source/rows", params={"table": "DeviceInfo"}, data=json.dumps(new).encode(), timeout=10
        )
        assert added.json() == {"table": "DeviceInfo", "inserted": 1}
        start = (now - timedelta(minutes=1)).isoformat()
        recent = requests.get(f"{admin}/source/rows", params={"table": "DeviceInfo", "start": start}, timeout=10)
        assert '"Timestamp":"' + new["Timestamp"] in recent.text
        adx.command(".set-or-append Landed <| range x from 1 to 3 step 1")
        assert requests.get(f"{admin}/adx/rows", params={"table": "Landed"}, timeout=10).json()["rows"] == 3
        assert requests.get(f"{admin}/adx/rows", params={"table": "Nope"}, timeout=10).status_code == 404
        assert requests.get(f"{admin}/source/rows", params={"table": "Nope"}, timeout=10).status_code == 404
        logged = requests.get(f"{admin}/log", params={"service": "engine"}, timeout=10).json()
        assert logged[-1]["statement"].startswith(".set-or-append Landed")
        assert requests.get(f"{admin}/log", params={"since": now.isoformat()}, timeout=10).json()


def test_the_clock_dates_what_is_ingested(open_tenant):
    then = datetime(2030, 1, 1, tzinfo=UTC)
    with open_tenant(scale=0, clock=lambda: then, batching_delay=0.0) as tenant, kusto(tenant) as adx:
        adx.raw_table("ThenRaw")
        adx.queue("ThenRaw", json_lines([{"a": 1}]))
        eventually(lambda: adx.count("ThenRaw") == 1)
        assert adx.rows("ThenRaw | where ingestion_time() == datetime(2030-01-01) | count") == [[1]]


def test_the_request_log_is_bounded():
    log = RequestLog(limit=2)
    assert [log.next_number() for _ in range(3)] == [1, 2, 3]
    assert log.last_number() == 3
    assert log.entries() == []


def test_a_start_that_fails_leaves_nothing_open(tmp_path):
    samples = tmp_path / "samples.jsonl"
    samples.write_text("not json\n")
    with pytest.raises(SampleError):
        LocalTenant(tmp_path / "home", scale=0, samples=samples).start()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"storage": taken.getsockname()[1]}
        with pytest.raises(OSError, match="in use"):
            LocalTenant(tmp_path / "home", scale=0, ports=ports).start()
    with LocalTenant(tmp_path / "home", scale=0) as tenant:
        assert tenant.url("engine")
