"""Which addresses belong to everybody, and which are somebody's own network. Pure; owns the table. Tables of the
standard library change with each Python, so this one is our own, from IANA's special-purpose registries."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from embedmill.errors import ConfigurationError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_REFUSED_IPV4 = tuple(
    (ipaddress.IPv4Network(network), what)
    for network, what in {
        "0.0.0.0/8": "this machine",
        "10.0.0.0/8": "a private network",
        "100.64.0.0/10": "a provider's inner network",
        "127.0.0.0/8": "this machine",
        "168.63.129.16/32": "a cloud's own service",
        "169.254.0.0/16": "the local link, where clouds keep their metadata",
        "172.16.0.0/12": "a private network",
        "192.0.0.0/24": "reserved",
        "192.0.2.0/24": "for documentation",
        "192.88.99.0/24": "reserved",
        "192.168.0.0/16": "a private network",
        "198.18.0.0/15": "for measurements",
        "198.51.100.0/24": "for documentation",
        "203.0.113.0/24": "for documentation",
        "224.0.0.0/4": "a multicast group",
        "240.0.0.0/4": "reserved",
    }.items()
)
# Of IPv6 only what is handed out (2000::/3) is global; within it these are not. Tunnels (6to4, Teredo) carry an IPv4
# address that the far end unpacks, and nobody serves from one.
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_IPV6 = tuple(
    (ipaddress.IPv6Network(network), what)
    for network, what in {
        "2001::/32": "a Teredo tunnel",
        "2001::/23": "reserved",
        "2001:db8::/32": "for documentation",
        "2002::/16": "a 6to4 tunnel",
        "3fff::/20": "for documentation",
    }.items()
)
# Both carry an IPv4 address in their last 32 bits, and it is that address which is reached.
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
# ISATAP: an IPv4 address behind this in the last 64 bits of any prefix.
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


def why_refused(address: IPAddress) -> str | None:
    """What the address is, where it is not everybody's; None for a global one."""
    if isinstance(address, ipaddress.IPv4Address):
        return _found(address, _REFUSED_IPV4)
    if address.scope_id is not None:
        return "the local link"
    carried = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in _MAPPED or address in _TRANSLATED:
        return why_refused(carried)
    if address not in _GLOBAL_IPV6:
        return _kind_of_ipv6(address)
    if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        return "an ISATAP tunnel"
    return _found(address, _REFUSED_IPV6)


def _found(address: IPAddress, table: Iterable[tuple[IPNetwork, str]]) -> str | None:
    return next((what for network, what in table if address in network), None)


def _kind_of_ipv6(address: ipaddress.IPv6Address) -> str:
    if address.is_loopback or address.is_unspecified:
        return "this machine"
    if address.is_multicast:
        return "a multicast group"
    return "the local link" if address.is_link_local else "a private network, or reserved"


class Allowed:
    """Networks and hosts that may be reached though they are private: "10.1.0.0/16", "127.0.0.1",
    "wiki.intern", "*.intern" (what is below it)."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        """Raises ConfigurationError for an entry that is neither."""
        self._networks: list[IPNetwork] = []
        self._hosts: set[str] = set()
        self._below: list[str] = []
        for entry in entries:
            self._take(entry.strip().lower())

    def has_host(self, host: str) -> bool:
        return host in self._hosts or any(host.endswith(below) for below in self._below)

    def has_address(self, address: IPAddress) -> bool:
        return any(address in network for network in self._networks)

    def _take(self, entry: str) -> None:
        try:
            self._networks.append(ipaddress.ip_network(entry.replace("[", "").replace("]", "")))
        except ValueError as error:
            name = entry.removeprefix("*.")
            if not name or not all(
                part.replace("-", "").replace("_", "").isalnum() for part in name.split(".")
            ):
                raise ConfigurationError(
                    f"{entry!r} names no network and no host: write 10.1.0.0/16, 10.1.2.3, wiki.intern or *.intern"
                ) from error
            if name.rsplit(".", 1)[-1].isdigit():
                raise ConfigurationError(
                    f"{entry!r} is no network: {error} (write 10.1.0.0/16, with zeros behind the prefix)"
                ) from error
            if entry.startswith("*."):
                self._below.append(f".{name}")
            else:
                self._hosts.add(name)
