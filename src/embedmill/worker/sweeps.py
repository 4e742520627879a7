"""Periodic work of the fleet. Recovery is done by any worker at any time, for each statement is safe beside itself;
the rest by one leader. Owns when; the database's functions own what."""

from __future__ import annotations

from uuid import UUID

import structlog

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.queue.config import QueueConfig
from embedmill.queue.items import rescue_items
from embedmill.sources.backfill_orders import reckon_schedules
from embedmill.worker.identity import Identity, is_alive

_SQL = load_queries("embedmill.worker", "worker.sql")
_log = structlog.get_logger(__name__)

# The lead is kept by sweeping; a leader that is silent for this long is replaced.
LEAD_SECONDS = 15.0
# Every few seconds nothing is done: that is no news.
_NOTHING_DONE = ("nothing", "0 raised, 0 resolved", "somebody else looks")


async def rescue(database: Database, identity: Identity) -> int:
    """Free the items of dead workers; returns how many.

    Workers of this host are looked up in its process table, so that after a kill -9 nobody waits for a
    heartbeat to grow old; the others are given up before two heartbeat intervals have passed.
    """
    neighbours = await database.fetch(_SQL["neighbours"], {"host_id": identity.host_id})
    dead = [worker_id for worker_id, pid, started_at in neighbours if not is_alive(pid, started_at)]
    rescued = await rescue_items(database, dead)
    if rescued:
        _log.info("items rescued", items=rescued, dead_workers=len(dead))
    return rescued


async def sweep(database: Database, worker_id: UUID, config: QueueConfig) -> dict[str, str]:
    """Take or keep the lead, and run what is due; returns what came of each task, {} where another leads."""
    row = await database.fetch_one(_SQL["lead_sweeps"], {"worker_id": worker_id, "seconds": LEAD_SECONDS})
    if row is None or row[0] is None:
        return {}
    periods = {
        "fold_counts": 2.0,
        "complete_batches": 2.0,
        "sweep_budgets": 10.0,
        "fail_held_up": 10.0,
        "check_tables": 30.0,
        "start_backfills": 10.0,
        "watch_alerts": 15.0,
        "drop_expired": 15.0,
        "make_partitions": 3600.0,
        "clean_up": config.queue_cleanup_interval_hours * 3600.0,
    }
    outcomes = {}
    for task, period in periods.items():
        done = await database.fetch_one(
            _SQL["run_sweep"],
            {"task": task, "period_seconds": period, "worker_id": worker_id, "term": row[0]},
        )
        if done and done[0] is not None:
            outcomes[task] = done[0]
    if "start_backfills" in outcomes:
        await reckon_schedules(database)
    for task in ("make_partitions", "clean_up", "drop_expired", "watch_alerts"):
        if outcomes.get(task, _NOTHING_DONE[0]) not in _NOTHING_DONE:
            _log.info("sweep", task=task, outcome=outcomes[task])
    return outcomes


async def resign(database: Database, worker_id: UUID) -> None:
    """Give the lead back, for whoever comes next."""
    await database.fetch(_SQL["resign_sweeps"], {"worker_id": worker_id})
