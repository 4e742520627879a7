"""Which items a person means: filters, and pages of what they match. Owns the filters' meaning, the same for
looking and for acting (administration.py); must not change anything."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from embedmill.core.jobs import ItemStatus
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import NotFoundError

_SQL = load_queries("embedmill.queue", "selection.sql")
LIVE = (ItemStatus.PENDING, ItemStatus.PROCESSING, ItemStatus.RATE_LIMITED)
ENDED = (ItemStatus.COMPLETED, ItemStatus.FAILED, ItemStatus.CANCELLED)
_LARGEST_ID = 2**63 - 1
MATCHING = _SQL["matching"]
"""The filters, for statements that say {matching}; their items are called q."""


class Selection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person asks for; every field that is given must match. `source` is a whole id, or with a * at its
    end a beginning; `error` is a part of the message, in any case; the age is that of the item."""

    ids: tuple[int, ...] = ()
    statuses: tuple[ItemStatus, ...] = ()
    pipeline: str | None = None
    batch_id: UUID | None = None
    source_type: str | None = None
    source: str | None = None
    priority: str | None = None
    job_id: UUID | None = None
    worker_id: UUID | None = None
    error: str | None = None
    older_than_seconds: float | None = None

    def narrows(self) -> bool:
        """Whether it leaves anything out."""
        return self != Selection()

    def reaches(self, statuses: tuple[ItemStatus, ...]) -> bool:
        """Whether it may match items of one of these statuses."""
        return not self.statuses or any(status in statuses for status in self.statuses)

    def record(self) -> dict[str, Any]:
        """What was given, for the audit log."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


class ListedItem(msgspec.Struct, frozen=True):
    """An item as listings show it. `available_at` of live ones: when it may be taken; `ended_at` of ended ones."""

    id: int
    status: str
    priority: str
    operation: str
    pipeline: str
    source_type: str
    source_id: str
    part: int
    retry_count: int
    max_retries: int
    estimated_tokens: int
    created_at: datetime
    available_at: datetime | None
    processing_started_at: datetime | None
    ended_at: datetime | None
    worker_id: UUID | None
    document_id: int | None
    job_id: UUID | None
    batch_id: UUID | None
    error_message: str | None


class Scope:
    """A selection within one tenant, ready to be asked. Made by `open_scope`."""

    def __init__(
        self, tenant_id: int, selection: Selection, pipelines: Mapping[int, str], given: Mapping[str, Any]
    ):
        self.tenant_id = tenant_id
        self.selection = selection
        self.pipelines = pipelines
        self.given = given


async def open_scope(database: Database, tenant_id: int, selection: Selection) -> Scope:
    """Look up what the selection names. Raises NotFoundError for a pipeline or a job that the tenant has not."""
    pipelines = await _pipelines(database, tenant_id, selection.pipeline)
    document_id = None
    if selection.job_id is not None:
        row = await database.fetch_one(
            _SQL["job_document"], {"job_id": selection.job_id, "tenant_id": tenant_id}
        )
        if row is None:
            raise NotFoundError(f"there is no ingestion job {selection.job_id}")
        document_id = row[0]
    source = selection.source
    begins = source is not None and source.endswith("*")
    given = {
        "tenant_id": tenant_id,
        "ids": list(selection.ids) or None,
        "statuses": [status.value for status in selection.statuses] or None,
        "generation_ids": list(pipelines),
        "batch_id": selection.batch_id,
        "source_type": selection.source_type,
        "source_id": None if begins else source,
        "source_beginning": source[:-1] if source is not None and begins else None,
        "priority": selection.priority,
        "job_id": selection.job_id,
        "job_document_id": document_id,
        "worker_id": selection.worker_id,
        "error": selection.error,
        "older_than_seconds": selection.older_than_seconds,
    }
    return Scope(tenant_id, selection, pipelines, given)


async def list_items(
    database: Database, scope: Scope, *, limit: int, after: int | None = None
) -> list[ListedItem]:
    """A page of at most `limit` items. Without statuses the live ones, oldest first; where ended ones are asked
    for, all newest first. The next page is `after` the last id of this one."""
    statuses = scope.selection.statuses
    asked_ended = [status for status in statuses if status in ENDED]
    if not asked_ended:
        return await _page(database, scope, "live_oldest", limit, 0 if after is None else after)
    before = _LARGEST_ID if after is None else after
    completed_too = ItemStatus.COMPLETED in asked_ended
    found = await _page(
        database, scope, "ended_newest" if completed_too else "unfinished_newest", limit, before
    )
    if any(status in LIVE for status in statuses):
        found += await _page(database, scope, "live_newest", limit, before)
    return sorted(found, key=lambda item: item.id, reverse=True)[:limit]


async def _page(database: Database, scope: Scope, name: str, limit: int, after: int) -> list[ListedItem]:
    async with database.connection() as connection:
        cursor = await connection.execute(
            _SQL[name].format(matching=MATCHING),
            {**scope.given, "limit": limit, "after": after},
            prepare=False,
        )
        rows = await cursor.fetchall()
    return [ListedItem(*(*row[:4], scope.pipelines[row[4]], *row[5:])) for row in rows]


async def _pipelines(database: Database, tenant_id: int, name: str | None) -> dict[int, str]:
    """Names by generation."""
    rows = await database.fetch(_SQL["pipelines"], {"tenant_id": tenant_id, "pipeline": name})
    if not rows and name is not None:
        known = sorted({row[1] for row in await database.fetch(
            _SQL["pipelines"], {"tenant_id": tenant_id, "pipeline": None})})  # fmt: skip
        raise NotFoundError(f"there is no pipeline {name!r}; there are: {', '.join(known) or 'none yet'}")
    return dict(rows)
