"""The hunting endpoints: envelopes, quirks, limits and refusals, asked with requests over loopback."""

import json
import random
from datetime import UTC, datetime

import pytest
import requests

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.local.data import fill
from defender_adx_pipeline.local.entra import Application, TokenIssuer
from defender_adx_pipeline.local.hunting import ENDPOINTS, HuntingService, hunting_routes
from defender_adx_pipeline.local.limits import CallQuota, HuntingLimits
from defender_adx_pipeline.local.source import SourceStore
from defender_adx_pipeline.local.wire import Encoding
from defender_adx_pipeline_tests.local.serving import serving

pytestmark = pytest.mark.long

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PATHS = {
    "graph": ("/v1.0/security/runHuntingQuery", "https://graph.microsoft.com"),
    "xdr": ("/api/advancedhunting/run", "https://api.security.microsoft.com"),
    "mde": ("/api/advancedqueries/run", "https://api.securitycenter.microsoft.com"),
}
BAG = "#microsoft.graph.security.dynamicColumnValue"
ROWS = [
    {
        "Timestamp": "2026-11-24T10:00:00.1234567Z",
        "ActionType": 'x "\\\n é',
        "ReportId": "1",
        "IsAdminOperation": True,
        "ApplicationId": 7,
        "RawEventData": {"Big": 9007199254740993, "Ok": True, "In": {"List": [{"a": 1}, "b"]}},
        "ActivityObjects": [{"Type": "User", "N": 1.5}, "text"],
    },
    {"Timestamp": "2026-11-24T11:00:00Z", "ReportId": "2"},
]


@pytest.fixture(scope="module")
def source():
    store = SourceStore(":memory:", load_catalogue(), lambda: NOW)
    store.insert_rows("CloudAppEvents", ROWS)
    store.insert_rows("DeviceInfo", [{"Timestamp": "2026-11-24T10:00:00Z", "ReportId": 639199803770463703}])
    store.insert_rows("AlertInfo", [{"Timestamp": "2026-11-20T00:00:00Z", "AlertId": f"{n:04}"} for n in range(500)])
    store.insert_rows("AlertInfo", [{"Timestamp": "2026-11-24T00:00:00Z", "AlertId": "late"}])
    yield store
    store.close()


class Client:
    def __init__(self, base, issuer, client_id="app"):
        self.base, self.issuer, self.client_id = base, issuer, client_id

    def ask(self, query, api="graph", **body):
        path, audience = PATHS[api]
        token = self.issuer.issue(self.client_id, f"{audience}/.default")
        return self.send(path, {"Query": query, **body}, token)

    def send(self, path, body, token):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
        return requests.post(self.base + path, data=data, headers=headers, timeout=20)


@pytest.fixture(scope="module")
def issuer():
    return TokenIssuer("tenant", [Application("app", "s"), Application("poor", "s", roles=())])


@pytest.fixture(scope="module")
def client(source, issuer):
    limits = HuntingLimits(rows=400, bytes=60_000, request_bytes=5_000, calls_per_minute=10_000, calls_per_hour=10_000)
    with serving(hunting_routes(source, issuer, CallQuota(limits), limits)) as base:
        yield Client(base, issuer)


def results(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_graph_answers_with_its_schema_and_its_quirks(client):
    seen_null_forms = set()
    for _ in range(30):
        answer = client.ask("CloudAppEvents | sort by Timestamp asc")
        body = answer.json()
        assert list(body) == ["@odata.context", "schema", "results"]
        kinds = {column["name"]: column["type"] for column in body["schema"]}
        assert (kinds["Timestamp"], kinds["IsAdminOperation"], kinds["ApplicationId"], kinds["RawEventData"]) == (
            "DateTime", "SByte", "Int32", "Object",
        )  # fmt: skip
        first, second = body["results"]
        assert first["Timestamp"] == "2026-11-24T10:00:00.1234567Z"
        assert first["ActionType"] == ROWS[0]["ActionType"]
        assert first["IsAdminOperation"] == 1
        assert first.get("IsAdminOperation@odata.type", "#SByte") == "#SByte"
        assert '"Big":9007199254740993' in answer.text
        assert first["RawEventData"]["@odata.type"] == BAG
        assert first["RawEventData"]["Ok"] is True
        assert first["RawEventData"]["In"] == {
            "@odata.type": BAG,
            "List@odata.type": "#Collection(String)",
            "List": ['{"a":1}', "b"],
        }
        assert first["ActivityObjects@odata.type"] == "#Collection(String)"
        assert first["ActivityObjects"] == ['{"Type":"User","N":1.5}', "text"]
        assert second["Timestamp"] == "2026-11-24T11:00:00Z"
        assert second["ActionType"] == ""
        for name in ("IsAdminOperation", "ApplicationId", "RawEventData"):
            assert second.get(name, {}) == {}
            seen_null_forms.add((name, name in second))
    assert len(seen_null_forms) == 6  # `{}` and left out, for a bool, an int and a dynamic column


def test_side_cars_come_and_go(client):
    answers = [results(client.ask("DeviceInfo | count"))[0] for _ in range(30)]
    assert {answer["Count"] for answer in answers} == {1}
    assert {answer.get("Count@odata.type") for answer in answers} == {"#Int64", None}


def test_a_long_is_an_exact_number(client):
    assert '"ReportId":639199803770463703' in client.ask("DeviceInfo | project ReportId").text


def test_a_column_made_text_in_the_query_reaches_the_caller_unaltered(client):
    query = "CloudAppEvents | where ReportId == '1' | project R = tostring(RawEventData), A = tostring(ActivityObjects)"
    (row,) = results(client.ask(query))
    assert json.loads(row["R"]) == ROWS[0]["RawEventData"]
    assert json.loads(row["A"]) == ROWS[0]["ActivityObjects"]


@pytest.mark.parametrize("api", ["xdr", "mde"])
def test_xdr_and_mde_answer_in_their_own_casing(client, api):
    body = client.ask("CloudAppEvents | sort by Timestamp asc", api).json()
    assert list(body) == ["Stats", "Schema", "Results"]
    assert body["Schema"][0] == {"Name": "Timestamp", "Type": "DateTime"}
    assert body["Results"][0]["RawEventData"] == ROWS[0]["RawEventData"]
    assert body["Results"][1]["IsAdminOperation"] is None


def test_rows_come_in_another_order_every_time_unless_sorted(client):
    orders = {tuple(row["AlertId"] for row in results(client.ask("AlertInfo | project AlertId"))) for _ in range(3)}
    assert len(orders) == 3
    query = "AlertInfo | project AlertId | sort by AlertId asc"
    ordered = [row["AlertId"] for row in results(client.ask(query))]
    assert ordered == sorted(ordered)
    names = [row["ColumnName"] for row in results(client.ask("AlertInfo | getschema | project ColumnName"))]
    assert names == [column.name for column in load_catalogue()["AlertInfo"].columns]


def test_an_answer_beyond_the_row_cap_is_cut_without_a_word(client):
    body = client.ask("AlertInfo | project AlertId").json()
    assert len(body["results"]) == 400
    assert list(body) == ["@odata.context", "schema", "results"]


def test_an_answer_beyond_the_byte_limit_is_refused(client):
    answer = client.ask("AlertInfo | extend Pad = strcat(AlertId, 'ä', AlertId, AlertId, AlertId, AlertId)")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "BadRequest"
    assert error["message"].startswith("Query execution has exceeded the allowed result size.")
    assert set(error["innerError"]) == {"date", "request-id", "client-request-id"}


def test_a_request_beyond_the_body_limit_meets_the_proxy(client):
    answer = client.ask("AlertInfo // " + "x" * 6_000)
    assert answer.status_code == 413
    assert "413 Request Entity Too Large" in answer.text
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("api", ["graph", "xdr", "mde"])
def test_an_unknown_table_is_kustos_semantic_error(client, api):
    answer = client.ask("NoSuchTable | where A == 1 | count", api)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"] == (
        "'where' operator: Failed to resolve table or column expression named 'NoSuchTable'."
        " Fix semantic errors in your query."
    )
    assert ("target" in error) == (api != "graph")


def test_a_token_is_needed_for_the_right_audience_with_the_right_role(client, issuer):
    path, _ = PATHS["graph"]
    body = {"Query": "AlertInfo | count"}
    assert client.send(path, body, None).status_code == 401
    wrong = issuer.issue("app", "https://api.security.microsoft.com/.default")
    refused = client.send(path, body, wrong)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "InvalidAuthenticationToken"
    for api in PATHS:
        denied = Client(client.base, issuer, "poor").ask("AlertInfo | count", api)
        assert denied.status_code == 403
        expected = "Authorization_RequestDenied" if api == "graph" else "Forbidden"
        assert denied.json()["error"]["code"] == expected


def test_malformed_requests_are_refused(client, issuer):
    for api, code in (("graph", "BadRequest"), ("xdr", "InvalidRequestBody"), ("mde", "InvalidRequestBody")):
        path, audience = PATHS[api]
        token = issuer.issue("app", audience)
        answer = client.send(path, b"{", token)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    # XDR and MDE take their parameter by its exact name, Graph in any case.
    token = issuer.issue("app", PATHS["xdr"][1])
    answer = client.send(PATHS["xdr"][0], {"query": "AlertInfo | count"}, token)
    assert answer.json()["error"]["code"] == "MissingRequiredParameter"
    token = issuer.issue("app", PATHS["graph"][1])
    assert client.send(PATHS["graph"][0], {"query": "AlertInfo | count"}, token).status_code == 200


@pytest.mark.parametrize(
    ("timespan", "count"),
    [
        (None, 501),
        ("P30D", 501),
        ("P1D", 1),
        ("PT6H", 0),
        ("2026-11-20T00:00:00Z/2026-11-21T00:00:00Z", 500),
        ("P5D/2026-11-24T00:00:00Z", 501),
        ("2026-11-20T00:00:00Z/P1D", 500),
        ("2026-11-23T00:00:00Z", 1),
    ],
)
def test_a_timespan_narrows_the_answer(client, timespan, count):
    more = {"Timespan": timespan} if timespan else {}
    assert results(client.ask("AlertInfo | count", **more))[0]["Count"] == count
    assert client.ask("AlertInfo | count", Timespan="last week").status_code == 400


def test_a_shorter_look_back_hides_older_rows(source, issuer):
    limits = HuntingLimits(days=2)
    with serving(hunting_routes(source, issuer, CallQuota(limits), limits)) as base:
        assert results(Client(base, issuer).ask("AlertInfo | count", Timespan="P30D"))[0]["Count"] == 1


def test_the_quota_is_the_tenants_and_refuses_in_the_words_seen_live(source, issuer):
    limits = HuntingLimits(calls_per_minute=45)
    with serving(hunting_routes(source, issuer, CallQuota(limits), limits)) as base:
        client = Client(base, issuer)
        statuses = [client.ask("AlertInfo | count", api).status_code for api in ("graph", "xdr", "mde") * 15]
        assert statuses == [200] * 45
        for api, code in (("graph", "TooManyRequests"), ("xdr", "429"), ("mde", "429")):
            refused = client.ask("AlertInfo | count", api)
            assert refused.status_code == 429
            error = refused.json()["error"]
            assert error["code"] == code
            assert error["message"] == "API calls quota exceeded! maximum allowed 45 per 00:01:00"
            assert "retry-after" not in refused.headers


def test_a_query_that_runs_too_long_is_preempted(source, issuer):
    limits = HuntingLimits(seconds=0.05)
    slow = "range a from 1 to 100000 step 1 | extend k = 1 | join kind=inner (range b from 1 to 100000 step 1"
    slow += " | extend k = 1) on k | summarize s = sum(a * b % 7)"
    with serving(hunting_routes(source, issuer, CallQuota(limits), limits)) as base:
        answer = Client(base, issuer).ask(slow)
    assert answer.status_code == 400
    assert "exceeded the allowed limits. The query execution was preempted." in answer.json()["error"]["message"]


def test_answers_hold_every_stored_row_of_every_table_value_for_value(issuer):
    catalogue = load_catalogue()
    store = SourceStore(":memory:", catalogue, lambda: NOW)
    fill(store, scale=0.005)
    limits = HuntingLimits()
    service = HuntingService(store, issuer, CallQuota(limits), limits)
    xdr = next(endpoint for endpoint in ENDPOINTS if endpoint.api == "xdr")
    for table in catalogue.values():
        flags = {column.name for column in table.columns if column.type == "bool"}
        answer = json.loads(service.answer(xdr, table.name, None))
        got = [
            {name: bool(value) if name in flags else value for name, value in row.items() if value is not None}
            for row in answer["Results"]
        ]
        want = [json.loads(line) for line in store.rows(table.name)]
        assert sorted(map(canonical, got)) == sorted(map(canonical, want)), table.name
    store.close()


def canonical(row):
    return json.dumps(row, sort_keys=True)


def test_the_same_draw_encodes_the_same_way():
    columns = [("A", "bool"), ("B", "long"), ("C", "string")]
    first, second = (Encoding("graph", columns, random.Random(5)).row_sql() for _ in range(2))
    assert first == second
