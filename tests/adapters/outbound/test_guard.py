"""Which addresses are talked to: every spelling of a private one is refused, and only what was checked is used."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.adapters.outbound.guard import Guard
from embedmill.adapters.outbound.networks import why_refused
from embedmill.errors import AddressRefusedError, ConfigurationError, SourceUnavailableError

PUBLIC = "93.184.215.14"


def answering(*addresses: str):
    """A resolver that knows every host by these addresses."""

    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


async def never(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} should have been refused before it was looked up")


NASTY = [
    # private, by number
    "http://127.0.0.1/", "http://127.1.2.3/", "http://10.0.0.1/", "http://172.16.0.1/", "http://172.31.255.255/",
    "http://192.168.1.1/", "http://169.254.169.254/latest/meta-data/", "http://100.64.0.1/",
    "http://100.100.100.200/", "http://192.0.0.192/", "http://168.63.129.16/", "http://0.0.0.0/", "http://0.1.2.3/",
    "http://255.255.255.255/", "http://224.0.0.1/", "http://240.0.0.1/", "http://198.18.0.1/", "http://192.0.2.1/",
    # IPv6, and IPv4 within it
    "http://[::1]/", "http://[::]/", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://[fc00::1]/",
    "http://[ff02::1]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[::ffff:169.254.169.254]/",
    "http://[::127.0.0.1]/", "http://[64:ff9b::127.0.0.1]/", "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::1]/", "http://[2002:7f00:1::]/", "http://[2002:5db8:d70e::]/", "http://[2001:0:1::1]/",
    "http://[2001:db8::1]/", "http://[2600::5efe:10.0.0.1]/", "http://[2600::200:5efe:10.0.0.1]/",
    "http://[0000:0000:0000:0000:0000:ffff:7f00:0001]/", "http://[fec0::1]/", "http://[100::1]/",
    "http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[::1%25lo]/", "http://[::ffff:0:127.0.0.1]/",
    # numbers in other spellings
    "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://127.1/",
    "http://127.0.1/", "http://017700000001/", "http://0x7f.1/", "http://127.0.0.01/", "http://1.1.1.0x1/",
    "http://example.123/", "http://example.0x/", "http://00000127.0.0.1/", "http://256.256.256.256/",
    # letters that look like others
    "http://１２７.0.0.1/", "http://127。0。0。1/", "http://①②⑦.⓪.⓪.①/", "http://127%2e0%2e0%2e1/",
    "http://①.com/", "http://exam\u00adple.com/", "http://exam\u200bple.com/", "http://９３.184.215.14/",
    "http://93。184。215。14/",
    # users, ports, blanks, dots
    "http://user@example.com/", "http://user:password@example.com/", "http://@example.com/",
    "http://example.com:80@127.0.0.1/", "http://example.com@127.0.0.1/", "http://127.0.0.1\\@example.com/",
    "http://example.com\\.evil.example/", "http://example.com:22/", "http://example.com:0/",
    "http://example.com:65536/", "http://example.com:99999/", "http://example.com:-1/", "http://example.com:+80/",
    "http://example.com:8_0/", "http://example.com: 80/", "http://example.com:８０/", "http://example.com:25/",
    "http://example.com:6000/", "http://example.com./", "http://127.0.0.1./", "http://localhost./",
    "http://example..com/", "http://.example.com/", "http://-example.com/", "http://example-.com/",
    "http://ex ample.com/", " http://example.com/", "http://example.com/ ", "http://example.com\t/",
    "http://exa\nmple.com/", "http://example.com/\r\nHost: evil", "http://example.com\x00.evil/", "http://%00/",
    "http://[::1/", "http://::1/", "http://[]/", "http://[v1.fe80::a]/", "http://[127.0.0.1]/", "http://[::1]x/",
    "http://[::1]:80:80/", "http://a[::1]/", "http://ex*mple.com/", "http://" + "a" * 64 + ".com/",
    "http://" + "a." * 127 + "com/", "http://example.com/" + "a" * 9000,
    # other schemes, and none
    "file:///etc/passwd", "ftp://example.com/", "gopher://example.com/", "javascript:alert(1)", "data:,x",
    "ws://example.com/", "http:example.com", "http:/example.com/", "http:///example.com/", "//example.com/",
    "example.com", "", "http://", "https://", "http://?x", "http://#x", "http://:80/", "jar:http://example.com!/",
    "unix:///var/run/docker.sock", "http+unix://%2Fvar%2Frun/", "HTTP\u017f://example.com/", "\ud800",
    "http://exam\ud800ple.com/",
]  # fmt: skip


@pytest.mark.parametrize("url", NASTY, ids=lambda url: ascii(url)[:60])
async def test_a_nasty_address_is_refused_before_any_look_up(url: str) -> None:
    with pytest.raises(AddressRefusedError) as refused:
        await Guard(resolver=never).check(url)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://example.com", "example.com", 80),
        ("HTTPS://Example.COM/Path?q=ä#part", "example.com", 443),
        ("https://example.com:8443/", "example.com", 8443),
        ("https://example.com:/x", "example.com", 443),
        ("https://bücher.example/", "xn--bcher-kva.example", 443),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443),
        ("https://my_bucket.s3.example/a%20b", "my_bucket.s3.example", 443),
        ("http://93.184.215.14:8080/", "93.184.215.14", 8080),
        ("http://[2606:4700::1111]/", "2606:4700::1111", 80),
        ("http://[64:ff9b::5db8:d70e]/", "64:ff9b::5db8:d70e", 80),
        ("http://a/", "a", 80),
        ("http://xn--a/", "xn--a", 80),
    ],
)
async def test_a_public_address_passes(url: str, host: str, port: int) -> None:
    checked = await Guard(resolver=answering(PUBLIC)).check(url)
    assert (checked.host, checked.port) == (host, port)
    assert "#" not in str(checked.url)


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC], [PUBLIC, "::1"], ["fe80::1%eth0"],
     ["::ffff:169.254.169.254"], ["2606:4700::1111", "fd00::1"]],
)  # fmt: skip
async def test_a_host_passes_only_if_each_of_its_addresses_does(addresses: list[str]) -> None:
    with pytest.raises(
        AddressRefusedError, match=r"innocent\.example leads to an address that is not public"
    ):
        await Guard(resolver=answering(*addresses)).check("https://innocent.example/")


async def test_a_refusal_by_name_does_not_tell_the_inner_address() -> None:
    with pytest.raises(AddressRefusedError) as refused:
        await Guard(resolver=answering("10.11.12.13")).check("https://wiki.example/")
    assert "10.11.12.13" not in str(refused.value)


async def test_localhost_is_refused_by_the_resolver_of_the_machine() -> None:
    with pytest.raises(AddressRefusedError, match="this machine"):
        await Guard().check("http://localhost:8080/")


@pytest.mark.parametrize(
    ("allowed", "url", "addresses"),
    [
        ("127.0.0.1", "http://127.0.0.1:5000/", []),
        ("10.1.0.0/16", "http://wiki/", ["10.1.2.3"]),
        ("wiki.intern", "http://Wiki.Intern/", ["10.1.2.3"]),
        ("*.intern", "http://a.b.intern/", ["10.1.2.3"]),
        ("::1", "http://[::1]:5000/", []),
        ("[fd00::]/8", "http://wiki/", ["fd00::1"]),
    ],
)
async def test_what_is_allowed_passes(allowed: str, url: str, addresses: list[str]) -> None:
    assert (await Guard(allowed=[allowed], resolver=answering(*addresses)).check(url)).addresses


@pytest.mark.parametrize(
    ("allowed", "url", "addresses"),
    [
        ("127.0.0.1", "http://127.0.0.2/", []),
        ("127.0.0.1", "http://wiki/", ["127.0.0.1", "10.0.0.1"]),
        ("wiki.intern", "http://evil-wiki.intern/", ["10.1.2.3"]),
        ("*.intern", "http://intern/", ["10.1.2.3"]),
        ("*.intern", "http://evilintern/", ["10.1.2.3"]),
        ("wiki.intern", "http://wiki.intern.evil/", ["10.1.2.3"]),
        ("wiki.intern", "http://user@wiki.intern/", []),
    ],
)
async def test_what_is_beside_the_allowed_does_not(allowed: str, url: str, addresses: list[str]) -> None:
    with pytest.raises(AddressRefusedError):
        await Guard(allowed=[allowed], resolver=answering(*addresses)).check(url)


@pytest.mark.parametrize("entry", ["", "10.0.0.1/8", "http://wiki/", "*", "wiki.*", "10.0.0", "a b"])
def test_an_entry_that_allows_nothing_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError):
        Guard(allowed=[entry])


async def test_https_only_refuses_http() -> None:
    with pytest.raises(AddressRefusedError, match=r"must begin with https://$"):
        await Guard(https_only=True, resolver=never).check("http://example.com/")


async def test_name_servers_that_do_not_answer_are_no_refusal() -> None:
    async def silent(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError

    async def failing(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    for resolver in (silent, failing):
        with pytest.raises(SourceUnavailableError):
            await Guard(resolver=resolver, resolve_seconds=0.05).check("https://example.com/")


async def test_a_name_that_nobody_has_is_refused() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with pytest.raises(AddressRefusedError, match="there is no host"):
        await Guard(resolver=unknown).check("https://exmaple.com/")


@given(st.ip_addresses())
def test_no_address_passes_that_the_standard_library_calls_private(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    carries = isinstance(address, ipaddress.IPv6Address) and address in ipaddress.ip_network("::ffff:0:0/96")
    if not address.is_global and not carries:
        assert why_refused(address) is not None


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_every_dress(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for dress in ("::ffff:0:0", "64:ff9b::"):
        dressed = ipaddress.IPv6Address(int(ipaddress.IPv6Address(dress)) | number)
        assert (why_refused(dressed) is None) == (why_refused(address) is None)
    assert why_refused(ipaddress.IPv6Address((0x2002 << 112) | (number << 80))) is not None
    assert why_refused(ipaddress.IPv6Address((0x20010000 << 96) | (number ^ 0xFFFF_FFFF))) is not None


@given(st.text(max_size=30), st.text(max_size=20))
async def test_whatever_is_written_the_guard_refuses_or_resolves_the_very_host_it_sends(
    host: str, rest: str
) -> None:
    asked: list[str] = []

    async def resolve(name: str, port: int) -> list[str]:
        asked.append(name)
        return [PUBLIC]

    try:
        checked = await Guard(resolver=resolve).check(f"http://{host}/{rest}")
    except AddressRefusedError:
        return
    assert asked in ([checked.host], [])
    assert checked.url.raw_host.decode() == checked.host
    if not asked:
        assert why_refused(ipaddress.ip_address(checked.host)) is None
