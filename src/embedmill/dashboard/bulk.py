"""Retry and cancel by filter: what it would be about first, then the act, which goes on in the service while one
watches it or looks elsewhere. Owns the dry run and the page of an act; how it is done in steps is queue/'s."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.queue_filter import STATES, FromQuery, QueueFilter, from_form
from embedmill.dashboard.queue_words import outcome
from embedmill.dashboard.rendering import link
from embedmill.dashboard.visitors import Reader, Visitor, Writer
from embedmill.database.pipelines import list_pipelines
from embedmill.errors import ConflictError, NotFoundError
from embedmill.queue.acting import Progress
from embedmill.queue.administration import (
    Matched,
    cancel_items,
    count_cancellable,
    count_retryable,
    preview_retry,
    retry_items,
    sample_cancellable,
)
from embedmill.queue.selection import Scope, open_scope

router = APIRouter(prefix="/queue")
Verb = Literal["retry", "cancel"]
_SAMPLE = 8
_ALLOWED = {"retry": {"", "failed", "cancelled", "pending"}, "cancel": {"", "pending", "processing"}}


@router.get("/bulk")
async def bulk_page(request: Request, visitor: Writer, wanted: FromQuery, act: Verb = "retry") -> Response:
    """What an act would be about; nothing is changed."""
    return await _show_dry_run(request, visitor, act, wanted)


@router.post("/bulk")
async def begin_bulk(request: Request, visitor: Writer, act: Annotated[Verb, Form()]) -> Response:
    """Begin it, for what matches now."""
    form = await FormReading.of(request)
    wanted = from_form(form)
    scope = await _scope(visitor, act, wanted)
    matched = None if scope is None else await _count(visitor, act, scope)
    if scope is None or matched is None or not matched.items:
        return await _show_dry_run(request, visitor, act, wanted)
    title = f"{act.capitalize()} {wanted.words() or 'all there are'}"
    work = partial(_retry if act == "retry" else _cancel, visitor, scope)
    try:
        running = visitor.service.acts.begin(
            visitor.tenant_id, title, matched.items, work, actor=visitor.actor
        )
    except ConflictError as error:
        return redirect(link("/queue/bulk", wanted.typed, act=act), str(error), is_error=True)
    return redirect(f"/queue/acts/{running.id}")


@router.get("/acts/{act_id:uuid}")
async def act_page(request: Request, visitor: Reader, act_id: UUID) -> Response:
    async def load() -> Mapping[str, Any]:
        act = visitor.service.acts.find(visitor.tenant_id, act_id)
        return {"act": act, "outcome": outcome(act.counts) if act.state == "done" else ""}

    return await show(request, visitor, "queue_act.html", load)


@router.post("/acts/{act_id:uuid}/stop")
async def stop_act(visitor: Writer, act_id: UUID) -> Response:
    visitor.service.acts.find(visitor.tenant_id, act_id).stop()
    return redirect(
        f"/queue/acts/{act_id}", "It ends with the step that is under way; what is done stays done."
    )


async def _retry(visitor: Visitor, scope: Scope, on_progress: Progress) -> Counter[str]:
    return await retry_items(visitor.database, scope, actor=visitor.actor, on_progress=on_progress)


async def _cancel(visitor: Visitor, scope: Scope, on_progress: Progress) -> Counter[str]:
    return await cancel_items(visitor.database, scope, actor=visitor.actor, on_progress=on_progress)


async def _show_dry_run(request: Request, visitor: Visitor, act: Verb, wanted: QueueFilter) -> Response:
    if "text/event-stream" in request.headers.get("accept", ""):
        # Nothing on this page changes by itself: it is not counted again each second.
        return await show(request, visitor, "queue_bulk.html", _nothing)
    scope = await _scope(visitor, act, wanted)
    here = link("/queue/bulk", wanted.typed, act=act)
    return await show(
        request,
        visitor,
        "queue_bulk.html",
        lambda: _load_dry_run(visitor, act, wanted, scope),
        status=422 if wanted.errors else 200,
        here=here,
    )


async def _nothing() -> Mapping[str, Any]:
    return {}


async def _load_dry_run(
    visitor: Visitor, act: Verb, wanted: QueueFilter, scope: Scope | None
) -> Mapping[str, Any]:
    matched, sample, cost = Matched({}, []), [], None
    if scope is not None and act == "retry":
        preview = await preview_retry(visitor.database, scope, limit=_SAMPLE)
        matched, sample, cost = preview.matched, preview.sample, preview.cost
    elif scope is not None:
        matched = await count_cancellable(visitor.database, scope)
        sample = await sample_cancellable(visitor.database, scope, limit=_SAMPLE) if matched.items else []
    pipelines = await list_pipelines(visitor.database, visitor.tenant_id)
    return {
        "act": act,
        "wanted": wanted,
        "matched": matched,
        "sample": sample,
        "cost": cost,
        "pipelines": [pipeline.name for pipeline in pipelines],
        "states": [state for state in STATES if state in _ALLOWED[act]],
    }


async def _count(visitor: Visitor, act: Verb, scope: Scope) -> Matched:
    return await (count_retryable if act == "retry" else count_cancellable)(visitor.database, scope)


async def _scope(visitor: Visitor, act: Verb, wanted: QueueFilter) -> Scope | None:
    """What is meant; None where that cannot be, or names nothing."""
    await wanted.read(visitor)
    if (wanted.status or "") not in _ALLOWED[act]:
        possible = ", ".join(sorted(_ALLOWED[act] - {""}))
        wanted.form.refuse("status", f"to {act}, jobs that are {possible}")
    if wanted.errors or wanted.is_of_nothing:
        return None
    try:
        return await open_scope(visitor.database, visitor.tenant_id, wanted.selection())
    except NotFoundError as error:
        wanted.form.refuse("pipeline" if wanted.pipeline else "job", str(error))
        return None
