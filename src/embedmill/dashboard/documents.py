"""The page of documents: where files are dropped, and the jobs that came of them, newest first; and a batch of them.
Owns the lists, their filters and what holds them up; uploads are document_upload.py's, one job is job_page.py's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from embedmill.api.wire import decode_cursor, encode_cursor
from embedmill.core.jobs import JobStatus
from embedmill.dashboard.pages import show
from embedmill.dashboard.visitors import Reader, Visitor
from embedmill.database.pipelines import list_pipelines
from embedmill.ingest.jobs import JobFilter, Jobs, Position
from embedmill.queue import standing

router = APIRouter()
PAGE_ROWS = 50
PRIORITIES = ("high", "medium", "low")
STATUSES = tuple(status.value for status in JobStatus)
_UPLOAD_FIELDS = ("metadata", "budgetUsd", "url", "pipeline", "priority")


class Typed:
    """What was typed into the form of uploads, and what was wrong with it; `errors['']` is that of the form."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self.values = dict(values or {})
        self.errors: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    def refuse(self, detail: str) -> None:
        """A fault as the API tells it: `field: what is wrong`."""
        field, sign, said = detail.partition(": ")
        if sign and field in _UPLOAD_FIELDS:
            self.errors[field] = said
        else:
            self.errors[""] = detail


@router.get("/documents")
async def documents_page(
    request: Request, visitor: Reader, status: str = "", pipeline: str = "", after: str = ""
) -> Response:
    return await show_documents(
        request, visitor, Typed(), chosen_status=status, pipeline=pipeline, after=after
    )


@router.get("/documents/batches/{batch_id}")
async def batch_page(
    request: Request, visitor: Reader, batch_id: UUID, status: str = "", after: str = ""
) -> Response:
    async def load() -> Mapping[str, Any]:
        jobs = Jobs(visitor.database, visitor.tenant_id)
        summary = await jobs.batch(batch_id)
        address = f"/documents/batches/{batch_id}"
        asked = {"status": _status(status)}
        return {
            "batch_id": batch_id,
            "summary": summary,
            **await _page_of_jobs(visitor, JobFilter(status=asked["status"], batch_id=batch_id), after),
            **await hindrances(visitor),
            "statuses": STATUSES,
            "address": address,
            "asked": asked,
        }

    return await show(request, visitor, "document_batch.html", load)


@router.get("/documents/{job_id:uuid}")
async def job_by_id(visitor: Reader, job_id: UUID) -> Response:
    """The short address of a job's page."""
    return RedirectResponse(f"/documents/jobs/{job_id}", status_code=303)


async def show_documents(
    request: Request,
    visitor: Visitor,
    typed: Typed,
    *,
    status: int = 200,
    chosen_status: str = "",
    pipeline: str = "",
    after: str = "",
) -> Response:
    """The page, also as the answer to a form that was refused."""
    asked = {"status": _status(chosen_status), "pipeline": pipeline.replace("\x00", "").strip()[:100] or None}

    async def load() -> Mapping[str, Any]:
        pipelines = await list_pipelines(visitor.database, visitor.tenant_id)
        where = JobFilter(status=asked["status"], pipeline=asked["pipeline"])
        settings = visitor.service.settings
        return {
            **await _page_of_jobs(visitor, where, after),
            **await hindrances(visitor),
            "pipelines": [each.name for each in pipelines],
            "typed": typed,
            "priorities": PRIORITIES,
            "statuses": STATUSES,
            "address": "/documents",
            "asked": asked,
            "most_bytes": settings.max_file_bytes,
            "most_files": settings.max_request_files,
        }

    return await show(
        request, visitor, "documents.html", load, status=status, here="/documents" if status != 200 else None
    )


async def hindrances(visitor: Visitor) -> dict[str, Any]:
    """Why nothing may go on though nothing failed: no workers, the queue off, pipelines paused."""
    held_up = await standing.held_up(visitor.database, visitor.tenant_id)
    workers = await standing.recent_workers(visitor.service.operator)
    return {
        "has_workers": any(worker.is_at_work for worker in workers),
        "queue_enabled": held_up.queue_enabled,
        "paused_pipelines": held_up.paused_pipelines,
    }


async def _page_of_jobs(visitor: Visitor, where: JobFilter, after: str) -> dict[str, Any]:
    """Raises InvalidCursorError for an `after` that is none of ours."""
    jobs = Jobs(visitor.database, visitor.tenant_id)
    position = decode_cursor(after, Position) if after else None
    found = await jobs.page(where, after=position, limit=PAGE_ROWS + 1)
    shown = found[:PAGE_ROWS]
    last = shown[-1] if len(found) > PAGE_ROWS else None
    return {
        "jobs": shown,
        "after": after,
        "next": encode_cursor(Position(last.created_at, last.id)) if last else None,
    }


def _status(name: str) -> str | None:
    return name if name in STATUSES else None
