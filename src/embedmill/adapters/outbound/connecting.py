"""One request to an address that was checked. Owns the connection: to exactly the addresses that the guard saw, by
number, with the host's name in TLS and in the Host header; no proxy, no cookie, no redirect, nothing kept for the
next. Must not resolve a name."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache

import httpx2

from embedmill.adapters.outbound.guard import CheckedAddress
from embedmill.adapters.outbound.networks import IPAddress
from embedmill.errors import AddressRefusedError, SourceUnavailableError

# Of a host with many addresses so many are tried: the next one only when the one before does not answer.
_ADDRESSES_TRIED = 4


class TimeLimit:
    """So many seconds for what is waited for within `spend()`, taken together. What happens between two of them,
    such as storing what came, does not count."""

    def __init__(self, seconds: float, host: str) -> None:
        self._seconds = seconds
        self._left = seconds
        self._host = host

    @asynccontextmanager
    async def spend(self) -> AsyncIterator[None]:
        """Raises SourceUnavailableError when the time is over."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(max(self._left, 0.0)) as deadline:
                yield
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise SourceUnavailableError(f"{self._host} took longer than {self._seconds:g} s") from error
        finally:
            self._left -= clock() - began


class Connector:
    """Makes requests, each on a connection of its own."""

    def __init__(
        self, *, connect_seconds: float, read_seconds: float, certificates: ssl.SSLContext | None = None
    ) -> None:
        """`certificates`: whom to trust; by default whom the machine trusts."""
        self._timeout = httpx2.Timeout(read_seconds, connect=connect_seconds)
        self._certificates = certificates

    @asynccontextmanager
    async def exchange(
        self, address: CheckedAddress, method: str, headers: Mapping[str, str], body: bytes = b""
    ) -> AsyncIterator[httpx2.Response]:
        """The answer, its body not read yet (`aiter_raw`, within `translated`). Raises as `translated` says."""
        transport = httpx2.AsyncHTTPTransport(
            verify=self._certificates or _certificates_of_the_machine(), trust_env=False
        )
        async with transport:
            with translated(address.host):
                response = await self._open(transport, address, method, headers, body)
            try:
                yield response
            finally:
                await response.aclose()

    async def _open(
        self,
        transport: httpx2.AsyncHTTPTransport,
        address: CheckedAddress,
        method: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> httpx2.Response:
        candidates = _in_turn(address.addresses)[:_ADDRESSES_TRIED]
        for number, candidate in enumerate(candidates, start=1):
            request = self._request(address, candidate, method, headers, body)
            try:
                response = await transport.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                if number == len(candidates) or _certificate_error(error) is not None:
                    raise
                continue
            response.request = request
            return response
        raise AssertionError("the last candidate returns or raises")

    def _request(
        self,
        address: CheckedAddress,
        candidate: IPAddress,
        method: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> httpx2.Request:
        extensions: dict[str, object] = {"timeout": self._timeout.as_dict()}
        if str(candidate) != address.host:
            extensions["sni_hostname"] = address.host
        return httpx2.Request(
            method,
            address.url.copy_with(host=str(candidate)),
            headers={**headers, "Host": address.url.netloc.decode("ascii"), "Connection": "close"},
            content=body or None,
            extensions=extensions,
        )


@contextmanager
def translated(host: str) -> Iterator[None]:
    """Raises SourceUnavailableError for what goes wrong on the way, a body that breaks off included, and
    AddressRefusedError where the server cannot prove who it is."""
    try:
        yield
    except httpx2.TimeoutException as error:
        raise SourceUnavailableError(f"{host} did not answer in time") from error
    except (httpx2.HTTPError, ssl.SSLError, OSError) as error:
        certificate = _certificate_error(error)
        if certificate is not None:
            raise AddressRefusedError(
                f"{host} has no valid certificate for its name: {certificate.verify_message}"
            ) from error
        reason = f": {error}" if str(error) else ""
        raise SourceUnavailableError(f"the connection to {host} failed{reason}") from error


def _in_turn(addresses: tuple[IPAddress, ...]) -> list[IPAddress]:
    """One of IPv6, one of IPv4 in turn, the system's first choice first: a whole family may lead nowhere."""
    first = addresses[0].version
    same = [address for address in addresses if address.version == first]
    other = [address for address in addresses if address.version != first]
    pairs = itertools.zip_longest(same, other)
    return [address for pair in pairs for address in pair if address is not None]


def _certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


@cache
def _certificates_of_the_machine() -> ssl.SSLContext:
    """One for the process: reading them takes longer than a request."""
    return httpx2.create_ssl_context()
