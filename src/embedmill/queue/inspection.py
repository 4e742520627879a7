"""One item or one batch looked at closely. Owns these views; must not change anything."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import NotFoundError

_SQL = load_queries("embedmill.queue", "inspection.sql")


class Explanation(msgspec.Struct, frozen=True):
    """One reason why an item waits; `until` and the seconds till then where that is known."""

    reason: str
    explanation: str
    until: datetime | None
    seconds: float | None


class BatchProgress(msgspec.Struct, frozen=True):
    """Items of a batch by status. The pace is that of the last five minutes; None while nothing moves."""

    batch_id: UUID
    total: int
    pending: int
    processing: int
    rate_limited: int
    completed: int
    failed: int
    cancelled: int
    percent: float | None
    tokens_left: int
    items_per_minute: float | None
    eta_seconds: float | None
    first_enqueued_at: datetime | None
    last_ended_at: datetime | None


async def read_item(database: Database, tenant_id: int, item_id: int) -> dict[str, Any]:
    """All that is known of an item, live or ended, by the names of the columns, with its `dead_letters`.
    Raises NotFoundError."""
    whose = {"item_id": item_id, "tenant_id": tenant_id}
    row = await database.fetch_one(_SQL["live_item"], whose)
    if row is None:
        # It may have ended between the two looks, never the other way round.
        row = await database.fetch_one(_SQL["ended_item"], whose)
    if row is None:
        raise NotFoundError(
            f"there is no item {item_id}: `embedmill queue list` shows what there is, "
            "and what has ended is kept for history_retention_days"
        )
    letters = await database.fetch(_SQL["item_letters"], whose)
    names = ("id", "reason", "error_message", "chunk_id", "created_at", "resolved_at", "resolution")
    return {**row[0], "dead_letters": [dict(zip(names, letter, strict=True)) for letter in letters]}


async def explain_item(database: Database, tenant_id: int, item_id: int) -> list[Explanation]:
    """Why an item waits, or what has become of it; first what a person would look at first."""
    await read_item(database, tenant_id, item_id)
    return [Explanation(*row) for row in await database.fetch(_SQL["explain_item"], {"item_id": item_id})]


async def read_batch(database: Database, tenant_id: int, batch_id: UUID) -> BatchProgress:
    """The progress of a batch; NotFoundError where the tenant has none of that id."""
    row = await database.fetch_one(_SQL["is_batch_of"], {"batch_id": batch_id, "tenant_id": tenant_id})
    if row is None or not row[0]:
        raise NotFoundError(f"there is no batch {batch_id}: `embedmill queue batches` shows the recent ones")
    (progress,) = await database.fetch(_SQL["batch_progress"], {"batch_id": batch_id})
    return BatchProgress(batch_id, *progress)


async def list_batches(database: Database, tenant_id: int, *, limit: int) -> list[BatchProgress]:
    """Recent batches, the newest first."""
    rows = await database.fetch(_SQL["recent_batches"], {"tenant_id": tenant_id, "limit": limit})
    return [BatchProgress(*row) for row in rows]
