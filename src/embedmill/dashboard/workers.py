"""The page of workers: who works, on what, how fast, who is lost; the scale, the switch of the queue, and draining
one. What is the whole fleet's is shown to operators only; everybody else sees how many are at work. Owns the page;
the acts are fleet/roster.py's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.visitors import Operator, Reader, Visitor
from embedmill.errors import ConfigurationError, EmbedmillError
from embedmill.fleet.roster import (
    MOST_WORKERS,
    drain_worker,
    list_builds,
    list_sweeps,
    list_workers,
    replace_worker,
    set_scale,
)
from embedmill.queue import standing
from embedmill.queue.config import Setting, list_settings, set_value

router = APIRouter(prefix="/workers")
STATE_TONES = {
    "working": "processing",
    "idle": "idle",
    "draining": "stopping",
    "lost": "error",
    "drained": "paused",
    "stopped": "pending",
}
_SCALE = ("min_concurrent_workers", "max_concurrent_workers")


@router.get("")
async def workers_page(request: Request, visitor: Reader) -> Response:
    return await _show(request, visitor, FormReading())


@router.post("/scale")
async def scale(request: Request, visitor: Operator) -> Response:
    """Between which numbers the supervisors of all machines scale."""
    form = await FormReading.of(request)
    settings = {each.key: each for each in await list_settings(visitor.service.operator)}
    least, most = (_bound(form, settings[key]) for key in _SCALE)
    if least is not None and most is not None and not form.errors:
        try:
            await set_scale(visitor.service.operator, least=least, most=most, actor=visitor.actor)
        except ConfigurationError as error:
            form.refuse(_SCALE[0], str(error))
    if form.errors:
        return await _show(request, visitor, form, 422)
    return redirect(
        "/workers",
        f"From {least:,} to {most:,} processes on each machine: supervisors follow within seconds, those that "
        "were started with a number of their own stay as they are.",
    )


@router.post("/queue")
async def switch_queue(visitor: Operator, on: Annotated[Literal["true", "false"], Form()]) -> Response:
    """Let all workers claim, or none."""
    await set_value(visitor.service.operator, "queue_enabled", on, actor=visitor.actor)
    said = (
        "The queue is on: workers claim again within two seconds."
        if on == "true"
        else "The queue is off: within two seconds workers claim nothing more, of any tenant; calls under way are "
        "written."
    )
    return redirect("/workers", said)


@router.post("/{worker_id:uuid}/drain")
async def drain(visitor: Operator, worker_id: UUID) -> Response:
    try:
        asked = await drain_worker(visitor.service.operator, str(worker_id), actor=visitor.actor)
    except EmbedmillError as error:
        return redirect("/workers", str(error), is_error=True)
    said = "is asked to stop: calls under way are written, the rest goes back to the queue"
    return redirect("/workers", f"{asked.host} {asked.pid} {said if asked.changed else 'was asked already'}.")


@router.post("/{worker_id:uuid}/replace")
async def replace(visitor: Operator, worker_id: UUID) -> Response:
    try:
        asked = await replace_worker(visitor.service.operator, str(worker_id), actor=visitor.actor)
    except EmbedmillError as error:
        return redirect("/workers", str(error), is_error=True)
    return redirect(
        "/workers", f"A supervisor on {asked.host}, if one runs there, starts another worker within seconds."
    )


async def load_workers(visitor: Visitor, form: FormReading) -> Mapping[str, Any]:
    operator = visitor.service.operator
    if not visitor.is_operator:
        found = await standing.recent_workers(operator)
        return {"at_work": sum(worker.is_at_work for worker in found)}
    workers = await list_workers(operator)
    settings = {each.key: each for each in await list_settings(operator)}
    names = {worker.id: f"{worker.host} {worker.pid}" for worker in workers}
    return {
        "workers": workers,
        "has_more": len(workers) == MOST_WORKERS,
        "at_work": sum(worker.is_at_work for worker in workers),
        "lost": sum(worker.state == "lost" for worker in workers),
        "hosts": len({worker.host for worker in workers if worker.is_at_work}),
        "rate": sum(worker.chunks_per_minute for worker in workers),
        "held": sum(worker.items_held for worker in workers if worker.is_at_work),
        "leader": next((names[worker.id] for worker in workers if worker.leads), None),
        "names": names,
        "sweeps": await list_sweeps(operator),
        "builds": await list_builds(operator),
        "queue_enabled": settings["queue_enabled"].value,
        "scale": [settings[key] for key in _SCALE],
        "pace": [settings[key].value for key in ("scale_up_after_seconds", "scale_down_after_seconds")],
        "tones": STATE_TONES,
        "form": form,
    }


async def _show(request: Request, visitor: Visitor, form: FormReading, status: int = 200) -> Response:
    return await show(
        request, visitor, "workers.html", lambda: load_workers(visitor, form), status=status, here="/workers"
    )


def _bound(form: FormReading, setting: Setting) -> int | None:
    assert setting.minimum is not None and setting.maximum is not None  # noqa: S101, PT018 - a whole number's
    if not form.value(setting.key).strip():
        form.refuse(setting.key, "how many?")
    return form.whole(setting.key, least=setting.minimum, most=setting.maximum)
