import time
from collections.abc import Iterator

import pytest
import requests

from defender_adx_pipeline.local.faults import BadFaultError, Fault, FaultScript
from defender_adx_pipeline.local.tenant import DATABASE, LocalTenant


@pytest.fixture(scope="module")
def tenant(open_tenant) -> Iterator[LocalTenant]:
    with open_tenant(scale=0) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_fault_is_left(tenant) -> Iterator[None]:
    yield
    tenant.faults.clear()


def ask(tenant: LocalTenant, query: str = "print 1") -> requests.Response:
    url = f"{tenant.url('engine')}/v2/rest/query"
    return requests.post(url, json={"db": DATABASE, "csl": query}, timeout=10)


def test_a_rule_hits_the_calls_it_counts_to():
    script = FaultScript()
    script.add("engine", "reset", match="DeviceInfo", first=2, times=2)
    hits = [script.take("engine", "DeviceInfo | count") is not None for _ in range(5)]
    assert hits == [False, True, True, False, False]
    assert script.take("engine", "Other | count") is None
    assert script.take("hunting", "DeviceInfo | count") is None
    assert script.as_json()[0]["seen"] == 5
    assert script.fired() == 2


def test_a_rule_may_be_for_ever_and_matches_any_of_statement_table_and_path():
    script = FaultScript()
    script.add("storage", Fault("status", status=403), match="/ready-0/", times=None, method="POST")
    path = "/devstoreaccount1/ready-0/messages"
    assert all(script.take("storage", None, None, path, method="POST") for _ in range(10))
    assert script.take("storage", None, None, path, method="GET") is None


def test_chance_is_the_same_for_the_same_seed():
    def hits(seed: int) -> list[bool]:
        script = FaultScript()
        script.add("engine", "reset", times=None, probability=0.3, seed=seed)
        return [script.take("engine", "x") is not None for _ in range(200)]

    assert hits(1) == hits(1)
    assert hits(1) != hits(2)
    assert 20 < sum(hits(1)) < 110


@pytest.mark.parametrize(
    "record",
    [
        {"service": "nobody", "kind": "reset"},
        {"service": "engine", "kind": "boom"},
        {"service": "engine", "kind": "reset", "x": 1},
    ],
)
def test_a_rule_that_says_nonsense_is_refused(record):
    with pytest.raises(BadFaultError):
        FaultScript().add_json(record)


def test_a_status_comes_with_its_headers_and_body(tenant):
    tenant.faults.add("engine", "status", status=429, headers={"Retry-After": "7"}, body='{"error": {}}')
    answer = ask(tenant)
    assert (answer.status_code, answer.headers["Retry-After"], answer.json()) == (429, "7", {"error": {}})
    assert ask(tenant).status_code == 200


def test_a_gateway_answers_with_a_page(tenant):
    tenant.faults.add("engine", "html", status=503)
    answer = ask(tenant)
    assert answer.status_code == 503
    assert answer.headers["Content-Type"].startswith("text/html")


def test_a_reset_does_no_work_and_a_lost_reply_does_it(tenant):
    commands = f"{tenant.url('engine')}/v1/rest/mgmt"
    for kind, name, exists in (("reset", "Never", False), ("lost_reply", "Done", True)):
        tenant.faults.add("engine", kind, match=name)
        body = {"db": DATABASE, "csl": f".create table {name} (A: string)"}
        with pytest.raises(requests.ConnectionError):
            requests.post(commands, json=body, timeout=10)
        assert (name in tenant.adx.tables()) is exists


def test_a_body_is_cut_short(tenant):
    tenant.faults.add("engine", "truncate", keep=0.5)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ask(tenant)


def test_a_delay_delays_and_a_hang_ends_without_an_answer(tenant):
    tenant.faults.add("engine", "delay", seconds=0.2)
    began = time.monotonic()
    assert ask(tenant).status_code == 200
    assert time.monotonic() - began >= 0.2
    tenant.faults.add("engine", "hang", seconds=0.2)
    with pytest.raises(requests.ConnectionError):
        ask(tenant)


def test_a_client_that_gives_up_on_a_hang_does_not_hold_the_server(tenant):
    tenant.faults.add("engine", "hang", seconds=60)
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(f"{tenant.url('engine')}/v2/rest/query", json={"db": DATABASE, "csl": "print 1"}, timeout=0.2)
    assert ask(tenant).status_code == 200


def test_faults_are_scripted_over_the_admin_endpoint(tenant):
    url = f"{tenant.url('admin')}/faults"
    given = {"service": "engine", "kind": "status", "status": 503, "match": "print 77", "times": 1}
    assert requests.post(url, json=given, timeout=10).json()[0]["status"] == 503
    assert ask(tenant, "print 1").status_code == 200
    assert ask(tenant, "print 77").status_code == 503
    assert requests.get(url, timeout=10).json()[0]["fired"] == 1
    assert requests.post(url, json={"service": "engine", "kind": "boom"}, timeout=10).status_code == 400
    assert requests.delete(url, timeout=10).json() == []


def test_the_log_knows_which_calls_went_wrong(tenant):
    since = tenant.log.last_number()
    tenant.faults.add("engine", "reset", match="print 5")
    with pytest.raises(requests.ConnectionError):
        ask(tenant, "print 5")
    ask(tenant, "print 6")
    entries = tenant.log.entries(service="engine", since=since)
    assert [(entry.statement, entry.status, entry.fault) for entry in entries] == [
        ("print 5", None, "reset"),
        ("print 6", 200, None),
    ]


def test_an_answer_is_cut_short_and_whole_as_http(tenant):
    tenant.faults.add("engine", "truncated_json", keep=0.5)
    answer = ask(tenant)
    assert answer.status_code == 200
    with pytest.raises(requests.exceptions.JSONDecodeError):
        answer.json()


@pytest.mark.parametrize(("kind", "rows"), [("partial", 5), ("partial_end", 4)])
def test_a_query_fails_after_some_of_its_rows(tenant, kind, rows):
    tenant.faults.add("engine", kind, keep=0.5)
    frames = ask(tenant, "range x from 1 to 8 step 1").json()
    answered = next(frame["Rows"] for frame in frames if frame.get("TableKind") == "PrimaryResult")
    assert len(answered) == rows
    assert ("OneApiErrors" in answered[-1]) is (kind == "partial")
    assert frames[-1]["HasErrors"] is True
    assert "E_LOW_MEMORY_CONDITION" in frames[-1]["OneApiErrors"][0]["error"]["@message"]


def test_a_named_fault_has_the_words_of_the_service_and_its_name_in_the_log(tenant):
    since = tenant.log.last_number()
    tenant.faults.add("engine", "throttled", retry_after=7)
    answer = ask(tenant)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert answer.json()["error"]["@permanent"] is False
    assert [entry.fault for entry in tenant.log.entries(since=since)] == ["throttled"]


def test_chaos_is_switched_on_and_off_over_the_admin_endpoint(tenant):
    url = f"{tenant.url('admin')}/chaos"
    given = {"seed": 1, "share": 1.0, "weights": {"engine": {"unavailable": 1}}}
    assert requests.post(url, json=given, timeout=10).json()["seed"] == 1
    assert ask(tenant).status_code == 503
    state = requests.get(url, timeout=10).json()
    assert (state["calls"], state["fired"]) == ({"engine": 1}, {"engine": {"unavailable": 1}})
    after = requests.delete(url, timeout=10).json()
    assert (after["seed"], after["fired"]) == (None, {"engine": {"unavailable": 1}})
    assert ask(tenant).status_code == 200
    assert requests.post(url, json={"seed": 1, "share": 2.0}, timeout=10).status_code == 400


def test_requests_are_counted_by_service(tenant):
    before = tenant.log.counts().get("engine", 0)
    ask(tenant)
    counts = requests.get(f"{tenant.url('admin')}/log/counts", timeout=10).json()
    assert counts["engine"] == before + 1
