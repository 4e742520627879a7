"""Whatever a server answers: sound vectors come out, or a ProviderError, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedmill.adapters.providers.answers import decoded
from embedmill.adapters.providers.openai import OpenAIProvider
from embedmill.adapters.providers.refusals import CallContext, error_for, read_refusal
from embedmill.errors import BadResponseError, ProviderError
from embedmill.ports import ProviderSpec, Purpose

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
ITEM = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(-1, 3) | JSON,
        "embedding": st.lists(st.floats() | st.integers(), max_size=4)
        | st.binary(max_size=24).map(lambda raw: base64.b64encode(raw).decode())
        | JSON,
        "object": JSON,
    },
)
ANSWER = st.fixed_dictionaries(
    {"data": st.lists(ITEM, max_size=4)}, optional={"usage": JSON, "model": JSON, "error": JSON}
)
REFUSAL = st.fixed_dictionaries(
    {},
    optional={
        "error": JSON | st.fixed_dictionaries({}, optional={"message": JSON, "code": JSON, "details": JSON}),
        "detail": JSON | st.lists(st.fixed_dictionaries({}, optional={"loc": JSON, "msg": JSON})),
        "message": JSON,
    },
)


def encoded(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def body_of(vectors: list[list[float]]) -> dict[str, object]:
    return {"data": [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]}


@settings(max_examples=200, deadline=None)
@given(st.binary() | JSON.map(encoded) | ANSWER.map(encoded))
def test_any_body_gives_sound_vectors_or_a_bad_response(body: bytes) -> None:
    try:
        answer = decoded(body, 2, 3, "m")
    except BadResponseError:
        return
    assert answer.vectors.shape == (2, 3)
    assert np.isfinite(answer.vectors).all()
    assert answer.vectors.any(axis=1).all()
    assert answer.tokens is None or answer.tokens >= 0
    assert isinstance(answer.model, str)


@settings(max_examples=150, deadline=None)
@given(st.integers(300, 599), st.dictionaries(st.text(), st.text()), st.binary() | REFUSAL.map(encoded))
def test_any_refusal_gives_a_provider_error(status: int, headers: dict[str, str], body: bytes) -> None:
    context = CallContext("m", "h", "check KEY", None, ["some text"], ["task"])
    error = error_for(status, headers, read_refusal(body), context, datetime.now(UTC))
    assert isinstance(error, ProviderError)
    assert len(str(error)) < 600


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"data":' + b"[" * 100_000,
        b'{"data":[],"usage":' + b'{"a":' * 100_000,
        encoded(body_of([[1.0, 2.0, 3.0]])),
        encoded(body_of([[1.0, 2.0, 3.0]] * 3)),
        encoded(body_of([[1.0, 2.0, 3.0], [1.0, 2.0]])),
        encoded(body_of([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]])),
        encoded(body_of([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])),
        encoded(body_of([[1.0, 2.0, 3.0], [1e-60, 0.0, 0.0]])),
        encoded(body_of([[1.0, 2.0, 3.0], [1e300, 0.0, 0.0]])),
        encoded(body_of([[1.0, 2.0, 3.0], [float("nan"), 0.0, 1.0]])),
        b'{"data":[{"index":0,"embedding":[1,2,3]},{"index":1,"embedding":[1,2,1e999]}]}',
        b'{"data":[{"index":0,"embedding":[1,2,3]},{"index":1,"embedding":[1,2,null]}]}',
        b'{"data":[{"index":0,"embedding":[1,2,3]},{"index":1,"embedding":[1,2,"3"]}]}',
        b'{"data":[{"index":0,"embedding":[1,2,3]},{"index":1.5,"embedding":[1,2,3]}]}',
        b'{"data":[{"index":0,"embedding":[[1,2,3]]},{"index":1,"embedding":[[1,2,3]]}]}',
        b'{"data":[{"index":0,"embedding":"AACAPwAAAEAAAEBA"},{"index":1,"embedding":"AACAPw=="}]}',
        b'{"data":[{"index":0,"embedding":"AACAPwAAAEAAAEBA"},{"index":1,"embedding":"AACAPwAAAEAAAEB"}]}',
        b'{"data":[{"index":0,"embedding":"AACAPwAAAEAAAEBA"},{"index":1,"embedding":"not base64!"}]}',
        b'{"data":[{"index":0,"embedding":"AACAPwAAAEAAAEBA"},{"index":1,"embedding":[1,2,3]}]}',
        b'{"data":[{"index":0,"embedding":[1,2,3]},{"index":1,"embedding":[1,2,3]}],"model":"\xff"}',
    ],
)
def test_a_wrong_body_is_a_bad_response(body: bytes) -> None:
    with pytest.raises(BadResponseError):
        decoded(body, 2, 3, "m")


def test_unusual_but_sound_numbers_are_kept() -> None:
    vectors = [[1e-30, 0.0, -1e-30], [1e30, 3e38, 2]]
    assert np.array_equal(decoded(encoded(body_of(vectors)), 2, 3, "m").vectors, np.float32(vectors))


def test_an_index_that_is_zero_may_be_left_out() -> None:
    body = b'{"data":[{"index":1,"embedding":[1,2,3]},{"embedding":[4,5,6]}]}'
    assert decoded(body, 2, 3, "m").vectors.tolist() == [[4, 5, 6], [1, 2, 3]]


@asynccontextmanager
async def server_that_says(head: bytes, then_for_ever: bytes = b"") -> AsyncIterator[OpenAIProvider]:
    """A server that takes whatever comes, writes the head, and then the rest over and over."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        try:
            await writer.drain()
            while then_for_ever:
                writer.write(then_for_ever)
                await writer.drain()
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            return

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        spec = ProviderSpec(
            provider="openai",
            model="m",
            dimensions=3,
            base_url=f"http://127.0.0.1:{port}/v1",
            timeout_seconds=20,
        )
        provider = OpenAIProvider(spec, api_key=None)
        yield provider
        await provider.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff\x16\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 4\r\n\r\nabcd",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nlocation: http://[\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 429 \r\nretry-after: \xff\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
    ],
)
async def test_any_bytes_on_the_wire_give_a_provider_error(answer: bytes) -> None:
    async with server_that_says(answer) as provider:
        with pytest.raises(ProviderError):
            await provider.embed(["t"], Purpose.DOCUMENT)


async def test_an_endless_answer_is_cut_off() -> None:
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    async with server_that_says(head, b" " * 2**16) as provider:
        with pytest.raises(BadResponseError, match="longer than"):
            await provider.embed(["t"], Purpose.DOCUMENT)
