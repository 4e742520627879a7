"""The stints of one process: each tenant has one at a time, and whoever waits for it may go away. Owns their tasks;
must not know what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial

import structlog

from embedmill.errors import ConflictError
from embedmill.worker.stint import StintReport

_log = structlog.get_logger(__name__)


class Stints:
    """The stints that run in this process: one for each tenant at a time."""

    def __init__(self) -> None:
        self._running: dict[int, asyncio.Task[StintReport]] = {}

    def is_busy(self, tenant_id: int) -> bool:
        return tenant_id in self._running

    async def run(
        self, tenant_id: int, begin: Callable[[], Coroutine[None, None, StintReport]]
    ) -> StintReport:
        """Run one to its end, also where whoever waits for it goes away. Raises ConflictError where the tenant has one
        already."""
        if self.is_busy(tenant_id):
            raise ConflictError("another call of this tenant is at it: ask again when it has been answered")
        task = asyncio.create_task(begin())
        self._running[tenant_id] = task
        task.add_done_callback(partial(self._forget, tenant_id))
        return await asyncio.shield(task)

    async def settle(self) -> None:
        """Wait for those that run."""
        if self._running:
            await asyncio.wait(self._running.values())

    def _forget(self, tenant_id: int, task: asyncio.Task[StintReport]) -> None:
        del self._running[tenant_id]
        if not task.cancelled() and task.exception() is not None:
            _log.error("a stint failed", tenant_id=tenant_id, error=type(task.exception()).__name__)
