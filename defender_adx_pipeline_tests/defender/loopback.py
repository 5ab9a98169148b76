"""Hand-written HTTP servers on loopback that record what they were asked and answer from a script, faults included.

Here: faults below HTTP (resets, cut bodies) and the least of Entra ID. Not here: behaviour of the services, which the
local tenant has.
"""

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import orjson
import trustme


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """One answer. `reset` closes the connection without one, `cut` promises more bytes than it sends.

    `drops` sends a byte at a time, so many seconds apart.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False
    cut: bool = False
    drops: float = 0.0


Answering = Callable[[Asked], Reply]


class Server:
    """A server that is given one reply after another, the last one for ever, or a function."""

    def __init__(self, replies: Sequence[Reply] | Answering, *, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self._replies = replies
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.port = int(self._http.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def answer(self, asked: Asked) -> Reply:
        with self._lock:
            self.asked.append(asked)
            if callable(self._replies):
                return self._replies(asked)
            return self._replies[min(len(self.asked), len(self._replies)) - 1]

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        self._send(self.owner.answer(asked))

    do_GET = do_POST  # noqa: N815 - the name that the base class looks for

    def _send(self, reply: Reply) -> None:
        if reply.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body) + (100 if reply.cut else 0)))
        self.end_headers()
        if reply.drops:
            for byte in reply.body:
                self.wfile.write(bytes([byte]))
                time.sleep(reply.drops)
        else:
            self.wfile.write(reply.body)
        if reply.cut:
            self.close_connection = True

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the socket of a reset is gone
            super().finish()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(*replies: Reply, answering: Answering | None = None) -> Iterator[Server]:
    server = Server(answering or replies)
    try:
        yield server
    finally:
        server.stop()


class EntraServer:
    """The least of Entra ID over TLS: discovery and a token endpoint whose reply a test sets."""

    def __init__(self, folder: Path, *, lives: float = 3599) -> None:
        self.lives = lives
        self.refusal: Reply | None = None
        self.known_tenant = "tenant-1"
        self.issued = 0
        authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(tls)
        self.server = Server(self._answer, tls=tls)
        self.url = f"https://localhost:{self.server.port}"

    @property
    def token_requests(self) -> list[Asked]:
        return [asked for asked in self.server.asked if asked.method == "POST"]

    def _answer(self, asked: Asked) -> Reply:
        if asked.method == "GET":
            return self._discovery(asked)
        if self.refusal is not None:
            return self.refusal
        self.issued += 1
        return as_json({"token_type": "Bearer", "expires_in": self.lives, "access_token": f"token-{self.issued}"})

    def _discovery(self, asked: Asked) -> Reply:
        tenant = asked.path.split("/")[1]
        if tenant != self.known_tenant:
            return entra_refusal("invalid_tenant", f"AADSTS90002: Tenant '{tenant}' not found. Check to make sure.")
        base = f"{self.url}/{tenant}"
        return as_json(
            {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "issuer": f"{base}/v2.0",
            }
        )


def as_json(value: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


def entra_refusal(error: str, description: str, status: int = 400) -> Reply:
    return as_json({"error": error, "error_description": description, "error_codes": []}, status)


def graph_answer(rows: list[dict[str, Any]], **types: str) -> Reply:
    return as_json({"schema": [{"name": name, "type": kind} for name, kind in types.items()], "results": rows})
