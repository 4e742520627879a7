"""The page of one ingestion job: its stages, how far it is, what it costs, what went wrong, and what can be done now.
Owns how these are read and put beside each other; acts are job_acts.py's, chunks and text job_preview.py's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from embedmill.core.jobs import JobStatus
from embedmill.dashboard.documents import PRIORITIES, hindrances
from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.job_preview import Wanted, load_preview
from embedmill.dashboard.pages import show
from embedmill.dashboard.visitors import Reader, Visitor
from embedmill.database.pipelines import find_pipeline
from embedmill.database.queries import load_queries
from embedmill.ingest.jobs import RESUMABLE, Estimate, Job, JobFilter, Jobs
from embedmill.queue.embedding_jobs import JobFilter as ItemFilter
from embedmill.queue.embedding_jobs import list_embedding_jobs
from embedmill.usage.budgets import job_budget

_SQL = load_queries("embedmill.dashboard", "job_page.sql")
router = APIRouter()
MOST_LETTERS = 20
MOST_ATTEMPTS = 10
_STAGES = ("staged", "parsing", "chunk preview", "embedding")
_BEFORE_CHUNKS = (JobStatus.STAGED, JobStatus.PARSING)
_LIVE = (*_BEFORE_CHUNKS, JobStatus.CHUNK_PREVIEW_READY, JobStatus.EMBEDDING_IN_PROGRESS)


class Stage(msgspec.Struct, frozen=True):
    """`state`: done, now or ahead. `seconds` is how long it took, None while it lasts."""

    name: str
    state: str
    at: datetime | None
    seconds: float | None


class Letter(msgspec.Struct, frozen=True):
    """An open dead letter of the job's document. `ordinal` of None: it is about a whole item."""

    id: int
    created_at: datetime
    reason: str
    error_message: str
    ordinal: int | None


class May(msgspec.Struct, frozen=True):
    """What can be done with a job as it stands, by whoever may."""

    launch: bool
    recut: bool
    cancel: bool
    resume: bool
    retry: bool
    change: bool

    @classmethod
    def of(cls, job: Job, *, is_newest: bool) -> May:
        has_ended_badly = job.status in RESUMABLE and job.is_resumable
        return cls(
            launch=is_newest and job.status == JobStatus.CHUNK_PREVIEW_READY,
            recut=is_newest and job.status == JobStatus.CHUNK_PREVIEW_READY,
            cancel=job.status in _LIVE,
            resume=has_ended_badly and (job.status == JobStatus.CANCELLED or job.failed_chunks > 0),
            retry=(has_ended_badly and (job.status == JobStatus.FAILED or job.failed_chunks > 0))
            or (is_newest and job.status == JobStatus.COMPLETED and job.failed_chunks > 0),
            change=not job.has_ended,
        )


@router.get("/documents/jobs/{job_id}")
async def job_page(
    request: Request,
    visitor: Reader,
    job_id: UUID,
    chunk: int | None = None,
    first: int = 0,
    at: int | None = None,
) -> Response:
    return await show_job(request, visitor, job_id, FormReading(), wanted=Wanted(chunk, first, at))


async def show_job(
    request: Request,
    visitor: Visitor,
    job_id: UUID,
    form: FormReading,
    status: int = 200,
    *,
    wanted: Wanted | None = None,
) -> Response:
    """The page, also as the answer to a form that was refused."""
    address = f"/documents/jobs/{job_id}"
    look = JobLook(visitor, job_id)
    # The stream leaves chunks and text alone: a browser asks for them itself when they come to be.
    is_stream = "text/event-stream" in request.headers.get("accept", "")
    choice = wanted or Wanted()

    async def load() -> Mapping[str, Any]:
        found = await look.read()
        preview = None
        if found["has_chunks"] and not is_stream:
            preview = await load_preview(visitor, found["job"], choice)
        return {**found, "form": form, "address": address, "preview": preview, "is_refused": status != 200}

    return await show(
        request, visitor, "job.html", load, status=status, here=address if status != 200 else None
    )


class JobLook:
    """Looks at a job again and again. What launching costs is found out once for each state that it is in."""

    def __init__(self, visitor: Visitor, job_id: UUID) -> None:
        self._visitor = visitor
        self._jobs = Jobs(visitor.database, visitor.tenant_id)
        self._job_id = job_id
        self._estimated: tuple[object, Estimate] | None = None

    async def read(self) -> dict[str, Any]:
        """Raises NotFoundError."""
        visitor = self._visitor
        job = await self._jobs.find(self._job_id)
        (newest,) = await self._jobs.page(JobFilter(document_id=job.document_id), after=None, limit=1)
        is_newest = newest.id == job.id
        pipeline = await find_pipeline(visitor.database, visitor.tenant_id, job.pipeline)
        letters = await self._letters(job) if is_newest else []
        return {
            "job": job,
            "newest": newest,
            "is_newest": is_newest,
            "has_chunks": is_newest and job.total_chunks > 0 and job.status not in _BEFORE_CHUNKS,
            # Another plan, or the document read anew: another preview.
            "preview_version": f"{job.preview_ready_at or job.launched_at or job.created_at:%Y%m%dT%H%M%S%f}",
            "stages": stages_of(job),
            "may": May.of(job, is_newest=is_newest),
            "estimate": await self._estimate(job) if is_newest else None,
            "has_price": pipeline.price_per_million_tokens is not None,
            "model": pipeline.generation.spec.model,
            "budget": await job_budget(visitor.database, visitor.tenant_id, job.id)
            if job.paused_reason
            else None,
            "letters": letters[:MOST_LETTERS],
            "has_more_letters": len(letters) > MOST_LETTERS,
            "attempts": await self._attempts(job),
            "priorities": PRIORITIES,
            **await hindrances(visitor),
        }

    async def _estimate(self, job: Job) -> Estimate | None:
        if job.status != JobStatus.CHUNK_PREVIEW_READY:
            return None
        state = (job.updated_at, job.preview_ready_at, job.total_chunks)
        if self._estimated is None or self._estimated[0] != state:
            self._estimated = state, await self._jobs.estimate(job.id)
        return self._estimated[1]

    async def _letters(self, job: Job) -> list[Letter]:
        rows = await self._visitor.database.fetch(
            _SQL["open_letters"], {"document_id": job.document_id, "limit": MOST_LETTERS + 1}
        )
        return [Letter(*row) for row in rows]

    async def _attempts(self, job: Job) -> list[Any]:
        """The latest queue items of the job that have had trouble, or none of which went smoothly yet."""
        which = ItemFilter(job_id=job.id)
        page = await list_embedding_jobs(
            self._visitor.database, self._visitor.tenant_id, which, limit=MOST_ATTEMPTS
        )
        return page.jobs


def stages_of(job: Job) -> list[Stage]:
    """From upload to vectors. A moment of an earlier run, before what came last, does not count."""
    begun: list[datetime | None] = [job.created_at]
    for at in (job.parsing_started_at, job.preview_ready_at, job.launched_at):
        latest = max(each for each in begun if each is not None)
        begun.append(at if at is not None and at >= latest else None)
    reached = {
        JobStatus.STAGED: 0,
        JobStatus.PARSING: 1,
        JobStatus.CHUNK_PREVIEW_READY: 2,
        JobStatus.EMBEDDING_IN_PROGRESS: 3,
    }.get(JobStatus(job.status), len(begun))
    # A job that was sent back to an earlier stage has not come to the later ones.
    begun = [at if number <= reached else None for number, at in enumerate(begun)]
    stages = []
    for number, name in enumerate(_STAGES):
        at = begun[number]
        following = [each for each in (*begun[number + 1 :], job.completed_at) if each is not None]
        if number == reached:
            stages.append(Stage(name, "now", at, None))
        elif at is None:
            stages.append(Stage(name, "ahead", None, None))
        else:
            seconds = (following[0] - at).total_seconds() if following else None
            stages.append(Stage(name, "done", at, seconds))
    end = job.status if job.has_ended else "completed"
    stages.append(Stage(end, "done" if job.has_ended else "ahead", job.completed_at, None))
    return stages
