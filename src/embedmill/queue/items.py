"""Queue items as a worker sees them: claimed, held by a lease, given back. Owns the calls to the queue's
functions; must not know what an item's work is."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from operator import attrgetter
from uuid import UUID

import msgspec

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.queue", "queue.sql")
_CLAIM = _SQL["claim_items"].as_string()
_ITEM_ID = attrgetter("id")


class Item(msgspec.Struct, frozen=True):
    """A claimed queue item. `lease_token` is the proof of the claim: every write on its behalf shows it."""

    id: int
    lease_token: int
    tenant_id: int
    document_id: int
    job_id: UUID | None
    usage_type: str
    retry_count: int
    estimated_tokens: int
    operation: str = "INSERT"


class Waiting(StrEnum):
    """How a returned item waits."""

    PENDING = "pending"
    RATE_LIMITED = "rate_limited"


class Return(msgspec.Struct, frozen=True):
    """Why and how an item goes back: `attempts` is 1 for a failure, 0 for a rate limit or a stop."""

    status: Waiting
    attempts: int
    delay_ms: int
    reason: str
    message: str | None


async def claim_items(
    database: Database,
    worker_id: UUID,
    generation_id: int,
    *,
    max_items: int,
    max_chunks: int,
    max_tokens: int,
    lease_seconds: float,
) -> list[Item]:
    """Claim about `max_chunks` and `max_tokens` of work, at most `max_items`; [] where nothing is ready."""
    rows = await database.ask(
        _CLAIM,
        {
            "worker_id": worker_id,
            "generation_id": generation_id,
            "max_items": max_items,
            "max_chunks": max_chunks,
            "max_tokens": max_tokens,
            "lease_seconds": lease_seconds,
        },
    )
    # In order of id, so that whoever writes for several locks them as everybody does. Sorting is cheaper here.
    return sorted((Item(*row) for row in rows), key=_ITEM_ID)


async def hold_items(connection: Connection, items: Sequence[Item]) -> set[int]:
    """Lock those of the items that are still ours, to the end of the transaction; the others are lost."""
    cursor = await connection.execute(
        _SQL["hold_items"],
        {"item_ids": [item.id for item in items], "lease_tokens": [item.lease_token for item in items]},
    )
    return {row[0] for row in await cursor.fetchall()}


async def complete_items(connection: Connection, generation_id: int, item_ids: Sequence[int]) -> set[int]:
    """End as completed those whose every vector stands; returns their ids. Call with the items held."""
    cursor = await connection.execute(
        _SQL["complete_items"], {"generation_id": generation_id, "item_ids": list(item_ids)}
    )
    row = await cursor.fetchone()
    return set(row[0]) if row else set()


async def delete_claimed_documents(database: Database, items: Sequence[Item]) -> set[int]:
    """Carry out claimed deletions: documents, chunks and vectors go. Returns the ids that were still ours."""
    row = await database.fetch_one(
        _SQL["delete_claimed_documents"],
        {"item_ids": [item.id for item in items], "lease_tokens": [item.lease_token for item in items]},
    )
    return set(row[0]) if row else set()


async def return_items(database: Database, items: Sequence[Item], how: Return) -> set[int]:
    """Give items back. Returns the ids of those that had no attempt left: they ended as failed."""
    if not items:
        return set()
    row = await database.fetch_one(
        _SQL["return_items"],
        {
            "item_ids": [item.id for item in items],
            "lease_tokens": [item.lease_token for item in items],
            "status": how.status.value,
            "attempt": how.attempts,
            "delay_ms": how.delay_ms,
            "reason": how.reason,
            "error_message": how.message,
        },
    )
    return set(row[0]) if row else set()


async def return_strays(
    database: Database, worker_id: UUID, generation_id: int, known: Sequence[int]
) -> None:
    """Give back what the queue thinks this worker holds and the worker does not know of."""
    await database.fetch(
        _SQL["return_strays"], {"worker_id": worker_id, "generation_id": generation_id, "known": list(known)}
    )


async def ready_generations(database: Database) -> list[int]:
    """The generations that have something to claim now."""
    return [row[0] for row in await database.fetch(_SQL["ready_generations"])]


async def rescue_items(database: Database, dead_workers: Sequence[UUID]) -> int:
    """Free the items of workers that are gone; returns how many."""
    row = await database.fetch_one(_SQL["rescue_items"], {"dead_workers": list(dead_workers)})
    return int(row[0]) if row else 0


async def live_items(database: Database) -> int:
    """How much is under way: items, uploads, records, backfills, builds; counted up to a bound."""
    row = await database.fetch_one(_SQL["live_items"])
    return int(row[0]) if row else 0
