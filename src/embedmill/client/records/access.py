"""Who may call, and whether the service can answer."""

from __future__ import annotations

from typing import Literal, TypeAlias
from uuid import UUID

from embedmill.client.records.base import Moment, Record

Role: TypeAlias = Literal["reader", "writer", "admin", "operator"]


class ApiKey(Record, frozen=True):
    """A key as it may be shown: `prefix` is its beginning."""

    id: UUID
    tenant: str
    name: str
    role: str
    prefix: str
    state: str
    created_at: Moment
    created_by: str
    expires_at: Moment | None
    last_used_at: Moment | None
    revoked_at: Moment | None


class CreatedKey(Record, frozen=True):
    """The key itself, `secret`, is shown here and never again."""

    key: ApiKey
    secret: str

    def __repr__(self) -> str:
        return f"CreatedKey(key={self.key!r}, secret=<hidden>)"


class KeyList(Record, frozen=True):
    keys: tuple[ApiKey, ...]


class Whoami(Record, frozen=True):
    """Who a request is from. `key_id` is None where no key is needed."""

    tenant: str
    tenant_id: int
    role: str
    key_id: UUID | None


class Health(Record, frozen=True):
    status: str


class Readiness(Record, frozen=True):
    """`status` is "ready" where database and store of originals answer, and the schema is one that the service works
    on."""

    status: str
    database: str
    migrations: str
    originals: str

    @property
    def is_ready(self) -> bool:
        return self.status == "ready"
