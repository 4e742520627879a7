"""Puts the dashboard beside the API: its pages, files, headers, errors. Owns how they are put together; must not render
or ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from importlib.resources import files

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedmill.api.problems import Problem, problem_of, problem_response
from embedmill.api.wire import InvalidCursorError
from embedmill.dashboard import (
    adding_table,
    alerts,
    audits,
    bulk,
    dead_letters,
    document_upload,
    documents,
    job_acts,
    job_page,
    job_preview,
    keys,
    login,
    migration_acts,
    migrations,
    overview,
    pipelines,
    queue,
    queue_item,
    search,
    settings,
    source_acts,
    source_page,
    sources,
    usage,
    usage_csv,
    webhooks,
    workers,
)
from embedmill.dashboard.pages import show_plain
from embedmill.dashboard.rendering import link
from embedmill.dashboard.visitors import LoginNeededError
from embedmill.database.patience import AWAY
from embedmill.errors import EmbedmillError

_log = structlog.get_logger(__name__)
_STATIC = files("embedmill.dashboard") / "static"
_MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "txt": "text/plain"}
_HEADERS = {
    # Nothing but our own files, no inline script or style, nobody's frame, forms to us only.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_PARTS = (
    overview,
    documents,
    document_upload,
    job_page,
    job_preview,
    job_acts,
    alerts,
    sources,
    source_page,
    source_acts,
    adding_table,
    audits,
    migrations,
    migration_acts,
    pipelines,
    keys,
    webhooks,
    settings,
    usage,
    usage_csv,
    search,
    queue,
    bulk,
    queue_item,
    dead_letters,
    workers,
    login,
)


def add_dashboard(application: FastAPI) -> None:
    """Answer what the API does not."""
    dashboard = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    dashboard.state = application.state
    for part in _PARTS:
        dashboard.include_router(part.router)
    dashboard.add_api_route("/static/{name}", _static, methods=["GET"])
    _install_errors(dashboard)
    dashboard.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=6)
    # Around it all: what nobody expected is answered outside of its middleware.
    application.mount("/", _Headers(dashboard))


async def _static(name: str) -> Response:
    """A file of ours. Its address holds the hash of its content."""
    ending = name.rpartition(".")[2]
    if "/" in name or ending not in _MEDIA_TYPES or not (_STATIC / name).is_file():
        raise HTTPException(404, "there is no such file")
    return Response(
        (_STATIC / name).read_bytes(),
        media_type=_MEDIA_TYPES[ending],
        headers={"Cache-Control": "public, max-age=31536000, immutable"},
    )


class _Headers:
    """What a browser is told with every answer, so that it helps to keep strangers out."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._application(scope, receive, with_headers)


def _install_errors(dashboard: FastAPI) -> None:
    answers: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        LoginNeededError: _to_login,
        Problem: _answer_problem,
        EmbedmillError: _answer_known,
        HTTPException: _answer_http,
        RequestValidationError: _answer_invalid,
        InvalidCursorError: _answer_cursor,
        **dict.fromkeys(AWAY, _answer_away),
        psycopg.DataError: _answer_data,
        ClientDisconnect: _answer_nobody,
        Exception: _answer_unexpected,
    }
    for kind, answer in answers.items():
        dashboard.add_exception_handler(kind, answer)


async def _to_login(request: Request, error: Exception) -> Response:
    assert isinstance(error, LoginNeededError)  # noqa: S101 - registered for it
    if "text/event-stream" in request.headers.get("accept", ""):
        return problem_response(Problem(401, "not_authenticated", "log in first"))
    return RedirectResponse(link("/login", next=error.path if error.path != "/" else None), status_code=303)


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - registered for it
    return _page(request, error.status, error.detail, error.headers)


async def _answer_known(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    return _page(request, problem.status, problem.detail, problem.headers)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if request.url.path.startswith("/api/"):
        return problem_response(Problem(error.status_code, "not_found", str(error.detail)))
    detail = "there is no such page" if error.status_code == 404 else str(error.detail)
    return _page(request, error.status_code, detail, error.headers)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    found = error.errors()
    if found and found[0]["loc"][0] == "path":
        return _page(request, 404, "there is no such page")
    name = ".".join(str(part) for part in found[0]["loc"][1:]) if found else ""
    return _page(request, 422, f"{name}: {found[0]['msg']}" if found else "the address cannot be read")


async def _answer_cursor(request: Request, _: Exception) -> Response:
    return _page(
        request, 422, "this address names a place in a list that does not exist: begin at its first page"
    )


async def _answer_data(request: Request, _: Exception) -> Response:
    """A value that PostgreSQL cannot hold, such as a NUL character or a number beyond its type."""
    return _page(request, 422, "a value in this address or form cannot be stored")


async def _answer_away(request: Request, error: Exception) -> Response:
    _log.warning("database away", error=str(error).strip())
    return _page(request, 503, "the database is away: this page tries again by itself", {"Refresh": "5"})


async def _answer_nobody(_: Request, __: Exception) -> Response:
    """The browser went away while its request was read: nobody reads this."""
    return Response(status_code=400)


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    _log.error("page failed", path=request.url.path, error=type(error).__name__, exc_info=error)
    return _page(request, 500, "something went wrong here; it has been logged")


def _page(request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    response = show_plain(request, "error.html", status, reason=_reason(status), detail=detail)
    response.headers.update(headers or {})
    return response


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
