"""/api/v1/keys: who may call, made and revoked by a tenant's admins. Owns the wire's shapes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import Field

from embedmill.access import keys
from embedmill.access.keys import Role
from embedmill.api.problems import describe
from embedmill.api.service import Admin, Reader, Service
from embedmill.api.wire import Wire

router = APIRouter(tags=["keys"])


class NewKey(Wire):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    role: Role
    expires_in_days: Annotated[float | None, Field(gt=0, le=36_500)] = None


class ApiKey(Wire):
    """A key as it may be shown: `prefix` is its beginning."""

    id: UUID
    tenant: str
    name: str
    role: Role
    prefix: str
    state: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class CreatedKey(Wire):
    """The key itself is shown here and never again."""

    key: ApiKey
    secret: str


class KeyList(Wire):
    keys: list[ApiKey]


class Whoami(Wire):
    """Who a request is from. `keyId` is null where no key is needed."""

    tenant: str
    tenant_id: int
    role: Role
    key_id: UUID | None


@router.get("/whoami", responses=describe(401, 403, 429))
async def whoami(caller: Reader) -> Whoami:
    """Whose key this is, and what it may do."""
    principal = caller.principal
    return Whoami(
        tenant=principal.tenant_slug,
        tenant_id=principal.tenant_id,
        role=principal.role,
        key_id=principal.key_id,
    )


@router.get("/keys", responses=describe(401, 403, 429))
async def list_keys(caller: Admin) -> KeyList:
    """Every key of the tenant that there was."""
    found = await keys.list_keys(caller.database, caller.principal.tenant_slug)
    return KeyList(keys=[ApiKey.model_validate(each) for each in found])


@router.post("/keys", status_code=201, responses=describe(401, 403, 422, 429))
async def create_key(new: NewKey, caller: Admin, service: Service) -> CreatedKey:
    """Make a key for this tenant, of at most the role of one's own."""
    keys.assert_may_give(caller.principal.role, new.role)
    made = await keys.create_key(
        caller.database,
        service.pepper,
        tenant=caller.principal.tenant_slug,
        role=new.role,
        name=new.name,
        expires_in_seconds=None if new.expires_in_days is None else new.expires_in_days * 86_400,
        actor=caller.principal.actor,
    )
    return CreatedKey(key=ApiKey.model_validate(made.key), secret=made.secret)


@router.delete("/keys/{keyId}", responses=describe(401, 403, 404, 422, 429))
async def revoke_key(key_id: Annotated[UUID, Path(alias="keyId")], caller: Admin) -> ApiKey:
    """Let nobody in with this key any more."""
    revoked, _ = await keys.revoke_key(
        caller.database,
        key_id,
        actor=caller.principal.actor,
        tenant_id=caller.tenant_id,
        revoker=caller.principal.role,
    )
    return ApiKey.model_validate(revoked)
