"""API keys of a tenant: made, shown once, revoked. Owns the form; what a key is, is access/keys.py's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from embedmill.access.keys import NewKey, Role, assert_may_give, create_key, list_keys, revoke_key
from embedmill.api.service import Doorkeeper
from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.visitors import Admin, Visitor
from embedmill.errors import ConfigurationError, EmbedmillError

router = APIRouter(prefix="/settings/keys")
_DAY_SECONDS = 86_400.0
_LONGEST_DAYS = 36_500


@router.get("")
async def keys_page(request: Request, visitor: Admin) -> Response:
    return await show(request, visitor, "keys.html", lambda: load_keys(visitor))


@router.post("")
async def make_key(
    request: Request,
    visitor: Admin,
    name: Annotated[str, Form(max_length=1000)] = "",
    role: Annotated[str, Form(max_length=20)] = "reader",
    days: Annotated[str, Form(max_length=20)] = "",
) -> Response:
    """Make a key and show it, this once."""
    typed = {"name": name, "role": role, "days": days}
    try:
        made = await _make(visitor, name.strip(), role, days.strip())
    except EmbedmillError as error:
        trouble = str(error)
        return await show(
            request,
            visitor,
            "keys.html",
            lambda: load_keys(visitor, typed=typed, trouble=trouble),
            status=422,
        )
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    doorkeeper.look_again()
    return await show(request, visitor, "keys.html", lambda: load_keys(visitor, made=made), status=201)


@router.post("/{key_id}/revoke")
async def revoke(visitor: Admin, key_id: UUID) -> Response:
    """Let nobody in with it any more."""
    key, was_good = await revoke_key(
        visitor.database, key_id, actor=visitor.actor, tenant_id=visitor.tenant_id, revoker=visitor.role
    )
    said = "lets nobody in any more" if was_good else "was revoked already"
    return redirect("/settings/keys", f"The key {key.name} ({key.prefix}…) {said}.")


async def load_keys(
    visitor: Visitor,
    *,
    made: NewKey | None = None,
    typed: Mapping[str, str] | None = None,
    trouble: str | None = None,
) -> Mapping[str, Any]:
    keys = await list_keys(visitor.database, visitor.tenant)
    # The first key is its maker's own: with less he would lock himself out of all this.
    fallback = Role.READER if keys or not visitor.is_local else Role.OPERATOR
    roles = [role.value for role in Role if visitor.role.allows(role)]
    return {
        "keys": keys,
        "roles": roles,
        "revocable": [role for role in roles if visitor.role.allows(Role(role))],
        "made": made,
        "typed": typed or {"name": "", "role": fallback.value, "days": ""},
        "trouble": trouble,
        "is_first": visitor.is_local,
    }


async def _make(visitor: Visitor, name: str, role: str, days: str) -> NewKey:
    """Raises ConfigurationError, NotAllowedError."""
    if role not in {each.value for each in Role}:
        raise ConfigurationError(f"there is no role {role!r}: reader, writer, admin or operator")
    if days and not (days.isascii() and days.isdigit() and 1 <= int(days) <= _LONGEST_DAYS):
        raise ConfigurationError(
            f"a key holds for 1 to {_LONGEST_DAYS:,} days, or, left empty, until it is revoked"
        )
    assert_may_give(visitor.role, Role(role))
    return await create_key(
        visitor.database,
        visitor.service.pepper,
        tenant=visitor.tenant,
        role=Role(role),
        name=name,
        expires_in_seconds=int(days) * _DAY_SECONDS if days else None,
        actor=visitor.actor,
    )
