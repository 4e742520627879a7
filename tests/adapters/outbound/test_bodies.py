"""Bodies: packed, endless, too large, broken off. What is not the whole document is never taken for it."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from embedmill.errors import DocumentError, SourceUnavailableError
from embedmill.ports import Fetched
from tests.adapters.outbound.fetching import MAX_BYTES, endless_chunks, fetched_from, fetcher
from tests.adapters.outbound.server import Request, answer, hang, serving


async def test_a_length_beyond_the_limit_is_refused_before_the_body() -> None:
    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n")
        await hang(request, writer)

    with pytest.raises(DocumentError, match="larger than") as refused:
        await fetched_from(endless)
    assert refused.value.reason == "too_large"


async def test_a_body_of_exactly_the_limit_passes() -> None:
    assert len((await fetched_from(answer(body=b"x" * MAX_BYTES)))[1]) == MAX_BYTES


async def test_an_endless_body_is_cut_off() -> None:
    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        await endless_chunks(writer, b"x" * 50_000)

    with pytest.raises(DocumentError, match="larger than"):
        await fetched_from(endless)


async def test_an_endless_body_that_unpacks_to_nothing_is_cut_off() -> None:
    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        await endless_chunks(writer, gzip.compress(b"", mtime=0) * 1000, **{"Content-Encoding": "gzip"})

    with pytest.raises(DocumentError, match="larger than"):
        await fetched_from(endless)


async def measure(document: Fetched, sizes: list[int]) -> None:
    async for piece in document.chunks():
        sizes.append(len(piece))  # noqa: PERF401 - what came before the error counts


async def test_a_gzip_bomb_is_cut_off_at_the_limit() -> None:
    bomb = gzip.compress(bytes(200_000_000), 1, mtime=0)
    sizes: list[int] = []
    async with (
        serving({"/a": answer(body=bomb, content_encoding="gzip")}) as server,
        fetcher(max_bytes=10_000_000).fetch(server.url("/a")) as document,
    ):
        with pytest.raises(DocumentError, match="larger than"):
            await measure(document, sizes)
    assert 9_000_000 < sum(sizes) <= 10_000_000
    assert max(sizes) <= 1_000_000


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"hello" * 100_000, mtime=0)),
        ("x-gzip", gzip.compress(b"hello" * 50_000, mtime=0) + gzip.compress(b"hello" * 50_000, mtime=0)),
        ("gzip", gzip.compress(b"hello" * 100_000, mtime=0) + bytes(16)),
        ("deflate", zlib.compress(b"hello" * 100_000)),
        ("deflate", zlib.compress(b"hello" * 100_000)[2:-4]),
        ("identity", b"hello" * 100_000),
    ],
)
async def test_packed_bodies_are_unpacked(encoding: str, body: bytes) -> None:
    document, unpacked = await fetched_from(answer(body=body, content_encoding=encoding))
    assert unpacked == b"hello" * 100_000
    assert document.size_bytes is None


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"hello" * 100_000, mtime=0)[:-1]),
        ("gzip", gzip.compress(b"hello" * 100_000, mtime=0)[:100]),
        ("gzip", gzip.compress(b"hello", mtime=0) + b"garbage"),
        ("gzip", b"no gzip at all"),
        ("gzip", b"\x1f\x8b"),
        ("deflate", zlib.compress(b"hello" * 100_000)[:-1]),
        ("br", b"anything"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"hello", mtime=0), mtime=0)),
    ],
)
async def test_packed_bodies_that_are_broken_are_noticed(encoding: str, body: bytes) -> None:
    with pytest.raises(DocumentError) as refused:
        await fetched_from(answer(body=body, content_encoding=encoding))
    assert refused.value.reason == "unreadable"


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000,
        b"no http at all\r\n\r\n",
        b"",
    ],
)
async def test_a_body_that_is_not_whole_is_noticed(reply: bytes) -> None:
    with pytest.raises(SourceUnavailableError):
        await fetched_from(reply)
