"""One call to an endpoint: its answer, or why there is none; never an exception, never longer than the limit."""

from __future__ import annotations

import asyncio

import pytest

from embedmill.adapters.outbound.poster import GuardedPoster
from embedmill.errors import AddressRefusedError
from embedmill.ports import PostAnswer
from tests.adapters.outbound.server import Answer, Request, answer, hang, serving


def poster(**options: object) -> GuardedPoster:
    given: dict[str, object] = {"allowed": ["127.0.0.1"], "total_seconds": 10.0, **options}
    return GuardedPoster(**given)  # type: ignore[arg-type]


async def posted(reply: bytes | Answer, **options: object) -> PostAnswer:
    async with serving({"/": reply}) as server:
        return await poster(**options).post(server.url("/"), headers={"X": "y"}, body=b"{}")


async def test_the_body_and_the_headers_arrive() -> None:
    async with serving({"/hook": answer()}) as server:
        came_back = await poster().post(
            server.url("/hook?a=b"), headers={"webhook-id": "1"}, body='{"ä": 1}'.encode()
        )
        (request,) = server.requests
    assert came_back == PostAnswer(200)
    assert (request.target, request.body.decode()) == ("/hook?a=b", '{"ä": 1}')
    assert (request.headers["webhook-id"], request.headers["content-length"]) == ("1", "9")


async def _drip(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 Oops\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def _flood(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 Oops\r\n\r\n")
    while True:
        writer.write(b"y" * 10_000)
        await writer.drain()


@pytest.mark.parametrize(
    ("reply", "status", "problem"),
    [
        (answer("404 Not Found", b"  no\r\n\tsuch \x1b[31mhook\x00 "), 404, "answered 404 Not Found: no such [31mhook"),
        (answer("500 Oops", "ä".encode() * 5000), 500, "answered 500 Oops: " + "ä" * 200),
        (answer("500 Oops", b"\xff\xfe"), 500, "answered 500 Oops: \ufffd\ufffd"),
        (answer("500 Oops", b"packed", content_encoding="gzip"), 500, "answered 500 Oops"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\nbroken off", 500, "answered 500 Oops: broken off"),
        (_flood, 500, "answered 500 Oops: " + "y" * 200),
        (answer("204 No Content"), 204, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbroken off", 200, None),
    ],
)  # fmt: skip
async def test_of_an_answer_the_status_and_a_clean_beginning_are_kept(
    reply: bytes | Answer, status: int, problem: str | None
) -> None:
    came_back = await posted(reply)
    assert (came_back.status, came_back.problem) == (status, problem)


async def test_a_body_that_drips_does_not_hold_the_answer_up() -> None:
    came_back = await posted(_drip)
    assert came_back.status == 500
    assert str(came_back.problem).startswith("answered 500 Oops: xx")


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000,
        b"HTTP/1.1 999999 X\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_a_problem(reply: bytes) -> None:
    came_back = await posted(reply)
    assert came_back.status is None
    assert came_back.problem


async def test_silence_ends_with_the_limit() -> None:
    came_back = await posted(hang, total_seconds=0.2)
    assert came_back.status is None
    assert "0.2 s" in str(came_back.problem) or "in time" in str(came_back.problem)


async def test_a_private_address_is_a_problem_and_no_call() -> None:
    async with serving({"/": answer()}) as server:
        came_back = await GuardedPoster().post(server.url("/"), headers={}, body=b"{}")
        assert server.connections == 0
    assert came_back.status is None
    assert "not public" in str(came_back.problem)


async def test_a_check_refuses_what_a_post_would() -> None:
    await poster().check("http://127.0.0.1:9999/")
    for url in ("http://127.0.0.2/", "nonsense", "http://user@127.0.0.1/"):
        with pytest.raises(AddressRefusedError):
            await poster().check(url)


async def test_a_check_while_the_name_servers_are_silent_says_try_again() -> None:
    async def failing(host: str, port: int) -> list[str]:
        raise OSError("no route")

    with pytest.raises(AddressRefusedError, match="try again in a moment"):
        await poster(resolver=failing).check("https://example.com/")
