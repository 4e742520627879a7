"""Embedding jobs: the lives of queue items, live and ended, as the API shows them. Owns records, pages and counts;
reads only, and must not know HTTP. How a page is read stands in embedding_job_pages.py."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, NotFoundError
from embedmill.queue.embedding_job_pages import JobFilter, JobState, Page

_SQL = load_queries("embedmill.queue", "embedding_jobs.sql")
__all__ = ["JobFilter", "JobState"]  # where they are looked for
MOST_JOBS = 1000
MOST_ATTEMPTS = 100
_LARGEST_ID = 2**63 - 1


class JobMetadata(msgspec.Struct, frozen=True, rename="camel"):
    """What came of it. `vector_count` and `processing_time_ms` of None: it has not ended, or was never begun."""

    embedding_model: str | None
    vector_count: int | None
    processing_time_ms: int | None


class EmbeddingJob(msgspec.Struct, frozen=True, rename="camel"):
    """One item's life. `shard_id` and `shard_type_id` are its source's; `job_id` is the ingestion job's."""

    id: int
    tenant_id: int
    shard_id: str
    shard_type_id: str
    status: str
    retry_count: int
    error: str | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    metadata: JobMetadata
    job_id: UUID | None
    batch_id: UUID | None
    document_id: int | None
    priority: str
    operation: str


class JobPage(msgspec.Struct, frozen=True, rename="camel"):
    """A page, newest first; `next_cursor` of None: there are no older ones."""

    jobs: list[EmbeddingJob]
    next_cursor: str | None


class Attempt(msgspec.Struct, frozen=True, rename="camel"):
    """One item about the same piece of the same source. `worker_id` is who holds it, or ended it."""

    id: int
    status: str
    error: str | None
    worker_id: UUID | None
    worker_host: str | None
    retry_count: int
    crash_count: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    vector_count: int | None


class DeadLetter(msgspec.Struct, frozen=True, rename="camel"):
    """What waits for a person. `chunk_id` of None: it is about the whole item."""

    id: int
    item_id: int
    chunk_id: int | None
    reason: str
    error: str
    created_at: datetime
    resolved_at: datetime | None
    resolution: str | None


class EmbeddingJobHistory(msgspec.Struct, frozen=True, rename="camel"):
    """A job with all that was tried about its piece, and the dead letters of that, newest first, 100 at most."""

    job: EmbeddingJob
    attempts: list[Attempt]
    dead_letters: list[DeadLetter]


async def list_embedding_jobs(
    database: Database,
    tenant_id: int,
    which: JobFilter | None = None,
    *,
    cursor: str | None = None,
    limit: int = 50,
) -> JobPage:
    """A page of a tenant's jobs, newest first, after `cursor` (the page before has it).

    Raises ConfigurationError for a cursor that is none, a limit out of 1 to 1000, and a source without its type.
    """
    which = which or JobFilter()
    if not 1 <= limit <= MOST_JOBS:
        raise ConfigurationError(f"limit is 1 to {MOST_JOBS}")
    if which.source_id is not None and which.source_type is None:
        raise ConfigurationError("a source is named by its type and its id: say its type as well")
    before, newest = _decode(cursor)
    if not all(_is_storable(text) for text in (which.source_type, which.source_id, which.pipeline)):
        return JobPage([], None)
    # One more than is shown tells whether there are more.
    page = Page(tenant_id, which, before, newest, limit + 1)
    async with database.transaction() as connection:
        rows = await page.read(connection)
    jobs = [_job(row) for row in rows[:limit]]
    if len(rows) > limit:
        return JobPage(jobs, _encode(jobs[-1].id, jobs[-1].created_at))
    return JobPage(jobs, None if page.floor is None else _encode(page.floor, datetime.now(UTC)))


async def find_embedding_job(database: Database, tenant_id: int, item_id: int) -> EmbeddingJobHistory:
    """A job with its history of attempts. Raises NotFoundError, also where it is another tenant's."""
    if not 0 < item_id < _LARGEST_ID:
        raise _unknown(item_id)
    async with database.transaction() as connection:
        await connection.execute(_SQL["tune"], {"plans": "force_generic_plan"})
        given: dict[str, Any] = {"tenant_id": tenant_id, "item_id": item_id, "limit": MOST_ATTEMPTS}
        statement = _SQL["page"].format(live=_SQL["one_live"], ended=_SQL["one_ended"])
        cursor = await connection.execute(statement, given, prepare=True)
        row = await cursor.fetchone()
        if row is None:
            raise _unknown(item_id)
        job = _job(row)
        given.update(source_type=job.shard_type_id, source_id=job.shard_id, document_id=job.document_id)
        given.update(generation_id=row[18], part=row[19])
        where = _SQL["piece_of_source" if given["document_id"] is None else "piece_of_document"]
        found = await connection.execute(_SQL["attempts"].format(which_live=where), given, prepare=True)
        attempts = [Attempt(*one) for one in await found.fetchall()]
        given["item_ids"] = [attempt.id for attempt in attempts] or [item_id]
        found = await connection.execute(_SQL["dead_letters"], given)
        return EmbeddingJobHistory(job, attempts, [DeadLetter(*one) for one in await found.fetchall()])


async def count_embedding_jobs(database: Database, tenant_id: int) -> dict[str, int]:
    """How many jobs are pending, processing, completed and failed (within the retention): from counts."""
    row = await database.fetch_one(_SQL["count"], {"tenant_id": tenant_id})
    return dict(zip(("pending", "processing", "completed", "failed"), row or (0, 0, 0, 0), strict=True))


def _job(row: tuple[Any, ...]) -> EmbeddingJob:
    status = "pending" if row[4] == "rate_limited" else row[4]
    milliseconds = None if row[12] is None else max(0, round(row[12]))
    metadata = JobMetadata(row[10], row[11], milliseconds)
    return EmbeddingJob(*(*row[:4], status, *row[5:10], metadata, *row[13:18]))


def _encode(before: int, newest: datetime) -> str:
    """Where a page ended. Opaque to whoever sends it back."""
    text = msgspec.json.encode([before, int(newest.timestamp() * 1_000_000)])
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def _decode(cursor: str | None) -> tuple[int, datetime | None]:
    if cursor is None:
        return _LARGEST_ID, None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        before, microseconds = msgspec.json.decode(text, type=tuple[int, int])
        newest = datetime.fromtimestamp(microseconds / 1_000_000, UTC)
    except (ValueError, OverflowError, OSError) as error:  # msgspec's and base64's are ValueErrors
        raise ConfigurationError("this cursor is none of ours: begin again without one") from error
    return min(max(before, 0), _LARGEST_ID), newest


def _is_storable(text: str | None) -> bool:
    """Whether a database can hold it: else nothing is named so."""
    if text is None:
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def _unknown(item_id: int) -> NotFoundError:
    return NotFoundError(f"there is no embedding job {item_id}, or its history is past its retention")
