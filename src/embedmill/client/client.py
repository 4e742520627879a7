"""Client and AsyncClient: the REST API of a running service as methods. Owns how a client is set up and closed; what it
can do stands in ingestion.py, shards.py, knowledge.py and administration.py, once for both."""

from __future__ import annotations

import random
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from embedmill import __version__
from embedmill.client.administration import AdministrationCalls
from embedmill.client.asking import Asking, Manner
from embedmill.client.ingestion import IngestionCalls
from embedmill.client.jobs import AsyncJob, Job
from embedmill.client.knowledge import KnowledgeCalls
from embedmill.client.operations import Awaiting, Blocking, run
from embedmill.client.shards import ShardCalls
from embedmill.client.wire import AsyncWire, BlockingWire, Wire
from embedmill.errors import ConfigurationError
from embedmill.settings import read_secret

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_TIMEOUT_SECONDS = 60.0
DEFAULT_RETRIES = 4
KEY_VARIABLE = "EMBEDMILL_API_KEY"


class _Calls(IngestionCalls, ShardCalls, KnowledgeCalls, AdministrationCalls):
    """What both clients can do."""

    def __init__(
        self, wire: Wire, base_url: str, api_key: str | None, timeout_seconds: float, retries: int
    ) -> None:
        if timeout_seconds <= 0 or retries < 0:
            raise ConfigurationError("timeout is seconds, more than 0; retries is 0 or more")
        self._wire = wire
        self._base_url = base_url
        headers = {"User-Agent": f"embedmill-python/{__version__}"}
        key = (api_key or read_secret(KEY_VARIABLE) or "").strip()
        if key:
            headers["Authorization"] = f"Bearer {_checked_key(key)}"
        chance = random.Random()  # noqa: S311 - spreads tries, guards nothing
        self._asking = Asking(wire, Manner(base_url, headers, timeout_seconds, retries, chance))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._base_url}>"


class Client(Blocking, _Calls):
    """A service, by calls that block.

        with Client() as client:
            job = client.upload("handbook.pdf", auto_launch=True).wait(progress=True)
            print(client.search("how do I return a mill wheel?")[0].text)

    `api_key`: where none is given, EMBEDMILL_API_KEY of the environment, if any. `timeout`: seconds of silence that are
    borne while a request is sent and its answer awaited. `retries`: how often a request that is safe to repeat is tried
    again after 429, 502, 503 or a broken connection. A client may be shared by threads.
    """

    _job_kind = Job

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        retries: int = DEFAULT_RETRIES,
    ) -> None:
        url = _checked_url(base_url)
        super().__init__(BlockingWire(url), url, api_key, timeout, retries)

    def close(self) -> None:
        """Let go of the connections."""
        run(self._wire.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(Awaiting, _Calls):
    """A service, by calls that are awaited; else as Client.

    async with AsyncClient() as client:
        job = await client.upload("handbook.pdf", auto_launch=True)
        await job.wait()
    """

    _job_kind = AsyncJob

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        retries: int = DEFAULT_RETRIES,
    ) -> None:
        url = _checked_url(base_url)
        super().__init__(AsyncWire(url), url, api_key, timeout, retries)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _checked_url(base_url: str) -> str:
    """Raises ConfigurationError."""
    wrong = ConfigurationError(
        f"base_url is where the service answers, such as {DEFAULT_URL}, without /api/v1 and without a password"
    )
    try:
        parts = urlsplit(base_url)
        _ = parts.port
    except ValueError as error:
        raise wrong from error
    is_plain = not (parts.query or parts.fragment or "@" in parts.netloc or "/api/v1" in parts.path)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not is_plain:
        raise wrong
    return base_url.rstrip("/")


def _checked_key(key: str) -> str:
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError(
            "the API key has characters that no key has: it begins with em_ and is one word"
        )
    return key
