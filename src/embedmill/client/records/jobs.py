"""Ingestion jobs, their previews, and batches of them."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias
from uuid import UUID

from embedmill.client.records.base import Moment, Record

JobStatus: TypeAlias = Literal[
    "staged", "parsing", "chunk_preview_ready", "embedding_in_progress", "completed", "cancelled", "failed"
]
Priority: TypeAlias = Literal["high", "medium", "low"]
ENDED_STATUSES = frozenset({"completed", "cancelled", "failed"})


class StagedJob(Record, frozen=True):
    """A job that was taken in. `is_known`: these bytes were uploaded before, and this is the job they have."""

    job_id: UUID
    document_id: int
    status: str
    is_resumable: bool
    is_known: bool
    name: str
    batch_id: UUID | None
    error_message: str | None


class ReceivedJobs(Record, frozen=True):
    """The jobs of a request with several files, in their order."""

    batch_id: UUID
    jobs: tuple[StagedJob, ...]


class JobCost(Record, frozen=True):
    """US dollars; None where the price of the pipeline's model is unknown."""

    spent_usd: float | None
    paid_tokens: int
    budget_usd: float | None


class IngestionJob(Record, frozen=True):
    """The run of one upload."""

    job_id: UUID
    document_id: int
    batch_id: UUID | None
    pipeline: str
    source_type: str
    source_id: str
    name: str
    media_type: str | None
    size_bytes: int | None
    status: str
    """A JobStatus."""
    progress: int
    """0 to 100, by chunks that have their vector."""
    total_chunks: int
    embedded_chunks: int
    """Those that got an equal text's vector included."""
    reused_chunks: int
    failed_chunks: int
    """Chunks that cannot be embedded; each has a dead letter."""
    total_tokens: int
    priority: str
    error_stage: str | None
    error_message: str | None
    paused_reason: str | None
    """Why it does not go on, though nothing failed: budget."""
    is_resumable: bool
    """It can go on without a new upload."""
    eta_seconds: float | None
    cost: JobCost
    chunk_tokens: int
    chunk_overlap: int
    auto_launch: bool
    metadata: dict[str, Any]
    user_id: str | None
    created_at: Moment
    parsing_started_at: Moment | None
    preview_ready_at: Moment | None
    launched_at: Moment | None
    updated_at: Moment
    completed_at: Moment | None
    original_dropped_at: Moment | None
    """When the retention of originals took the uploaded file."""

    @property
    def has_ended(self) -> bool:
        """Completed, cancelled or failed."""
        return self.status in ENDED_STATUSES


class IngestionJobPage(Record, frozen=True):
    jobs: tuple[IngestionJob, ...]
    next_cursor: str | None


class Place(Record, frozen=True):
    """Where in the document: page 3, slides 4 to 5, sheet Prices."""

    kind: str
    first: str
    last: str


class Chunk(Record, frozen=True):
    """A passage as it will be embedded. Offsets are characters of the document's text."""

    chunk_id: int
    ordinal: int
    text: str
    tokens: int
    start_offset: int
    end_offset: int
    place: Place | None
    heading_path: tuple[str, ...]
    error_reason: str | None


class LaunchEstimate(Record, frozen=True):
    """What launching costs now, net of vectors that are reused: `chunks` lack a vector, `reused_chunks` of these have
    a text that was embedded already, `tokens` must be paid."""

    chunks: int
    reused_chunks: int
    tokens: int
    cost_usd: float | None


class ChunkPreview(Record, frozen=True):
    """A page of the chunks, with the price of them all."""

    job_id: UUID
    status: str
    total_chunks: int
    chunk_tokens: int
    chunk_overlap: int
    estimate: LaunchEstimate
    chunks: tuple[Chunk, ...]
    next_cursor: str | None


class DocumentText(Record, frozen=True):
    """A part of the document's text; offsets are characters."""

    document_id: int
    start: int
    text: str
    total_characters: int


class Batch(Record, frozen=True):
    """How many jobs there are and how far they came; `cost_usd` is None where that of one job is unknown."""

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
    created_at: Moment | None
    ended_at: Moment | None

    @property
    def has_ended(self) -> bool:
        """Each of its jobs is completed, cancelled or failed."""
        return self.completed + self.failed + self.cancelled == self.jobs


class BatchAct(Record, frozen=True):
    """What was done to the jobs of a batch: `skipped` were in no state for it (any more)."""

    batch: Batch
    done: int
    skipped: int
