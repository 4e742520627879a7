"""Requests as bytes, over a socket of one's own, for what no client would send. Owns the sending; must not assert."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from itertools import chain

from tests.support.serving import Serving

PATIENCE_SECONDS = 30


def head(method: str, headers: Mapping[str, str], path: str = "/api/v1/ingestion-jobs") -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def raw(service: Serving, content: bytes, *, ends: bool = False) -> bytes:
    """Send this; all that comes back until the service closes the connection. `ends`: nothing more is sent, which the
    service is told."""
    answer, _ = await sent_until_answered(service, content, (), ends=ends)
    return answer


async def sent_until_answered(
    service: Serving, content: bytes, more: Iterable[bytes], *, ends: bool = False
) -> tuple[bytes, int]:
    """Send this and more until there is an answer, or the service takes no more; what came back until it closed the
    connection, and how many bytes were sent."""
    host, port = service.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = bytearray()

    async def read() -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65_536):
                answer.extend(piece)

    async with asyncio.timeout(PATIENCE_SECONDS):
        reading = asyncio.create_task(read())
        sent = 0
        with contextlib.suppress(ConnectionError):
            for piece in chain([content], more):
                if answer or reading.done():
                    break
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
            if ends:
                writer.write_eof()
        # A connection that is kept open for another request ends when the answer is there.
        while not reading.done() and not _is_whole(bytes(answer)):
            await asyncio.sleep(0.01)
        if not reading.done():
            await asyncio.sleep(0.1)  # what is taken for another request is answered within this
        writer.close()
        await reading
    return bytes(answer), sent


def _is_whole(answer: bytes) -> bool:
    """Whether the first answer is here to its end."""
    headers, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    for line in headers.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return b"transfer-encoding: chunked" not in headers.lower() or body.endswith(b"0\r\n\r\n")
