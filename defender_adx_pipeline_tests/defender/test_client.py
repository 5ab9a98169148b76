import gzip
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from defender_adx_pipeline import __version__
from defender_adx_pipeline.catalogue import Column
from defender_adx_pipeline.defender.auth import CachedTokens
from defender_adx_pipeline.defender.client import CallUsage, HuntingClient
from defender_adx_pipeline.defender.errors import (
    Action,
    AuthenticationError,
    HuntingError,
    MalformedAnswerError,
    PermanentError,
    PermissionDeniedError,
    QueryContext,
    RejectedTokenError,
    RequestTooLargeError,
    SignInUnavailableError,
    ThrottledError,
    TooLargeError,
    TransientError,
    UnresolvedNameError,
)
from defender_adx_pipeline.defender.quota import FileQuota, Limit
from defender_adx_pipeline.defender.retrying import RetryPolicy, RetryRun
from defender_adx_pipeline_tests.defender.loopback import Asked, EntraServer, Reply, Server, graph_answer, serving
from defender_adx_pipeline_tests.defender.test_classification import (
    CPU,
    NGINX,
    RESULT_SIZE,
    ROWS,
    UNRESOLVED,
    graph,
    mde,
)

FAST = RetryPolicy(first_wait=0.01, longest_wait=0.05, first_pause=0.01, throttled_for=2.0, transient_tries=4)
GOOD = graph_answer([{"C": 1}], C="SByte")
CONTEXT = QueryContext(table="DeviceInfo", purpose="read rows", window="[a, b)")
SERVER_FAILS = Reply(500, graph("UnknownError", ""))
TOKEN = "eyJhbGciOi.SECRET-TOKEN"


class Tokens(CachedTokens):
    """Real caching over sign-ins that are only counted."""

    def __init__(self) -> None:
        self.signed_in = 0
        self.failures: list[Exception] = []
        super().__init__(self._sign_in)

    def _sign_in(self, scope: str) -> dict[str, Any]:
        if self.failures:
            raise self.failures.pop(0)
        self.signed_in += 1
        return {"access_token": f"{TOKEN}-{self.signed_in}", "expires_in": 3600}


@pytest.fixture
def open_client(tmp_path: Path) -> Iterator[Callable[..., HuntingClient]]:
    clients: list[HuntingClient] = []

    def opened(server: Server | EntraServer, *, tokens: Tokens | None = None, **options: Any) -> HuntingClient:
        quota = FileQuota(tmp_path / "q.sqlite", (Limit(1000, 60),))
        given: dict[str, Any] = {"retries": FAST, "quota": quota} | options
        client = HuntingClient(
            server.url + "/v1.0/security/runHuntingQuery",
            tokens=tokens or Tokens(),
            scope="https://graph.microsoft.com/.default",
            **given,
        )
        clients.append(client)
        return client

    yield opened
    for client in clients:
        client.close()


OpenClient = Callable[..., HuntingClient]


def test_a_query_goes_out_as_graph_wants_it(open_client: OpenClient) -> None:
    with serving(GOOD) as server:
        answer = open_client(server).run("DeviceInfo | take 1", timespan="P1D", context=CONTEXT)
    assert answer.rows == [{"C": True}]
    [asked] = server.asked
    assert (asked.method, asked.path) == ("POST", "/v1.0/security/runHuntingQuery")
    assert asked.json == {"Query": "DeviceInfo | take 1", "Timespan": "P1D"}
    assert asked.headers["content-type"] == "application/json; charset=utf-8"
    assert asked.headers["user-agent"] == f"defender-adx-pipeline/{__version__}"
    assert asked.headers["authorization"] == f"Bearer {TOKEN}-1"
    assert asked.headers["client-request-id"]


def test_without_a_timespan_none_is_sent_and_the_older_apis_take_none(open_client: OpenClient) -> None:
    with serving(GOOD) as server:
        client = open_client(server, api="xdr")
        client.run("print 1")
        assert server.asked[0].json == {"Query": "print 1"}
        with pytest.raises(ValueError, match="xdr API takes no timespan"):
            client.run("print 1", timespan="P1D")


def test_a_netrc_entry_does_not_replace_the_token(
    open_client: OpenClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(GOOD) as server:
        open_client(server).run("print 1")
    assert server.asked[0].headers["authorization"] == f"Bearer {TOKEN}-1"


TRANSIENT = [
    SERVER_FAILS,
    Reply(503, NGINX % b"503 Service Temporarily Unavailable"),
    Reply(reset=True),
    Reply(200, GOOD.body, cut=True),
    Reply(200, GOOD.body[:-5]),
    Reply(200, b"<html>captive portal</html>"),
    Reply(200, b""),
    Reply(200, b'{"schema":[{"name":"C","type":"SByte"}]}'),
    Reply(200, b"upstream connect error"),
    Reply(200, GOOD.body, {"Content-Encoding": "gzip"}),
    Reply(200, gzip.compress(GOOD.body)[:-16], {"Content-Encoding": "gzip"}),
    Reply(200, GOOD.body[:-1] + b', "error": {"code": "UnknownError", "message": ""}}'),
    Reply(204),
]


@pytest.mark.parametrize("fault", TRANSIENT)
def test_what_may_go_away_by_itself_is_tried_again(
    open_client: OpenClient, fault: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(fault, fault, GOOD) as server:
        client = open_client(server)
        assert client.run("print 1", context=CONTEXT).rows == [{"C": True}]
    assert len(server.asked) == 3
    assert (client.usage.calls, client.usage.retries) == (3, 2)
    assert "trying again (2): Advanced Hunting, read rows of DeviceInfo [a, b)" in caplog.text


@pytest.mark.parametrize("row", ROWS)
def test_every_answer_of_the_table_comes_out_of_the_client_as_its_error(
    open_client: OpenClient, row: tuple[int, bytes, type[HuntingError], Action, str]
) -> None:
    status, body, kind, action, says = row
    once = RetryPolicy(transient_tries=1, throttled_for=-1.0)
    with serving(Reply(status, body)) as server:
        client = open_client(server, retries=once)
        with pytest.raises(kind) as caught:
            client.run("print 1", context=CONTEXT)
    assert type(caught.value) is kind
    assert says in str(caught.value)
    # A refused token is the one thing that is tried again without a wait.
    assert len(server.asked) == client.usage.calls == (2 if action == "renew" else 1)
    assert client.usage.throttled == (action == "pause")
    assert_silent(caught.value)


@pytest.mark.parametrize("fault", TRANSIENT)
def test_tries_are_bounded_and_the_last_error_is_raised(open_client: OpenClient, fault: Reply) -> None:
    with serving(fault) as server, pytest.raises(TransientError, match="read rows of DeviceInfo") as caught:
        open_client(server).run("print 1", context=CONTEXT)
    assert len(server.asked) == FAST.transient_tries
    assert_silent(caught.value)


def test_a_service_that_does_not_answer_in_time_is_tried_again(open_client: OpenClient) -> None:
    hang = threading.Event()

    def answering(asked: Asked) -> Reply:
        if len(server.asked) == 1:
            hang.wait(5)
        return GOOD

    with serving(answering=answering) as server:
        client = open_client(server, timeouts=(1.0, 0.2))
        # The handler of the hanging call holds the server's lock: it must go on before the next is answered.
        timer = threading.Timer(0.5, hang.set)
        timer.start()
        assert client.run("print 1").rows == [{"C": True}]
        timer.join()
    assert client.usage.calls >= 2


def test_an_answer_in_drops_is_given_up_although_no_wait_for_a_byte_is_long(open_client: OpenClient) -> None:
    with serving(Reply(200, GOOD.body, drops=0.02), GOOD) as server:
        client = open_client(server, timeouts=(1.0, 1.0), longest_call=0.1)
        assert client.run("print 1").rows == [{"C": True}]
        assert (client.usage.calls, client.usage.retries) == (2, 1)
        with (
            serving(Reply(200, GOOD.body, drops=0.02)) as slow,
            pytest.raises(TransientError, match=r"did not end within 0.1 s"),
        ):
            open_client(slow, timeouts=(1.0, 1.0), longest_call=0.1).run("print 1")


def test_a_service_that_is_not_there_is_told(open_client: OpenClient) -> None:
    with serving(GOOD) as server:
        client = open_client(server)
    with pytest.raises(TransientError, match=r"ConnectionError.*DEFENDER_API_URL") as caught:
        client.run("print 1", context=CONTEXT)
    assert_silent(caught.value)


def test_a_service_that_is_not_trusted_is_told_at_once(
    open_client: OpenClient, entra: EntraServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    client = open_client(entra)
    with pytest.raises(PermanentError, match=r"not trusted.*REQUESTS_CA_BUNDLE") as caught:
        client.run("print 1", context=CONTEXT)
    assert client.usage.calls == 1
    assert_silent(caught.value)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(400, graph("BadRequest", RESULT_SIZE % "number")), TooLargeError),
        (Reply(502, NGINX % b"502 Bad Gateway"), TooLargeError),
        (Reply(504, graph("UnknownError", "")), TooLargeError),
        (Reply(413, NGINX % b"413 Request Entity Too Large"), RequestTooLargeError),
        (Reply(400, graph("BadRequest", UNRESOLVED)), UnresolvedNameError),
        (Reply(403, graph("Authorization_RequestDenied", "")), PermissionDeniedError),
        (Reply(400, mde("BadRequest", "Syntax error")), PermanentError),
        (Reply(302, b"", {"Location": "http://127.0.0.1:1/"}), PermanentError),
    ],
)
def test_what_would_fail_again_is_raised_at_once(
    open_client: OpenClient, reply: Reply, kind: type[HuntingError]
) -> None:
    with serving(reply) as server:
        client = open_client(server)
        with pytest.raises(kind) as caught:
            client.run("print 1", context=CONTEXT)
    assert len(server.asked) == 1
    assert caught.value.table == "DeviceInfo"
    assert_silent(caught.value)


def test_a_refused_token_is_renewed_once(open_client: OpenClient) -> None:
    tokens = Tokens()
    refused = Reply(401, graph("InvalidAuthenticationToken", "Access token has expired."))
    with serving(refused, GOOD) as server:
        open_client(server, tokens=tokens).run("print 1")
    assert [asked.headers["authorization"][-2:] for asked in server.asked] == ["-1", "-2"]
    with serving(refused) as server, pytest.raises(RejectedTokenError, match="AZURE_CLIENT_ID") as caught:
        open_client(server, tokens=tokens).run("print 1")
    assert len(server.asked) == 2
    assert tokens.signed_in == 3
    assert isinstance(caught.value, AuthenticationError)
    assert_silent(caught.value)


def test_a_sign_in_that_is_refused_is_told_with_the_table_and_not_tried_again(open_client: OpenClient) -> None:
    tokens = Tokens()
    tokens.failures = [AuthenticationError("the client secret is wrong", code="AADSTS7000215", todo="Set it.")] * 2
    with (
        serving(GOOD) as server,
        pytest.raises(
            AuthenticationError, match=r"read rows of DeviceInfo \[a, b\).*secret is wrong.*AADSTS7000215.*Set it\."
        ),
    ):
        open_client(server, tokens=tokens).run("print 1", context=CONTEXT)
    assert server.asked == []
    assert len(tokens.failures) == 1


def test_a_sign_in_service_that_is_down_is_tried_again(open_client: OpenClient) -> None:
    tokens = Tokens()
    tokens.failures = [SignInUnavailableError("no answer")] * 2
    with serving(GOOD) as server:
        open_client(server, tokens=tokens).run("print 1", context=CONTEXT)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "least"),
    [
        (Reply(429, mde("429", "API calls quota exceeded! maximum allowed 45 per 00:01:00")), 0.5),
        (Reply(429, graph("TooManyRequests", "slow down"), {"Retry-After": "36"}), 0.3),
        (Reply(400, graph("BadRequest", CPU.replace("00:07:30", "00:00:48"))), 0.4),
        (Reply(429, b""), 0.01),
    ],
)
def test_a_throttled_query_holds_back_and_then_succeeds(open_client: OpenClient, reply: Reply, least: float) -> None:
    policy = RetryPolicy(first_pause=0.01, throttled_for=2.0, clock_scale=120)
    with serving(reply, GOOD) as server:
        client = open_client(server, retries=policy)
        assert client.run("print 1").rows == [{"C": True}]
    assert least <= client.usage.quota_wait < 5
    assert (client.usage.calls, client.usage.throttled) == (2, 1)
    assert client.usage.preempted == (b"processing resources" in reply.body)


def test_one_throttled_client_holds_back_all_that_share_the_quota(open_client: OpenClient, tmp_path: Path) -> None:
    store = tmp_path / "shared.sqlite"
    quotas = [FileQuota(store, (Limit(1000, 60),)) for _ in range(2)]
    policy = RetryPolicy(throttled_for=0.1, clock_scale=1)
    with serving(Reply(429, b"", {"Retry-After": "0.6"}), GOOD) as server:
        first, second = (open_client(server, quota=quota, retries=policy) for quota in quotas)
        with pytest.raises(ThrottledError):
            first.run("print 1")
        second.run("print 1")
    assert second.usage.quota_wait > 0.4


def test_a_pause_longer_than_any_window_of_the_service_is_not_believed(open_client: OpenClient, tmp_path: Path) -> None:
    told: list[str] = []
    quota = FileQuota(tmp_path / "told.sqlite", (Limit(100, 60),), tell=told.append)
    policy = RetryPolicy(longest_pause=0.05)
    with serving(Reply(429, b"", {"Retry-After": "86400"}), GOOD) as server:
        open_client(server, quota=quota, retries=policy).run("print 1", context=CONTEXT)
    [pause] = told
    assert "all processes that share the quota hold back for 0.1 s: Advanced Hunting, read rows of DeviceInfo" in pause
    assert "HTTP 429" in pause


def test_throttling_that_does_not_end_is_given_up(open_client: OpenClient) -> None:
    policy = RetryPolicy(first_pause=0.02, throttled_for=0.3)
    refused = pytest.raises(ThrottledError, match="DEFENDER_QUOTA_RESERVE")
    with serving(Reply(429, mde("429", "slow down"))) as server, refused as caught:
        open_client(server, retries=policy).run("print 1", context=CONTEXT)
    assert 3 <= len(server.asked) <= 6
    assert caught.value.throttle.window == "unknown"
    assert_silent(caught.value)


def test_every_call_is_counted_by_the_quota_before_it_is_sent(open_client: OpenClient, tmp_path: Path) -> None:
    events: list[str] = []

    class Recording(FileQuota):
        @contextmanager
        def call(self, weight: int = 1, *, table: str | None = None) -> Iterator[Any]:
            with super().call(weight, table=table) as permit:
                events.append(f"admitted for {table}")
                yield permit

    def answering(asked: Asked) -> Reply:
        events.append("sent")
        return SERVER_FAILS if len(server.asked) < 3 else GOOD

    quota = Recording(tmp_path / "recorded.sqlite", (Limit(100, 60),))
    with serving(answering=answering) as server:
        open_client(server, quota=quota).run("print 1", context=CONTEXT)
    assert events == ["admitted for DeviceInfo", "sent"] * 3


def test_usage_adds_up_and_can_be_taken_between_two_moments(open_client: OpenClient) -> None:
    with serving(GOOD) as server:
        client = open_client(server)
        client.run("print 1")
        before = client.usage
        client.run("print 1")
        since = client.usage - before
    assert (before.calls, before.retries, before.bytes) == (1, 0, len(GOOD.body))
    assert (since.calls, since.retries, since.bytes) == (1, 0, len(GOOD.body))
    assert 0 < since.seconds < 5
    assert CallUsage() == client.usage - client.usage


def test_an_answer_at_the_row_cap_is_marked(open_client: OpenClient) -> None:
    with serving(graph_answer([{"C": 1}] * 5, C="Int32")) as server:
        assert open_client(server, row_cap=5).run("print 1").maybe_truncated
        assert not open_client(server, row_cap=6).run("print 1").maybe_truncated


def test_dynamics_asked_for_as_text_come_back_as_json(open_client: OpenClient) -> None:
    with serving(graph_answer([{"C": '{"a":1}'}], C="String")) as server:
        assert open_client(server).run("T", tostring_columns=["C"]).rows == [{"C": {"a": 1}}]


def test_the_schema_is_asked_once(open_client: OpenClient) -> None:
    rows = [{"ColumnName": "Timestamp", "ColumnType": "datetime"}, {"ColumnName": "Tags", "ColumnType": "dynamic"}]
    with serving(graph_answer(rows, ColumnName="String", ColumnType="String")) as server:
        client = open_client(server)
        for _ in range(2):
            assert client.schema("DeviceInfo") == (Column("Timestamp", "datetime"), Column("Tags", "dynamic"))
    assert [asked.json["Query"] for asked in server.asked] == [
        "DeviceInfo | getschema | project ColumnName, ColumnType"
    ]


def test_a_schema_that_cannot_be_read_is_not_an_empty_table(open_client: OpenClient) -> None:
    empty = graph_answer([], ColumnName="String", ColumnType="String")
    with serving(empty) as server, pytest.raises(MalformedAnswerError, match=r"schema of DeviceInfo: .* no columns"):
        open_client(server).schema("DeviceInfo")
    other = graph_answer([{"Column": 1}], Column="Int32")
    with serving(other) as server, pytest.raises(MalformedAnswerError, match="without 'ColumnName'"):
        open_client(server).schema("DeviceInfo")


def test_a_schema_query_is_tried_again_where_a_slice_would_be_split(open_client: OpenClient) -> None:
    rows = [{"ColumnName": "Timestamp", "ColumnType": "datetime"}]
    gateway = Reply(504, graph("UnknownError", ""))
    with serving(gateway, graph_answer(rows, ColumnName="String", ColumnType="String")) as server:
        assert open_client(server).schema("DeviceInfo") == (Column("Timestamp", "datetime"),)


def test_neither_token_nor_query_nor_rows_reach_a_log(
    open_client: OpenClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    row = graph_answer([{"C": "row-value"}], C="String")
    with serving(SERVER_FAILS, Reply(401, b""), Reply(reset=True), row) as server:
        client = open_client(server)
        client.run("T | where A == 'query-value'")
    for secret in (TOKEN, "row-value", "query-value"):
        assert secret not in caplog.text
    assert TOKEN not in repr(vars(client))


def test_waits_double_with_jitter_and_are_bounded(tmp_path: Path) -> None:
    waits: list[float] = []
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(1, 60),))

    def fail() -> None:
        raise TransientError("no")

    run = RetryRun(RetryPolicy(transient_tries=6), quota, lambda: None, sleep=waits.append)
    with pytest.raises(TransientError):
        run.run(fail)
    assert run.retries == 5
    for wait, base in zip(waits, [15, 30, 60, 120, 120], strict=True):
        assert base <= wait <= base * 1.25


def assert_silent(error: BaseException) -> None:
    chain: BaseException | None = error
    while chain is not None:
        assert TOKEN not in str(chain)
        assert not hasattr(chain, "request"), "an error of requests carries the request, and it the token"
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
