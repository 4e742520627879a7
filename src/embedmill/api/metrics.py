"""GET /metrics for Prometheus, and what is measured and logged of each request. Owns who may see metrics (whoever runs
the installation) and what a request is called; the figures are the service's."""

from __future__ import annotations

import asyncio
import re
import time
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Request, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedmill.access.keys import Role, hash_key
from embedmill.api.problems import Problem
from embedmill.api.service import Doorkeeper, Service, service_of
from embedmill.database.patience import AWAY
from embedmill.logs import bind, forget
from embedmill.service import ServiceApp

router = APIRouter(include_in_schema=False)
_log = structlog.get_logger(__name__)

# Whoever was let in goes on seeing what needs no database while it is away: that is when it is looked at.
_REMEMBERED_SECONDS = 600.0
# Prometheus gives up after ten seconds: less is waited for a database that is away.
_ADMIT_SECONDS = 2.0
_NO_ROUTE = "unmatched"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_AWAY = Problem(503, "database_unavailable", "the database does not answer", headers={"Retry-After": "5"})


async def admit_scraper(request: Request) -> None:
    """Raises Problem: without a key 401 or, where none are in use, 403 to strangers; 403 to other roles."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    remembered: dict[bytes, float] = request.app.state.scrapers
    service = service_of(request)
    key = request.headers.get("authorization") or request.headers.get("x-api-key") or ""
    known_as = hash_key(service.pepper, key) if key and key.isascii() else None
    try:
        async with asyncio.timeout(_ADMIT_SECONDS):
            caller = await doorkeeper.admit(request)
    except (*AWAY, TimeoutError):
        if (
            known_as is None
            or time.monotonic() - remembered.get(known_as, float("-inf")) > _REMEMBERED_SECONDS
        ):
            raise _AWAY from None
        return
    if not caller.principal.role.allows(Role.OPERATOR):
        role = caller.principal.role.value
        detail = f"metrics show every tenant: they need a key of role operator, and yours is {role}"
        raise Problem(403, "not_allowed", detail)
    remembered.clear()  # one is enough, and none is kept that was revoked
    if known_as is not None:
        remembered[known_as] = time.monotonic()


@router.get("/metrics", dependencies=[Depends(admit_scraper)])
async def metrics(request: Request, service: Service) -> Response:
    """What Prometheus asks for."""
    body, media_type = await service.metrics.render(request.headers.get("accept", ""))
    return Response(body, media_type=None, headers={"Content-Type": media_type, "Cache-Control": "no-store"})


class RequestTelemetry:
    """Measures each request and logs one line of it, when its answer ends. An address is never told, only the route:
    an address may hold what a person searched for."""

    def __init__(self, application: ASGIApp, *, service: ServiceApp) -> None:
        self._application = application
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        forget()
        telemetry = self._service.telemetry
        method = scope["method"] if scope["method"] in _METHODS else "other"
        started = time.perf_counter()
        status = 500
        answered_after: float | None = None

        async def sending(message: Message) -> None:
            nonlocal status, answered_after
            if message["type"] == "http.response.start":
                status = message["status"]
                answered_after = time.perf_counter() - started
            await send(message)

        with telemetry.span("request", parent=_traceparent(scope), method=method) as span:
            try:
                await self._application(scope, receive, sending)
            finally:
                route = _route(scope)
                seconds = time.perf_counter() - started
                telemetry.answered(
                    method=method,
                    route=route,
                    status=status,
                    seconds=seconds if answered_after is None else answered_after,
                )
                span.name(f"{method} {route}")
                span.note(route=route, status=status)
                if status >= 500:
                    span.fail(str(status))
                bind(job_id=_job_id(scope))
                _log.info(
                    "request",
                    method=method,
                    route=route,
                    status=status,
                    milliseconds=round(seconds * 1000, 1),
                )


def _route(scope: Scope) -> str:
    """The template of the route that answered. A route knows itself without the prefixes that it stands under, which
    are fixed words: the rest of the path."""
    route = scope.get("route")
    if isinstance(route, Mount):
        return f"{route.path}/{{path}}"
    if not isinstance(route, Route):
        return _NO_ROUTE
    path: str = scope["path"]
    for start, letter in enumerate(path):
        if letter == "/" and route.path_regex.match(path[start:]):
            return path[:start] + route.path_format
    return _NO_ROUTE


def _traceparent(scope: Scope) -> str | None:
    value = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
    return value.decode() if _TRACEPARENT.fullmatch(value) else None


def _job_id(scope: Scope) -> UUID | None:
    try:
        return UUID(str(scope.get("path_params", {}).get("jobId")))
    except ValueError:
        return None
