"""What a worker does beside its work: takes up changed settings, rescues what the dead have left, sweeps while it
leads. Owns the rhythm; must not touch an embedder."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from embedmill.database.patience import AWAY
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.ports import SILENT, Telemetry
from embedmill.queue.config import QueueConfig, read_config
from embedmill.worker.identity import Identity
from embedmill.worker.sweeps import rescue, resign, sweep

_SQL = load_queries("embedmill.worker", "worker.sql")
_log = structlog.get_logger(__name__)

# How soon a changed setting is taken up, and how often the leader looks what is due.
LOOK_SECONDS = 2.0
# The longest pause between two looks for dead workers; at most an eighth of a heartbeat, so that what they held is
# recovered within two heartbeat intervals of a death.
LONGEST_RESCUE_PAUSE_SECONDS = 5.0


class Findings(msgspec.Struct, frozen=True):
    """Items that this worker holds and whose job was cancelled; tenants that have any budget."""

    cancelled_items: frozenset[int]
    budgeted_tenants: frozenset[int]


class Upkeep:
    """Runs until `stop()`. `apply` is given each configuration that differs from the one before,
    `on_rescued` is called when items came free, `on_drain` when somebody asked this worker to stop."""

    def __init__(
        self,
        database: Database,
        identity: Identity,
        *,
        heartbeat_seconds: Callable[[], float],
        apply: Callable[[QueueConfig], None],
        on_rescued: Callable[[], None],
        on_drain: Callable[[], None],
        look_seconds: float = LOOK_SECONDS,
        tenants: Callable[[], Sequence[int]] = lambda: (),
        heed: Callable[[Findings], Awaitable[None]] | None = None,
        telemetry: Telemetry = SILENT,
    ) -> None:
        """`heed` is given with each look what concerns the work in hand, which is of these `tenants`."""
        self._database = database
        self._identity = identity
        self._heartbeat_seconds = heartbeat_seconds
        self._apply = apply
        self._on_rescued = on_rescued
        self._on_drain = on_drain
        self._look_seconds = look_seconds
        self._tenants = tenants
        self._heed = heed
        self._telemetry = telemetry
        self._config: QueueConfig | None = None
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End with the step that is under way: a statement that is cut off costs a connection."""
        self._stopping.set()

    async def take_up_settings(self) -> None:
        """The configuration as it is now; nothing where it is the one that holds."""
        config = await read_config(self._database)
        if config != self._config:
            if self._config is not None:
                _log.info("settings taken up")
            self._config = config
            self._apply(config)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._look, lambda: self._look_seconds))
            tasks.create_task(self._repeat(self._rescue, self._rescue_pause))

    async def resign(self) -> None:
        """Give up the lead, if it is ours."""
        try:
            await resign(self._database, self._identity.worker_id)
        except AWAY as error:
            _log.info("could not give up the lead; it runs out", error=str(error).strip())

    async def _look(self) -> None:
        await self.take_up_settings()
        row = await self._database.fetch_one(
            _SQL["look"], {"worker_id": self._identity.worker_id, "tenants": list(self._tenants())}
        )
        if row is not None:
            if row[0]:
                self._on_drain()
            if self._heed is not None:
                await self._heed(Findings(frozenset(row[1]), frozenset(row[2])))
        await sweep(self._database, self._identity.worker_id, self._config or QueueConfig())

    async def _rescue(self) -> None:
        if rescued := await rescue(self._database, self._identity):
            self._telemetry.rescued(items=rescued)
            self._on_rescued()

    def _rescue_pause(self) -> float:
        return min(LONGEST_RESCUE_PAUSE_SECONDS, self._heartbeat_seconds() / 8)

    async def _repeat(self, step: Callable[[], Awaitable[None]], pause: Callable[[], float]) -> None:
        while not self._stopping.is_set():
            try:
                await step()
            except AWAY as error:
                _log.warning("upkeep missed", error=str(error).strip())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause())
