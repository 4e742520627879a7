"""What is done on the page of a job, or of a batch: launch, cancel, resume, retry, delete, another plan, priority,
budget. Owns the forms; each act is the function that the REST API calls too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from embedmill.api import batches, ingestion_jobs
from embedmill.api.problems import Problem
from embedmill.api.service import Caller
from embedmill.core.documents import ChunkPlan
from embedmill.dashboard.document_upload import caller_of
from embedmill.dashboard.documents import PRIORITIES
from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.job_page import show_job
from embedmill.dashboard.pages import redirect
from embedmill.dashboard.visitors import Visitor, Writer
from embedmill.errors import ConflictError, EmbedmillError, NotFoundError
from embedmill.ingest.jobs import Jobs
from embedmill.usage.budgets import set_job_budget

router = APIRouter()
_MOST_USD = Decimal(10**9)
_Act = Callable[[UUID, Caller], Awaitable[Any]]
_JOB_ACTS: Mapping[str, tuple[_Act, str]] = {
    "launch": (ingestion_jobs.launch_ingestion_job, "Launched: what lacks a vector is being embedded."),
    "cancel": (
        ingestion_jobs.cancel_ingestion_job,
        "Cancelled. What was embedded is kept, and it can be resumed.",
    ),
    "resume": (ingestion_jobs.resume_ingestion_job, "It goes on: what has its vector is not paid for again."),
    "retry": (ingestion_jobs.retry_ingestion_job, "It goes on, and what had failed is tried again."),
}
_BATCH_ACTS: Mapping[str, tuple[_Act, str]] = {
    "launch": (batches.launch_batch, "launched"),
    "cancel": (batches.cancel_batch, "cancelled"),
    "resume": (batches.resume_batch, "resumed"),
}


@router.post("/documents/jobs/{job_id}/delete")
async def delete(visitor: Writer, job_id: UUID) -> Response:
    """Remove a job, the newest one with its document."""
    job = await Jobs(visitor.database, visitor.tenant_id).find(job_id)
    try:
        await ingestion_jobs.delete_ingestion_job(job_id, caller_of(visitor), visitor.service)
    except NotFoundError:
        raise
    except EmbedmillError as error:
        return redirect(f"/documents/jobs/{job_id}", str(error), is_error=True)
    return redirect("/documents", f"{job.name} is deleted.")


@router.post("/documents/jobs/{job_id}/plan")
async def recut(request: Request, visitor: Writer, job_id: UUID) -> Response:
    """Cut by another plan; the preview comes anew."""
    form = await FormReading.of(request)
    tokens = form.whole("chunk_tokens", least=8, most=100_000)
    overlap = form.whole("chunk_overlap", least=0, most=50_000)
    if tokens is None:
        form.refuse("chunk_tokens", "say how many tokens a chunk may have")
    if tokens is not None and overlap is not None and overlap > tokens // 2:
        form.refuse("chunk_overlap", f"at most half of a chunk: {tokens // 2:,}")
    if form.errors or tokens is None:
        return await show_job(request, visitor, job_id, form, 422)
    try:
        await Jobs(visitor.database, visitor.tenant_id).recut(job_id, ChunkPlan(tokens, overlap or 0))
    except NotFoundError:
        raise
    except EmbedmillError as error:
        form.refuse("chunk_tokens", str(error))
        return await show_job(request, visitor, job_id, form, 409)
    return redirect(f"/documents/jobs/{job_id}", "It is cut anew; the preview comes in a moment.")


@router.post("/documents/jobs/{job_id}/change")
async def change(request: Request, visitor: Writer, job_id: UUID) -> Response:
    """Priority and budget. An empty budget is none."""
    jobs = Jobs(visitor.database, visitor.tenant_id)
    job = await jobs.find(job_id)
    form = await FormReading.of(request)
    priority = form.choice("priority", (job.priority, *PRIORITIES))
    budget = form.decimal("budget_usd", most=_MOST_USD)
    if form.errors:
        return await show_job(request, visitor, job_id, form, 422)
    try:
        if priority != job.priority:
            await jobs.change(job_id, priority=priority, metadata=None)
        if budget != job.budget_usd:
            await set_job_budget(visitor.database, visitor.tenant_id, job_id, budget, actor=visitor.actor)
    except NotFoundError:
        raise
    except EmbedmillError as error:
        form.refuse("budget_usd", str(error))
        return await show_job(request, visitor, job_id, form, 422)
    return redirect(f"/documents/jobs/{job_id}", "It is changed.")


@router.post("/documents/jobs/{job_id}/{act}")
async def act_on_job(visitor: Writer, job_id: UUID, act: str) -> Response:
    """One of the acts that need no more than a button."""
    if act not in _JOB_ACTS:
        raise Problem(404, "not_found", "there is no such page")
    perform, said = _JOB_ACTS[act]
    address = f"/documents/jobs/{job_id}"
    try:
        await perform(job_id, caller_of(visitor))
    except NotFoundError:
        raise
    except EmbedmillError as error:
        return redirect(address, str(error), is_error=True)
    except Problem as problem:
        return redirect(address, problem.detail, is_error=True)
    return redirect(address, said)


@router.post("/documents/batches/{batch_id}/{act}")
async def act_on_batch(visitor: Writer, batch_id: UUID, act: str) -> Response:
    """The same for all jobs of a batch that are in a state for it."""
    if act == "retry":
        done = await _retry_batch(visitor, batch_id)
        said = "tried again"
    elif act in _BATCH_ACTS:
        perform, said = _BATCH_ACTS[act]
        found = await perform(batch_id, caller_of(visitor))
        done = Counter(done=found.done, skipped=found.skipped)
    else:
        raise Problem(404, "not_found", "there is no such page")
    noun = "job is" if done["done"] == 1 else "jobs are"
    rest = f" {done['skipped']} had gone on meanwhile." if done["skipped"] else ""
    return redirect(f"/documents/batches/{batch_id}", f"{done['done']:,} {noun} {said}.{rest}")


async def _retry_batch(visitor: Visitor, batch_id: UUID) -> Counter[str]:
    """What failed: whole jobs, and single chunks of those that are completed without them."""
    jobs = Jobs(visitor.database, visitor.tenant_id)
    summary = await jobs.batch(batch_id)
    done: Counter[str] = Counter()
    for job_id in await jobs.batch_jobs(
        batch_id, ("failed", "completed") if summary.failed_chunks else ("failed",)
    ):
        job = await jobs.find(job_id)
        if job.status == "completed" and not job.failed_chunks:
            continue
        try:
            await jobs.retry(job_id)
            done["done"] += 1
        except (ConflictError, NotFoundError):
            done["skipped"] += 1
    return done
