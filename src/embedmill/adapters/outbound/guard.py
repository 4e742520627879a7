"""Where we may be sent by a URL that a user wrote. Owns the rules for addresses outside: each URL is read once, by the
parser that also sends it; its host is resolved once, here; and what was checked is what is connected to
(connecting.py), so that a name server cannot answer otherwise a moment later. Connects to nothing itself."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable

import httpx2
import msgspec

from embedmill.adapters.outbound.networks import Allowed, IPAddress, why_refused
from embedmill.adapters.outbound.resolving import Resolver, resolve
from embedmill.errors import AddressRefusedError, SourceUnavailableError

MAX_URL_LENGTH = 8192
RESOLVE_SECONDS = 5.0
_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?P<authority>[^/?#]*)")
_PORT_AT_END = re.compile(r"(?:\[[^\]]*\]|[^:\[\]]*)(?::[0-9]{0,5})?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# What some resolvers read as an IPv4 address though no standard writes it so: 2130706433, 0x7f.1, 127.1.
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Ports of other protocols, which HTTP could be made to speak to; those that browsers refuse (Fetch, "bad port").
# fmt: off
_BAD_PORTS = frozenset({
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102,
    103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512,
    513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995,
    1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669,
    6679, 6697, 10080,
})
# fmt: on


class CheckedAddress(msgspec.Struct, frozen=True):
    """A URL that we may talk to, and the addresses of its host, all of which passed; `host` is in ASCII."""

    url: httpx2.URL
    host: str
    port: int
    addresses: tuple[IPAddress, ...]


class Guard:
    """Says which URLs may be talked to. `allowed` (networks.Allowed) lets private networks and hosts pass."""

    def __init__(
        self,
        *,
        allowed: Iterable[str] = (),
        https_only: bool = False,
        resolver: Resolver = resolve,
        resolve_seconds: float = RESOLVE_SECONDS,
    ) -> None:
        self._allowed = Allowed(allowed)
        self._schemes = ("https",) if https_only else ("http", "https")
        self._resolver = resolver
        self._resolve_seconds = resolve_seconds

    async def check(self, url: str) -> CheckedAddress:
        """Read the URL and resolve its host. Raises AddressRefusedError; SourceUnavailableError where the name
        servers do not answer."""
        parsed = self.read(url)
        host = parsed.raw_host.decode("ascii")
        port = parsed.port or _PORTS[parsed.scheme]
        literal = _literal(host)
        addresses = [literal] if literal is not None else await self._resolve(host, port)
        if not self._allowed.has_host(host):
            for address in addresses:
                self._judge(host, address)
        return CheckedAddress(parsed, host, port, tuple(addresses))

    def read(self, url: str) -> httpx2.URL:
        """The URL in the form in which it would be sent, without its fragment; asks no name server."""
        parsed = _parse(url)
        if parsed.scheme not in self._schemes:
            raise AddressRefusedError(
                f"the address must begin with {' or '.join(f'{s}://' for s in self._schemes)}"
            )
        _check_authority(url)
        _check_host(parsed.raw_host.decode("ascii", "replace"), url)
        if parsed.port is not None and (parsed.port in _BAD_PORTS or parsed.port > 65_535):
            raise AddressRefusedError(
                f"port {parsed.port} is not one that documents or webhooks are served on"
            )
        return parsed.copy_with(fragment=None)

    async def _resolve(self, host: str, port: int) -> list[IPAddress]:
        try:
            async with asyncio.timeout(self._resolve_seconds):
                found = await self._resolver(host, port)
        except TimeoutError as error:
            raise SourceUnavailableError(
                f"the name servers did not answer for {host} within {self._resolve_seconds:g} s"
            ) from error
        except socket.gaierror as error:
            if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
                raise AddressRefusedError(f"there is no host {host}: check the address") from error
            raise SourceUnavailableError(f"{host} could not be looked up: {error.strerror}") from error
        except (OSError, UnicodeError) as error:
            raise SourceUnavailableError(f"{host} could not be looked up: {error}") from error
        addresses = [ipaddress.ip_address(address) for address in found]
        if not addresses:
            raise AddressRefusedError(f"the host {host} has no address: check it")
        return addresses

    def _judge(self, host: str, address: IPAddress) -> None:
        what = why_refused(address)
        if what is None or self._allowed.has_address(address):
            return
        # An inner address is not told to somebody who only knows the name.
        named = f"{address} is" if _literal(host) is not None else f"{host} leads to"
        raise AddressRefusedError(
            f"{named} an address that is not public ({what}): use a public address, or have the operator of this"
            " service allow the host or its network (EMBEDMILL_ALLOWED_HOSTS)"
        )


def _parse(url: str) -> httpx2.URL:
    if len(url) > MAX_URL_LENGTH:
        raise AddressRefusedError(f"the address is longer than {MAX_URL_LENGTH} characters")
    if any(letter.isspace() or not letter.isprintable() or letter == "\\" for letter in url):
        raise AddressRefusedError(
            "the address holds a blank, a control character or a backslash: encode it with %"
        )
    try:
        parsed = httpx2.URL(url)
        # Surrogates, bad percent signs and the like show only where it is written out.
        parsed.raw_path.decode("ascii")
    except (httpx2.InvalidURL, ValueError) as error:
        raise AddressRefusedError(f"this is no address of the web: {_plain(error)}") from error
    return parsed


def _check_authority(url: str) -> None:
    """What stands between // and the path, as it was written: parsers disagree most here."""
    found = _AUTHORITY.match(url)
    if found is None or not found["authority"]:
        raise AddressRefusedError("the address has no host: it must look like https://host/path")
    if "@" in found["authority"]:
        raise AddressRefusedError("the address holds a user or a password: take them out of it")
    if not _PORT_AT_END.fullmatch(found["authority"]):
        raise AddressRefusedError(
            "the address has no proper host and port: it must look like https://host:443/path"
        )


def _check_host(host: str, url: str) -> None:
    if _literal(host) is not None:
        if not url.isascii() and not _AUTHORITY.match(url)["authority"].isascii():  # type: ignore[index]
            raise AddressRefusedError(
                "the host is a number in letters that look like digits: write it in ASCII"
            )
        return
    if host.endswith("."):
        raise AddressRefusedError(f"the host {host!r} ends with a dot: leave it out")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressRefusedError("the host is no name that the web knows: letters, digits, - and dots")
    if _NUMERIC.fullmatch(labels[-1]):
        raise AddressRefusedError(
            f"the host {host!r} is a number, not a name: write it as 93.184.215.14, or by name"
        )


def _literal(host: str) -> IPAddress | None:
    """The host where it is an address and no name; a zone (fe80::1%eth0) makes it none."""
    if "%" in host:
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _plain(error: Exception) -> str:
    return str(error).encode("ascii", "backslashreplace").decode("ascii")[:200]
