import json
import random
import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.defender.errors import MalformedAnswerError, QueryContext, TransientError
from defender_adx_pipeline.defender.wire import Answer, WireColumn, decode, encode_record

# A Graph answer published in graph2otel's tests, with its @odata.context.
GRAPH_ANSWER = rb"""
{"@odata.context":"https://graph.microsoft.com/v1.0/$metadata#microsoft.graph.security.huntingQueryResults",
 "schema":[{"name":"CveId","type":"String"},{"name":"IsExploitAvailable","type":"SByte"},
           {"name":"CvssScore","type":"Double"}],
 "results":[{"CveId":"CVE-2026-33829","IsExploitAvailable@odata.type":"#SByte","IsExploitAvailable":1,"CvssScore":4.3}]}
"""


def one(value: Any, kind: str = "String", *, side_car: str | None = None, text: bool = False) -> dict[str, Any]:
    row = {"C": value} if side_car is None else {"C@odata.type": side_car, "C": value}
    body = orjson.dumps({"schema": [{"name": "C", "type": kind}], "results": [row]})
    return decode(body, tostring_columns=["C"] if text else []).rows[0]


def test_a_published_graph_answer_becomes_a_record() -> None:
    answer = decode(GRAPH_ANSWER)
    assert answer.columns == (
        WireColumn("CveId", "String"),
        WireColumn("IsExploitAvailable", "SByte"),
        WireColumn("CvssScore", "Double"),
    )
    assert answer.rows == [{"CveId": "CVE-2026-33829", "IsExploitAvailable": True, "CvssScore": 4.3}]
    assert answer.rows[0]["IsExploitAvailable"] is True
    assert answer.bytes == len(GRAPH_ANSWER)


def test_both_casings_of_the_envelope_are_read_and_row_keys_stay_as_they_are() -> None:
    body = {
        "Stats": {"ExecutionTime": 0.1},
        "Schema": [{"Name": "LogonId", "Type": "Int64"}, {"Name": "LogonID", "Type": "String"}],
        "Results": [{"LogonId": 1, "LogonID": "a", "notInSchema": "b"}],
    }
    assert decode(orjson.dumps(body)).rows == [{"LogonId": 1, "LogonID": "a", "notInSchema": "b"}]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (0, "SByte", {"C": False}),
        (1, "SByte", {"C": True}),
        (True, "Boolean", {"C": True}),
        ({}, "SByte", {}),
        (None, "SByte", {}),
        ({}, "DateTime", {}),
        ({}, "Int32", {}),
        ({}, "Object", {}),
        (None, "String", {}),
        ("", "String", {"C": ""}),
        (0, "Int64", {"C": 0}),
        ("2026-08-01T01:02:10Z", "DateTime", {"C": "2026-08-01T01:02:10Z"}),
        ("2026-08-01T01:02:50.7688641Z", "DateTime", {"C": "2026-08-01T01:02:50.7688641Z"}),
        ("x", "SomethingNew", {"C": "x"}),
    ],
)
def test_every_value_form_of_the_wire(value: Any, kind: str, expected: dict[str, Any]) -> None:
    record = one(value, kind)
    assert record == expected
    assert {type(v) for v in record.values()} == {type(v) for v in expected.values()}


@pytest.mark.parametrize("number", [639199803770463703, 2**53 + 1, 2**63 - 1, -(2**63)])
def test_a_64_bit_number_keeps_its_last_digit(number: int) -> None:
    record = one(number, "Int64")
    assert record == {"C": number}
    assert str(number).encode() in encode_record(record)


def test_side_cars_are_stripped_also_inside_dynamics() -> None:
    mark = "#microsoft.graph.security.dynamicColumnValue"
    wire = {"@odata.type": mark, "a": {"@odata.type": mark, "n@odata.type": "#Int64", "n": 2**62, "ok": True}}
    assert one(wire, "Object") == {"C": {"a": {"n": 2**62, "ok": True}}}


def test_objects_in_dynamic_arrays_are_decoded_a_second_time() -> None:
    wire = ['{"PermissionType":"Application","n":1}', "plain", "{broken", "7"]
    expected = {"C": [{"PermissionType": "Application", "n": 1}, "plain", "{broken", "7"]}
    assert one(wire, "Object", side_car="#Collection(String)") == expected
    assert one(wire, "Object") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a":[1,{"b":null}]}', {"C": {"a": [1, {"b": None}]}}),
        ("[]", {"C": []}),
        ("{}", {"C": {}}),
        ("12", {"C": 12}),
        ("true", {"C": True}),
        ("", {}),
        ("null", {}),
        ("not json", {"C": "not json"}),
        ("{cut", {"C": "{cut"}),
        ("NaN", {"C": "NaN"}),
        ('{"x":NaN}', {"C": '{"x":NaN}'}),
        ("1e999", {"C": "1e999"}),
        ('{"n":123456789012345678901234567890}', {"C": {"n": 123456789012345678901234567890}}),
        ('{"n":18446744073709551616}', {"C": {"n": 2**64}}),
        (r'{"s":"\ud800"}', {"C": {"s": "\ud800"}}),
        ("[" * 100_000, {"C": "[" * 100_000}),
        ("line\nbreak", {"C": "line\nbreak"}),
    ],
)
def test_a_dynamic_asked_for_as_text_comes_back_as_json(text: str, expected: dict[str, Any]) -> None:
    record = one(text, "String", text=True)
    assert record == expected
    line = encode_record(record)
    assert b"\n" not in line
    assert json.loads(line) == expected


def test_integers_beyond_64_bits_and_lone_surrogates_are_written_whole() -> None:
    assert encode_record({"n": 10**30}) == b'{"n":' + str(10**30).encode() + b"}"
    assert encode_record({"s": "\ud800"}) == rb'{"s":"\ud800"}'


def test_an_answer_with_a_lone_surrogate_is_read() -> None:
    body = rb'{"schema":[{"name":"FileName","type":"String"}],"results":[{"FileName":"\ud83d.exe"}]}'
    assert decode(body).rows == [{"FileName": "\ud83d.exe"}]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>502 Bad Gateway</body></html>",
        GRAPH_ANSWER[:-20],
        b'{"schema":[{"name":"C","type":"String"}]}',
        b'{"schema":[{"name":"C","type":"String"}],"results":{"C":1}}',
        b'{"schema":[{"name":"C","type":"String"}],"results":[1]}',
        b'{"schema":[{"name":"C","type":"String"}],"results":null}',
        b'{"results":[]}',
        b'{"schema":[],"results":[]}',
        b'{"schema":[{"name":"C"}],"results":[]}',
        b'{"schema":["C"],"results":[]}',
        b'{"schema":3,"results":[]}',
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe\xfd",
        b'{"schema":[{"name":"C","type":"Double"}],"results":[{"C":NaN}]}',
    ],
)
def test_a_malformed_body_is_a_transient_error_that_names_the_table(body: bytes) -> None:
    context = QueryContext(table="DeviceInfo", purpose="read rows", window="[a, b)")
    with pytest.raises(MalformedAnswerError, match=r"read rows of DeviceInfo \[a, b\)") as caught:
        decode(body, context=context)
    assert isinstance(caught.value, TransientError)


def test_an_answer_with_as_many_rows_as_the_cap_is_marked() -> None:
    def answer(rows: int) -> Answer:
        body = orjson.dumps({"schema": [{"name": "C", "type": "Int32"}], "results": [{"C": n} for n in range(rows)]})
        return decode(body, row_cap=10)

    assert [answer(rows).maybe_truncated for rows in (9, 10, 11)] == [False, True, True]


def test_records_are_given_up_as_they_are_taken() -> None:
    body = orjson.dumps({"schema": [{"name": "C", "type": "Int32"}], "results": [{"C": n} for n in range(3)]})
    answer = decode(body)
    taken = answer.take_records()
    assert next(taken) == {"C": 0}
    assert len(answer.rows) == 2
    assert list(taken) == [{"C": 1}, {"C": 2}]
    assert answer.rows == []


# The quirks, written from the docs and not from the decoder.
KINDS = {"b": "SByte", "l": "Int64", "d": "Double", "t": "DateTime", "s": "String", "j": "Object", "x": "String"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT
KEYS = TEXT.filter(lambda key: not key.endswith("@odata.type"))
DYNAMIC = st.dictionaries(KEYS, st.recursive(SCALARS, lambda s: st.lists(s, max_size=3)), min_size=1, max_size=3)
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "b": st.booleans(),
        "l": st.integers(-(2**63), 2**63 - 1),
        "d": st.floats(allow_nan=False, allow_infinity=False),
        "t": st.datetimes().map(lambda moment: moment.isoformat() + "1Z"),
        "s": TEXT,
        "j": DYNAMIC | st.lists(DYNAMIC, max_size=3),
        "x": DYNAMIC | st.lists(DYNAMIC, max_size=3) | st.integers(-(2**63), 2**63 - 1) | st.booleans(),
    },
)


def encode_on_the_wire(record: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    wire: dict[str, Any] = {}
    for name, kind in KINDS.items():
        side_car = f"{name}@odata.type"
        if name not in record:
            if dice.random() < 0.5 and name != "s":
                wire[name] = "" if name == "x" else {}
        elif kind == "SByte":
            if dice.random() < 0.5:
                wire[side_car] = "#SByte"
            wire[name] = int(record[name])
        elif name == "j":
            wire[side_car] = "#Collection(String)"
            value = record[name]
            wire[name] = [orjson.dumps(v).decode() for v in value] if isinstance(value, list) else with_marks(value)
        elif name == "x":
            wire[name] = orjson.dumps(record[name]).decode()
        else:
            wire[name] = record[name]
    return wire


def with_marks(value: Any) -> Any:
    if isinstance(value, dict):
        marked = {key: with_marks(item) for key, item in value.items()}
        return {"@odata.type": "#microsoft.graph.security.dynamicColumnValue", **marked}
    return value


@given(st.lists(RECORDS, max_size=5), st.integers(0, 2**32))
def test_what_was_encoded_with_all_quirks_decodes_to_the_same_records(records: list[dict[str, Any]], seed: int) -> None:
    dice = random.Random(seed)
    body = orjson.dumps(
        {
            "schema": [{"name": name, "type": kind} for name, kind in KINDS.items()],
            "results": [encode_on_the_wire(record, dice) for record in records],
        }
    )
    decoded = decode(body, tostring_columns=["x"])
    assert decoded.rows == records
    assert [orjson.loads(encode_record(row)) for row in decoded.rows] == records


def test_30_000_rows_of_60_columns_are_decoded_well_within_two_seconds() -> None:
    types = {f"C{n:02}": "SByte" if n % 10 == 0 else "Int64" if n % 10 == 1 else "String" for n in range(60)}
    values = {"SByte": 1, "Int64": 2**62, "String": "a value"}
    row = {name: values[kind] for name, kind in types.items()} | {"C02": '{"a":[1,2]}', "C10@odata.type": "#SByte"}
    schema = [{"name": name, "type": kind} for name, kind in types.items()]
    body = orjson.dumps({"schema": schema, "results": [row] * 30_000})
    began = time.process_time()
    answer = decode(body, tostring_columns=["C02"])
    assert time.process_time() - began < 2  # 0.4 s on the 2 cores that this was written on
    assert len(answer.rows) == 30_000
    assert answer.rows[-1]["C02"] == {"a": [1, 2]}
