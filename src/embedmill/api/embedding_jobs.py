"""/api/v1/embedding-jobs: every item of the queue, live or ended, for other systems. Owns the wire's shapes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query

from embedmill.api.problems import Problem, describe
from embedmill.api.service import Caller, Reader
from embedmill.api.wire import Wire
from embedmill.queue import embedding_jobs as records
from embedmill.queue.embedding_job_pages import JobFilter, JobState

router = APIRouter(prefix="/embedding-jobs", tags=["embedding jobs"])
TenantName = Annotated[
    str | None,
    Query(alias="tenantId", max_length=100, description="The caller's own tenant; any other is refused."),
]
Status = Literal["pending", "processing", "completed", "failed", "cancelled"]


class JobMetadata(Wire):
    """What came of it; null before its end."""

    embedding_model: str | None
    vector_count: int | None
    processing_time_ms: int | None


class EmbeddingJob(Wire):
    """One item's life. `shardTypeId` and `shardId` name its source, `jobId` the ingestion job that it belongs to."""

    id: int
    tenant_id: str
    shard_id: str
    shard_type_id: str
    status: Status
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

    @classmethod
    def of(cls, record: records.EmbeddingJob, tenant: str) -> EmbeddingJob:
        fields = {
            name: getattr(record, name) for name in cls.model_fields if name not in {"tenant_id", "metadata"}
        }
        return cls(tenant_id=tenant, metadata=JobMetadata.model_validate(record.metadata), **fields)


class EmbeddingJobPage(Wire):
    jobs: list[EmbeddingJob]
    next_cursor: str | None


class Attempt(Wire):
    """One item about the same piece of the same source."""

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


class DeadLetter(Wire):
    """What waits for a person; without `chunkId` it is about the whole item."""

    id: int
    item_id: int
    chunk_id: int | None
    reason: str
    error: str
    created_at: datetime
    resolved_at: datetime | None
    resolution: str | None


class EmbeddingJobHistory(EmbeddingJob):
    """A record with all that was tried about its piece, newest first."""

    attempts: list[Attempt]
    dead_letters: list[DeadLetter]


class EmbeddingJobCounts(Wire):
    pending: int
    processing: int
    completed: int
    failed: int


class EmbeddingJobStats(Wire):
    stats: EmbeddingJobCounts


@router.get("", responses=describe(401, 403, 422, 429))
async def list_embedding_jobs(
    caller: Reader,
    tenant_id: TenantName = None,
    status: Status | None = None,
    shard_type_id: Annotated[str | None, Query(alias="shardTypeId", max_length=2000)] = None,
    shard_id: Annotated[
        str | None, Query(alias="shardId", max_length=2000, description="Together with shardTypeId.")
    ] = None,
    batch_id: Annotated[UUID | None, Query(alias="batchId")] = None,
    job_id: Annotated[UUID | None, Query(alias="jobId")] = None,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> EmbeddingJobPage:
    """A page of records, newest first."""
    _assert_own(caller, tenant_id)
    which = JobFilter(
        status=None if status is None else JobState(status),
        source_type=shard_type_id,
        source_id=shard_id,
        batch_id=batch_id,
        job_id=job_id,
    )
    page = await records.list_embedding_jobs(
        caller.database, caller.tenant_id, which, cursor=cursor, limit=limit
    )
    tenant = caller.principal.tenant_slug
    return EmbeddingJobPage(
        jobs=[EmbeddingJob.of(job, tenant) for job in page.jobs], next_cursor=page.next_cursor
    )


@router.get("/stats", responses=describe(401, 403, 422, 429))
async def count_embedding_jobs(caller: Reader, tenant_id: TenantName = None) -> EmbeddingJobStats:
    """How many records there are in each state. Counted by counters: as of two seconds ago at most."""
    _assert_own(caller, tenant_id)
    counts = await records.count_embedding_jobs(caller.database, caller.tenant_id)
    return EmbeddingJobStats(
        stats=EmbeddingJobCounts(**{name: counts[name] for name in EmbeddingJobCounts.model_fields})
    )


@router.get("/{id}", responses=describe(401, 403, 404, 422, 429))
async def get_embedding_job(
    item_id: Annotated[int, Path(alias="id", ge=1, le=2**63 - 1)], caller: Reader
) -> EmbeddingJobHistory:
    """One record with its history of attempts."""
    found = await records.find_embedding_job(caller.database, caller.tenant_id, item_id)
    record = EmbeddingJob.of(found.job, caller.principal.tenant_slug)
    return EmbeddingJobHistory(
        **{name: getattr(record, name) for name in EmbeddingJob.model_fields},
        attempts=[Attempt.model_validate(each) for each in found.attempts],
        dead_letters=[DeadLetter.model_validate(each) for each in found.dead_letters],
    )


def _assert_own(caller: Caller, tenant: str | None) -> None:
    if tenant is not None and tenant not in {caller.principal.tenant_slug, str(caller.tenant_id)}:
        raise Problem(403, "not_allowed", "tenantId: this key is another tenant's")
