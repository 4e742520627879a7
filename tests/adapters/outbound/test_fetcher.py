"""Fetching from servers that behave, and from those that do not: limits of size and time, redirects, broken bodies."""

from __future__ import annotations

import asyncio

import pytest

from embedmill.errors import AddressRefusedError, DocumentError, SourceUnavailableError
from embedmill.ports import Fetcher
from tests.adapters.outbound.fetching import endless_chunks, fetched_from, fetcher
from tests.adapters.outbound.server import Answer, Request, answer, hang, redirect, serving


async def test_a_document_comes_with_its_name_and_type() -> None:
    reply = answer(
        body=b"hello",
        content_type="Text/Plain; charset=utf-8",
        etag='"abc"',
        last_modified="Mon, 01 Jan 2024 00:00:00 GMT",
        content_disposition="attachment; filename=\"plain.txt\"; filename*=UTF-8''na%C3%AFve.txt",
    )
    document, body = await fetched_from(reply, "/x?y=1#part")
    assert isinstance(fetcher(), Fetcher)
    assert (body, document.size_bytes) == (b"hello", 5)
    assert (document.name, document.media_type) == ("naïve.txt", "text/plain")
    assert (document.etag, document.last_modified) == ('"abc"', "Mon, 01 Jan 2024 00:00:00 GMT")
    assert document.final_url.endswith("/x?y=1")


async def test_the_request_tells_nothing_but_what_it_must() -> None:
    async with serving({"/a": answer(body=b"x")}) as server:
        async with fetcher().fetch(server.url("/a?b=%20c")):
            pass
        (request,) = server.requests
    assert request.target == "/a?b=%20c"
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": "embedmill",
        "accept": "*/*",
        "accept-encoding": "gzip",
        "connection": "close",
    }


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await fetched_from(answer(body=b"direct")))[1] == b"direct"


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
async def test_redirects_are_followed(status: str) -> None:
    async with serving({"/a": redirect("b/../c.pdf?d#e", status), "/c.pdf": answer(body=b"there")}) as server:
        async with fetcher().fetch(server.url("/a")) as document:
            assert [piece async for piece in document.chunks()] == [b"there"]
        assert (document.name, document.final_url) == ("c.pdf", server.url("/c.pdf?d"))


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/", "//10.0.0.1/", "http://[::1]/", "http://2130706433/",
        "file:///etc/passwd", "http://user:password@127.0.0.1/", "http://127.0.0.2/", "gopher://127.0.0.1/",
        "http://127.0.0.1:22/", "http://[", "http://a b/", "\\\\10.0.0.1\\", "http://\xff/", "javascript:alert(1)",
    ],
)  # fmt: skip
async def test_a_redirect_to_where_nobody_may_go_is_refused(location: str) -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: " + location.encode("latin-1") + b"\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises((AddressRefusedError, DocumentError)) as refused:
        await fetched_from(head)
    assert not isinstance(refused.value, DocumentError) or "\\" in location, refused.value


async def test_five_redirects_are_followed_and_not_six() -> None:
    hops: dict[str, bytes | Answer] = {f"/{n}": redirect(f"/{n + 1}") for n in range(6)}
    async with serving({**hops, "/6": answer(body=b"end")}) as server:
        async with fetcher().fetch(server.url("/1")) as document:
            assert [piece async for piece in document.chunks()] == [b"end"]
        with pytest.raises(DocumentError, match="redirects more than 5 times"):
            async with fetcher().fetch(server.url("/0")):
                pass


async def test_a_loop_of_redirects_ends() -> None:
    with pytest.raises(DocumentError, match="redirects more than 5 times"):
        await fetched_from(redirect("/a.txt"))


async def test_a_redirect_without_a_target_is_unreadable() -> None:
    with pytest.raises(DocumentError, match="redirects to nowhere"):
        await fetched_from(answer("302 Found"))


@pytest.mark.parametrize("status", ["400 Bad", "401 Sign In", "403 No", "404 Not Found", "410 Gone", "204 Empty",
                                    "206 Part", "300 Choose", "304 Same"])  # fmt: skip
async def test_an_answer_that_is_no_document_is_unreadable(status: str) -> None:
    with pytest.raises(DocumentError, match=f"answered {status}") as refused:
        await fetched_from(f"HTTP/1.1 {status}\r\n\r\n".encode())
    assert refused.value.reason == "unreadable"


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad", "503 Busy", "429 Slow", "408 Late"])
async def test_a_server_that_may_answer_later_is_unavailable(status: str) -> None:
    with pytest.raises(SourceUnavailableError, match=f"answered {status}") as away:
        await fetched_from(answer(status, retry_after="120"))
    assert away.value.retry_after_seconds == 120


async def test_silence_and_slowness_have_their_limits() -> None:
    async def drip(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def drip_headers(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    with pytest.raises(SourceUnavailableError, match="did not answer in time"):
        await fetched_from(hang, read_seconds=0.1)
    for slow in (drip, drip_headers):
        with pytest.raises(SourceUnavailableError, match=r"took longer than 0\.3 s"):
            await fetched_from(slow, total_seconds=0.3)


async def test_time_that_the_taker_needs_is_not_the_servers() -> None:
    size = 0
    async with (
        serving({"/a": answer(body=b"x" * 500_000)}) as server,
        fetcher(total_seconds=2.0).fetch(server.url("/a")) as document,
    ):
        async for piece in document.chunks():
            if not size:
                await asyncio.sleep(2.5)
            size += len(piece)
    assert size == 500_000


async def test_nobody_there_is_unavailable() -> None:
    async with serving({}) as server:
        pass
    with pytest.raises(SourceUnavailableError, match=r"the connection to 127\.0\.0\.1 failed"):
        async with fetcher().fetch(server.url("/")):
            pass


async def test_a_taker_that_leaves_early_closes_the_connection() -> None:
    closed = asyncio.Event()

    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        try:
            await endless_chunks(writer, b"x" * 1000)
        finally:
            closed.set()

    async with serving({"/a": endless}) as server:
        async with fetcher(max_bytes=10**9).fetch(server.url("/a")) as document:
            await anext(aiter(document.chunks()))
        async with asyncio.timeout(10):
            await closed.wait()


async def test_the_bytes_are_read_once() -> None:
    async with serving({"/a": answer(body=b"x")}) as server, fetcher().fetch(server.url("/a")) as document:
        assert [piece async for piece in document.chunks()] == [b"x"]
        with pytest.raises(RuntimeError, match="once"):
            await anext(aiter(document.chunks()))
