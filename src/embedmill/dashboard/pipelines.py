"""Pipelines of a tenant, their limits and their prices. Owns the forms to pause, resume and limit; a pipeline is made
by the command line, which reads keys and models of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.visitors import Admin, Operator, Reader, Visitor
from embedmill.database.pipelines import list_pipelines
from embedmill.database.queries import load_queries
from embedmill.embed.generation_states import count_generations
from embedmill.errors import ConfigurationError, EmbedmillError
from embedmill.queue.administration import pause, resume
from embedmill.queue.sharing import Limit, list_quotas, set_quota

_SQL = load_queries("embedmill.dashboard", "sources.sql")
router = APIRouter(prefix="/settings/pipelines")
_MOST_LIMIT = 2_000_000_000


@router.get("")
async def pipelines_page(request: Request, visitor: Reader) -> Response:
    return await show(request, visitor, "pipelines.html", lambda: load_pipelines(visitor))


@router.post("/{name}/pause")
async def pause_pipeline(visitor: Admin, name: str) -> Response:
    return await _switch(visitor, name, is_paused=True)


@router.post("/{name}/resume")
async def resume_pipeline(visitor: Admin, name: str) -> Response:
    return await _switch(visitor, name, is_paused=False)


@router.post("/quotas")
async def change_quota(
    request: Request,
    visitor: Operator,
    quota_key: Annotated[str, Form(max_length=500)],
    calls: Annotated[str, Form(max_length=50)] = "",
    tokens: Annotated[str, Form(max_length=50)] = "",
) -> Response:
    """The limits of a key, for all who share it, of whatever tenant: so it is the operator's."""
    try:
        await set_quota(
            visitor.service.operator,
            visitor.tenant_id,
            quota_key,
            calls=_limit(calls, "calls a minute"),
            tokens=_limit(tokens, "tokens a minute"),
            actor=visitor.actor,
        )
    except EmbedmillError as error:
        refused = {"quota_key": quota_key, "calls": calls, "tokens": tokens, "reason": str(error)}
        return await show(
            request,
            visitor,
            "pipelines.html",
            lambda: load_pipelines(visitor, refused),
            status=422,
            here="/settings/pipelines",
        )
    return redirect("/settings/pipelines", f"The limits of {quota_key} hold from now on.")


async def load_pipelines(visitor: Visitor, refused: Mapping[str, str] | None = None) -> Mapping[str, Any]:
    database, tenant_id = visitor.database, visitor.tenant_id
    pipelines = await list_pipelines(database, tenant_id)
    embedded = dict(await database.fetch(_SQL["embedded"], {"tenant_id": tenant_id}))
    generations = await count_generations(database, tenant_id)
    names = {pipeline.quota_key for pipeline in pipelines}
    return {
        "pipelines": [
            {
                "pipeline": pipeline,
                "embedded": embedded.get(pipeline.name, 0),
                "generations": generations[pipeline.id],
            }
            for pipeline in pipelines
        ],
        "quotas": [quota for quota in await list_quotas(database, tenant_id) if quota.quota_key in names],
        "refused": refused,
    }


def _limit(typed: str, noun: str) -> Limit:
    """A number, unlimited or default, as it was typed."""
    text = typed.strip().replace(",", "")
    if text == "unlimited":
        return "unlimited"
    if text == "default":
        return "default"
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_LIMIT):
        raise ConfigurationError(f"{noun}: a number from 1 to {_MOST_LIMIT:,}, unlimited or default")
    return int(text)


async def _switch(visitor: Visitor, name: str, *, is_paused: bool) -> Response:
    act = pause if is_paused else resume
    try:
        await act(visitor.service.operator, visitor.tenant_id, name, actor=visitor.actor)
    except EmbedmillError as error:
        return redirect("/settings/pipelines", str(error), is_error=True)
    said = "is paused: what is held goes on to its end, nothing more is begun" if is_paused else "goes on"
    return redirect("/settings/pipelines", f"{name} {said}.")
