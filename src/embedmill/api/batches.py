"""/api/v1/batches: jobs that were taken in together, as one. Owns the wire's shapes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path

from embedmill.api.problems import describe
from embedmill.api.service import Caller, Reader, Writer
from embedmill.api.wire import Wire
from embedmill.errors import ConflictError, NotFoundError
from embedmill.ingest.jobs import BatchSummary, Jobs

router = APIRouter(prefix="/batches", tags=["batches"])
BatchId = Annotated[UUID, Path(alias="batchId", description="The batch's id.")]


class Batch(Wire):
    """How many jobs there are and how far they came; `costUsd` is null where that of one job is unknown."""

    batch_id: UUID
    jobs: int
    waiting: int
    previews: int
    embedding: int
    completed: int
    failed: int
    cancelled: int
    progress: int
    total_chunks: int
    embedded_chunks: int
    failed_chunks: int
    paid_tokens: int
    cost_usd: float | None
    created_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, batch_id: UUID, summary: BatchSummary) -> Batch:
        ended = summary.completed + summary.failed + summary.cancelled
        done, total = summary.embedded_chunks + summary.failed_chunks, summary.total_chunks
        return cls(
            batch_id=batch_id,
            jobs=summary.jobs,
            waiting=summary.waiting,
            previews=summary.previews,
            embedding=summary.embedding,
            completed=summary.completed,
            failed=summary.failed,
            cancelled=summary.cancelled,
            progress=100 if summary.completed == summary.jobs else (100 * done // total if total else 0),
            total_chunks=total,
            embedded_chunks=summary.embedded_chunks,
            failed_chunks=summary.failed_chunks,
            paid_tokens=summary.paid_tokens,
            cost_usd=None if summary.cost_usd is None else float(summary.cost_usd),
            created_at=summary.created_at,
            ended_at=summary.ended_at if ended == summary.jobs else None,
        )


class BatchAct(Wire):
    """What was done to the jobs of a batch: `skipped` were in no state for it (any more)."""

    batch: Batch
    done: int
    skipped: int


@router.get("/{batchId}", responses=describe(401, 403, 404, 422, 429))
async def get_batch(batch_id: BatchId, caller: Reader) -> Batch:
    """One batch, as it is now."""
    return Batch.of(batch_id, await _jobs(caller).batch(batch_id))


@router.post("/{batchId}/launch", status_code=202, responses=describe(401, 403, 404, 422, 429, 503))
async def launch_batch(batch_id: BatchId, caller: Writer) -> BatchAct:
    """Launch every job of the batch that is at its preview."""
    jobs = _jobs(caller)
    return await _each(batch_id, jobs, jobs.launch, ("chunk_preview_ready",))


@router.post("/{batchId}/cancel", status_code=202, responses=describe(401, 403, 404, 422, 429))
async def cancel_batch(batch_id: BatchId, caller: Writer) -> BatchAct:
    """Stop every job of the batch that has not ended."""
    jobs = _jobs(caller)

    async def cancel(job_id: UUID) -> None:
        await jobs.cancel(job_id, "its batch was cancelled by a person")

    live = ("staged", "parsing", "chunk_preview_ready", "embedding_in_progress")
    return await _each(batch_id, jobs, cancel, live)


@router.post("/{batchId}/resume", status_code=202, responses=describe(401, 403, 404, 422, 429, 503))
async def resume_batch(batch_id: BatchId, caller: Writer) -> BatchAct:
    """Go on with every job of the batch that was cancelled or failed."""
    jobs = _jobs(caller)
    return await _each(batch_id, jobs, jobs.resume, ("cancelled", "failed"))


async def _each(
    batch_id: UUID, jobs: Jobs, act: Callable[[UUID], Awaitable[object]], statuses: tuple[str, ...]
) -> BatchAct:
    await jobs.batch(batch_id)  # or it is not found
    done = skipped = 0
    for job_id in await jobs.batch_jobs(batch_id, statuses):
        try:
            await act(job_id)
            done += 1
        except (ConflictError, NotFoundError):
            skipped += 1
    return BatchAct(batch=Batch.of(batch_id, await jobs.batch(batch_id)), done=done, skipped=skipped)


def _jobs(caller: Caller) -> Jobs:
    return Jobs(caller.database, caller.tenant_id)
