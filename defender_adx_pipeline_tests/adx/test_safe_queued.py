"""Queueing with the real azure clients against scripted storage: each way in which the stock client loses data."""

import base64
import gzip
import json
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from azure.core.pipeline.transport import HttpTransport

from defender_adx_pipeline.adx.blobs import Blob, BlobBuilder
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.errors import AdxUnreachableError, StorageError
from defender_adx_pipeline.adx.ingestion import QueuedBlob, SliceLoader
from defender_adx_pipeline_tests.adx.conftest import NOW, SAS, slice_id, table

QUEUED_XML = (
    b'<?xml version="1.0" encoding="utf-8"?><QueueMessagesList><QueueMessage><MessageId>1</MessageId>'
    b"<InsertionTime>Tue, 24 Nov 2026 04:00:00 GMT</InsertionTime><ExpirationTime>Tue, 01 Dec 2026 04:00:00 GMT"
    b"</ExpirationTime><PopReceipt>x</PopReceipt><TimeNextVisible>Tue, 24 Nov 2026 04:00:00 GMT</TimeNextVisible>"
    b"</QueueMessage></QueueMessagesList>"
)
REFUSED_XML = b"<?xml version='1.0'?><Error><Code>AuthorizationFailure</Code><Message>no</Message></Error>"


class Service:
    """A data management endpoint with two containers and two queues, on one scripted server."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.url = server.url
        self.containers = ["c0", "c1"]
        self.queues = ["q0", "q1"]
        self.faults: dict[str, list[Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.messages: list[dict[str, Any]] = []
        self.resource_calls = 0
        server.route = self.answer

    def answer(self, method: str, path: str, body: bytes) -> Any:
        if path == "/v1/rest/mgmt":
            return self.command(json.loads(body)["csl"])
        name = path.split("/")[2]
        fault = self.faults[name].pop(0) if self.faults.get(name) else None
        if fault == "lost_reply":
            self.accept(method, path, body)
            return "reset"
        return fault or self.accept(method, path, body)

    @property
    def must_be_new(self) -> bool:
        """Whether the request at hand may not replace a blob."""
        return self.server.requests[-1]["headers"].get("If-None-Match") == "*"

    def accept(self, method: str, path: str, body: bytes) -> Any:
        if method == "POST":
            text = re.search(rb"<MessageText>(.*)</MessageText>", body)
            assert text is not None
            self.messages.append(json.loads(base64.b64decode(text[1])))
            return (201, QUEUED_XML, {"Content-Type": "application/xml"})
        name = f"{self.url}{path.partition('?')[0]}"
        if name in self.blobs and self.must_be_new:
            return (409, REFUSED_XML)
        self.blobs[name] = body
        return (201, b"", {"ETag": '"1"'})

    def command(self, text: str) -> Any:
        if text == ".get kusto identity token":
            return (200, {"Tables": [table({"AuthorizationContext": "string"}, [["token"]])]})
        assert text == ".get ingestion resources"
        self.resource_calls += 1
        rows = [["TempStorage", f"{self.url}/acc/{name}?{SAS}"] for name in self.containers]
        rows += [["SecuredReadyForAggregationQueue", f"{self.url}/acc/{name}?{SAS}"] for name in self.queues]
        rows += [[kind, f"{self.url}/acc/x?{SAS}"] for kind in ("FailedIngestionsQueue", "IngestionsStatusTable")]
        return (200, {"Tables": [table({"ResourceTypeName": "string", "StorageRoot": "string"}, rows)]})

    def queued_blob(self, message: dict[str, Any]) -> bytes:
        """The content of the blob that a message points at."""
        return gzip.decompress(self.blobs[message["BlobPath"].partition("?")[0]])


@pytest.fixture
def service(server, monkeypatch) -> Service:
    # The storage clients wait 15 s and more before they try again.
    monkeypatch.setattr(HttpTransport, "sleep", lambda transport, duration: None)
    return Service(server)


@pytest.fixture
def loader(client) -> Iterator[SliceLoader]:
    with SliceLoader(client, clock=lambda: NOW) as slices:
        yield slices


@pytest.fixture
def blob() -> Iterator[Blob]:
    with BlobBuilder("TRaw") as builder:
        builder.add(b'{"Timestamp":"2026-08-01T01:02:03.1234567Z","a":1}')
        builder.add(b'{"Timestamp":"2026-08-01T01:02:04Z","a":2}')
        with builder.finish() as finished:
            yield finished


def test_a_slice_is_queued_with_its_id_as_tag_and_condition(service, loader, blob):
    ours = slice_id()
    queued = loader.queue("TRaw", ours, blob)
    (message,) = service.messages
    assert queued == QueuedBlob(ours, message["Id"], "TRaw", 2, blob.raw_bytes, NOW)
    assert (message["DatabaseName"], message["TableName"], message["RawDataSize"]) == (
        "defender",
        "TRaw",
        blob.raw_bytes,
    )
    assert message["ReportLevel"] == 0
    assert message["AdditionalProperties"] == {
        "authorizationContext": "token",
        "tags": json.dumps([f"ingest-by:{ours}"]),
        "ingestIfNotExists": json.dumps([ours]),
        "ingestionMappingReference": "DynamicJsonMap",
        "ingestionMappingType": "Json",
        "format": "multijson",
    }
    assert message["BlobPath"].partition("?")[0].endswith(f"defender__TRaw__{message['Id']}__records.json.gz")
    assert len(service.queued_blob(message)) == blob.raw_bytes


def test_no_property_of_a_slice_leaks_into_the_next(service, loader, blob):
    first, second = slice_id(), slice_id()
    loader.queue("TRaw", first, blob)
    loader.queue("TRaw", second, blob)
    assert [json.loads(message["AdditionalProperties"]["tags"]) for message in service.messages] == [
        [f"ingest-by:{first}"],
        [f"ingest-by:{second}"],
    ]
    assert service.resource_calls == 1


def test_many_threads_share_one_client_and_ask_for_its_resources_once(service, loader):
    def queue(number: int) -> QueuedBlob:
        with BlobBuilder("TRaw") as builder:
            builder.add(b'{"n":%d}' % number)
            with builder.finish() as blob:
                return loader.queue("TRaw", slice_id(), blob)

    with ThreadPoolExecutor(8) as pool:
        queued = list(pool.map(queue, range(24)))
    assert service.resource_calls == 1
    loaded = {message["Id"]: service.queued_blob(message) for message in service.messages}
    assert loaded == {item.source_id: b'{"n":%d}\n' % number for number, item in enumerate(queued)}


def test_a_refused_first_container_does_not_leave_an_empty_blob_in_the_second(service, loader, blob):
    service.faults = {"c0": [(403, REFUSED_XML)], "c1": []}
    loader.queue("TRaw", slice_id(), blob)
    (message,) = service.messages
    assert "/c1/" in message["BlobPath"]
    assert len(service.queued_blob(message)) == blob.raw_bytes


def test_a_slice_that_is_queued_again_gets_a_new_name_and_a_whole_blob(service, loader, blob):
    ours = slice_id()
    attempts = [loader.queue("TRaw", ours, blob) for _ in range(2)]
    assert attempts[0].source_id != attempts[1].source_id
    assert [len(service.queued_blob(message)) for message in service.messages] == [blob.raw_bytes] * 2
    assert len({message["AdditionalProperties"]["ingestIfNotExists"] for message in service.messages}) == 1


def test_a_lost_reply_to_the_upload_ends_in_one_whole_blob(service, loader, blob):
    service.faults = {"c0": ["lost_reply"]}
    loader.queue("TRaw", slice_id(), blob)
    (message,) = service.messages
    assert len(service.blobs) == 1
    assert len(service.queued_blob(message)) == blob.raw_bytes


def test_a_lost_reply_of_the_queue_repeats_a_message_that_adx_will_load_once(service, loader, blob):
    ours = slice_id()
    service.faults = {"q0": ["lost_reply"]}
    loader.queue("TRaw", ours, blob)
    first, second = service.messages
    assert first == second
    assert json.loads(second["AdditionalProperties"]["ingestIfNotExists"]) == [ours]


@pytest.mark.parametrize("missing", ["containers", "queues"])
def test_a_service_without_containers_or_queues_is_an_error(service, loader, blob, missing):
    setattr(service, missing, [])
    with pytest.raises(StorageError, match="the service named no") as caught:
        loader.queue("TRaw", slice_id(), blob)
    assert not caught.value.message_sent
    assert service.messages == []


def test_a_signature_that_ran_out_is_renewed_once(service, loader, blob):
    loader.queue("TRaw", slice_id(), blob)
    service.faults = {"c0": [(403, REFUSED_XML)], "c1": [(403, REFUSED_XML)]}
    loader.queue("TRaw", slice_id(), blob)
    assert service.resource_calls == 2
    assert [len(service.queued_blob(message)) for message in service.messages] == [blob.raw_bytes] * 2


def test_storage_that_refuses_everything_is_an_error_and_nothing_is_queued(service, loader, blob):
    service.faults = {name: [(403, REFUSED_XML)] * 4 for name in service.containers}
    with pytest.raises(StorageError, match=r"TRaw: no container took the blob: .*AuthorizationFailure|no") as caught:
        loader.queue("TRaw", slice_id(), blob)
    assert not caught.value.message_sent
    assert service.messages == []


def test_a_message_that_no_queue_takes_may_have_been_sent(service, loader, blob):
    service.faults = {name: [(403, REFUSED_XML)] * 4 for name in service.queues}
    with pytest.raises(StorageError, match="no queue took its message") as caught:
        loader.queue("TRaw", slice_id(), blob)
    assert caught.value.message_sent
    assert len(service.blobs) == 1


def test_a_data_management_endpoint_that_is_down_is_asked_again(server, service, loader, blob, pauses):
    calls = iter(["reset", (503, {}), None])

    def route(method: str, path: str, body: bytes) -> Any:
        fault = next(calls, None) if path == "/v1/rest/mgmt" else None
        return fault or service.answer(method, path, body)

    server.route = route
    loader.queue("TRaw", slice_id(), blob)
    assert len(pauses) == 2
    assert len(service.messages) == 1
    server.route = lambda *_: (503, {})
    loader.close()
    with pytest.raises(AdxUnreachableError, match="TRaw: queueing slice"):
        loader.queue("TRaw", slice_id(), blob)


def test_a_throttled_data_management_endpoint_is_asked_again_when_it_says(server, service, loader, blob, pauses):
    calls = iter([(429, {}, {"Retry-After": "23"})])
    server.route = lambda *request: next(calls, None) or service.answer(*request)
    loader.queue("TRaw", slice_id(), blob)
    assert pauses == [23.0]
    assert len(service.messages) == 1


def test_every_socket_of_the_ingestion_has_a_time_out(service, loader, blob, monkeypatch):
    timeouts: list[Any] = []
    real = requests.adapters.HTTPAdapter.send

    def recording(adapter: Any, request: Any, **options: Any) -> Any:
        timeouts.append((request.method, request.url.split("/")[3].partition("?")[0], options["timeout"]))
        return real(adapter, request, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", recording)
    loader.queue("TRaw", slice_id(), blob)
    # Seconds; two numbers are for connecting and for each wait for bytes. The service's answers take 30 s more.
    assert timeouts == [("POST", "v1", 150), ("POST", "v1", 150), ("PUT", "acc", (20, 60)), ("POST", "acc", (20, 60))]


@pytest.mark.parametrize(("scale", "bounds"), [(1.0, (75.0, 93.0)), (60.0, (0.6, 0.9))])
def test_the_waits_for_storage_are_bounded_and_follow_the_clock(service, blob, monkeypatch, scale, bounds):
    waited: list[float] = []
    monkeypatch.setattr(HttpTransport, "sleep", lambda transport, seconds: waited.append(seconds))
    service.containers, service.queues = ["c0"], ["q0"]
    service.faults = {name: [(503, REFUSED_XML)] * 3 for name in ("c0", "q0")}
    with AdxClient(service.url, "defender", clock_scale=scale) as client, SliceLoader(client) as slices:
        slices.queue("TRaw", slice_id(), blob)
    assert len(service.messages) == 1
    assert len(waited) == 6
    for waits in (waited[:3], waited[3:]):
        assert bounds[0] <= sum(waits) <= bounds[1]


def test_no_signature_reaches_a_log_or_an_exception(service, loader, blob, caplog):
    caplog.set_level(logging.DEBUG)
    loader.queue("TRaw", slice_id(), blob)
    service.faults = {name: ["reset"] * 20 for name in service.containers}
    with pytest.raises(StorageError) as upload:
        loader.queue("TRaw", slice_id(), blob)
    service.faults = {name: ["reset"] * 20 for name in service.queues}
    with pytest.raises(StorageError) as message:
        loader.queue("TRaw", slice_id(), blob)
    errors: list[BaseException | None] = [upload.value, message.value]
    texts = [caplog.text]
    while errors:
        error = errors.pop()
        if error is not None:
            texts.append(f"{error} {error!r}")
            errors += [error.__cause__, error.__context__]
    assert "/acc/c0/" in texts[0]
    assert not [text for text in texts if "T0PSECRET" in text]


@pytest.mark.parametrize("bad", ["x", "A" * 32, "0" * 33, "0" * 31 + '"', ""])
def test_only_slice_ids_become_tags(service, loader, blob, bad):
    with pytest.raises(ValueError, match="not a slice id"):
        loader.queue("TRaw", bad, blob)
    with pytest.raises(ValueError, match="not a slice id"):
        loader.landed("TRaw", [bad])
    assert service.messages == []
