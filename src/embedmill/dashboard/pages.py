"""Shows a page: whole, or as a live stream of what changes in it. Owns rendering, the stream and messages that are
shown once; must not know any one page.

A template extends base.html and has a block `live`: all of the page that changes by itself. The page's handler calls
`show(request, visitor, template, load)`; asked for a stream of events, by the same address, the block is rendered again
each second and sent when it differs. What people type in stands outside of the block, or under `hx-morph-skip`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from fastapi import Request
from jinja2 import Environment
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from embedmill import __version__
from embedmill.api.problems import Problem
from embedmill.dashboard.rendering import build_environment
from embedmill.dashboard.visitors import Visitor, is_still_welcome
from embedmill.database.patience import AWAY
from embedmill.errors import NotFoundError

Load = Callable[[], Awaitable[Mapping[str, Any]]]
"""Reads what a page shows, anew at each call."""
LOOK_SECONDS = 1.0
SILENCE_SECONDS = 15.0
_MOST_STREAMS = 200
# A page that is slow to load is loaded less often, but no reader waits for longer than this.
_PAUSE_BY_LOAD = 4.0
_LONGEST_PAUSE_SECONDS = 4.0
_MESSAGE_COOKIE = "embedmill_message"
_MESSAGE_SECONDS = 30
_environment: Environment = build_environment()


async def show(
    request: Request,
    visitor: Visitor,
    template: str,
    load: Load,
    *,
    status: int = 200,
    here: str | None = None,
) -> Response:
    """The page, or its stream where one is asked for. `here` is the page's own address, from which it is kept live,
    where it is not the request's: the answer to a form."""
    # htmx's extension accepts a stream for whatever it asks, for the answer to a form as well.
    if request.method == "GET" and "text/event-stream" in request.headers.get("accept", ""):
        return _stream(request, visitor, template, load)
    context = await _context(request, visitor, load)
    html = _environment.get_template(template).render({**context, "here": here or context["here"]})
    return _html(html, status, clear_message=bool(context["message"]))


def show_plain(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A page for whoever is not let in, or where nothing works: no visitor, no database."""
    values = {
        **_always(request),
        "status": status,
        "visitor": None,
        "tenants": [],
        "message": None,
        **context,
    }
    return _html(_environment.get_template(template).render(values), status)


def redirect(path: str, message: str | None = None, *, is_error: bool = False) -> RedirectResponse:
    """To another page, after an act; the message is shown there once."""
    response = RedirectResponse(path, status_code=303)
    if message is not None:
        kind = "error" if is_error else "done"
        response.set_cookie(
            _MESSAGE_COOKIE,
            quote(f"{kind} {message[:1000]}"),
            max_age=_MESSAGE_SECONDS,
            httponly=True,
            samesite="strict",
        )
    return response


async def _context(request: Request, visitor: Visitor, load: Load) -> dict[str, Any]:
    """What every page needs, and what this one does."""
    return {
        **_always(request),
        "visitor": visitor,
        "tenants": await visitor.tenants(),
        "message": _message(request),
        **await load(),
    }


def _always(request: Request) -> dict[str, Any]:
    query = f"?{request.url.query}" if request.url.query else ""
    return {
        "path": request.url.path,
        "here": request.url.path + query,
        "version": __version__,
        "only_live": False,
    }


def _message(request: Request) -> tuple[str, str] | None:
    """(done or error, what is said), if the act before this page said something."""
    kind, _, text = unquote(request.cookies.get(_MESSAGE_COOKIE, "")).partition(" ")
    return (kind, text) if kind in {"done", "error"} and text else None


def _html(html: str, status: int, *, clear_message: bool = False) -> HTMLResponse:
    response = HTMLResponse(html, status, headers={"Cache-Control": "no-store", "Vary": "Accept, Cookie"})
    if clear_message:
        response.delete_cookie(_MESSAGE_COOKIE)
    return response


def _stream(request: Request, visitor: Visitor, template: str, load: Load) -> StreamingResponse:
    streams: Counter[int] = request.app.state.streams
    if streams[visitor.tenant_id] >= _MOST_STREAMS:
        detail = f"this tenant has {_MOST_STREAMS} live pages open already: close some"
        raise Problem(429, "too_many_streams", detail, headers={"Retry-After": "10"})

    async def counted() -> AsyncIterator[bytes]:
        streams[visitor.tenant_id] += 1
        try:
            async for piece in _pieces(request, visitor, template, load):
                yield piece
        finally:
            streams[visitor.tenant_id] -= 1

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(counted(), media_type="text/event-stream", headers=headers)


async def _pieces(request: Request, visitor: Visitor, template: str, load: Load) -> AsyncIterator[bytes]:
    """The block `live` whenever it has changed, until the service stops or the visitor is not welcome any more."""
    shown: str | None = None
    spoke_at = asked_at = time.monotonic()
    yield b": live\n\n"
    while not visitor.service.stopping.is_set():
        began_at = time.monotonic()
        try:
            if began_at - asked_at > SILENCE_SECONDS:
                if not await is_still_welcome(request, visitor):
                    yield b"event: ended\ndata: login\n\n"
                    return
                asked_at = began_at
            context = {**await _context(request, visitor, load), "only_live": True}
            html = _environment.get_template(template).render(context)
            if html != shown:
                yield _event(html)
                shown, spoke_at = html, time.monotonic()
            elif began_at - spoke_at > SILENCE_SECONDS:
                yield b": still here\n\n"
                spoke_at = began_at
        except AWAY:
            yield b": the database is away\n\n"
        except NotFoundError:
            yield b"event: ended\ndata: gone\n\n"
            return
        pause = (time.monotonic() - began_at) * _PAUSE_BY_LOAD
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                visitor.service.stopping.wait(), min(max(LOOK_SECONDS, pause), _LONGEST_PAUSE_SECONDS)
            )


def _event(html: str) -> bytes:
    """One event without a name, which htmx puts into its place."""
    return "".join(f"data: {line}\n" for line in html.splitlines()).encode() + b"\n"
