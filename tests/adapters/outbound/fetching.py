"""A fetcher for tests, and bodies that do not end. Shared by the tests of fetching; must not assert."""

from __future__ import annotations

import asyncio

from embedmill.adapters.outbound.fetcher import GuardedFetcher
from embedmill.ports import Fetched
from tests.adapters.outbound.server import Answer, serving

MAX_BYTES = 1_000_000


def fetcher(**options: object) -> GuardedFetcher:
    given: dict[str, object] = {
        "max_bytes": MAX_BYTES,
        "allowed": ["127.0.0.1"],
        "read_seconds": 5.0,
        **options,
    }
    return GuardedFetcher(**given)  # type: ignore[arg-type]


async def fetched_from(
    reply: bytes | Answer, target: str = "/a.txt", **options: object
) -> tuple[Fetched, bytes]:
    async with (
        serving({target.split("?", maxsplit=1)[0]: reply}) as server,
        fetcher(**options).fetch(server.url(target)) as document,
    ):
        return document, b"".join([piece async for piece in document.chunks()])


async def endless_chunks(writer: asyncio.StreamWriter, data: bytes, **headers: str) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{head}\r\n".encode())
    while True:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await writer.drain()
