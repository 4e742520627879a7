"""Fetches a document from an address that a user wrote. Owns the way there (redirects, each checked anew), the limits
of size and time, and what an answer means; stores nothing."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime

import httpx2

from embedmill.adapters.outbound.connecting import Connector, TimeLimit, translated
from embedmill.adapters.outbound.guard import CheckedAddress, Guard
from embedmill.adapters.outbound.naming import media_type_of, name_of, raw_header
from embedmill.adapters.outbound.resolving import Resolver, resolve
from embedmill.adapters.outbound.unpacking import Unpacker
from embedmill.adapters.providers.retry_after import retry_after_seconds
from embedmill.errors import AddressRefusedError, DocumentError, SourceUnavailableError

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Refused now, perhaps not later: too slow, too early, too often.
_PASSING = frozenset({408, 425, 429})
_HEADERS = {"User-Agent": "embedmill", "Accept": "*/*", "Accept-Encoding": "gzip"}


class GuardedFetcher:
    """See ports.Fetcher. Any number of fetches may run side by side."""

    def __init__(
        self,
        *,
        max_bytes: int,
        allowed: Iterable[str] = (),
        https_only: bool = False,
        connect_seconds: float = 10.0,
        read_seconds: float = 30.0,
        total_seconds: float = 600.0,
        resolver: Resolver = resolve,
        certificates: ssl.SSLContext | None = None,
    ) -> None:
        """`allowed`: private networks and hosts that may be reached (networks.Allowed). `read_seconds`: the longest
        silence; `total_seconds`: all waiting for one document, redirects included. Raises ConfigurationError."""
        self._guard = Guard(allowed=allowed, https_only=https_only, resolver=resolver)
        self._connector = Connector(
            connect_seconds=connect_seconds, read_seconds=read_seconds, certificates=certificates
        )
        self._max_bytes = max_bytes
        self._total_seconds = total_seconds

    @asynccontextmanager
    async def fetch(self, url: str) -> AsyncIterator[FetchedDocument]:
        """See ports.Fetcher.fetch."""
        first = self._guard.read(url)
        limit = TimeLimit(self._total_seconds, first.raw_host.decode("ascii"))
        async with AsyncExitStack() as connections:
            async with limit.spend():
                address, response = await self._follow(str(first), connections)
            _check_answer(address, response)
            document = FetchedDocument(address, response, first, limit, self._max_bytes)
            yield document

    async def _follow(self, url: str, connections: AsyncExitStack) -> tuple[CheckedAddress, httpx2.Response]:
        """The first answer that is no redirect; the connections before it are closed."""
        for _ in range(MAX_REDIRECTS + 1):
            address = await self._guard.check(url)
            response = await connections.enter_async_context(
                self._connector.exchange(address, "GET", _HEADERS)
            )
            if response.status_code not in _REDIRECTS:
                return address, response
            url = _target(address, response)
            await connections.aclose()
        raise DocumentError(
            "unreadable",
            f"{address.host} redirects more than {MAX_REDIRECTS} times: name the document's own address",
        )


class FetchedDocument:
    """See ports.Fetched."""

    def __init__(
        self,
        address: CheckedAddress,
        response: httpx2.Response,
        first: httpx2.URL,
        limit: TimeLimit,
        max_bytes: int,
    ) -> None:
        """Raises DocumentError where the server says that it will be too large, or packs it in an unknown way."""
        self._response = response
        self._host = address.host
        self._limit = limit
        self._max_bytes = max_bytes
        self._is_taken = False
        encoding = response.headers.get("content-encoding")
        self._unpacker = Unpacker(encoding)
        length = response.headers.get("content-length", "")
        said = int(length) if length.isascii() and length.isdigit() else None
        if said is not None and said > max_bytes:
            raise self._too_large()
        self.size_bytes = None if encoding else said
        self.name = name_of(response, address.url, first)
        self.media_type = media_type_of(response.headers)
        self.final_url = str(address.url)
        self.etag = raw_header(response, "etag")
        self.last_modified = raw_header(response, "last-modified")

    async def chunks(self) -> AsyncIterator[bytes]:
        """See ports.Fetched.chunks."""
        if self._is_taken:
            raise RuntimeError("the bytes of a fetched document can be read once")
        self._is_taken = True
        packed_bytes = unpacked_bytes = 0
        async with aclosing(self._response.aiter_raw()) as body:
            while (data := await self._next(body)) is not None:
                # Both are counted: a packed body may unpack to far more, or to nothing for ever.
                packed_bytes += len(data)
                for piece in self._unpacker.feed(data):
                    unpacked_bytes += len(piece)
                    if unpacked_bytes > self._max_bytes:
                        raise self._too_large()
                    yield piece
                if packed_bytes > self._max_bytes:
                    raise self._too_large()
        self._unpacker.finish()

    async def _next(self, body: AsyncIterator[bytes]) -> bytes | None:
        async with self._limit.spend():
            with translated(self._host):
                return await anext(body, None)

    def _too_large(self) -> DocumentError:
        return DocumentError(
            "too_large", f"the document at {self._host} is larger than {self._max_bytes / 1024 / 1024:g} MiB"
        )


def _target(address: CheckedAddress, response: httpx2.Response) -> str:
    location = raw_header(response, "location")
    if not location:
        raise DocumentError("unreadable", f"{address.host} redirects to nowhere: its answer has no Location")
    try:
        return str(address.url.join(location))
    except (httpx2.InvalidURL, ValueError) as error:
        raise AddressRefusedError(f"{address.host} redirects to what is no address") from error


def _check_answer(address: CheckedAddress, response: httpx2.Response) -> None:
    """Raises where the answer is not the document."""
    status = response.status_code
    if status == 200:
        return
    said = f"the server {address.host} answered {status} {response.reason_phrase}".strip()
    if status >= 500 or status in _PASSING:
        headers = {name.lower(): value for name, value in response.headers.items()}
        raise SourceUnavailableError(
            said, retry_after_seconds=retry_after_seconds(headers, datetime.now(UTC))
        )
    if status in (401, 403):
        said += ": it gives the document only to those who sign in; upload the file instead"
    elif status in (404, 410):
        said += ": nothing stands at this address"
    raise DocumentError("unreadable", said)
