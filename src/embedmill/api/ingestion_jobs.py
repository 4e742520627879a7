"""/api/v1/ingestion-jobs: uploads, their previews, launch, cancel, resume. Owns the wire's shapes and the checks of
what is asked; what is done is ingest/jobs.py's and ingest/upload.py's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import structlog
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from embedmill.api.problems import Problem, describe
from embedmill.api.service import Caller, Reader, Service, Writer
from embedmill.api.upload_wishes import UPLOAD_DESCRIPTION
from embedmill.api.uploading import ReceivedJobs, StagedJob, receive
from embedmill.api.wire import InvalidCursorError, Metadata, Wire, decode_cursor, encode_cursor
from embedmill.core.documents import ChunkPlan
from embedmill.errors import StorageError
from embedmill.ingest.jobs import Estimate, Job, JobFilter, Jobs, Position, PreviewChunk
from embedmill.usage.budgets import set_job_budget

_log = structlog.get_logger(__name__)
router = APIRouter(prefix="/ingestion-jobs", tags=["ingestion jobs"])
Status = Literal[
    "staged", "parsing", "chunk_preview_ready", "embedding_in_progress", "completed", "cancelled", "failed"
]
Priority = Literal["high", "medium", "low"]
JobId = Annotated[UUID, Path(alias="jobId", description="The job's id.")]


class JobCost(Wire):
    """US dollars; null where the price of the pipeline's model is unknown."""

    spent_usd: float | None
    paid_tokens: int
    budget_usd: float | None


class IngestionJob(Wire):
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
    status: Status
    progress: Annotated[int, Field(ge=0, le=100, description="By chunks that have their vector.")]
    total_chunks: int
    embedded_chunks: Annotated[int, Field(description="Those that got an equal text's vector included.")]
    reused_chunks: int
    failed_chunks: Annotated[
        int, Field(description="Chunks that cannot be embedded; each has a dead letter.")
    ]
    total_tokens: int
    priority: Priority
    error_stage: str | None
    error_message: str | None
    paused_reason: Annotated[
        str | None, Field(description="Why it does not go on, though nothing failed: budget.")
    ]
    is_resumable: Annotated[bool, Field(description="It can go on without a new upload.")]
    eta_seconds: float | None
    cost: JobCost
    chunk_tokens: int
    chunk_overlap: int
    auto_launch: bool
    metadata: dict[str, Any]
    user_id: str | None
    created_at: datetime
    parsing_started_at: datetime | None
    preview_ready_at: datetime | None
    launched_at: datetime | None
    updated_at: datetime
    completed_at: datetime | None
    original_dropped_at: Annotated[
        datetime | None, Field(description="When the retention of originals took the uploaded file.")
    ]

    @classmethod
    def of(cls, job: Job) -> IngestionJob:
        fields = {name: getattr(job, name) for name in cls.model_fields if name not in {"job_id", "cost"}}
        cost = JobCost(
            spent_usd=None if job.cost_usd is None else float(job.cost_usd),
            paid_tokens=job.paid_tokens,
            budget_usd=None if job.budget_usd is None else float(job.budget_usd),
        )
        return cls(job_id=job.id, cost=cost, **fields)


class IngestionJobPage(Wire):
    jobs: list[IngestionJob]
    next_cursor: str | None


class Place(Wire):
    """Where in the document: page 3, slides 4 to 5, sheet Prices."""

    kind: str
    first: str
    last: str


class Chunk(Wire):
    """A passage as it will be embedded."""

    chunk_id: int
    ordinal: int
    text: str
    tokens: int
    start_offset: int
    end_offset: int
    place: Place | None
    heading_path: list[str]
    error_reason: str | None

    @classmethod
    def of(cls, chunk: PreviewChunk) -> Chunk:
        place = None
        if chunk.place_kind is not None:
            place = Place(kind=chunk.place_kind, first=chunk.place_first or "", last=chunk.place_last or "")
        return cls(
            chunk_id=chunk.id,
            ordinal=chunk.ordinal,
            text=chunk.text,
            tokens=chunk.tokens,
            start_offset=chunk.start_offset,
            end_offset=chunk.end_offset,
            place=place,
            heading_path=chunk.heading_path,
            error_reason=chunk.error_reason,
        )


class LaunchEstimate(Wire):
    """What launching costs now, net of vectors that are reused."""

    chunks: Annotated[int, Field(description="That lack a vector.")]
    reused_chunks: Annotated[int, Field(description="Of these, those whose text has one already.")]
    tokens: Annotated[int, Field(description="That must be paid.")]
    cost_usd: float | None

    @classmethod
    def of(cls, estimate: Estimate) -> LaunchEstimate:
        return cls(
            chunks=estimate.lacking_chunks,
            reused_chunks=estimate.reusable_chunks,
            tokens=estimate.tokens,
            cost_usd=None if estimate.cost_usd is None else float(estimate.cost_usd),
        )


class ChunkPreview(Wire):
    """A page of the chunks, with the price of them all."""

    job_id: UUID
    status: str
    total_chunks: int
    chunk_tokens: int
    chunk_overlap: int
    estimate: LaunchEstimate
    chunks: list[Chunk]
    next_cursor: str | None


class DocumentText(Wire):
    """A part of the document's text; offsets are characters."""

    document_id: int
    start: int
    text: str
    total_characters: int


class JobChange(Wire):
    """What is left out stays as it is."""

    chunk_tokens: Annotated[int | None, Field(ge=8, le=100_000)] = None
    chunk_overlap: Annotated[int | None, Field(ge=0, le=50_000)] = None
    priority: Priority | None = None
    metadata: Metadata | None = None
    budget_usd: Annotated[float | None, Field(ge=0, le=1e9, description="The most this job may spend.")] = (
        None
    )


@router.post(
    "",
    status_code=202,
    response_model=StagedJob | ReceivedJobs,
    responses=describe(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
    openapi_extra=UPLOAD_DESCRIPTION,
)
async def create_ingestion_jobs(
    request: Request, response: Response, caller: Writer, service: Service
) -> Any:
    """Upload one or many files (multipart/form-data), or name a URL to fetch (application/json).

    Answers as soon as the bytes are kept. One file gives its job, several give a list. Bytes that were uploaded
    before are recognised, and their job is answered.
    """
    return await receive(request, response, caller, service)


@router.get("", responses=describe(401, 403, 422, 429))
async def list_ingestion_jobs(
    caller: Reader,
    status: Status | None = None,
    batch_id: Annotated[UUID | None, Query(alias="batchId")] = None,
    pipeline: Annotated[str | None, Query(max_length=100)] = None,
    document_id: Annotated[int | None, Query(alias="documentId", ge=1, le=2**63 - 1)] = None,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> IngestionJobPage:
    """Jobs of the tenant, newest first."""
    after = None if cursor is None else _position(cursor, Position)
    where = JobFilter(status=status, batch_id=batch_id, pipeline=pipeline, document_id=document_id)
    found = await _jobs(caller).page(where, after=after, limit=limit + 1)
    shown = found[:limit]
    more = len(found) > limit
    return IngestionJobPage(
        jobs=[IngestionJob.of(job) for job in shown],
        next_cursor=encode_cursor(Position(shown[-1].created_at, shown[-1].id)) if more else None,
    )


@router.get("/{jobId}", responses=describe(401, 403, 404, 422, 429))
async def get_ingestion_job(job_id: JobId, caller: Reader) -> IngestionJob:
    """One job, as it is now."""
    return IngestionJob.of(await _jobs(caller).find(job_id))


@router.get("/{jobId}/chunks", responses=describe(401, 403, 404, 422, 429))
async def preview_chunks(
    job_id: JobId,
    caller: Reader,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ChunkPreview:
    """The chunks as they will be embedded, in order, with what launching costs."""
    first = 0 if cursor is None else _position(cursor, int)
    jobs = _jobs(caller)
    job = await jobs.find(job_id)
    found = await jobs.chunks(job, first_ordinal=max(0, min(first, 2**31 - 1)), limit=limit + 1)
    estimate = await jobs.estimate(job_id)
    return ChunkPreview(
        job_id=job.id,
        status=job.status,
        total_chunks=job.total_chunks,
        chunk_tokens=job.chunk_tokens,
        chunk_overlap=job.chunk_overlap,
        estimate=LaunchEstimate.of(estimate),
        chunks=[Chunk.of(chunk) for chunk in found[:limit]],
        next_cursor=encode_cursor(found[limit].ordinal) if len(found) > limit else None,
    )


@router.get("/{jobId}/text", responses=describe(401, 403, 404, 422, 429))
async def get_document_text(
    job_id: JobId,
    caller: Reader,
    start: Annotated[int, Query(ge=0, le=2**31 - 2)] = 0,
    length: Annotated[int, Query(ge=1, le=1_000_000)] = 100_000,
) -> DocumentText:
    """The text that was read from the document, into which the chunks' offsets point."""
    jobs = _jobs(caller)
    job = await jobs.find(job_id)
    text, total = await jobs.text(job, start=start, length=length)
    return DocumentText(document_id=job.document_id, start=start, text=text, total_characters=total)


@router.patch("/{jobId}", responses=describe(401, 403, 404, 409, 422, 429))
async def change_ingestion_job(job_id: JobId, change: JobChange, caller: Writer) -> IngestionJob:
    """Another chunking plan (before the launch: the preview comes anew), priority, metadata or budget."""
    jobs = _jobs(caller)
    job = await jobs.find(job_id)
    if change.chunk_tokens is not None or change.chunk_overlap is not None:
        await jobs.recut(job_id, _plan(change, job))
    if change.priority is not None or change.metadata is not None:
        await jobs.change(job_id, priority=change.priority, metadata=change.metadata)
    if "budget_usd" in change.model_fields_set:
        await set_job_budget(caller.database, caller.tenant_id, job_id, change.budget_usd)
    return IngestionJob.of(await jobs.find(job_id))


@router.post("/{jobId}/launch", status_code=202, responses=describe(401, 403, 404, 409, 422, 429, 503))
async def launch_ingestion_job(job_id: JobId, caller: Writer) -> IngestionJob:
    """Embed what lacks a vector. Only a job at its preview can be launched."""
    jobs = _jobs(caller)
    await jobs.launch(job_id)
    return IngestionJob.of(await jobs.find(job_id))


@router.post("/{jobId}/cancel", status_code=202, responses=describe(401, 403, 404, 409, 422, 429))
async def cancel_ingestion_job(job_id: JobId, caller: Writer) -> IngestionJob:
    """Stop a job. Calls that are under way are written still; every vector is kept, and the job can be resumed."""
    jobs = _jobs(caller)
    status = await jobs.cancel(job_id, "cancelled by a person")
    if status not in {"cancelled"}:
        raise Problem(409, "conflict", f"this job has ended already: it is {status}")
    return IngestionJob.of(await jobs.find(job_id))


@router.post("/{jobId}/resume", status_code=202, responses=describe(401, 403, 404, 409, 422, 429, 503))
async def resume_ingestion_job(job_id: JobId, caller: Writer) -> IngestionJob:
    """Go on with a job that was cancelled or failed: what has its vector is not paid for again."""
    jobs = _jobs(caller)
    await jobs.resume(job_id)
    return IngestionJob.of(await jobs.find(job_id))


@router.post("/{jobId}/retry", status_code=202, responses=describe(401, 403, 404, 409, 422, 429, 503))
async def retry_ingestion_job(job_id: JobId, caller: Writer) -> IngestionJob:
    """As resume; chunks that the provider refused are tried again as well."""
    jobs = _jobs(caller)
    await jobs.retry(job_id)
    return IngestionJob.of(await jobs.find(job_id))


@router.delete("/{jobId}", status_code=204, responses=describe(401, 403, 404, 422, 429))
async def delete_ingestion_job(job_id: JobId, caller: Writer, service: Service) -> None:
    """Remove a job. The newest job of a document takes the document with it, its vectors and the original."""
    for key in await _jobs(caller).delete(job_id):
        try:
            await service.originals.delete(key)
        except StorageError as error:  # a sweep finds it
            _log.warning("original not removed", job_id=str(job_id), error=str(error))


def _jobs(caller: Caller) -> Jobs:
    return Jobs(caller.database, caller.tenant_id)


def _plan(change: JobChange, job: Job) -> ChunkPlan:
    tokens = change.chunk_tokens or job.chunk_tokens
    overlap = job.chunk_overlap if change.chunk_overlap is None else change.chunk_overlap
    if change.chunk_overlap is not None and overlap > tokens // 2:
        raise Problem(422, "invalid_request", "chunkOverlap: at most half of chunkTokens")
    return ChunkPlan(max_tokens=tokens, overlap_tokens=min(overlap, tokens // 2))


def _position(cursor: str, kind: type[Any]) -> Any:
    try:
        return decode_cursor(cursor, kind)
    except InvalidCursorError as error:
        raise Problem(422, "invalid_cursor", str(error)) from error
