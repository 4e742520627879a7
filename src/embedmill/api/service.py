"""The service as its endpoints see it: databases, the store of originals, who calls. Owns what lives as long as the
process; must not know an endpoint."""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from embedmill.access.keys import Principal, Role, authenticate, has_keys
from embedmill.access.limits import RequestLimiter
from embedmill.api.problems import Problem
from embedmill.database.pool import TenantDatabase
from embedmill.logs import bind
from embedmill.service import ServiceApp

_LOOK_SECONDS = 2.0
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


class Caller:
    """Who asks, and the database as that tenant may see it."""

    def __init__(self, principal: Principal, database: TenantDatabase) -> None:
        self.principal = principal
        self.tenant_id = principal.tenant_id
        self.database = database


class Doorkeeper:
    """Lets callers in by their key; without any key in the database, whoever sits at this machine."""

    def __init__(self, service: ServiceApp, *, needs_keys: bool) -> None:
        self._service = service
        self._needs_keys = needs_keys
        self._looked_at = float("-inf")
        self._limits = RequestLimiter(service.settings.requests_per_minute)

    async def admit(self, request: Request) -> Caller:
        """Raises Problem: 401, 403 or 429."""
        presented = _presented_key(request)
        if presented is not None:
            principal = await authenticate(self._service.database, self._service.pepper, presented)
            if principal is None:
                raise Problem(
                    401,
                    "not_authenticated",
                    "this API key is not known, or it was revoked or has expired",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        else:
            principal = await self._admit_without_key(request)
        bind(tenant_id=principal.tenant_id)
        caller = Caller(
            principal, self._service.database.for_tenant(principal.tenant_id, actor=principal.actor)
        )
        await self.assert_within_rate(caller.database, principal.tenant_id)
        return caller

    async def assert_within_rate(self, database: TenantDatabase, tenant_id: int) -> None:
        """Raises Problem (429) where this tenant asks too often."""
        verdict = await self._limits.check(database, tenant_id)
        if not verdict.allowed:
            seconds = str(max(1, math.ceil(verdict.retry_after_seconds)))
            detail = f"too many requests of this tenant: try again in {seconds} s"
            raise Problem(429, "too_many_requests", detail, headers={"Retry-After": seconds})

    async def still_admits(self, request: Request) -> bool:
        """Whether a caller who was let in would be let in again: not after his key was revoked."""
        presented = _presented_key(request)
        if presented is None:
            return not await self.are_keys_needed()
        return await authenticate(self._service.database, self._service.pepper, presented) is not None

    async def _admit_without_key(self, request: Request) -> Principal:
        if await self.are_keys_needed():
            detail = "an API key is needed: Authorization: Bearer em_... (`embedmill keys create` makes one)"
            raise Problem(401, "not_authenticated", detail, headers={"WWW-Authenticate": "Bearer"})
        return await self.local_user(request)

    async def local_user(self, request: Request) -> Principal:
        """Whoever sits at this machine, where no keys are needed. Raises Problem for anybody else."""
        assert_local(request)
        return Principal(await self._service.tenant_id(), self._service.settings.tenant, None, Role.OPERATOR)

    async def are_keys_needed(self) -> bool:
        """As of a moment ago; once there are keys, they are needed as long as this process lives."""
        now = time.monotonic()
        if not self._needs_keys and now - self._looked_at > _LOOK_SECONDS:
            # Noted when it is answered: whoever comes meanwhile asks too, and is not let in unasked.
            self._needs_keys = await has_keys(self._service.operator) or self._needs_keys
            self._looked_at = now
        return self._needs_keys

    def look_again(self) -> None:
        """Ask anew at the next request whether there are keys: one was made here."""
        self._looked_at = float("-inf")


def _presented_key(request: Request) -> str | None:
    header = request.headers.get("authorization")
    if header is None:
        return request.headers.get("x-api-key")
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def assert_local(request: Request) -> None:
    """Without keys a page of some other site must not be able to act in its visitor's name: neither by a name that
    leads here, nor by a form that is sent here."""
    host = request.headers.get("host", "")
    name = host.rsplit(":", 1)[0].strip("[]") if not host.endswith("]") else host.strip("[]")
    if name != "localhost" and not _is_loopback(name):
        raise Problem(403, "not_allowed", "without API keys this service answers to localhost only")
    origin = request.headers.get("origin")
    if request.method not in _SAFE_METHODS and origin is not None and origin.partition("://")[2] != host:
        raise Problem(403, "not_allowed", "this request comes from another site; use an API key")


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def service_of(request: Request) -> ServiceApp:
    service: ServiceApp = request.app.state.service
    return service


def admit(least: Role) -> Callable[[Request], object]:
    """A dependency: the caller, whose key allows at least this."""

    async def caller(request: Request) -> Caller:
        doorkeeper: Doorkeeper = request.app.state.doorkeeper
        admitted = await doorkeeper.admit(request)
        if not admitted.principal.role.allows(least):
            detail = f"this needs a key of role {least.value}, and yours is {admitted.principal.role.value}"
            raise Problem(403, "not_allowed", detail)
        return admitted

    return caller


Service = Annotated[ServiceApp, Depends(service_of)]
Reader = Annotated[Caller, Depends(admit(Role.READER))]
Writer = Annotated[Caller, Depends(admit(Role.WRITER))]
Admin = Annotated[Caller, Depends(admit(Role.ADMIN))]
