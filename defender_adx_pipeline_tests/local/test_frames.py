import json
import math
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from azure.kusto.data.exceptions import KustoMultiApiError
from azure.kusto.data.response import KustoResponseDataSetV1, KustoResponseDataSetV2
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.local.frames import (
    KustoFault,
    Table,
    entity_not_found,
    format_datetime,
    format_timespan,
    semantic_error,
    v1,
    v2,
)

EVERY_TYPE = Table(
    [
        ("s", "string"),
        ("t", "datetime"),
        ("d", "dynamic"),
        ("l", "long"),
        ("b", "bool"),
        ("r", "real"),
        ("c", "decimal"),
        ("p", "timespan"),
        ("g", "guid"),
    ],
    [
        (
            "é",
            datetime(2026, 8, 1, 1, 2, 3, 123456, tzinfo=UTC),
            '{"b":1.10,"a":12345678901234567890}',
            2**62,
            True,
            1.5,
            Decimal("1.50"),
            timedelta(days=1, hours=2, microseconds=5),
            uuid.UUID(int=7),
        ),
        (None, None, None, None, None, None, None, None, None),
    ],
)


def test_the_real_client_reads_every_type_of_a_v2_answer():
    row = KustoResponseDataSetV2(json.loads(v2(EVERY_TYPE))).primary_results[0][0]
    assert row["s"] == "é"
    assert row["t"] == datetime(2026, 8, 1, 1, 2, 3, 123456, tzinfo=UTC)
    assert row["l"] == 2**62
    assert row["b"] is True
    assert row["c"] == Decimal("1.50")
    assert row["p"] == timedelta(days=1, hours=2, microseconds=5)
    assert row["g"] == "00000000-0000-0000-0000-000000000007"


def test_a_dynamic_goes_out_with_the_digits_and_the_order_it_came_with():
    assert b'{"b":1.10,"a":12345678901234567890}' in v2(EVERY_TYPE)


def test_a_null_string_is_empty_and_other_nulls_are_null():
    row = KustoResponseDataSetV1(json.loads(v1(EVERY_TYPE))).primary_results[0][1]
    assert row.to_list() == ["", None, None, None, None, None, None, None, None]


def test_a_partial_failure_is_an_object_among_the_rows_and_the_client_raises_it():
    fault = KustoFault("too large", code="LimitsExceeded")
    frames = json.loads(v2(Table([("x", "long")], [(1,)]), partial_failure=fault))
    rows = next(frame for frame in frames if frame.get("TableKind") == "PrimaryResult")["Rows"]
    assert rows[0] == [1]
    assert rows[1]["OneApiErrors"][0]["error"]["code"] == "LimitsExceeded"
    assert frames[-1]["HasErrors"] is True
    with pytest.raises(KustoMultiApiError, match="too large"):
        KustoResponseDataSetV2(frames)


def test_an_error_body_has_what_the_client_reads():
    error = entity_not_found("Table", "Nope", "db").body("crid")["error"]
    assert (error["code"], error["@permanent"]) == ("BadRequest_EntityNotFound", True)
    assert error["@context"]["clientRequestId"] == "crid"
    assert semantic_error("x").description.startswith("Semantic error: SEM0100:")


def test_numbers_that_json_lacks_are_words():
    rows = json.loads(v1(Table([("r", "real")], [(math.nan,), (math.inf,), (-math.inf,)])))["Tables"][0]["Rows"]
    assert rows == [["NaN"], ["Infinity"], ["-Infinity"]]


@given(st.datetimes(min_value=datetime(1, 1, 1)))  # noqa: DTZ001 - naive means UTC here
def test_a_datetime_has_seven_digits_and_reads_back(moment):
    text = format_datetime(moment)
    assert len(text) == 28
    assert datetime.fromisoformat(text[:-2]) == moment


@given(st.timedeltas(min_value=timedelta(days=-9999), max_value=timedelta(days=9999)))
def test_a_timespan_reads_back_in_the_real_client(span):
    row = json.loads(v1(Table([("p", "timespan")], [(span,)])))
    assert format_timespan(span) == row["Tables"][0]["Rows"][0][0]
    assert abs(KustoResponseDataSetV1(row).primary_results[0][0]["p"] - span) <= timedelta(microseconds=1)
