"""Real clients over a real socket: httpx2, curl and a client that goes away, against uvicorn."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from embedmill.api.multipart import FilePart, FormError, FormLimits, read_form
from tests.api.forms import TYPE, file, form

LIMITS = FormLimits(max_total_bytes=60_000_000)
CONTENT = b"\r\n--x\r\n" + bytes(range(256)) * 20_000


@dataclass
class Service:
    port: int
    begun: Queue[str] = field(default_factory=Queue)
    outcomes: Queue[str] = field(default_factory=Queue)
    """The code of the error, or "fine", for each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def upload(self, request: Request) -> JSONResponse:
        async def on_file(part: FilePart, content: AsyncIterator[bytes]) -> dict[str, Any]:
            self.begun.put(part.name)
            digest, size = hashlib.sha256(), 0
            async for chunk in content:
                digest.update(chunk)
                size += len(chunk)
            return {"name": part.name, "type": part.media_type, "size": size, "sha256": digest.hexdigest()}

        try:
            found = await read_form(
                request.stream(), request.headers.get("content-type", ""), on_file=on_file, limits=LIMITS
            )
        except FormError as error:
            self.outcomes.put(error.code)
            return JSONResponse({"code": error.code}, error.status)
        self.outcomes.put("fine")
        return JSONResponse({"fields": found.fields, "files": found.files})


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        service = Service(listening.getsockname()[1])
        application = Starlette(routes=[Route("/", service.upload, methods=["POST"])])
        server = uvicorn.Server(uvicorn.Config(application, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield service
        finally:
            server.should_exit = True
            thread.join()


def described(name: str, content: bytes, media_type: str | None) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    return {"name": name, "type": media_type, "size": len(content), "sha256": digest}


def test_httpx2_uploads_files_and_fields(service: Service) -> None:
    answer = httpx2.post(
        service.url,
        data={"pipeline": "default", "tags": ["één", "zwei"]},
        files=[
            ("file", ('odd "name" ü.pdf', CONTENT, "application/pdf")),
            ("file", ("../../empty.txt", b"", "text/plain")),
        ],
    )
    assert answer.json() == {
        "fields": {"pipeline": ["default"], "tags": ["één", "zwei"]},
        "files": [
            described('odd "name" ü.pdf', CONTENT, "application/pdf"),
            described("empty.txt", b"", "text/plain"),
        ],
    }


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_uploads_files_and_fields(service: Service, tmp_path: Path) -> None:
    (tmp_path / 'ü "x".bin').write_bytes(CONTENT)
    (tmp_path / "second.txt").write_bytes(b"second")
    command = [
        "curl", "-sS", "-F", "pipeline=default", "-F", f"file=@{tmp_path}/second.txt",
        "-F", 'file=@"' + str(tmp_path / 'ü \\"x\\".bin') + '";type=image/PNG', "-F", "note=last", service.url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=True)
    answer = httpx2.Response(200, content=done.stdout).json()
    assert answer == {
        "fields": {"pipeline": ["default"], "note": ["last"]},
        "files": [
            described("second.txt", b"second", "text/plain"),
            described('ü "x".bin', CONTENT, "image/png"),
        ],
    }


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_streams_without_a_length(service: Service) -> None:
    command = [
        "curl",
        "-sS",
        "-H",
        "Transfer-Encoding: chunked",
        "-F",
        "file=@-;filename=piped.bin",
        service.url,
    ]
    done = subprocess.run(command, input=CONTENT, capture_output=True, check=True)
    answer = httpx2.Response(200, content=done.stdout).json()
    assert answer["files"] == [described("piped.bin", CONTENT, None)]


async def test_many_uploads_at_once_do_not_mix(service: Service) -> None:
    async with httpx2.AsyncClient() as client:
        contents = {f"{n}.bin": bytes([n]) * (n * 50_000) for n in range(20)}
        answers = await asyncio.gather(
            *(client.post(service.url, files={"file": (name, c)}) for name, c in contents.items())
        )
    for answer, (name, content) in zip(answers, contents.items(), strict=True):
        (found,) = answer.json()["files"]
        assert found["sha256"] == described(name, content, None)["sha256"]


def request_head(length: int) -> bytes:
    return (
        f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\nContent-Length: {length}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()


def emptied(outcomes: Queue[str]) -> Queue[str]:
    while not outcomes.empty():
        outcomes.get_nowait()
    return outcomes


def test_a_client_that_goes_away_leaves_a_truncated_form(service: Service) -> None:
    outcomes, begun = emptied(service.outcomes), emptied(service.begun)
    body = form(file("half.txt", CONTENT))
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(request_head(len(body)) + body[: len(body) // 2])
        assert begun.get(timeout=30) == "half.txt"
    assert outcomes.get(timeout=30) == "truncated_form"


@pytest.mark.parametrize("missing", [1, 2, 10, 30])
def test_a_body_whose_length_cuts_its_end_off_is_truncated(service: Service, missing: int) -> None:
    body = form(file("a.txt", b"content"))[: -2 - missing]
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(request_head(len(body)) + body)
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"truncated_form" in answer


def test_a_body_that_is_too_large_is_answered_with_413(service: Service) -> None:
    with pytest.raises(httpx2.HTTPStatusError, match="413") as refused:
        httpx2.post(service.url, files={"file": ("big", bytes(61_000_000))}).raise_for_status()
    assert refused.value.response.json() == {"code": "form_too_large"}
