"""Servers on loopback: each service on a port of its own, in a thread of its own, every call logged and open to faults.

Here: uvicorn in threads, TLS, the request log and carrying out faults on connections. Not here: what the services
answer, and which call goes wrong (`faults`).
"""

import asyncio
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import trustme
import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from defender_adx_pipeline.local.faults import Fault, FaultScript
from defender_adx_pipeline.local.frames import cut_short
from defender_adx_pipeline.local.state import KEPT_HEADERS, LoggedRequest, RequestLog, utcnow

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_NAME = r"(?:\[\s*['\"]([^'\"]+)['\"]\s*\]|([A-Za-z_]\w*))"
_TABLE = re.compile(
    r"^\s*(?:\.(?:append|set-or-append|set-or-replace|set)\s+(?:async\s+)?"
    r"|\.(?:show|create|create-merge|alter|alter-merge|create-or-alter|clear|drop)\s+table\s+"
    r"|\.ingest\s+inline\s+into\s+table\s+|(?!\.|let\b|declare\b|set\b|print\b|union\b))" + _NAME
)
_HTML = (
    "<!DOCTYPE html><html><head><title>{status} Service Unavailable</title></head>"
    "<body><h1>Our services aren't available right now</h1></body></html>"
)


@dataclass(frozen=True, slots=True)
class Observed:
    """An ASGI app whose calls are logged and may go wrong.

    Args:
        app: the service.
        service: its name in the log and in fault rules.
        log: where calls are written.
        faults: the script.
        reads_statement: whether bodies are JSON with a query or command; other bodies are not held in memory.
    """

    app: Any
    service: str
    log: RequestLog
    faults: FaultScript
    reads_statement: bool

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handle one request; ASGI."""
        await _Call(self, scope, receive, send, self.log.next_number()).run()


@dataclass(slots=True)
class _Call:
    owner: Observed
    scope: dict[str, Any]
    receive: Receive
    send: Send
    number: int
    started: datetime = field(default_factory=utcnow)
    begun: float = field(default_factory=time.perf_counter)
    status: int | None = None
    statement: str | None = None
    table: str | None = None
    fault: Fault | None = None
    recorded: bool = False

    async def run(self) -> None:
        if self.owner.reads_statement:
            body = await _read(self.receive)
            self.statement = _statement(body)
            self.table = _table(self.statement)
            self.receive = _replay(body, self.receive)
        path, method = str(self.scope["path"]), str(self.scope["method"])
        self.fault = self.owner.faults.take(self.owner.service, self.statement, self.table, path, method=method)
        try:
            if self.fault:
                await self._faulty(self.fault)
            else:
                await self.owner.app(self.scope, self.receive, self._watched)
        finally:
            self._record()

    async def _watched(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            if self.scope["method"] == "HEAD" or self.status == 204 or (b"content-length", b"0") in message["headers"]:
                self._record()  # the headers are the whole answer
        elif not message.get("more_body"):
            self._record()
        await self.send(message)

    def _record(self) -> None:
        """Log the call, before the client can know that it is over: a test may look at once."""
        if self.recorded:
            return
        self.recorded = True
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}
        entry = LoggedRequest(
            number=self.number,
            service=self.owner.service,
            method=str(self.scope["method"]),
            path=str(self.scope["path"]),
            user_agent=headers.get("user-agent", ""),
            headers={name: headers[name] for name in KEPT_HEADERS if name in headers},
            status=self.status,
            started=self.started,
            seconds=time.perf_counter() - self.begun,
            statement=self.statement,
            table=self.table,
            fault=self.fault.label if self.fault else None,
        )
        self.owner.log.add(entry)

    async def _faulty(self, fault: Fault) -> None:
        if fault.kind in ("status", "html"):
            await _drain(self.receive, read=self.owner.reads_statement)
            await self._answer(fault)
        elif fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
            await self.owner.app(self.scope, self.receive, self._watched)
        elif fault.kind == "lost_reply":
            await self.owner.app(self.scope, self.receive, _swallow)
            await self._drop()
        elif fault.kind == "truncate":
            await self._truncated(fault)
        elif fault.kind in ("cut", "partial", "partial_end"):
            await self._altered(fault)
        else:
            if fault.kind == "hang":
                await _gone(self.receive, fault.seconds or 3600.0)
            await self._drop()

    async def _answer(self, fault: Fault) -> None:
        html = fault.kind == "html"
        body = (_HTML.format(status=fault.status) if html else fault.body).encode()
        headers = {"content-type": "text/html" if html else "application/json", "content-length": str(len(body))}
        headers.update({name.lower(): value for name, value in fault.headers.items()})
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._watched({"type": "http.response.start", "status": fault.status, "headers": raw})
        await self._watched({"type": "http.response.body", "body": body})

    async def _truncated(self, fault: Fault) -> None:
        """Promise the whole body, send part of it, hang up."""
        start, body = await self._work()
        await self._watched(start)
        await self._watched(
            {"type": "http.response.body", "body": body[: int(len(body) * fault.keep)], "more_body": True}
        )
        self._record()
        self._transport().close()
        await _gone(self.receive, 5.0)

    async def _altered(self, fault: Fault) -> None:
        """Send an answer that is complete as HTTP, and not what it was."""
        start, body = await self._work()
        if fault.kind == "cut":
            body = body[: int(len(body) * fault.keep)]
        elif start["status"] == 200:
            body = cut_short(body, fault.keep, in_rows=fault.kind == "partial")
        kept = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
        await self._watched({**start, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
        await self._watched({"type": "http.response.body", "body": body})

    async def _work(self) -> tuple[Message, bytes]:
        """Do the work; the start of its answer, with the length of the whole body told, and the body."""
        start: Message = {}
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self.owner.app(self.scope, self.receive, collect)
        body = b"".join(parts)
        kept = [pair for pair in start["headers"] if pair[0].lower() not in (b"content-length", b"transfer-encoding")]
        start["headers"] = [*kept, (b"content-length", str(len(body)).encode())]
        return start, body

    async def _drop(self) -> None:
        self._record()
        self._transport().abort()
        await _gone(self.receive, 5.0)

    def _transport(self) -> asyncio.Transport:
        # ASGI has no way to hang up; uvicorn's send is a method of the object that holds the connection.
        transport: asyncio.Transport = self.send.__self__.transport  # type: ignore[attr-defined]
        return transport


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _drain(receive: Receive, *, read: bool) -> None:
    """Take in the body before an answer that does not need it, or the client dies of a broken pipe instead."""
    if not read:
        await _read(receive)


async def _gone(receive: Receive, seconds: float) -> None:
    """Wait until the client is gone."""

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(disconnected(), seconds)
    except TimeoutError:
        return


async def _swallow(message: Message) -> None:
    """Take an answer that nobody will see."""


def _statement(body: bytes) -> str | None:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(parsed, dict):
        return None
    text = next((parsed[name] for name in ("csl", "Query", "query") if isinstance(parsed.get(name), str)), None)
    return str(text) if text is not None else None


def _table(statement: str | None) -> str | None:
    match = _TABLE.match(statement or "")
    return (match[1] or match[2]) if match else None


@dataclass(slots=True)
class Server:
    """One service on one port of 127.0.0.1."""

    service: str
    app: Any
    port: int = 0
    certificate: tuple[Path, Path] | None = None
    """Certificate chain and key, for TLS."""
    _server: uvicorn.Server | None = field(init=False, default=None)
    _thread: threading.Thread | None = field(init=False, default=None)

    @property
    def url(self) -> str:
        """Where it listens; a name in place of the address for TLS, since the certificate has the name."""
        if self.certificate:
            return f"https://localhost:{self.port}"
        return f"http://127.0.0.1:{self.port}"

    def bind(self) -> socket.socket:
        """Take the port; 0 takes a free one, which `port` then names."""
        # With the protocol named, asyncio switches Nagle's algorithm off; else every answer waits 40 ms for an ACK.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", self.port))
            listener.listen(512)
        except OSError:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        return listener

    def serve(self, listener: socket.socket) -> None:
        """Begin to answer in a thread of its own."""
        chain, key = self.certificate or (None, None)
        config = uvicorn.Config(
            self.app,
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            loop="asyncio",
            timeout_keep_alive=300,
            timeout_graceful_shutdown=1,
            ssl_certfile=chain,
            ssl_keyfile=key,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name=f"local-{self.service}", daemon=True
        )
        self._thread.start()

    def wait(self, deadline: float) -> None:
        """Return when the server answers.

        Raises:
            RuntimeError: it did not until `deadline` (monotonic seconds).
        """
        while not (self._server and self._server.started):
            if time.monotonic() > deadline or not (self._thread and self._thread.is_alive()):
                raise RuntimeError(f"the local {self.service} server did not start on port {self.port}")
            time.sleep(0.002)

    def stop(self) -> None:
        """Ask the server to end; `join` waits for it."""
        if self._server:
            self._server.should_exit = True

    def join(self) -> None:
        """Wait for the end, at most some seconds: a call that hangs is cut off."""
        if self._thread:
            self._thread.join(timeout=3)
            if self._thread.is_alive() and self._server:
                self._server.force_exit = True
                self._thread.join(timeout=3)
        self._server = self._thread = None


def application(routes: Iterable[BaseRoute]) -> Starlette:
    """A plain Starlette app."""
    return Starlette(routes=list(routes))


def throwaway_certificate(home: Path) -> tuple[Path, tuple[Path, Path]]:
    """A CA file and a certificate for localhost, made once per home.

    Returns:
        The CA file, and (certificate chain, key).
    """
    ca_file, chain, key = home / "ca.pem", home / "localhost.pem", home / "localhost.key"
    if not (ca_file.exists() and chain.exists() and key.exists()):
        authority = trustme.CA(organization_name="Local tenant (throw-away)")
        issued = authority.issue_cert("localhost", "127.0.0.1")
        key.touch(mode=0o600)
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(chain)
        authority.cert_pem.write_to_path(ca_file)
    return ca_file, (chain, key)
