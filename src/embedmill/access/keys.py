"""Keys of the API: made, listed, revoked, and asked whose they are. Owns what a key looks like and how it is hashed;
must not log or store a key: it is shown once, by whoever asked for it."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, NotAllowedError, NotFoundError

_SQL = load_queries("embedmill.access", "keys.sql")
_KEY = re.compile(r"em_[A-Za-z0-9_-]{43}")  # 256 random bits in base64url
_SHOWN = 11  # of a key: "em_" and 48 of the bits, which leaves 208
_LONGEST_NAME = 200
_LONGEST_LIFE_SECONDS = 100 * 366 * 86_400


class Role(StrEnum):
    """What a key may do: each role may what those before it may."""

    READER = "reader"
    WRITER = "writer"
    ADMIN = "admin"
    OPERATOR = "operator"
    """Whoever runs the installation: every tenant, the workers, what is configured for all."""

    def allows(self, needed: Role) -> bool:
        """Whether this role may do what asks for `needed`."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class Principal(msgspec.Struct, frozen=True):
    """Who a request comes from. `key_id` of None: nobody was asked for a key (one user, on this machine)."""

    tenant_id: int
    tenant_slug: str
    key_id: UUID | None
    role: Role

    @property
    def actor(self) -> str:
        """How the audit log names whoever acts with this key."""
        return "local user" if self.key_id is None else f"key {self.key_id}"


class ApiKey(msgspec.Struct, frozen=True):
    """A key as it may be shown: `prefix` is its beginning; `state` is active, expired or revoked."""

    id: UUID
    tenant: str
    name: str
    role: str
    prefix: str
    state: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewKey(msgspec.Struct, frozen=True):
    """A key just made: `secret` is the key itself, and stands nowhere else. Its repr does not show it."""

    key: ApiKey
    secret: str

    def __repr__(self) -> str:
        return f"NewKey(key={self.key!r}, secret='{self.key.prefix}...')"


async def create_key(
    database: Database,
    pepper: bytes,
    *,
    tenant: str,
    role: Role,
    name: str,
    expires_in_seconds: float | None,
    actor: str,
) -> NewKey:
    """Make a key of the tenant with this slug. Raises NotFoundError, and ConfigurationError for a name or a life that
    cannot be."""
    if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ConfigurationError(
            f"a key's name is one line of 1 to {_LONGEST_NAME} characters that can be seen"
        )
    if expires_in_seconds is not None and not 0 < expires_in_seconds <= _LONGEST_LIFE_SECONDS:
        raise ConfigurationError("a key lives for more than 0 seconds and at most 100 years")
    secret = "em_" + secrets.token_urlsafe(32)
    async with database.transaction() as connection:
        tenant_id = await _tenant_id(connection, tenant)
        cursor = await connection.execute(
            _SQL["create"],
            {
                "tenant_id": tenant_id,
                "name": name,
                "role": role.value,
                "prefix": secret[:_SHOWN],
                "key_hmac": hash_key(pepper, secret),
                "created_by": actor,
                "expires_in_seconds": expires_in_seconds,
            },
        )
        ((key_id,),) = await cursor.fetchall()
        (key,) = await _list(connection, None, key_id)
        await _record(connection, tenant_id, "key.create", key, actor)
    return NewKey(key, secret)


def assert_may_give(giver: Role, given: Role) -> None:
    """Nobody makes a key that may more than he may himself. Raises NotAllowedError."""
    if not giver.allows(given):
        raise NotAllowedError(
            f"a key of role {given.value} is made by one of that role, and yours is {giver.value}"
        )


async def list_keys(database: Database, tenant: str | None = None) -> list[ApiKey]:
    """Every key there was, newest first: of one tenant, or of all that may be seen. Raises NotFoundError."""
    async with database.connection() as connection:
        tenant_id = None if tenant is None else await _tenant_id(connection, tenant)
        return await _list(connection, tenant_id, None)


async def revoke_key(
    database: Database,
    key_id: UUID,
    *,
    actor: str,
    tenant_id: int | None = None,
    revoker: Role = Role.OPERATOR,
) -> tuple[ApiKey, bool]:
    """Let nobody in with this key any more; the key, and whether it was good until now. `tenant_id`: only if it is
    that tenant's; `revoker`: only if its role is no higher. Raises NotFoundError, NotAllowedError."""
    async with database.transaction() as connection:
        given = {"key_id": key_id, "tenant_id": tenant_id, "revoker": revoker.value}
        revoked = await (await connection.execute(_SQL["revoke"], given)).fetchone()
        found = await _list(connection, tenant_id, key_id)
        if not found:
            raise NotFoundError(f"there is no key {key_id}: `embedmill keys list` shows those there are")
        if not revoker.allows(Role(found[0].role)):
            raise NotAllowedError(f"a key of role {found[0].role} is revoked by one of that role")
        if revoked is not None:
            await _record(connection, revoked[0], "key.revoke", found[0], actor)
    return found[0], revoked is not None


async def authenticate(database: Database, pepper: bytes, presented_key: str) -> Principal | None:
    """Whose key this is; None where it is nobody's, was revoked or has expired. How long it takes says nothing of how
    much of a key was right: what is looked up is its HMAC."""
    if not is_key(presented_key):
        return None
    row = await database.fetch_one(_SQL["authenticate"], {"key_hmac": hash_key(pepper, presented_key)})
    return None if row is None else Principal(row[0], row[1], row[2], Role(row[3]))


async def has_keys(database: Database) -> bool:
    """Whether there is any key that lets somebody in; asked as the owner, who sees those of all tenants."""
    row = await database.fetch_one(_SQL["has_keys"])
    return bool(row and row[0])


def is_key(presented: str) -> bool:
    """Whether it looks like a key of ours."""
    return _KEY.fullmatch(presented) is not None


def hash_key(pepper: bytes, key: str) -> bytes:
    """Under what a key is found: 32 bytes."""
    return hmac.new(pepper, key.encode("ascii"), hashlib.sha256).digest()


async def _tenant_id(connection: Connection, slug: str) -> int:
    row = await (await connection.execute(_SQL["find_tenant"], {"slug": slug})).fetchone()
    if row is None:
        names = await (await connection.execute(_SQL["tenant_names"])).fetchone()
        raise NotFoundError(f"there is no tenant {slug!r}; there are: {names[0] if names else 'none'}")
    return int(row[0])


async def _list(connection: Connection, tenant_id: int | None, key_id: UUID | None) -> list[ApiKey]:
    cursor = await connection.execute(_SQL["list"], {"tenant_id": tenant_id, "key_id": key_id})
    return [ApiKey(*row) for row in await cursor.fetchall()]


async def _record(connection: Connection, tenant_id: int, action: str, key: ApiKey, actor: str) -> None:
    """The act in the audit log; what stands there of the key may be read by anybody."""
    about = {"name": key.name, "role": key.role, "prefix": key.prefix, "expires_at": key.expires_at}
    await connection.execute(_SQL["act_as"], {"actor": actor})
    await connection.execute(
        _SQL["record_action"],
        {
            "tenant_id": tenant_id,
            "action": action,
            "subject": str(key.id),
            "new_value": msgspec.json.encode(about).decode(),
        },
    )
