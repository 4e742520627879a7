"""What was checked is what is connected to: no second look-up, the host's own name in TLS and in the request."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from embedmill.adapters.outbound.fetcher import GuardedFetcher
from embedmill.errors import AddressRefusedError, SourceUnavailableError
from tests.adapters.outbound.server import answer, certificate_for, redirect, serving


class Names:
    """A name server that answers with one list after the other, the last one for ever; keeps what was asked."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def fetcher(names: Names, **options: object) -> GuardedFetcher:
    given: dict[str, object] = {"max_bytes": 1000, "resolver": names, "connect_seconds": 1.0, **options}
    return GuardedFetcher(**given)  # type: ignore[arg-type]


async def body_of(fetching: GuardedFetcher, url: str) -> bytes:
    async with fetching.fetch(url) as document:
        return b"".join([piece async for piece in document.chunks()])


async def test_a_name_that_turns_private_after_the_check_is_not_looked_up_again() -> None:
    # Allowed is 127.0.0.1, standing for the public; 127.0.0.2, where nothing may go, comes with the second answer.
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with serving({"/a": answer(body=b"right")}) as server:
        url = server.url("/a", host="rebind.example")
        assert await body_of(fetcher(names, allowed=["127.0.0.1"]), url) == b"right"
        assert names.asked == ["rebind.example"]
        assert server.requests[0].headers["host"] == f"rebind.example:{server.port}"
        with pytest.raises(AddressRefusedError):
            await body_of(fetcher(names, allowed=["127.0.0.1"]), url)
        assert server.connections == 1


async def test_a_redirect_to_the_same_name_is_looked_up_and_judged_anew() -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with serving({"/a": redirect("/b"), "/b": answer(body=b"inner")}) as server:
        with pytest.raises(AddressRefusedError, match="not public"):
            await body_of(fetcher(names, allowed=["127.0.0.1"]), server.url("/a", host="rebind.example"))
        assert [request.target for request in server.requests] == ["/a"]


async def test_nothing_is_connected_to_where_one_address_of_many_is_private() -> None:
    async with serving({"/a": answer()}) as server:
        with pytest.raises(AddressRefusedError):
            await body_of(
                fetcher(Names(["127.0.0.1", "127.0.0.2"]), allowed=["127.0.0.1"]),
                server.url("/a", host="two.example"),
            )
        assert server.connections == 0


async def test_the_next_address_is_tried_where_the_first_does_not_answer() -> None:
    # Nothing listens at 127.0.0.3 and ::1 on this port.
    names = Names(["127.0.0.3", "::1", "127.0.0.1"])
    async with serving({"/a": answer(body=b"found")}) as server:
        fetching = fetcher(names, allowed=["127.0.0.0/8", "::1"])
        assert await body_of(fetching, server.url("/a", host="many.example")) == b"found"


async def test_a_host_none_of_whose_addresses_answers_is_unavailable() -> None:
    async with serving({}) as server:
        fetching = fetcher(Names(["127.0.0.3", "127.0.0.4"]), allowed=["127.0.0.0/8"])
        with pytest.raises(SourceUnavailableError, match=r"the connection to gone\.example failed"):
            await body_of(fetching, server.url("/a", host="gone.example"))


async def test_tls_speaks_the_hosts_name_and_checks_it(tmp_path: Path) -> None:
    certificate, trusted = certificate_for("docs.example", tmp_path)
    asked: list[str | None] = []
    certificate.sni_callback = lambda tls, name, context: asked.append(name)
    trust = ssl.create_default_context(cafile=str(trusted))
    async with serving({"/a": answer(body=b"secret")}, certificate=certificate) as server:
        fetching = fetcher(Names(["127.0.0.1"]), allowed=["127.0.0.1"], certificates=trust)
        assert await body_of(fetching, server.url("/a", host="docs.example", scheme="https")) == b"secret"
        assert asked == ["docs.example"]
        with pytest.raises(
            AddressRefusedError, match=r"other\.example has no valid certificate for its name"
        ):
            await body_of(fetching, server.url("/a", host="other.example", scheme="https"))
        with pytest.raises(AddressRefusedError, match="no valid certificate"):
            await body_of(fetching, server.url("/a", scheme="https"))
        assert len(server.requests) == 1


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    certificate, _ = certificate_for("docs.example", tmp_path)
    async with serving({"/a": answer()}, certificate=certificate) as server:
        fetching = fetcher(Names(["127.0.0.1"]), allowed=["127.0.0.1"])
        with pytest.raises(AddressRefusedError, match="no valid certificate"):
            await body_of(fetching, server.url("/a", host="docs.example", scheme="https"))
        assert server.requests == []


async def test_a_server_that_speaks_no_tls_is_unavailable() -> None:
    async with serving({"/a": answer(body=b"plain")}) as server:
        fetching = fetcher(Names(["127.0.0.1"]), allowed=["127.0.0.1"])
        with pytest.raises(SourceUnavailableError):
            await body_of(fetching, server.url("/a", host="plain.example", scheme="https"))
