"""The network, seen from one request: send it, get its answer or the stream of its answer. Owns the two ways there are
to wait, blocking and asynchronous, and nothing else: what is sent, and whether it is sent again, is asking.py's.

Everything above is written once, as coroutines. On `BlockingWire` no coroutine ever suspends, so that operations.py
can run one to its end by a single step; on `AsyncWire` it suspends where it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from typing import Protocol
from urllib.parse import urlsplit

import httpx2

from embedmill.client.errors import ServiceUnreachableError
from embedmill.client.forms import Form

CONNECT_SECONDS = 10.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Message:
    """A request as it goes out. `read_seconds` is the longest silence that is borne."""

    method: str
    url: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    content: bytes | Form | None
    read_seconds: float


@dataclass(frozen=True)
class Answer:
    """`headers` by lower-case name. Of a stream that is open, the content is empty."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""


@dataclass(frozen=True)
class OpenAnswer:
    """An answer whose body comes bit by bit."""

    answer: Answer
    pieces: AsyncIterator[bytes]


class Wire(Protocol):
    """Raises ServiceUnreachableError where no answer comes, or it breaks off."""

    async def send(self, message: Message) -> Answer: ...

    def open(self, message: Message) -> AbstractAsyncContextManager[OpenAnswer]:
        """A stream; where the answer is an error, its content is read."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def close(self) -> None: ...


class BlockingWire:
    """For coroutines that are run by a single step: it waits by blocking the thread."""

    def __init__(self, base_url: str) -> None:
        trust_env = _uses_proxies(base_url)
        self._client = httpx2.Client(trust_env=trust_env, verify=_certificates(trust_env))

    async def send(self, message: Message) -> Answer:
        with _told(message):
            response = self._client.send(self._request(message))
            return _answer(response, response.content)

    @contextlib.asynccontextmanager
    async def open(self, message: Message) -> AsyncIterator[OpenAnswer]:
        with _told(message):
            response = self._client.send(self._request(message), stream=True)
        with contextlib.closing(response):
            with _told(message):
                content = b"" if response.is_success else response.read()
            yield OpenAnswer(_answer(response, content), self._pieces(message, response))

    async def _pieces(self, message: Message, response: httpx2.Response) -> AsyncIterator[bytes]:
        pieces = response.iter_bytes()
        while True:
            with _told(message):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - this wire blocks; that is what it is for

    async def close(self) -> None:
        self._client.close()

    def _request(self, message: Message) -> httpx2.Request:
        content = message.content.blocks() if isinstance(message.content, Form) else message.content
        return self._client.build_request(
            message.method,
            message.url,
            params=list(message.query) or None,
            headers=_headers(message),
            content=content,
            timeout=_timeout(message),
        )


class AsyncWire:
    """For an event loop; files are read in a thread."""

    def __init__(self, base_url: str) -> None:
        trust_env = _uses_proxies(base_url)
        self._client = httpx2.AsyncClient(trust_env=trust_env, verify=_certificates(trust_env))

    async def send(self, message: Message) -> Answer:
        with _told(message):
            response = await self._client.send(self._request(message))
            return _answer(response, response.content)

    @contextlib.asynccontextmanager
    async def open(self, message: Message) -> AsyncIterator[OpenAnswer]:
        with _told(message):
            response = await self._client.send(self._request(message), stream=True)
        try:
            with _told(message):
                content = b"" if response.is_success else await response.aread()
            yield OpenAnswer(_answer(response, content), self._pieces(message, response))
        finally:
            await response.aclose()

    async def _pieces(self, message: Message, response: httpx2.Response) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(response.aiter_bytes()) as pieces:
            while True:
                with _told(message):
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                yield piece

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        await self._client.aclose()

    def _request(self, message: Message) -> httpx2.Request:
        content = message.content
        return self._client.build_request(
            message.method,
            message.url,
            params=list(message.query) or None,
            headers=_headers(message),
            content=_in_a_thread(content.blocks()) if isinstance(content, Form) else content,
            timeout=_timeout(message),
        )


async def _in_a_thread(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (block := await asyncio.to_thread(next, blocks, None)) is not None:
        yield block


def _uses_proxies(base_url: str) -> bool:
    """The environment's proxies lead to the outside, and never to this machine."""
    return urlsplit(base_url).hostname not in _LOOPBACK


@cache
def _certificates(trust_env: bool) -> ssl.SSLContext:
    """Read once for all clients of the process: it takes longer than a request."""
    return httpx2.create_ssl_context(trust_env=trust_env)


def _headers(message: Message) -> dict[str, str]:
    headers = dict(message.headers)
    if isinstance(message.content, Form):
        headers["Content-Type"] = message.content.content_type
        if message.content.length is not None:
            headers["Content-Length"] = str(message.content.length)
    elif message.content is not None:
        headers["Content-Type"] = "application/json"
    return headers


def _timeout(message: Message) -> httpx2.Timeout:
    return httpx2.Timeout(message.read_seconds, connect=min(CONNECT_SECONDS, message.read_seconds))


def _answer(response: httpx2.Response, content: bytes) -> Answer:
    return Answer(response.status_code, {k.lower(): v for k, v in response.headers.items()}, content)


@contextlib.contextmanager
def _told(message: Message) -> Iterator[None]:
    """The HTTP library's errors in our words. No query and no body goes into a message: it may end in a log."""
    where = urlsplit(message.url)
    place = f"{where.scheme}://{where.netloc.rpartition('@')[2]}"
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        text = f"no connection to {place} ({_words(error)}): is the service running (`embedmill up`)?"
        raise ServiceUnreachableError(text, was_sent=False) from error
    except httpx2.ReadTimeout as error:
        text = f"{place} has said nothing for {message.read_seconds:g} s ({message.method} {where.path})"
        raise ServiceUnreachableError(text, was_sent=True, is_silence=True) from error
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        text = f"the connection to {place} broke off ({message.method} {where.path}: {_words(error)})"
        raise ServiceUnreachableError(text, was_sent=True) from error


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
