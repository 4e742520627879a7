"""What the fleet of this machine knows when it decides how large to be. Owns the one query (fleet.sql); must not
decide."""

from __future__ import annotations

from collections.abc import Sequence

from embedmill.core.scaling import FleetFacts, ReadyWork
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.fleet", "fleet.sql")

# Items counted in each lane: beyond it nobody starts more processes at once.
ENOUGH_ITEMS = 100


async def read_facts(
    database: Database, host_id: str, pids: Sequence[int], *, failing: int, drained: int = 0
) -> FleetFacts:
    """The facts of this moment; `pids` are our own processes on `host_id`, `failing` those that wait to be
    started again, `drained` the places kept empty. One statement, whose cost does not grow with the backlog."""
    async with database.transaction() as connection:
        await connection.execute(_SQL["by_index"])
        cursor = await connection.execute(
            _SQL["fleet_facts"], {"host_id": host_id, "pids": list(pids), "enough": ENOUGH_ITEMS}
        )
        rows = await cursor.fetchall()
    ready = tuple(
        ReadyWork(quota_key, items, oldest_seconds, is_local=is_local, quota_binds=quota_binds)
        for _, quota_key, items, oldest_seconds, is_local, quota_binds in rows
        if quota_key is not None
    )
    return FleetFacts(ready, busy=rows[0][0], failing=failing, drained=drained)
