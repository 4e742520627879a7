"""Items of the queue, live or ended."""

from __future__ import annotations

from typing import Literal, TypeAlias
from uuid import UUID

from embedmill.client.records.base import Moment, Record

EmbeddingJobStatus: TypeAlias = Literal["pending", "processing", "completed", "failed", "cancelled"]


class JobMetadata(Record, frozen=True):
    """What came of it; None before its end."""

    embedding_model: str | None
    vector_count: int | None
    processing_time_ms: int | None


class EmbeddingJob(Record, frozen=True):
    """One item's life. `shard_type_id` and `shard_id` name its source, `job_id` the ingestion job it belongs to."""

    id: int
    tenant_id: str
    shard_id: str
    shard_type_id: str
    status: str
    retry_count: int
    error: str | None
    created_at: Moment
    updated_at: Moment
    completed_at: Moment | None
    metadata: JobMetadata
    job_id: UUID | None
    batch_id: UUID | None
    document_id: int | None
    priority: str
    operation: str


class EmbeddingJobPage(Record, frozen=True):
    jobs: tuple[EmbeddingJob, ...]
    next_cursor: str | None


class Attempt(Record, frozen=True):
    """One item about the same piece of the same source."""

    id: int
    status: str
    error: str | None
    worker_id: UUID | None
    worker_host: str | None
    retry_count: int
    crash_count: int
    created_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    vector_count: int | None


class DeadLetter(Record, frozen=True):
    """What waits for a person; without `chunk_id` it is about the whole item."""

    id: int
    item_id: int
    chunk_id: int | None
    reason: str
    error: str
    created_at: Moment
    resolved_at: Moment | None
    resolution: str | None


class EmbeddingJobHistory(EmbeddingJob, frozen=True):
    """A record with all that was tried about its piece, newest first."""

    attempts: tuple[Attempt, ...]
    dead_letters: tuple[DeadLetter, ...]


class EmbeddingJobCounts(Record, frozen=True):
    """How many there are in each state, as of two seconds ago at most."""

    pending: int
    processing: int
    completed: int
    failed: int


class EmbeddingJobStats(Record, frozen=True):
    stats: EmbeddingJobCounts
