"""Periodic work: rescue what dead workers hold, keep the history's partitions. Owns when; the database's
functions own what. Any worker may do it at any time: each statement is safe beside itself."""

from __future__ import annotations

import structlog

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.queue.items import rescue_items
from embedmill.worker.identity import Identity, is_alive

_SQL = load_queries("embedmill.worker", "worker.sql")
_log = structlog.get_logger(__name__)


async def rescue(database: Database, identity: Identity) -> int:
    """Free the items of dead workers; returns how many.

    Workers of this host are looked up in its process table, so that after a kill -9 nobody waits for a
    heartbeat to grow old; the others are given up after two missed heartbeats.
    """
    neighbours = await database.fetch(_SQL["neighbours"], {"host_id": identity.host_id})
    dead = [worker_id for worker_id, pid, started_at in neighbours if not is_alive(pid, started_at)]
    rescued = await rescue_items(database, dead)
    if rescued:
        _log.info("items rescued", items=rescued, dead_workers=len(dead))
    await database.fetch(_SQL["ensure_partitions"])
    return rescued
