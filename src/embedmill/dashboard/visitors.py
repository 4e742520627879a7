"""Who looks at a page: by the session of an API key, or, where no keys are needed, whoever sits at this machine. Owns
the two cookies, roles, and the check that a form comes from a page of ours; must not render.

A cookie is sent by whatever page makes the browser ask. So an act (any method but GET and HEAD) needs the form token
of its session too, in the field `form_token` or, where the body is not read here, in the header X-Form-Token; and an
Origin that is ours, where the browser names one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import Depends, Request
from starlette.responses import Response

from embedmill.access.keys import Principal, Role
from embedmill.access.sessions import (
    SESSION_SECONDS,
    is_form_token,
    local_form_token,
    read_session,
)
from embedmill.api.problems import Problem
from embedmill.api.service import Doorkeeper
from embedmill.database.pipelines import tenant_id
from embedmill.database.pool import TenantDatabase
from embedmill.database.queries import load_queries
from embedmill.errors import NotAllowedError, NotFoundError
from embedmill.logs import bind
from embedmill.service import ServiceApp

_SQL = load_queries("embedmill.dashboard", "visitors.sql")
SESSION_COOKIE = "embedmill_session"
TENANT_COOKIE = "embedmill_tenant"
TOKEN_FIELD = "form_token"  # noqa: S105 - the name of a field
TOKEN_HEADER = "X-Form-Token"  # noqa: S105 - the name of a header
_SAFE_METHODS = {"GET", "HEAD"}


class LoginNeededError(Exception):
    """Nobody is logged in: the page after the login is `path`."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class Visitor:
    """Who looks, and the database as the tenant that he looks at may see it. An operator may choose the tenant."""

    def __init__(
        self, service: ServiceApp, principal: Principal, tenant_id: int, tenant: str, form_token: str
    ) -> None:
        self.service = service
        self.principal = principal
        self.role = principal.role
        self.actor = principal.actor
        self.tenant_id = tenant_id
        self.tenant = tenant
        self.form_token = form_token
        self.database: TenantDatabase = service.database.for_tenant(tenant_id, actor=principal.actor)

    @property
    def is_local(self) -> bool:
        """Nobody was asked for a key."""
        return self.principal.key_id is None

    @property
    def is_operator(self) -> bool:
        return self.may("operator")

    def may(self, role: str) -> bool:
        """Whether the visitor's role reaches so far: reader, writer, admin, operator."""
        return self.role.allows(Role(role))

    async def tenants(self) -> list[str]:
        """Those that an operator may choose; none for anybody else."""
        if not self.is_operator:
            return []
        return [row[0] for row in await self.service.operator.fetch(_SQL["tenant_slugs"])]


def visitor_of(least: Role) -> Callable[[Request], object]:
    """A dependency: the visitor, whose role reaches at least so far, and whose form, if it is one, is ours. Raises
    LoginNeededError, NotAllowedError, Problem (429, and 403 for whoever is not at this machine)."""

    async def visitor(request: Request) -> Visitor:
        found = await find_visitor(request)
        if not found.role.allows(least):
            raise NotAllowedError(f"this needs a key of role {least.value}, and yours is {found.role.value}")
        if request.method not in _SAFE_METHODS:
            await assert_own_form(request, found.form_token)
        doorkeeper: Doorkeeper = request.app.state.doorkeeper
        await doorkeeper.assert_within_rate(found.database, found.tenant_id)
        bind(tenant_id=found.tenant_id)
        return found

    return visitor


async def find_visitor(request: Request) -> Visitor:
    """Whoever asks. Raises LoginNeededError, and Problem as the API does."""
    service: ServiceApp = request.app.state.service
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    cookie = request.cookies.get(SESSION_COOKIE)
    session = None
    if cookie is not None:
        session = await read_session(service.database, service.pepper, cookie, now=time.time())
    if session is not None:
        principal, form_token = session.principal, session.form_token
    elif await doorkeeper.are_keys_needed():
        query = f"?{request.url.query}" if request.url.query else ""
        raise LoginNeededError(request.url.path + query if request.method == "GET" else "/")
    else:
        principal, form_token = await doorkeeper.local_user(request), local_form_token(service.pepper)
    chosen_id, chosen = await _chosen_tenant(request, service, principal)
    return Visitor(service, principal, chosen_id, chosen, form_token)


async def is_still_welcome(request: Request, visitor: Visitor) -> bool:
    """Whether a visitor who was let in would be let in again, as the same."""
    try:
        found = await find_visitor(request)
    except (LoginNeededError, Problem, NotAllowedError):
        return False
    return (found.principal.key_id, found.tenant_id) == (visitor.principal.key_id, visitor.tenant_id)


def assert_own_origin(request: Request) -> None:
    """Raises NotAllowedError where the browser names another site as the one that asks."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host", ""):
        raise NotAllowedError("this form comes from another site")


async def assert_own_form(request: Request, form_token: str) -> None:
    """Raises NotAllowedError for an act that no page of ours asked for."""
    assert_own_origin(request)
    presented = request.headers.get(TOKEN_HEADER)
    if presented is None and not request.headers.get("content-type", "").startswith("multipart/"):
        field = (await request.form()).get(TOKEN_FIELD)
        presented = field if isinstance(field, str) else None
    if presented is None or not is_form_token(form_token, presented):
        raise NotAllowedError("this form is no longer good: go back, reload the page and try again")


def keep_session(request: Request, response: Response, cookie: str) -> None:
    response.set_cookie(
        SESSION_COOKIE,
        cookie,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=is_encrypted(request),
    )


def keep_tenant(request: Request, response: Response, tenant: str) -> None:
    response.set_cookie(
        TENANT_COOKIE,
        quote(tenant),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=is_encrypted(request),
    )


def is_encrypted(request: Request) -> bool:
    """As the browser sees it: a proxy before us may have taken the encryption off."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", "").lower())


async def _chosen_tenant(request: Request, service: ServiceApp, principal: Principal) -> tuple[int, str]:
    """The tenant that an operator has chosen, as long as it exists; everybody else has but one."""
    chosen = request.cookies.get(TENANT_COOKIE)
    if chosen is None or not principal.role.allows(Role.OPERATOR):
        return principal.tenant_id, principal.tenant_slug
    slug = unquote(chosen)
    try:
        return await tenant_id(service.operator, slug), slug
    except NotFoundError:
        return principal.tenant_id, principal.tenant_slug


Reader = Annotated[Visitor, Depends(visitor_of(Role.READER))]
Writer = Annotated[Visitor, Depends(visitor_of(Role.WRITER))]
Admin = Annotated[Visitor, Depends(visitor_of(Role.ADMIN))]
Operator = Annotated[Visitor, Depends(visitor_of(Role.OPERATOR))]
