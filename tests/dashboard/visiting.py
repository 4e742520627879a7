"""Visits to the dashboard over plain HTTP, for what needs no browser. Owns logging in and the token of forms; must not
assert what a page is for."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import httpx2

from embedmill.access.keys import Role, create_key
from tests.support.serving import Serving, client_at


async def key_of(one: Serving, role: Role, tenant: str = "default") -> tuple[str, UUID]:
    """A new key of a tenant, and its id."""
    made = await create_key(
        one.service.operator,
        one.service.pepper,
        tenant=tenant,
        role=role,
        name="test",
        expires_in_seconds=None,
        actor="test",
    )
    return made.secret, made.key.id


@asynccontextmanager
async def log_in(one: Serving, secret: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with a session of this key."""
    async with client_at(one.address) as client:
        answer = await client.post("/login", data={"key": secret, "next": "/"})
        assert answer.status_code == 303, answer.text
        yield client


def token_in(html: str) -> str:
    """The token that the forms of a page carry."""
    found = re.search(r'name="form-token" content="([^"]+)"', html)
    assert found is not None
    return found[1]
