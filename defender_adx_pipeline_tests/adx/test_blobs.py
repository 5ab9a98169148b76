"""Blobs: what goes in comes out, sizes are exact, and records that ADX would turn into null stay out."""

import gzip
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.adx.blobs import DYNAMIC_LIMIT, BlobBuilder
from defender_adx_pipeline.adx.errors import RecordTooLargeError

RECORD = st.dictionaries(st.text(max_size=8), st.text(max_size=50) | st.integers() | st.none(), max_size=5)


@given(st.lists(RECORD, min_size=1, max_size=30))
def test_a_blob_holds_the_records_and_knows_their_number_and_size(records):
    lines = [json.dumps(record).encode() for record in records]
    with BlobBuilder("TRaw") as builder:
        for line in lines:
            builder.add(line)
        with builder.finish() as blob:
            content = blob.stream.read()
    text = gzip.decompress(content)
    assert [json.loads(line) for line in text.splitlines()] == records
    assert (blob.rows, blob.raw_bytes, blob.size) == (len(records), len(text), len(content))


def test_a_large_blob_keeps_little_in_memory():
    line = json.dumps({"Timestamp": "2026-08-01T00:00:00Z", "Payload": "x" * 4000}).encode()
    tracemalloc.start()
    with BlobBuilder("TRaw") as builder:
        for _ in range(20_000):  # 80 MB before compression
            builder.add(line)
        with builder.finish() as blob:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert blob.raw_bytes == 20_000 * (len(line) + 1)
            assert blob.size < blob.raw_bytes / 10
    assert peak < 4_000_000


def record_of(size: int) -> bytes:
    return b'{"a":"' + b"x" * (size - 8) + b'"}'


def test_a_record_at_the_limit_is_loaded_and_one_byte_more_is_not():
    with BlobBuilder("AlertInfoRaw") as builder:
        builder.add(record_of(DYNAMIC_LIMIT))
        with pytest.raises(RecordTooLargeError, match="AlertInfoRaw: the record AlertId a1 has 1048577 bytes"):
            builder.add(record_of(DYNAMIC_LIMIT + 1), identity="AlertId a1")
        builder.add(b'{"a":1}')
        with builder.finish() as blob:
            assert blob.rows == 2
            assert gzip.decompress(blob.stream.read()).endswith(b'"}\n{"a":1}\n')


@pytest.mark.parametrize("line", [b"", b"[1]", b'{"a":1}\n{"b":2}', b'"text"', b"{"])
def test_what_would_refuse_the_whole_blob_is_refused_at_once(line):
    with BlobBuilder("TRaw") as builder, pytest.raises(ValueError, match="not a JSON object on one line"):
        builder.add(line)


def test_an_empty_blob_is_never_made():
    with BlobBuilder("TRaw") as builder, pytest.raises(ValueError, match="no record"):
        builder.finish()


def test_a_blob_is_finished_once():
    with BlobBuilder("TRaw") as builder:
        builder.add(b"{}")
        with builder.finish(), pytest.raises(ValueError, match="finished before"):
            builder.finish()
