"""A server that answers as it is told, one answer after the other, and keeps what it was asked. Real sockets, in a
thread of its own; must not assert."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Says:
    """A status of 0 closes the connection without a word."""

    status: int
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)


def problem(status: int, code: str, **headers: str) -> Says:
    body = {"title": "x", "status": status, "code": code, "detail": "do this instead"}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Says(status, msgspec.json.encode(body), {"Content-Type": "application/problem+json", **names})


class Scripted:
    """`script` is what it says, in order; when it is at its end, `otherwise`."""

    def __init__(self, address: str, otherwise: Says) -> None:
        self.address = address
        self.script: list[Says] = []
        self.otherwise = otherwise
        self.asked: list[Asked] = []


@contextmanager
def scripted(*script: Says, otherwise: Says = Says(500)) -> Iterator[Scripted]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self._body()
            headers = {name.lower(): value for name, value in self.headers.items()}
            one.asked.append(Asked(self.command, self.path, headers, body))
            said = one.script.pop(0) if one.script else one.otherwise
            if said.status == 0:
                self.close_connection = True
                return
            self.send_response(said.status)
            for name, value in {"Content-Length": str(len(said.body)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said.body)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - names of http.server

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("content-length", "0")))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    one = Scripted(f"http://127.0.0.1:{server.server_address[1]}", otherwise)
    one.script.extend(script)
    # By itself it looks only every half a second whether it shall end.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield one
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
