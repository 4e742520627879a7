"""The page of one embedding job: what it is at, why it waits, all that was tried, and what a person can do about it.
Owns the page; the acts are queue/administration.py's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Request
from starlette.responses import Response

from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.queue_words import retry_outcome
from embedmill.dashboard.visitors import Reader, Visitor, Writer
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import EmbedmillError
from embedmill.queue.administration import cancel_items, retry_items, set_priority
from embedmill.queue.embedding_jobs import find_embedding_job
from embedmill.queue.inspection import explain_item, read_item
from embedmill.queue.selection import Selection, open_scope

_SQL = load_queries("embedmill.dashboard", "queue.sql")
router = APIRouter(prefix="/queue/jobs")
PRIORITIES = ("high", "medium", "low")
_WAITING = {"pending", "rate_limited"}
_ItemId = Annotated[int, Path(ge=1, le=2**63 - 1)]


@router.get("/{item_id}")
async def job_page(request: Request, visitor: Reader, item_id: _ItemId) -> Response:
    return await show(request, visitor, "queue_item.html", lambda: load_job(visitor, item_id))


@router.post("/{item_id}/retry")
async def retry(visitor: Writer, item_id: _ItemId) -> Response:
    """An ended one as its document; one that waits out a failure is due now."""
    await find_embedding_job(visitor.database, visitor.tenant_id, item_id)
    scope = await open_scope(visitor.database, visitor.tenant_id, Selection(ids=(item_id,)))
    done = await retry_items(visitor.database, scope, actor=visitor.actor)
    return _back(item_id, retry_outcome(done), done)


@router.post("/{item_id}/cancel")
async def cancel(visitor: Writer, item_id: _ItemId) -> Response:
    await find_embedding_job(visitor.database, visitor.tenant_id, item_id)
    scope = await open_scope(visitor.database, visitor.tenant_id, Selection(ids=(item_id,)))
    done = await cancel_items(visitor.database, scope, actor=visitor.actor)
    return _back(item_id, "Cancelled; vectors that stand stay." if done else "It has ended meanwhile.", done)


@router.post("/{item_id}/priority")
async def change_priority(
    visitor: Writer, item_id: _ItemId, priority: Annotated[Literal["high", "medium", "low"], Form()]
) -> Response:
    await find_embedding_job(visitor.database, visitor.tenant_id, item_id)
    try:
        before = await set_priority(
            visitor.database, visitor.tenant_id, item_id, priority, actor=visitor.actor
        )
    except EmbedmillError as error:
        return redirect(f"/queue/jobs/{item_id}", str(error), is_error=True)
    return redirect(f"/queue/jobs/{item_id}", f"Its priority is {priority} now; it was {before}.")


async def load_job(visitor: Visitor, item_id: int) -> Mapping[str, Any]:
    database, tenant_id = visitor.database, visitor.tenant_id
    history = await find_embedding_job(database, tenant_id, item_id)
    item = await read_item(database, tenant_id, item_id)
    ids = [attempt.id for attempt in history.attempts]
    status = str(item["status"])
    return {
        "job": history.job,
        "item": item,
        "status": status,
        "attempts": history.attempts,
        "tokens": await _tokens(database, tenant_id, ids),
        "dead_letters": history.dead_letters,
        "reasons": await explain_item(database, tenant_id, item_id),
        "available_at": _moment(item.get("available_at")),
        "started_at": _moment(item.get("processing_started_at")),
        "deadline": _moment(item.get("lease_deadline")),
        "heartbeat_at": _moment(item.get("worker_heartbeat_at")),
        "priorities": PRIORITIES,
        "may_cancel": status in _WAITING | {"processing"},
        "may_retry": status in {"failed", "cancelled"} or _waits_out(item),
        "may_reorder": status in _WAITING,
    }


async def _tokens(database: Database, tenant_id: int, ids: Sequence[int]) -> dict[int, int]:
    """What items were charged, by their ids."""
    async with database.transaction() as connection:
        await connection.execute(_SQL["by_kept_plan"])
        asked = {"ids": list(ids), "tenant_id": tenant_id}
        cursor = await connection.execute(_SQL["tokens"], asked, prepare=True)
        return dict(await cursor.fetchall())


def _waits_out(item: Mapping[str, Any]) -> bool:
    """Whether it waits for its next attempt, which may be now as well."""
    due = _moment(item.get("available_at"))
    return item["status"] == "pending" and bool(item.get("retry_count")) and due is not None


def _moment(text: Any) -> datetime | None:
    return None if text is None or text in {"infinity", "-infinity"} else datetime.fromisoformat(str(text))


def _back(item_id: int, said: str, done: Counter[str]) -> Response:
    return redirect(f"/queue/jobs/{item_id}", said, is_error=not done)
