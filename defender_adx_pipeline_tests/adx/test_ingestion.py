"""Confirmation of queued slices and the check of a destination, against scripted answers of the engine."""

import json
import uuid
from datetime import timedelta
from typing import Any

import pytest

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.errors import AdxPermissionError, IngestionFailedError, MissingObjectError
from defender_adx_pipeline.adx.ingestion import QueuedBlob, SliceLoader
from defender_adx_pipeline_tests.adx.conftest import NOW, SAS, slice_id, table


class Engine:
    """What `confirm` looks at: tags and failures, changing from poll to poll."""

    def __init__(self, server: Any) -> None:
        self.tags: list[list[str]] = [[]]
        self.failures: list[list[list[Any]]] = [[]]
        self.forbidden = False
        server.route = self.answer

    def answer(self, method: str, path: str, body: bytes) -> Any:
        text = json.loads(body)["csl"]
        if text.startswith(".show table"):
            tags = self.tags.pop(0) if len(self.tags) > 1 else self.tags[0]
            return (200, {"Tables": [table({"Tags": "string"}, [[tag] for tag in tags])]})
        if self.forbidden:
            return (403, {"error": {"code": "Forbidden", "message": "m", "@message": "not authorized"}})
        failures = self.failures.pop(0) if len(self.failures) > 1 else self.failures[0]
        names = ("FailedOn", "IngestionSourcePath", "Details", "FailureKind", "ErrorCode")
        return (200, {"Tables": [table(dict.fromkeys(names, "string"), failures)]})


def failure(item: QueuedBlob, kind: str = "Permanent") -> list[Any]:
    path = f"https://a.blob.core.windows.net/c/defender__TRaw__{item.source_id}__records.json.gz?{SAS}"
    return ["2026-11-24T04:00:01Z", path, f"Bad JSON in {path}", kind, "BadRequest_InvalidBlob"]


def attempt(ours: str | None = None) -> QueuedBlob:
    return QueuedBlob(ours or slice_id(), str(uuid.uuid4()), "TRaw", 1, 10, NOW)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time() -> Clock:
    return Clock()


@pytest.fixture
def waiting(client: AdxClient, time: Clock) -> SliceLoader:
    return SliceLoader(client, sleep=time.sleep, monotonic=time.monotonic, clock=lambda: NOW)


def test_confirmation_waits_with_growing_pauses_until_every_tag_is_there(server, waiting, time):
    engine = Engine(server)
    first, second = attempt(), attempt()
    merged = f"ingest-by:{first.slice_id} ingest-by:{second.slice_id}"
    engine.tags = [[], [f"ingest-by:{first.slice_id}"], [], [merged]]
    result = waiting.confirm("TRaw", [first, second], timeout=timedelta(minutes=10))
    assert result.landed == {first.slice_id, second.slice_id}
    assert not result.failed
    assert not result.pending
    assert time.pauses == [0.25, 0.375, 0.5625]
    result.raise_for_failures("TRaw")


def test_what_is_not_decided_in_time_is_pending_and_pauses_stay_short(server, waiting, time):
    Engine(server)
    ours = attempt()
    result = waiting.confirm("TRaw", [ours], timeout=timedelta(minutes=2))
    assert result.pending == {ours.slice_id}
    assert sum(time.pauses) == pytest.approx(120)
    assert max(time.pauses) == 15


def test_a_refused_slice_ends_the_wait_with_adx_own_reason(server, waiting, time):
    engine = Engine(server)
    good, bad = attempt(), attempt()
    engine.tags = [[f"ingest-by:{good.slice_id}"]]
    engine.failures = [[failure(bad), failure(attempt())]]
    result = waiting.confirm("TRaw", [good, bad], timeout=timedelta(minutes=10))
    assert result.landed == {good.slice_id}
    assert "BadRequest_InvalidBlob: Bad JSON" in result.failed[bad.slice_id]
    assert "T0PSECRET" not in result.failed[bad.slice_id]
    assert time.pauses == []
    with pytest.raises(IngestionFailedError, match=bad.slice_id):
        result.raise_for_failures("TRaw")


def test_a_duplicate_that_adx_refused_does_not_fail_a_slice_that_landed(server, waiting):
    engine = Engine(server)
    ours = attempt()
    engine.tags, engine.failures = [[f"ingest-by:{ours.slice_id}"]], [[failure(ours)]]
    assert waiting.confirm("TRaw", [ours], timeout=timedelta(0)).landed == {ours.slice_id}


def test_a_transient_failure_is_waited_for(server, waiting):
    engine = Engine(server)
    ours = attempt()
    engine.failures = [[failure(ours, "Transient")]]
    engine.tags = [[], [], [f"ingest-by:{ours.slice_id}"]]
    assert waiting.confirm("TRaw", [ours], timeout=timedelta(minutes=1)).landed == {ours.slice_id}


def test_a_slice_with_two_attempts_is_refused_when_both_were(server, waiting):
    engine = Engine(server)
    first = attempt()
    second = attempt(first.slice_id)
    engine.failures = [[failure(first)], [failure(first), failure(second)]]
    result = waiting.confirm("TRaw", [first, second], timeout=timedelta(minutes=1))
    assert set(result.failed) == {first.slice_id}


def test_without_the_right_to_see_failures_the_tag_still_decides(server, waiting, caplog):
    engine = Engine(server)
    engine.forbidden = True
    ours = attempt()
    engine.tags = [[], [f"ingest-by:{ours.slice_id}"]]
    assert waiting.confirm("TRaw", [ours], timeout=timedelta(minutes=1)).landed == {ours.slice_id}
    assert "lacks a role" in caplog.text
    with pytest.raises(AdxPermissionError):
        waiting.failures("TRaw", NOW)


def test_confirming_nothing_asks_nothing(server, waiting):
    assert not waiting.confirm("TRaw", [], timeout=timedelta(minutes=1)).pending
    assert server.requests == []


def test_many_slices_are_looked_up_in_few_statements(server, waiting):
    engine = Engine(server)
    ids = [slice_id() for _ in range(1200)]
    engine.tags = [[f"ingest-by:{item}"] for item in (ids[0], ids[1], "f" * 32)]
    assert waiting.landed("TRaw", ids) == {ids[0], ids[1]}
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("schema", "mapping", "complaint"),
    [
        ("A:string,Records:dynamic", '[{"column":"Records","Properties":{"Path":"$"}}]', "has the one column"),
        ("Records:string", '[{"column":"Records","Properties":{"Path":"$"}}]', "has the one column"),
        ("Records:dynamic", '[{"column":"Records","Properties":{"Path":"$.a"}}]', "no JSON mapping DynamicJsonMap"),
        ("Records:dynamic", None, "no JSON mapping DynamicJsonMap"),
    ],
)
def test_a_destination_of_another_shape_is_refused(server, waiting, schema, mapping, complaint):
    mappings = [] if mapping is None else [["DynamicJsonMap", mapping]]
    server.answers = [
        (200, {"Tables": [table({"Schema": "string"}, [[schema]])]}),
        (200, {"Tables": [table({"Name": "string", "Mapping": "string"}, mappings)]}),
    ]
    with pytest.raises(MissingObjectError, match=complaint):
        waiting.check_destination("TRaw")


@pytest.mark.parametrize(
    "mapping",
    [
        '[{"column":"Records","Properties":{"Path":"$"}}]',
        '[{"column":"Records","path":"$","datatype":"","transform":null}]',
        [{"column": "Records", "path": "$", "Properties": None}],
    ],
)
def test_the_mapping_is_recognised_in_either_spelling(server, waiting, mapping):
    server.answers = [
        (200, {"Tables": [table({"Schema": "string"}, [["Records:dynamic"]])]}),
        (200, {"Tables": [table({"Name": "string", "Mapping": "dynamic"}, [["DynamicJsonMap", mapping]])]}),
    ]
    waiting.check_destination("TRaw")
