"""A scripted Kusto endpoint for answers that a well-behaved one does not give, and a local tenant for the rest."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline_tests.conftest import OpenTenant, Statements

if TYPE_CHECKING:
    from defender_adx_pipeline.local.tenant import LocalTenant

SAS = "sv=2025-07-05&sp=rw&sig=T0PSECRET%2Bsignature%3D"
"""What no log and no exception may show."""

NOW = datetime(2026, 11, 24, 4, tzinfo=UTC)


def slice_id() -> str:
    return uuid.uuid4().hex


def table(columns: dict[str, str], rows: list[Any]) -> dict[str, Any]:
    """One table of a v1 answer."""
    names = [{"ColumnName": name, "DataType": "", "ColumnType": kind} for name, kind in columns.items()]
    return {"TableName": "Table_0", "Columns": names, "Rows": rows}


class ScriptedServer:
    """Answers each request with the next entry of `answers` (the last one for ever) and records what was asked.

    An entry is (status, body[, headers]), with a body of bytes, text or something that becomes JSON; or "reset", which
    closes the connection without an answer; or ("cut", bytes), which sends half of them. With `route`, a callable
    (method, path, body) -> entry decides instead.
    """

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.route: Callable[[str, str, bytes], Any] | None = None
        self.requests: list[dict[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *arguments: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
                entry = server.next_answer(self.command, self.path, body)
                if entry == "reset":
                    self.close_connection = True
                    return
                status, content, headers = (*entry, {})[:3]
                payload = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(200 if status == "cut" else status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                # A client that gave up is no failure of this side, which would print it.
                with suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(payload[: len(payload) // 2] if status == "cut" else payload)
                self.close_connection = status == "cut"

            do_PUT = do_POST  # noqa: N815 - the name that http.server calls

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def next_answer(self, method: str, path: str, body: bytes) -> Any:
        if self.route is not None:
            return self.route(method, path, body)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def statements(self) -> list[str]:
        return [json.loads(request["body"])["csl"] for request in self.requests]

    def properties(self) -> dict[str, Any]:
        """Of the last request: its Options and Parameters."""
        return json.loads(json.loads(self.requests[-1]["body"])["properties"])

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.stop()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def client(server: ScriptedServer, pauses: list[float]) -> Iterator[AdxClient]:
    with AdxClient(server.url, "defender", attempts=3, sleep=pauses.append) as adx:
        yield adx


def _frames(rows: list[Any], columns: dict[str, str], **completion: Any) -> list[dict[str, Any]]:
    return [
        {"FrameType": "DataSetHeader", "IsProgressive": False, "Version": "v2.0"},
        {
            "FrameType": "DataTable",
            "TableId": 0,
            "TableKind": "QueryProperties",
            "TableName": "@ExtendedProperties",
            "Columns": [{"ColumnName": "Key", "ColumnType": "string"}],
            "Rows": [["Visualization"]],
        },
        {
            "FrameType": "DataTable",
            "TableId": 1,
            "TableKind": "PrimaryResult",
            "TableName": "PrimaryResult",
            "Columns": [{"ColumnName": name, "ColumnType": kind} for name, kind in columns.items()],
            "Rows": rows,
        },
        {"FrameType": "DataSetCompletion", "HasErrors": False, "Cancelled": False, **completion},
    ]


@pytest.fixture
def frames() -> Callable[..., list[dict[str, Any]]]:
    """A v2 answer: `frames(rows, {"x": "long"}, HasErrors=True)`."""
    return _frames


@pytest.fixture
def dataset() -> Callable[..., dict[str, Any]]:
    """A v1 answer: `dataset(rows, {"x": "long"})`."""

    def build(rows: list[Any], columns: dict[str, str]) -> dict[str, Any]:
        return {"Tables": [table(columns, rows)]}

    return build


@pytest.fixture
def one_api() -> Callable[..., dict[str, Any]]:
    """An error as Kusto words it."""

    def build(description: str, *, code: str = "General_BadRequest", permanent: bool | None = True) -> dict[str, Any]:
        error = {"code": code, "message": "Request is invalid", "@message": description, "@type": "T"}
        return {"error": error if permanent is None else {**error, "@permanent": permanent}}

    return build


@pytest.fixture(scope="package")
def tenant(open_tenant: OpenTenant) -> Iterator["LocalTenant"]:
    """A local tenant whose Defender side is empty; tests make tables of their own on its ADX side."""
    with open_tenant(scale=0) as opened:
        yield opened


@pytest.fixture(scope="package")
def adx(tenant: "LocalTenant") -> Iterator[AdxClient]:
    """The real client of that tenant's database."""
    settings = tenant.environment()
    cluster, database = settings["ADX_CLUSTER_URI"], settings["ADX_DATABASE"]
    with AdxClient(cluster, database, ingest_uri=settings["ADX_INGEST_URI"], first_wait=0.05) as one:
        yield one


@pytest.fixture(scope="package")
def make_table(adx: AdxClient, statements: Statements) -> Callable[..., str]:
    """Creates a table: `make_table("T", {"x": "long"})`; without columns a raw table with its mapping."""

    def make(name: str, columns: dict[str, str] | None = None) -> str:
        kinds = columns or {"Records": "dynamic"}
        statements.add_table("adx", name, kinds)
        listed = ", ".join(f"{column}: {kind}" for column, kind in kinds.items())
        adx.command(f".create-merge table {name} ({listed})", idempotent=True)
        if columns is None:
            mapping = '[{"column":"Records","Properties":{"Path":"$"}}]'
            adx.command(
                f".create-or-alter table {name} ingestion json mapping \"DynamicJsonMap\" '{mapping}'", idempotent=True
            )
        return name

    return make
