"""Slices into the local tenant with the real azure clients: every row once, whatever storage and worker do."""

import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from azure.core.pipeline.transport import HttpTransport

from defender_adx_pipeline.adx.blobs import BlobBuilder
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.errors import AdxAuthenticationError, MissingObjectError, QueryFailedError
from defender_adx_pipeline.adx.ingestion import SliceLoader
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline_tests.adx.conftest import slice_id

PATIENCE = timedelta(seconds=30)
POLL = timedelta(milliseconds=100)

RECORDS = [
    {
        "Timestamp": f"2026-08-01T00:00:00.{number:07d}Z",
        "ReportId": 9007199254740993 + number,
        "Text": "é \u2028 \\ \" 'x'] | .drop table y",
        "AdditionalFields": {"nested": [1, None, True, {"a": "b"}], "real": 0.5},
    }
    for number in range(50)
]


@pytest.fixture(autouse=True)
def nothing_goes_wrong(tenant, monkeypatch):
    # The storage clients wait 15 s and more before they try again.
    monkeypatch.setattr(HttpTransport, "sleep", lambda transport, duration: None)
    yield
    tenant.faults.clear()


@pytest.fixture
def loader(adx):
    with SliceLoader(adx) as slices:
        yield slices


@pytest.fixture
def destination(make_table, request):
    return make_table("".join(word.title() for word in request.node.name.split("[")[0].split("_"))[:60] + "Raw")


def load(loader, table, ours, records=RECORDS, *, lines=()):
    with BlobBuilder(table) as builder:
        for line in lines or [json.dumps(record, ensure_ascii=False).encode() for record in records]:
            builder.add(line)
        with builder.finish() as blob:
            return loader.queue(table, ours, blob)


def stored(adx, table):
    rows = adx.query(f"{table} | project Record = tostring(Records)")
    return sorted((json.loads(row["Record"]) for row in rows), key=lambda record: record["Timestamp"])


def test_a_confirmed_slice_is_in_the_table_value_for_value(adx, loader, destination):
    ours = slice_id()
    queued = load(loader, destination, ours)
    result = loader.confirm(destination, [queued], timeout=PATIENCE, poll=POLL)
    assert result.landed == {ours}
    assert stored(adx, destination) == RECORDS
    assert loader.landed(destination, [ours, slice_id()]) == {ours}


def test_a_slice_that_is_queued_three_times_is_loaded_once(adx, loader, destination):
    ours, other = slice_id(), slice_id()
    attempts = [load(loader, destination, ours) for _ in range(3)]
    attempts.append(load(loader, destination, other, RECORDS[:1]))
    result = loader.confirm(destination, attempts, timeout=PATIENCE, poll=POLL)
    assert result.landed == {ours, other}
    assert len(stored(adx, destination)) == len(RECORDS) + 1


@pytest.mark.parametrize(
    "fault",
    [
        {"service": "storage", "kind": "lost_reply", "method": "PUT"},
        {"service": "storage", "kind": "lost_reply", "method": "POST"},
        {"service": "storage", "kind": "reset", "method": "PUT"},
        {"service": "storage", "kind": "reset", "method": "POST"},
        {"service": "storage", "kind": "status", "status": 403, "method": "PUT"},
        {"service": "storage", "kind": "status", "status": 503, "method": "POST"},
        {"service": "worker", "kind": "duplicate"},
        {"service": "worker", "kind": "lost_reply"},
        {"service": "ingest", "kind": "status", "status": 429},
        {"service": "ingest", "kind": "reset"},
        {"service": "engine", "kind": "reset"},
        {"service": "engine", "kind": "truncate"},
        {"service": "engine", "kind": "html", "status": 502},
    ],
)
def test_one_fault_anywhere_neither_loses_nor_doubles_a_row(tenant, adx, loader, make_table, fault):
    table = make_table(f"Fault_{'_'.join(str(value) for value in fault.values())}_Raw")
    ours = slice_id()
    tenant.faults.add_json(fault)
    queued = load(loader, table, ours)
    result = loader.confirm(table, [queued], timeout=PATIENCE, poll=POLL)
    assert result.landed == {ours}
    assert stored(adx, table) == RECORDS


def test_a_blob_that_adx_cannot_read_is_refused_whole_with_its_reason(adx, loader, destination):
    ours = slice_id()
    queued = load(loader, destination, ours, lines=[b'{"a":1}', b'{"a":}'])
    result = loader.confirm(destination, [queued], timeout=PATIENCE, poll=POLL)
    assert "BadRequest_InvalidBlob" in result.failed[ours]
    assert stored(adx, destination) == []
    failures = loader.failures(destination, utc_now() - timedelta(hours=1))
    assert [failure.permanent for failure in failures if failure.concerns(queued.source_id)] == [True]


def test_a_slice_that_adx_gave_up_on_is_loaded_by_the_next_attempt(tenant, adx, loader, destination):
    tenant.faults.add_json({"service": "worker", "kind": "status", "status": 500})
    ours = slice_id()
    first = load(loader, destination, ours)
    result = loader.confirm(destination, [first], timeout=PATIENCE, poll=POLL)
    assert "RetryAttemptsExceeded" in result.failed[ours]
    second = load(loader, destination, ours)
    assert loader.confirm(destination, [second], timeout=PATIENCE, poll=POLL).landed == {ours}
    assert stored(adx, destination) == RECORDS


def test_what_does_not_come_in_time_is_pending(tenant, loader, destination):
    tenant.faults.add_json({"service": "worker", "kind": "delay", "seconds": 1.5})
    ours = slice_id()
    queued = load(loader, destination, ours)
    early = loader.confirm(destination, [queued], timeout=timedelta(milliseconds=300), poll=POLL)
    assert early.pending == {ours}
    assert loader.confirm(destination, [queued], timeout=PATIENCE, poll=POLL).landed == {ours}


def test_a_destination_is_checked_before_anything_is_loaded(loader, make_table, destination, statements):
    loader.check_destination(destination)
    statements.add_table("adx", "NowhereRaw", {"Records": "dynamic"})  # so that the statement about it binds
    with pytest.raises(MissingObjectError, match="NowhereRaw"):
        loader.check_destination("NowhereRaw")
    with pytest.raises(MissingObjectError, match="has the one column"):
        loader.check_destination(make_table("TwoColumnsRaw", {"Records": "dynamic", "More": "string"}))
    with pytest.raises(MissingObjectError, match="no JSON mapping"):
        loader.check_destination(make_table("UnmappedRaw", {"Records": "dynamic"}))


def test_the_traffic_is_the_azure_clients_and_no_signature_is_logged(tenant, loader, destination, caplog):
    caplog.set_level(logging.DEBUG)
    started = datetime.now(UTC)
    queued = load(loader, destination, slice_id())
    loader.confirm(destination, [queued], timeout=PATIENCE, poll=POLL)
    entries = [entry for entry in tenant.log.entries() if entry.started >= started]
    agents = {entry.service: entry.user_agent for entry in entries}
    assert "azsdk-python-storage" in agents["storage"]
    versions = {
        entry.headers["x-ms-client-version"].split(":")[0] for entry in entries if entry.service in ("engine", "ingest")
    }
    assert versions == {"Kusto.Python.Client"}
    texts = [record.getMessage() for record in caplog.records]
    assert not [text for text in texts if "sig=" in text and "sig=REDACTED" not in text]


def test_a_statement_sent_to_the_other_endpoint_is_refused(tenant, adx):
    with AdxClient(tenant.url("ingest"), adx.database) as wrong, pytest.raises(QueryFailedError):
        wrong.query("print 1")


def test_a_tenant_that_wants_tokens_gets_one_with_each_request_of_every_client(open_tenant):
    with open_tenant(scale=0, require_auth=True) as tenant:
        address = tenant.environment()
        cluster, database = address["ADX_CLUSTER_URI"], address["ADX_DATABASE"]
        with AdxClient(cluster, database) as anonymous:
            with pytest.raises(AdxAuthenticationError, match="401"):
                anonymous.query("print 1")
            with pytest.raises(AdxAuthenticationError, match="401"):
                anonymous.command(".show tables", idempotent=True)
        token = tenant.issuer.issue(address["AZURE_CLIENT_ID"], f"{cluster}/.default")
        ingest = address["ADX_INGEST_URI"]
        with (
            AdxClient(cluster, database, token_provider=lambda: token, ingest_uri=ingest) as known,
            SliceLoader(known) as loader,
        ):
            known.command(".create-merge table SignedRaw (Records: dynamic)", idempotent=True)
            mapping = """'[{"column":"Records","Properties":{"Path":"$"}}]'"""
            known.command(
                f'.create-or-alter table SignedRaw ingestion json mapping "DynamicJsonMap" {mapping}', idempotent=True
            )
            queued = load(loader, "SignedRaw", slice_id())
            assert loader.confirm("SignedRaw", [queued], timeout=PATIENCE, poll=POLL).landed
            assert stored(known, "SignedRaw") == RECORDS
