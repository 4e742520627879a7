"""Queue items made by hand: rows with no document behind them, for tests of the queue alone. Owns the insert;
must not assert."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

from embedmill.database.pool import Database
from embedmill.queue.items import Item, claim_items

ENQUEUE = """
WITH enqueued AS (
    INSERT INTO embedmill.embedding_queue
        (tenant_id, generation_id, first_ordinal, last_ordinal, priority, estimated_tokens, available_at,
         source_type, source_id)
    SELECT g.tenant_id, g.id, 0, %(chunks)s - 1, %(priority)s, %(tokens)s,
           now() + make_interval(secs => %(available_in)s) + n * interval '1 microsecond', 'test', %(mark)s || n
      FROM embedmill.generations g, generate_series(1, %(count)s) AS n
     WHERE g.id = %(generation_id)s
    RETURNING id, tenant_id, generation_id
), counted AS (
    -- As enqueue_document does: whoever enqueues says so.
    INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items)
    SELECT tenant_id, generation_id, 'live', count(*) FROM enqueued GROUP BY tenant_id, generation_id
)
SELECT id FROM enqueued
"""


async def enqueue(
    database: Database,
    generation_id: int,
    count: int,
    *,
    priority: str = "medium",
    chunks: int = 1,
    tokens: int = 10,
    available_in: float = 0.0,
) -> list[int]:
    """Ids of `count` new items, each of `chunks` chunks that do not exist, in the order they become ready."""
    rows = await database.fetch(
        ENQUEUE,
        {
            "generation_id": generation_id,
            "count": count,
            "priority": priority,
            "chunks": chunks,
            "tokens": tokens,
            "available_in": available_in,
            "mark": f"{uuid4()}/",
        },
    )
    return sorted(row[0] for row in rows)


async def claim(
    database: Database,
    generation_id: int,
    *,
    worker_id: UUID | None = None,
    items: int = 1000,
    chunks: int = 1_000_000,
    tokens: int = 1_000_000_000,
    lease_seconds: float = 600.0,
) -> list[Item]:
    """A claim with bounds that do not bind unless named."""
    return await claim_items(
        database,
        worker_id or uuid4(),
        generation_id,
        max_items=items,
        max_chunks=chunks,
        max_tokens=tokens,
        lease_seconds=lease_seconds,
    )


async def register_worker(
    database: Database,
    *,
    worker_id: UUID | None = None,
    host_id: str = "elsewhere",
    pid: int = 1,
    pid_started_at: float = 0.0,
    beat_seconds_ago: float = 0.0,
    heartbeat_ms: int = 30_000,
) -> UUID:
    """A worker's row, as old as asked for; returns its id."""
    chosen = worker_id or uuid4()
    await database.fetch(
        "INSERT INTO embedmill.embedding_queue_workers (worker_id, hostname, host_id, pid, pid_started_at, "
        "    heartbeat_at, heartbeat_interval_ms, version) "
        "VALUES (%s, 'test', %s, %s, %s, now() - make_interval(secs => %s), %s, 'test')",
        (chosen, host_id, pid, pid_started_at, beat_seconds_ago, heartbeat_ms),
    )
    return chosen


async def grow_older(database: Database, seconds: float, item_ids: Sequence[int] | None = None) -> None:
    """As if so much time had passed for what waits."""
    await database.fetch(
        "UPDATE embedmill.embedding_queue SET available_at = available_at - make_interval(secs => %s) "
        " WHERE %s::bigint[] IS NULL OR id = ANY (%s)",
        (seconds, item_ids, item_ids),
    )
