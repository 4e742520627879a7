"""Posts to addresses that a tenant wrote: one call, one answer. Owns the limits of a call and what is kept of an
answer; retries, signatures and the outbox are webhooks/."""

from __future__ import annotations

import asyncio
import ssl
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime

import httpx2

from embedmill.adapters.outbound.connecting import Connector, TimeLimit, translated
from embedmill.adapters.outbound.guard import Guard
from embedmill.adapters.outbound.resolving import Resolver, resolve
from embedmill.adapters.providers.retry_after import retry_after_seconds
from embedmill.errors import AddressRefusedError, SourceUnavailableError
from embedmill.ports import PostAnswer

KEPT_LETTERS = 200
_READ_BYTES = 1024
# An answer is its status; for the beginning of its body nobody waits long.
_BODY_SECONDS = 2.0


class GuardedPoster:
    """See ports.WebhookPoster."""

    def __init__(
        self,
        *,
        allowed: Iterable[str] = (),
        https_only: bool = False,
        total_seconds: float = 15.0,
        resolver: Resolver = resolve,
        certificates: ssl.SSLContext | None = None,
    ) -> None:
        """`allowed`: private networks and hosts that may be reached (networks.Allowed). Raises ConfigurationError."""
        self._guard = Guard(allowed=allowed, https_only=https_only, resolver=resolver)
        self._connector = Connector(
            connect_seconds=min(10.0, total_seconds), read_seconds=total_seconds, certificates=certificates
        )
        self._total_seconds = total_seconds

    async def check(self, url: str) -> None:
        """See ports.WebhookPoster.check. Name servers that do not answer are no reason to refuse an address."""
        try:
            await self._guard.check(url)
        except SourceUnavailableError as error:
            raise AddressRefusedError(f"{error}: try again in a moment") from error

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> PostAnswer:
        """See ports.WebhookPoster.post."""
        try:
            async with TimeLimit(self._total_seconds, "the endpoint").spend():
                return await self._post(url, headers, body)
        except (AddressRefusedError, SourceUnavailableError) as error:
            return PostAnswer(None, str(error))

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> PostAnswer:
        address = await self._guard.check(url)
        ours = {"User-Agent": "embedmill", "Accept": "*/*", "Accept-Encoding": "identity"}
        async with self._connector.exchange(address, "POST", {**ours, **headers}, body) as response:
            status = response.status_code
            if 200 <= status < 300:
                return PostAnswer(status)
            plain = {name.lower(): value for name, value in response.headers.items()}
            beginning = await _beginning(response)
            return PostAnswer(
                status, _described(response, beginning), retry_after_seconds(plain, datetime.now(UTC))
            )


def _described(response: httpx2.Response, beginning: str) -> str:
    if 300 <= response.status_code < 400:
        return f"answered {response.status_code}, a redirect, which is not followed: give the webhook its final address"
    said = f"answered {response.status_code} {response.reason_phrase}".strip()
    return f"{said}: {beginning}" if beginning else said


async def _beginning(response: httpx2.Response) -> str:
    """The first letters of the body, as one clean line."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return ""
    data = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS), aclosing(response.aiter_raw()) as body:
            with translated("the endpoint"):
                async for piece in body:
                    data += piece
                    if len(data) >= _READ_BYTES:
                        break
    except (TimeoutError, SourceUnavailableError):
        pass  # what came until then will do: the status has been said
    text = data[:_READ_BYTES].decode("utf-8", "replace")
    visible = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)
    return " ".join(visible.split())[:KEPT_LETTERS]
