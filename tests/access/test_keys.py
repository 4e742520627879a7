"""Keys let in whom they name, for as long as they hold, and stand nowhere but with their owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio

from embedmill.access.keys import (
    NewKey,
    Principal,
    Role,
    authenticate,
    create_key,
    has_keys,
    list_keys,
    revoke_key,
)
from embedmill.database.pool import Database
from embedmill.errors import ConfigurationError, NotFoundError

PEPPER = b"a pepper for tests, 32 bytes long"


@pytest_asyncio.fixture
async def owner(database: str) -> AsyncIterator[Database]:
    async with Database(database) as opened:
        await opened.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('acme')")
        yield opened


@pytest_asyncio.fixture
async def service(owner: Database) -> AsyncIterator[Database]:
    """As the service connects: with its role, and no tenant set."""
    async with Database(owner.url, role="embedmill_service") as opened:
        yield opened


async def make(
    owner: Database, role: Role = Role.WRITER, expires_in: float | None = None, tenant: str = "acme"
) -> NewKey:
    return await create_key(
        owner, PEPPER, tenant=tenant, role=role, name="test", expires_in_seconds=expires_in, actor="ann"
    )


async def test_a_key_names_its_tenant_and_role_and_is_noted_as_used(
    owner: Database, service: Database
) -> None:
    made = await make(owner)
    assert made.key.last_used_at is None
    principal = await authenticate(service, PEPPER, made.secret)
    assert principal == Principal(principal.tenant_id if principal else 0, "acme", made.key.id, Role.WRITER)
    (listed,) = await list_keys(owner)
    assert listed.last_used_at is not None
    assert (listed.state, listed.created_by, made.secret.startswith(listed.prefix)) == ("active", "ann", True)


async def test_no_row_of_the_database_and_no_repr_holds_the_key(owner: Database) -> None:
    made = await make(owner)
    assert len(made.secret) == 46
    assert made.secret not in repr(made)
    rows = await owner.fetch(
        "SELECT to_jsonb(k)::text FROM embedmill.api_keys k "
        "UNION ALL SELECT to_jsonb(a)::text FROM embedmill.audit_log a"
    )
    assert len(rows) == 2
    for (row,) in rows:
        assert made.secret not in row
        assert made.secret[len(made.key.prefix) :] not in row


async def test_what_is_nobodys_key_lets_nobody_in(owner: Database, service: Database) -> None:
    secret = (await make(owner)).secret
    swapped = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    wrong = [swapped, secret[:-1], secret + "A", secret.upper(), " " + secret, secret + "\n", "", "em_",
             "em_" + "ä" * 43, "\x00" * 46, "em_" + "'" * 43, "\ud800" * 46]  # fmt: skip
    for presented in wrong:
        assert await authenticate(service, PEPPER, presented) is None, repr(presented)
    assert await authenticate(service, PEPPER + b"!", secret) is None, "under another pepper"
    assert await authenticate(service, PEPPER, secret) is not None


async def test_a_revoked_key_lets_nobody_in_from_then_on(owner: Database, service: Database) -> None:
    made, other = await make(owner), await make(owner)
    key, was_good = await revoke_key(owner, made.key.id, actor="bob")
    assert (key.state, was_good) == ("revoked", True)
    assert await authenticate(service, PEPPER, made.secret) is None
    assert await authenticate(service, PEPPER, other.secret) is not None
    assert (await revoke_key(owner, made.key.id, actor="bob"))[1] is False
    with pytest.raises(NotFoundError):
        await revoke_key(owner, uuid4(), actor="bob")
    log = await owner.fetch("SELECT actor, action, subject FROM embedmill.audit_log ORDER BY id")
    assert log == [
        ("ann", "key.create", str(made.key.id)),
        ("ann", "key.create", str(other.key.id)),
        ("bob", "key.revoke", str(made.key.id)),
    ]


async def test_only_ones_own_tenants_key_is_revoked_where_a_tenant_is_named(owner: Database) -> None:
    made = await make(owner)
    with pytest.raises(NotFoundError):
        await revoke_key(owner, made.key.id, actor="eve", tenant_id=1)
    assert (await list_keys(owner))[0].state == "active"


async def test_an_expired_key_lets_nobody_in(owner: Database, service: Database) -> None:
    made = await make(owner, expires_in=3600)
    assert await authenticate(service, PEPPER, made.secret) is not None
    assert await has_keys(owner)
    await owner.fetch("UPDATE embedmill.api_keys SET expires_at = clock_timestamp()")
    assert await authenticate(service, PEPPER, made.secret) is None
    assert (await list_keys(owner))[0].state == "expired"
    assert not await has_keys(owner)


async def test_use_is_noted_once_a_minute(owner: Database, service: Database) -> None:
    made = await make(owner)
    for age, noted in ((61, True), (50, False)):
        then = datetime.now(UTC) - timedelta(seconds=age)
        await owner.fetch("UPDATE embedmill.api_keys SET last_used_at = %s", (then,))
        await authenticate(service, PEPPER, made.secret)
        (row,) = await owner.fetch("SELECT last_used_at FROM embedmill.api_keys")
        assert (row[0] > then) is noted


async def test_nobody_waits_for_another_who_notes_the_use(owner: Database, service: Database) -> None:
    made = await make(owner)
    async with owner.transaction() as connection, asyncio.timeout(10):
        await connection.execute("SELECT FROM embedmill.api_keys FOR UPDATE")
        found = await asyncio.gather(*(authenticate(service, PEPPER, made.secret) for _ in range(8)))
    assert all(found)


async def test_the_services_role_sees_no_key_by_itself_and_others_may_not_even_ask(
    owner: Database, service: Database
) -> None:
    await make(owner)
    assert await service.fetch("SELECT id FROM embedmill.api_keys") == []
    async with owner.transaction() as connection:
        await connection.execute("SET LOCAL ROLE embedmill_reader")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("SELECT * FROM embedmill.authenticate_key('\\x00')")


async def test_a_tenant_makes_and_sees_its_own_keys_only(owner: Database, service: Database) -> None:
    mine, others = await make(owner, tenant="default"), await make(owner)
    acting = service.for_tenant(1, actor="key x")
    assert [key.id for key in await list_keys(acting)] == [mine.key.id]
    with pytest.raises(NotFoundError):
        await revoke_key(acting, others.key.id, actor="key x")
    with pytest.raises(NotFoundError, match="there are: default"):
        await make(acting)
    assert (await make(acting, tenant="default")).key.tenant == "default"


@pytest.mark.parametrize(
    ("tenant", "name", "expires_in", "error", "said"),
    [
        ("nobody", "n", None, NotFoundError, "there are: acme, default"),
        ("acme", "", None, ConfigurationError, "name"),
        ("acme", "a\nb", None, ConfigurationError, "name"),
        ("acme", "n" * 201, None, ConfigurationError, "name"),
        ("acme", "n", 0.0, ConfigurationError, "100 years"),
        ("acme", "n", 1e12, ConfigurationError, "100 years"),
    ],
)
async def test_what_cannot_be_is_refused(
    owner: Database, tenant: str, name: str, expires_in: float | None, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        await create_key(
            owner,
            PEPPER,
            tenant=tenant,
            role=Role.READER,
            name=name,
            expires_in_seconds=expires_in,
            actor="ann",
        )
    assert await list_keys(owner) == []


def test_each_role_may_what_those_before_it_may() -> None:
    assert [[role.allows(needed) for needed in Role] for role in Role] == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [True, True, True, True],
    ]
