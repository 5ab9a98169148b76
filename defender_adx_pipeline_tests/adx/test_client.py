"""The Kusto client against a scripted endpoint: what it sends, what it makes of answers that are not whole."""

import json
import socket
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from azure.kusto.data import KustoClient

from defender_adx_pipeline.adx.client import APPLICATION, AdxClient, derived_ingest_uri
from defender_adx_pipeline.adx.errors import (
    AdxAuthenticationError,
    AdxThrottledError,
    AdxUnreachableError,
    MissingObjectError,
    PartialResultError,
    QueryFailedError,
)
from defender_adx_pipeline.settings import Settings, SettingsError

LONG = {"x": "long"}


def test_a_query_is_read_only_strongly_consistent_and_says_who_asks(server, client, frames):
    server.answers = [(200, frames([[1], [2]], LONG))]
    assert client.query("T", timeout=timedelta(seconds=90)) == [{"x": 1}, {"x": 2}]
    (request,) = server.requests
    assert request["path"] == "/v2/rest/query"
    assert request["headers"]["x-ms-app"] == APPLICATION
    assert "Authorization" not in request["headers"]
    assert server.properties()["Options"] == {
        "servertimeout": "0:01:30",
        "request_readonly": True,
        "queryconsistency": "strongconsistency",
    }


def test_parameters_travel_beside_the_query_as_literals(server, client, frames):
    server.answers = [(200, frames([], LONG))]
    moment = datetime(2026, 8, 1, tzinfo=UTC)
    client.query(
        "declare query_parameters(a:string, b:datetime, c:long); T", parameters={"a": 'x"', "b": moment, "c": 5}
    )
    assert server.properties()["Parameters"] == {
        "a": 'x"',
        "b": "datetime(2026-08-01T00:00:00.000000Z)",
        "c": "long(5)",
    }


def test_datetimes_come_back_with_the_seven_digits_that_kusto_wrote(server, client, frames, dataset):
    text = "2026-08-01T01:02:03.1234567Z"
    server.answers = [(200, frames([[text]], {"t": "datetime"})), (200, dataset([[text]], {"t": "datetime"}))]
    assert client.query("T") == [{"t": text}]
    assert client.command(".show tables", idempotent=True) == [{"t": text}]


def test_numbers_above_2_to_the_53_and_nulls_stay_what_they_are(server, client, frames):
    server.answers = [(200, frames([[9007199254740993, None], [-5, 1.5]], {"n": "long", "r": "real"}))]
    assert client.query("T") == [{"n": 9007199254740993, "r": None}, {"n": -5, "r": 1.5}]


def test_a_bool_of_a_command_is_a_bool(server, client, dataset):
    server.answers = [(200, dataset([[1], [0], [None]], {"b": "bool"}))]
    assert client.command(".show x", idempotent=True) == [{"b": True}, {"b": False}, {"b": None}]


def test_the_token_is_asked_for_each_request(server, frames):
    tokens = iter(["one", "two"])
    server.answers = [(200, frames([], LONG))]
    with AdxClient(server.url, "defender", token_provider=lambda: next(tokens)) as client:
        client.query("T")
        client.query("T")
    assert [request["headers"]["Authorization"] for request in server.requests] == ["Bearer one", "Bearer two"]


def test_a_cluster_without_a_token_is_refused_unless_it_is_loopback():
    with pytest.raises(ValueError, match="needs a token"):
        AdxClient("https://help.kusto.windows.net", "Samples")


@pytest.mark.parametrize("reader", ["query", "stream"])
def test_an_error_among_the_rows_fails_the_whole_answer(server, client, frames, one_api, reader):
    cut = {"OneApiErrors": [one_api("E_QUERY_RESULT_SET_TOO_LARGE (80DA0003)", code="LimitsExceeded")]}
    server.answers = [(200, frames([[1], cut], LONG, HasErrors=True))]
    with pytest.raises(PartialResultError, match=r"500,000 rows") as caught:
        list(getattr(client, reader)("T"))
    assert caught.value.too_large
    assert len(server.requests) == 1


LOW_MEMORY = {"code": "LimitsExceeded", "message": "m", "@message": "E_LOW_MEMORY_CONDITION", "@permanent": False}
RUNAWAY = {"code": "LimitsExceeded", "message": "m", "@message": "E_RUNAWAY_QUERY (80DA0001)", "@permanent": False}


@pytest.mark.parametrize("where", ["rows", "last frame"])
def test_a_partial_answer_is_asked_for_again_when_the_service_calls_it_transient(server, client, frames, where):
    def partial(error):
        errors = [{"error": error}]
        rows = [[1], {"OneApiErrors": errors}] if where == "rows" else [[1]]
        return (200, frames(rows, LONG, HasErrors=True, OneApiErrors=errors))

    server.answers = [partial(LOW_MEMORY), (200, frames([[1], [2]], LONG))]
    assert client.query("T") == [{"x": 1}, {"x": 2}]
    assert len(server.requests) == 2
    server.answers = [partial(LOW_MEMORY)]
    with pytest.raises(PartialResultError, match="LOW_MEMORY"):
        client.query("T")
    assert len(server.requests) == 2 + 3
    server.answers = [partial(RUNAWAY)]
    with pytest.raises(PartialResultError, match="smaller window") as caught:
        client.query("T")
    assert caught.value.too_large
    assert len(server.requests) == 2 + 3 + 1


def test_a_partial_answer_of_a_command_is_repeated_only_when_it_is_idempotent(server, client, dataset):
    partial = dataset([[1], {"OneApiErrors": [{"error": LOW_MEMORY}]}], LONG)
    server.answers = [(200, partial), (200, dataset([[1]], LONG))]
    with pytest.raises(PartialResultError):
        client.command(".append T <| x", idempotent=False)
    assert len(server.requests) == 1
    server.answers = [(200, partial), (200, dataset([[1]], LONG))]
    assert client.command(".show x", idempotent=True) == [{"x": 1}]


@pytest.mark.parametrize("reader", ["query", "stream"])
@pytest.mark.parametrize(
    "completion",
    [{"HasErrors": True}, {"Cancelled": True}, {"OneApiErrors": [{"error": {"code": "E", "message": "cut"}}]}],
)
def test_an_error_that_only_the_last_frame_tells_of_fails_the_answer(server, client, frames, reader, completion):
    server.answers = [(200, frames([[1]], LONG, **completion))]
    with pytest.raises(PartialResultError):
        list(getattr(client, reader)("T"))


def test_an_answer_without_its_last_frame_is_asked_for_again(server, client, frames):
    server.answers = [(200, frames([[1]], LONG)[:-1]), (200, frames([[1], [2]], LONG))]
    assert client.query("T") == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize(
    "first",
    ["reset", ("cut", b"[" + b" " * 5000 + b"]"), (200, b"<html>proxy</html>"), (502, b"<html>"), (503, {}), (500, [])],
)
def test_a_query_is_repeated_when_no_whole_answer_came(server, client, frames, pauses, first):
    server.answers = [first, (200, frames([[7]], LONG))]
    assert client.query("T") == [{"x": 7}]
    assert len(pauses) == 1


def test_tries_are_bounded(server, client, pauses):
    server.answers = ["reset"]
    with pytest.raises(AdxUnreachableError, match="ADX_CLUSTER_URI") as caught:
        client.query("T")
    assert len(server.requests) == 3
    assert len(pauses) == 2
    assert not caught.value.never_ran


def test_a_stream_gives_rows_before_the_answer_ended_and_still_notices_a_bad_end(server, client, frames):
    server.answers = [(200, frames([[number] for number in range(20_000)], LONG, HasErrors=True))]
    rows = client.stream("T")
    assert [next(rows)["x"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(PartialResultError):
        list(rows)


def test_a_stream_that_is_given_up_leaves_the_client_usable(server, client, frames):
    server.answers = [(200, frames([[number] for number in range(20_000)], LONG))]
    rows = client.stream("T")
    next(rows)
    rows.close()
    assert len(client.query("T")) == 20_000


def test_a_stream_is_not_begun_again_after_its_first_row(server, client, frames):
    body = json.dumps(frames([[number] for number in range(50_000)], LONG)).encode()
    server.answers = [("cut", body)]
    rows = client.stream("T")
    assert next(rows) == {"x": 0}
    with pytest.raises(AdxUnreachableError):
        list(rows)
    assert len(server.requests) == 1


def test_throttling_waits_as_long_as_the_service_asks(server, client, frames, pauses):
    server.answers = [(429, {}, {"Retry-After": "17"}), (200, frames([], LONG))]
    assert client.query("T") == []
    assert pauses == [17.0]


def test_a_command_whose_answer_is_cut_may_have_run_and_its_text_is_in_no_message(server, client, dataset):
    cut = json.dumps(dataset([["eyJsecret.identity.token"]], {"AuthorizationContext": "string"})).encode()[:-3]
    server.answers = [(200, cut), (200, dataset([[1]], LONG))]
    assert client.command(".get kusto identity token", idempotent=True) == [{"x": 1}]
    server.answers = [(200, cut)]
    with pytest.raises(AdxUnreachableError, match="is cut or not Kusto's") as caught:
        client.command(".append T <| x", idempotent=False)
    # What Dagster stores is the whole traceback.
    assert "eyJsecret" not in "".join(traceback.format_exception(caught.value))


THROTTLED = {
    "code": "TooManyRequests",
    "message": "m",
    "@type": "Kusto.DataNode.Exceptions.ControlCommandThrottledException",
    "@message": "The control command was aborted due to throttling. Retrying after some backoff might help.",
    "@permanent": False,
}


@pytest.mark.parametrize("status", [400, 429, 503])
def test_a_throttled_command_was_not_carried_out_whatever_the_status(server, client, dataset, pauses, status):
    server.answers = [(status, {"error": THROTTLED}), (200, dataset([[1]], LONG))]
    assert client.command(".append T <| x", idempotent=False) == [{"x": 1}]
    assert len(pauses) == 1


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_the_waits_of_one_statement_grow_are_bounded_and_follow_the_clock(server, pauses, scale):
    server.answers = [(503, {})]
    with AdxClient(server.url, "defender", clock_scale=scale, sleep=pauses.append) as client:
        with pytest.raises(AdxUnreachableError):
            client.query("T")
        assert len(server.requests) == 7
        for pause, base in zip(pauses, [2, 4, 8, 16, 30, 30], strict=True):
            assert base <= pause * scale <= base + 2
        pauses.clear()
        server.answers = [(429, {}, {"Retry-After": "600"})]
        with pytest.raises(AdxThrottledError):
            client.query("T")
        assert [pause * scale for pause in pauses] == [60.0] * 6


def test_a_cluster_that_does_not_answer_in_time_is_asked_again(server, client, frames, pauses, monkeypatch):
    monkeypatch.setattr(KustoClient, "_client_server_delta", timedelta(0))
    hang, answers = threading.Event(), iter([(200, frames([[7]], LONG))] * 2)

    def route(method, path, body):
        if len(server.requests) == 1:
            hang.wait(10)
        return next(answers)

    server.route = route
    assert client.query("T", timeout=timedelta(seconds=1)) == [{"x": 7}]
    assert len(pauses) == 1
    hang.set()


def test_a_cluster_that_hangs_is_not_asked_for_ever(server, client, monkeypatch):
    server.answers = [(503, {})]
    monkeypatch.setattr("defender_adx_pipeline.adx.client._LONGEST_TRYING", 0.0)
    with pytest.raises(AdxUnreachableError):
        client.query("T")
    assert len(server.requests) == 1


def test_a_refused_token_is_renewed_once_also_for_a_command_that_is_not_idempotent(server, dataset, pauses):
    tokens = ["old"]
    server.answers = [(401, {}), (200, dataset([[1]], LONG))]
    options = {"renew_token": lambda: tokens.append(f"new{len(tokens)}"), "sleep": pauses.append}
    with AdxClient(server.url, "defender", token_provider=lambda: tokens[-1], **options) as client:
        assert client.command(".append T <| x", idempotent=False) == [{"x": 1}]
        assert [request["headers"]["Authorization"] for request in server.requests] == ["Bearer old", "Bearer new1"]
        server.answers = [(401, {})]
        with pytest.raises(AdxAuthenticationError, match="AZURE_CLIENT_ID"):
            client.query("T")
    assert tokens == ["old", "new1", "new2"]
    assert len(server.requests) == 4


class SignInDownError(Exception):
    """As a token provider raises it: asking again may help."""

    action = "retry"


def failing_first(token: str, error: Exception) -> Callable[[], str]:
    answers = iter([error])

    def provide() -> str:
        if (failure := next(answers, None)) is not None:
            raise failure
        return token

    return provide


def test_a_sign_in_that_is_down_for_a_moment_is_asked_again_since_nothing_was_sent(server, dataset, pauses):
    server.answers = [(200, dataset([[1]], LONG))]
    provider = failing_first("good", SignInDownError("Entra ID is out of order."))
    with AdxClient(server.url, "defender", token_provider=provider, sleep=pauses.append) as client:
        assert client.command(".append T <| x", idempotent=False) == [{"x": 1}]
    assert (len(pauses), len(server.requests)) == (1, 1)


def test_a_sign_in_that_refuses_is_not_asked_again(server, pauses):
    provider = failing_first("good", ValueError("the client secret is wrong"))
    with (
        AdxClient(server.url, "defender", token_provider=provider, sleep=pauses.append) as client,
        pytest.raises(AdxAuthenticationError, match="the client secret is wrong"),
    ):
        client.query("T")
    assert (pauses, server.requests) == ([], [])


def test_a_sign_in_that_is_down_when_a_token_is_renewed_is_asked_again(server, dataset, pauses):
    server.answers = [(401, {}), (200, dataset([[1]], LONG))]
    renew = failing_first("new", SignInDownError("Entra ID is out of order."))
    options = {"token_provider": lambda: "old", "renew_token": renew, "sleep": pauses.append}
    with AdxClient(server.url, "defender", **options) as client:
        assert client.command(".append T <| x", idempotent=False) == [{"x": 1}]
    assert (len(pauses), len(server.requests)) == (2, 2)


def test_throttling_that_does_not_end_is_an_error(server, client):
    server.answers = [(429, b"<html>slow down</html>")]
    with pytest.raises(AdxThrottledError, match="429"):
        client.query("T")
    with pytest.raises(AdxThrottledError, match="429"):
        client.command(".append T <| x", idempotent=False)


def test_a_command_that_may_have_run_is_repeated_only_when_it_is_idempotent(server, client, dataset):
    server.answers = ["reset", (200, dataset([[1]], LONG))]
    with pytest.raises(AdxUnreachableError, match="not known"):
        client.command(".append T <| x", idempotent=False)
    assert len(server.requests) == 1
    server.answers = ["reset", (200, dataset([[1]], LONG))]
    assert client.command(".create-merge table T (x: long)", idempotent=True) == [{"x": 1}]


def test_a_command_that_never_reached_the_cluster_is_repeated(pauses):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        port = taken.getsockname()[1]
        client = AdxClient(f"http://127.0.0.1:{port}", "defender", attempts=3, sleep=pauses.append)
        with client, pytest.raises(AdxUnreachableError, match="It was not carried out") as caught:
            client.command(".append T <| x", idempotent=False)
    assert caught.value.never_ran
    assert len(pauses) == 2


@pytest.mark.parametrize(
    "case",
    [
        (
            400,
            "Semantic error: SEM0100: Failed to resolve table or column expression named 'T'",
            MissingObjectError,
            "bootstrap",
        ),
        (
            400,
            "Semantic error: 'where' operator: Failed to resolve scalar expression named 'y'",
            QueryFailedError,
            "again",
        ),
        (400, "Syntax error: SYN0002", QueryFailedError, "refuses"),
        (401, "no", AdxAuthenticationError, "AZURE_TENANT_ID"),
        (404, "no", QueryFailedError, "ADX_CLUSTER_URI"),
    ],
)
def test_a_refusal_is_not_repeated_and_says_what_to_do(server, client, one_api, case):
    status, description, expected, advice = case
    server.answers = [(status, one_api(description))]
    with pytest.raises(expected, match=advice) as caught:
        client.query("T | where y == 1")
    assert "T | where y == 1" in str(caught.value)
    with pytest.raises(expected, match=advice):
        client.command(".show table T", idempotent=True)
    assert len(server.requests) == 2


def test_no_row_data_beyond_the_beginning_of_a_statement_is_in_a_message(server, client, one_api):
    server.answers = [(400, one_api("Syntax error"))]
    with pytest.raises(QueryFailedError) as caught:
        client.command(".append ['T'] <| " + "x" * 10_000, idempotent=False)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("cluster", "ingest"),
    [
        ("https://help.westeurope.kusto.windows.net", "https://ingest-help.westeurope.kusto.windows.net"),
        ("https://ingest-help.kusto.windows.net", "https://ingest-help.kusto.windows.net"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:8080", "http://localhost:8080"),
    ],
)
def test_the_ingest_endpoint_follows_from_the_cluster(cluster, ingest):
    assert derived_ingest_uri(cluster) == ingest


def test_a_client_follows_the_settings(server, frames):
    uri = server.url
    settings = Settings(adx_cluster_uri=uri, adx_database="security", adx_ingest_uri=f"{uri}/ingest")
    server.answers = [(200, frames([], LONG))]
    with AdxClient.from_settings(settings, lambda: "token") as client:
        client.query("T")
    assert (client.cluster_uri, client.ingest_uri, client.database) == (uri, f"{uri}/ingest", "security")
    assert json.loads(server.requests[0]["body"])["db"] == "security"


def test_settings_without_a_cluster_are_refused_by_name():
    with pytest.raises(SettingsError, match="ADX_CLUSTER_URI"):
        AdxClient.from_settings(Settings(adx_cluster_uri=None), None)


def test_an_absurd_time_out_is_refused(client):
    with pytest.raises(ValueError, match="time-out"):
        client.query("T", timeout=timedelta(days=2))
