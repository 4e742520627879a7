"""The page of the queue: what waits and why, how fast it goes, the jobs by filters, pause and resume. Owns the page;
one job is queue_item.py's, acts on many are bulk.py's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from embedmill.api.wire import InvalidCursorError
from embedmill.dashboard.overview import throughput
from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.queue_filter import STATES, FromQuery, QueueFilter
from embedmill.dashboard.queue_standing import hindrances
from embedmill.dashboard.visitors import Admin, Reader, Visitor
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, EmbedmillError
from embedmill.queue import standing
from embedmill.queue.administration import pause, resume
from embedmill.queue.embedding_jobs import JobPage, list_embedding_jobs

_SQL = load_queries("embedmill.dashboard", "queue.sql")
router = APIRouter()
_PAGE_ROWS = 50
_MINUTES = 60
_MOST_BATCHES = 8
_COUNTED_AT_MOST = 1_000
_ACTS_SHOWN = 5
_STEP_SECONDS = 10


class PipelineStanding(msgspec.Struct, frozen=True):
    """A pipeline and how many of its items live."""

    name: str
    paused_at: datetime | None
    live: int


class BatchUnderWay(msgspec.Struct, frozen=True):
    """A batch of which something lives. Items are counted up to a bound: `is_exact` where it was not met."""

    id: Any
    began_at: datetime
    live: int
    ended: int
    failed: int

    @property
    def is_exact(self) -> bool:
        return self.live < _COUNTED_AT_MOST and self.ended < _COUNTED_AT_MOST

    @property
    def percent(self) -> float | None:
        return 100.0 * self.ended / (self.live + self.ended) if self.is_exact and self.live else None

    @property
    def words(self) -> str:
        more = "" if self.live < _COUNTED_AT_MOST else " or more"
        ended_more = "" if self.ended < _COUNTED_AT_MOST else " or more"
        return f"{self.live:,}{more} to do, {self.ended:,}{ended_more} ended"


@router.get("/queue")
async def queue_page(
    request: Request,
    visitor: Reader,
    wanted: FromQuery,
    after: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    await wanted.read(visitor)
    status = 422 if wanted.errors else 200
    return await show(
        request, visitor, "queue.html", lambda: load_queue(visitor, wanted, after), status=status
    )


@router.post("/queue/pipelines/{name}/pause")
async def pause_pipeline(visitor: Admin, name: str) -> Response:
    return await _switch(visitor, name, is_paused=True)


@router.post("/queue/pipelines/{name}/resume")
async def resume_pipeline(visitor: Admin, name: str) -> Response:
    return await _switch(visitor, name, is_paused=False)


async def load_queue(visitor: Visitor, wanted: QueueFilter, after: str | None) -> Mapping[str, Any]:
    database, tenant_id = visitor.database, visitor.tenant_id
    now = datetime.now(UTC)
    # Not through the tenant's eyes: under row-level security a lane's head is not found by its index (to compare an
    # enum is not leakproof), and the whole backlog would be read. The tenant is named all the same.
    counts = await standing.queue_counts(visitor.service.operator, tenant_id)
    held_up = await standing.held_up(database, tenant_id)
    workers = await standing.recent_workers(visitor.service.operator)
    workers_at_work = sum(worker.is_at_work for worker in workers)
    page = await _jobs(visitor, wanted, after)
    documents = [job.document_id for job in page.jobs if job.document_id is not None]
    return {
        "counts": counts,
        "workers_at_work": workers_at_work,
        "oldest": oldest_since(counts.oldest_waiting_seconds, now),
        "open_letters": held_up.open_dead_letters,
        "hindrances": await hindrances(visitor, held_up, counts, workers_at_work),
        "throughput": throughput(await standing.minutes(database, tenant_id, last=_MINUTES), now),
        "pipelines": [
            PipelineStanding(*row)
            for row in await database.fetch(_SQL["pipelines"], {"tenant_id": tenant_id})
        ],
        "batches": await _batches(visitor.service.operator, tenant_id),
        "acts": visitor.service.acts.of(tenant_id)[:_ACTS_SHOWN],
        "wanted": wanted,
        "states": STATES,
        "jobs": page.jobs,
        "names": dict(await database.fetch(_SQL["names"], {"ids": documents, "tenant_id": tenant_id})),
        "next": page.next_cursor,
        "after": after,
    }


async def _batches(database: Database, tenant_id: int) -> list[BatchUnderWay]:
    given = {"tenant_id": tenant_id, "limit": _MOST_BATCHES, "most": _COUNTED_AT_MOST}
    async with database.transaction() as connection:
        await connection.execute(_SQL["by_kept_plan"])
        cursor = await connection.execute(_SQL["batches"], given, prepare=True)
        return [BatchUnderWay(*row) for row in await cursor.fetchall()]


def oldest_since(seconds: float | None, now: datetime) -> datetime | None:
    """Since when the oldest waits; in steps, so that a page which has not changed reads the same."""
    if seconds is None:
        return None
    at = (now - timedelta(seconds=seconds)).timestamp()
    return datetime.fromtimestamp(round(at / _STEP_SECONDS) * _STEP_SECONDS, UTC)


async def _jobs(visitor: Visitor, wanted: QueueFilter, after: str | None) -> JobPage:
    if wanted.errors or wanted.is_of_nothing:
        return JobPage([], None)
    try:
        return await list_embedding_jobs(
            visitor.database, visitor.tenant_id, wanted.job_filter(), cursor=after, limit=_PAGE_ROWS
        )
    except ConfigurationError as error:
        raise InvalidCursorError(str(error)) from error


async def _switch(visitor: Visitor, name: str, *, is_paused: bool) -> Response:
    act = pause if is_paused else resume
    try:
        changed = await act(visitor.database, visitor.tenant_id, name, actor=visitor.actor)
    except EmbedmillError as error:
        return redirect("/queue", str(error), is_error=True)
    if not changed.pipelines:
        return redirect("/queue", f"{name} is {'paused' if is_paused else 'not paused'} already, or gone.")
    if not is_paused:
        return redirect("/queue", f"{name} goes on: workers take of it within seconds.")
    held = (
        f" {changed.items_in_work:,} items that workers hold go on to their end."
        if changed.items_in_work
        else ""
    )
    return redirect("/queue", f"{name} is paused: nothing more of it is claimed.{held}")
