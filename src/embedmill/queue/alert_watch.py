"""What the service does for alerts: looks where no worker leads (also for that there is no worker), says what only a
process can see, and tells the operator's tenant what concerns the installation. Owns the rhythm; must not decide what
is an alert (functions/57 to 59). Any number of services may do so side by side."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

import structlog

from embedmill.database.patience import AWAY
from embedmill.database.pipelines import tenant_id
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import EmbedmillError

_SQL = load_queries("embedmill.queue", "alerts.sql")
_log = structlog.get_logger(__name__)

LOOK_SECONDS = 15.0


class AlertWatch:
    """Runs until `stop()`. `database` connects as the owner of the schema; `tenant` is the operator's own, by its slug;
    `originals_state` says "ok", or why originals cannot be written here."""

    def __init__(
        self,
        database: Database,
        tenant: str,
        originals_state: Callable[[], Awaitable[str]],
        *,
        look_seconds: float = LOOK_SECONDS,
        hostname: str | None = None,
    ) -> None:
        self._database = database
        self._tenant = tenant
        self._originals_state = originals_state
        self._look_seconds = look_seconds
        self._hostname = hostname or socket.gethostname()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """A database that is away is no reason to end: the next look sees what this one misses."""
        while not self._stopping.is_set():
            try:
                await self.look()
            except (EmbedmillError, *AWAY) as error:
                _log.warning("alerts not looked for", error=str(error).strip())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._look_seconds)

    async def look(self) -> None:
        """Once."""
        problem = await self._originals_state()
        if problem != "ok":
            message = (
                f"originals cannot be written on {self._hostname} since {{since}}, and uploads are refused there: "
                f"{problem}"
            )
            given = {"kind": "originals_unwritable", "subject": self._hostname, "severity": "critical"}
            await self._database.fetch(_SQL["report"], {**given, "message": message})
        await self._database.fetch(_SQL["watch_unled"])
        operators_tenant = await tenant_id(self._database, self._tenant)
        await self._database.fetch(_SQL["tell"], {"tenant_id": operators_tenant})
