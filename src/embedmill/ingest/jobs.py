"""Ingestion jobs as a person sees and steers them: list, preview, price, launch, cancel, resume, delete. Owns these
acts; what each does to the queue is the database's functions' to say. Must not parse or embed.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from embedmill.core.documents import ChunkPlan
from embedmill.core.jobs import JobStatus
from embedmill.database.patience import patiently
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConflictError, NotFoundError

_SQL = load_queries("embedmill.ingest", "jobs.sql")
_TRIES = 8
RESUMABLE = ("cancelled", "failed")


class Job(msgspec.Struct, frozen=True):
    """A job at one moment. Costs are in US dollars, None where the price is unknown; `is_resumable`: it can go on
    without a new upload; `eta_seconds` is None until there was progress."""

    id: UUID
    document_id: int
    batch_id: UUID | None
    pipeline: str
    source_type: str
    source_id: str
    name: str
    media_type: str | None
    size_bytes: int | None
    status: str
    priority: str
    total_chunks: int
    embedded_chunks: int
    reused_chunks: int
    failed_chunks: int
    total_tokens: int
    paid_tokens: int
    cost_usd: Decimal | None
    error_stage: str | None
    error_message: str | None
    paused_reason: str | None
    metadata: dict[str, Any]
    user_id: str | None
    auto_launch: bool
    chunk_tokens: int
    chunk_overlap: int
    created_at: datetime
    parsing_started_at: datetime | None
    preview_ready_at: datetime | None
    launched_at: datetime | None
    updated_at: datetime
    completed_at: datetime | None
    original_dropped_at: datetime | None
    is_resumable: bool
    eta_seconds: float | None
    budget_usd: Decimal | None

    @property
    def progress(self) -> int:
        """0 to 100, by chunks that have their vector; those that cannot have one count as done."""
        if self.status == "completed":
            return 100
        done = self.embedded_chunks + self.failed_chunks
        return 100 * done // self.total_chunks if self.total_chunks else 0

    @property
    def has_ended(self) -> bool:
        return self.status in {"completed", "cancelled", "failed"}


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs; None does not ask."""

    status: str | None = None
    batch_id: UUID | None = None
    pipeline: str | None = None
    document_id: int | None = None


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Behind which job a page begins."""

    created_at: datetime
    job_id: UUID


class PreviewChunk(msgspec.Struct, frozen=True):
    """A passage as it will be embedded. Offsets are characters of the document's text."""

    id: int
    ordinal: int
    text: str
    tokens: int
    start_offset: int
    end_offset: int
    place_kind: str | None
    place_first: str | None
    place_last: str | None
    heading_path: list[str]
    error_reason: str | None


class Estimate(msgspec.Struct, frozen=True):
    """What launching costs: chunks without a vector, those of them that get it for nothing, tokens to be paid."""

    lacking_chunks: int
    reusable_chunks: int
    tokens: int
    cost_usd: Decimal | None


class BatchSummary(msgspec.Struct, frozen=True):
    """Jobs that were taken in together. `cost_usd` is None where one of them is unknown."""

    jobs: int
    waiting: int
    previews: int
    embedding: int
    completed: int
    failed: int
    cancelled: int
    total_chunks: int
    embedded_chunks: int
    failed_chunks: int
    paid_tokens: int
    cost_usd: Decimal | None
    created_at: datetime | None
    ended_at: datetime | None


class Room(msgspec.Struct, frozen=True):
    """How many jobs of a tenant wait for a parser, and its own limits (None: the service's)."""

    staged_jobs: int
    max_staged_jobs: int | None
    max_file_bytes: int | None


class Jobs:
    """The jobs of one tenant."""

    def __init__(self, database: Database, tenant_id: int) -> None:
        self._database = database
        self._tenant_id = tenant_id

    async def page(self, where: JobFilter, *, after: Position | None, limit: int) -> list[Job]:
        """Newest first."""
        return await self._select(where, after=after, limit=limit)

    async def find(self, job_id: UUID) -> Job:
        """Raises NotFoundError where there is none, or it is another tenant's."""
        found = await self._select(JobFilter(), job_id=job_id, limit=1)
        if not found:
            raise NotFoundError(f"there is no ingestion job {job_id}")
        return found[0]

    async def chunks(self, job: Job, *, first_ordinal: int, limit: int) -> list[PreviewChunk]:
        """The chunks of a job's document, in order."""
        values = {"document_id": job.document_id, "first_ordinal": first_ordinal, "limit": limit}
        return [PreviewChunk(*row) for row in await self._database.fetch(_SQL["select_chunks"], values)]

    async def text(self, job: Job, *, start: int, length: int) -> tuple[str, int]:
        """A part of the document's text, and how long the whole is; in characters."""
        values = {"document_id": job.document_id, "start": start, "length": length}
        row = await self._database.fetch_one(_SQL["select_text"], values)
        if row is None:
            raise NotFoundError("this document has no text (yet): wait until its preview is ready")
        return row[0], row[1]

    async def estimate(self, job_id: UUID) -> Estimate:
        row = await self._database.fetch_one(_SQL["estimate_job"], {"job_id": job_id})
        return Estimate(*row) if row else Estimate(0, 0, 0, None)

    async def launch(self, job_id: UUID) -> str | None:
        """Enqueue what lacks a vector. Returns why the queue did not take it, if so: a worker embeds it directly."""
        row = await self._act("launch_job", {"job_id": job_id})
        return row[2] if row else None

    async def cancel(self, job_id: UUID, message: str) -> str:
        """Stop a job, keeping what is done; returns its status, which is another where it had ended."""
        row = await self._act("cancel_job", {"job_id": job_id, "message": message})
        if row[0] is None:
            raise NotFoundError(f"there is no ingestion job {job_id}")
        return str(row[0])

    async def resume(self, job_id: UUID) -> None:
        """Go on with a job that was cancelled or failed: only what is lacking is paid for."""
        await self._act("resume_job", {"job_id": job_id})

    async def retry(self, job_id: UUID) -> None:
        """As `resume`, and chunks that the provider refused are tried again."""
        await self._act("retry_job", {"job_id": job_id})

    async def recut(self, job_id: UUID, plan: ChunkPlan) -> None:
        """Cut by another plan before the launch; the preview comes anew."""
        values = {"job_id": job_id, "chunk_tokens": plan.max_tokens, "chunk_overlap": plan.overlap_tokens}
        await self._act("recut_job", values)

    async def change(self, job_id: UUID, *, priority: str | None, metadata: dict[str, Any] | None) -> None:
        """Set what may be changed at any time."""
        encoded = None if metadata is None else msgspec.json.encode(metadata).decode()
        async with self._database.transaction() as connection:
            if priority is not None:
                await connection.execute(_SQL["change_priority"], {"job_id": job_id, "priority": priority})
            await connection.execute(
                _SQL["change_job"], {"job_id": job_id, "priority": priority, "metadata": encoded}
            )

    async def delete(self, job_id: UUID) -> list[str]:
        """Remove a job, with the newest one its document; returns the keys of originals that are left over."""
        row = await self._act("delete_job", {"job_id": job_id})
        return list(row[0])

    async def batch(self, batch_id: UUID) -> BatchSummary:
        """Raises NotFoundError where no job of the tenant has that batch."""
        values = {"tenant_id": self._tenant_id, "batch_id": batch_id}
        row = await self._database.fetch_one(_SQL["select_batch"], values)
        if row is None or row[0] == 0:
            raise NotFoundError(f"there is no batch {batch_id}")
        return BatchSummary(*row)

    async def batch_jobs(self, batch_id: UUID, statuses: tuple[str, ...]) -> list[UUID]:
        values = {"tenant_id": self._tenant_id, "batch_id": batch_id, "statuses": list(statuses)}
        return [row[0] for row in await self._database.fetch(_SQL["batch_jobs"], values)]

    async def room(self) -> Room:
        row = await self._database.fetch_one(_SQL["count_staged"], {"tenant_id": self._tenant_id})
        return Room(*row) if row else Room(0, None, None)

    async def _select(
        self, where: JobFilter, *, limit: int, after: Position | None = None, job_id: UUID | None = None
    ) -> list[Job]:
        given = {
            "tenant_id": self._tenant_id,
            "job_id": job_id,
            "batch_id": where.batch_id,
            "document_id": where.document_id,
            "before": after.created_at if after else None,
            "before_id": after.job_id if after else None,
            "limit": limit,
        }
        pipeline_id = None
        if where.pipeline is not None:
            wanted = {"tenant_id": self._tenant_id, "pipeline": where.pipeline}
            found = await self._database.fetch_one(_SQL["pipeline_id"], wanted)
            if found is None:
                return []
            pipeline_id = found[0]
        rows = await self._database.fetch(_select_jobs(where.status, pipeline_id, given), given)
        return [Job(*row) for row in rows]

    async def _act(self, name: str, values: dict[str, Any]) -> tuple[Any, ...]:
        """One act, one transaction; what the database refuses is told in its words."""
        try:
            row = await patiently(partial(self._database.fetch_one, _SQL[name], values), tries=_TRIES)
        except psycopg.Error as error:
            message = ". ".join(filter(None, (error.diag.message_primary, error.diag.message_hint)))
            if error.sqlstate == "EM404":
                raise NotFoundError(message) from error
            if error.sqlstate == "EM409":
                raise ConflictError(message) from error
            raise
        return row or ()


def _select_jobs(status: str | None, pipeline_id: int | None, given: dict[str, Any]) -> sql.Composed:
    """The statement for these wishes. Raises ValueError for a status that is none."""
    wishes = {
        "by_job": "job_id",
        "by_batch": "batch_id",
        "by_document": "document_id",
        "behind": "before",
    }
    parts: list[sql.Composable] = [_SQL[part] for part, name in wishes.items() if given[name] is not None]
    if status is not None:
        parts.append(_SQL["by_status"].format(status=sql.Literal(JobStatus(status).value)))
    if pipeline_id is not None:
        parts.append(_SQL["by_pipeline"].format(pipeline_id=sql.Literal(pipeline_id)))
    return _SQL["select_jobs"].format(which=sql.SQL(" AND ").join(parts or [_SQL["all_jobs"]]))
