"""POST /api/v1/process-embedding-queue: so much work, done within the request, for whoever has no worker running: a
serverless function, cron. Owns the wire's shapes and that one tenant's calls take turns."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import Field

from embedmill.api.problems import Problem, describe
from embedmill.api.service import Service, Writer
from embedmill.api.wire import Wire
from embedmill.database.pipelines import find_pipeline
from embedmill.sources.coverage import overall_percent, source_coverage
from embedmill.worker.stint import StintBounds

router = APIRouter(tags=["embedding jobs"])


class ProcessRequest(Wire):
    """How much is to be done at the most. What a provider has begun to answer is waited for also beyond
    `maxSeconds`."""

    max_items: Annotated[int, Field(ge=1, le=1000)] = 50
    max_seconds: Annotated[float, Field(gt=0, le=300)] = 25
    pipeline: Annotated[str | None, Field(max_length=100)] = None


class ProcessAnswer(Wire):
    """What was done. `processed` items ended well, `failed` for good; `remaining` chunks and rows still lack their
    vectors (those that failed or wait among them), `coverage` is in per cent, and 100 only if nothing is missing.
    `notes` say what kept it from doing more: a limit, a provider that does not answer."""

    processed: int
    failed: int
    embedded_chunks: int
    reused_chunks: int
    refused_chunks: int
    tokens: int
    rows_read: int
    rows_refused: int
    remaining: int
    coverage: float
    notes: list[str]


@router.post("/process-embedding-queue", responses=describe(401, 403, 404, 409, 422, 429))
async def process_embedding_queue(
    caller: Writer, service: Service, request: Annotated[ProcessRequest, Body(default_factory=ProcessRequest)]
) -> ProcessAnswer:
    """Read what has changed and embed what waits: so much of it, now. Within quotas, budgets and pauses, beside any
    workers: nobody does the same work twice. A caller that goes away loses nothing."""
    pipeline_id = None
    if request.pipeline is not None:
        pipeline_id = (await find_pipeline(caller.database, caller.tenant_id, request.pipeline)).id
    if service.stints.is_busy(caller.tenant_id):
        detail = "another call of this tenant is at it: ask again when it has been answered"
        raise Problem(409, "conflict", detail, headers={"Retry-After": "5"})
    bounds = StintBounds(request.max_items, request.max_seconds, pipeline_id)
    done = await service.process_queue(caller.tenant_id, bounds)
    sources = await source_coverage(caller.database, caller.tenant_id, pipeline=request.pipeline)
    return ProcessAnswer(
        processed=done.processed,
        failed=done.failed,
        embedded_chunks=done.embedded_chunks,
        reused_chunks=done.reused_chunks,
        refused_chunks=done.refused_chunks,
        tokens=done.tokens,
        rows_read=done.rows_read,
        rows_refused=done.rows_refused,
        remaining=sum(each.waiting_chunks + each.unread_rows + each.waiting_rows for each in sources),
        coverage=overall_percent(sources),
        notes=done.notes,
    )
