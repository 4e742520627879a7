"""Log in by an API key, log out, choose a tenant. Owns nothing but the forms: sessions are access/sessions.py's."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from embedmill.access.sessions import begin_session
from embedmill.api.service import Doorkeeper
from embedmill.dashboard.pages import redirect, show_plain
from embedmill.dashboard.visitors import (
    SESSION_COOKIE,
    TENANT_COOKIE,
    Operator,
    Reader,
    is_encrypted,
    keep_session,
    keep_tenant,
)
from embedmill.database.pipelines import tenant_id
from embedmill.errors import NotAllowedError
from embedmill.service import ServiceApp

router = APIRouter()
_UNKNOWN = "This key is not known, or it was revoked or has expired."


@router.get("/login")
async def login_page(request: Request, next: str = "/") -> Response:  # noqa: A002 - the name in the address
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    if not await doorkeeper.are_keys_needed():
        return redirect("/")
    return show_plain(request, "login.html", next=_own_path(next), trouble=None)


@router.post("/login")
async def log_in(
    request: Request,
    key: Annotated[str, Form(max_length=200)] = "",
    next: Annotated[str, Form(max_length=2000)] = "/",  # noqa: A002 - the name in the form
) -> Response:
    """Begin a session. The form needs no token: nobody gains by logging a stranger in who must know a key; an Origin
    that is another's is refused all the same."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host", ""):
        raise NotAllowedError("this form comes from another site")
    service: ServiceApp = request.app.state.service
    cookie = await begin_session(service.database, service.pepper, key.strip(), now=time.time())
    if cookie is None:
        return show_plain(request, "login.html", 401, next=_own_path(next), trouble=_UNKNOWN)
    response = redirect(_own_path(next))
    keep_session(request, response, cookie)
    response.delete_cookie(TENANT_COOKIE)
    return response


@router.post("/logout")
async def log_out(request: Request, _: Reader) -> Response:
    response = redirect("/login")
    for name in (SESSION_COOKIE, TENANT_COOKIE):
        response.delete_cookie(name, httponly=True, samesite="strict", secure=is_encrypted(request))
    return response


@router.post("/tenant")
async def choose_tenant(
    request: Request, visitor: Operator, tenant: Annotated[str, Form(max_length=200)]
) -> Response:
    """Look at another tenant."""
    await tenant_id(visitor.service.operator, tenant)
    response = redirect("/")
    keep_tenant(request, response, tenant)
    return response


def _own_path(path: str) -> str:
    """Where to go after the login: a path of ours, never another host (`//host`, `/\\host`)."""
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_ours else "/"
