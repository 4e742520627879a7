"""Requests a minute of each tenant. Owns the buckets, in the memory of this process: each service process counts by
itself, so that with n of them a tenant may have up to n times as much. Money is limited elsewhere (budgets), and
providers by quotas that the fleet shares: this keeps one tenant from taking up the service."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from embedmill.core.buckets import Bucket, is_full, take
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.access", "limits.sql")
_REMEMBERED_SECONDS = 10.0
_SWEEP_EVERY = 1000


@dataclass(frozen=True)
class Verdict:
    """Whether a request may go on; if not, after how many seconds to try again. `per_minute` is what holds."""

    allowed: bool
    retry_after_seconds: float
    per_minute: int


@dataclass
class _Limited:
    bucket: Bucket | None
    per_minute: int
    read_at: float


class RequestLimiter:
    """The limits of all tenants; a tenant's own is read from the database again every ten seconds."""

    def __init__(self, default_per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`default_per_minute` holds for tenants that have none of their own."""
        self._default = default_per_minute
        self._clock = clock
        self._tenants: dict[int, _Limited] = {}
        self._asked = 0

    async def check(self, database: Database, tenant_id: int) -> Verdict:
        """Count a request of this tenant. Refused ones are not counted: who waits as told gets in."""
        now = self._clock()
        limited = self._tenants.get(tenant_id)
        if limited is None or now - limited.read_at >= _REMEMBERED_SECONDS:
            per_minute = await self._read(database, tenant_id)
            # Another request may have come by meanwhile: its bucket is the one that counts.
            limited = self._tenants.setdefault(tenant_id, _Limited(None, per_minute, now))
            limited.per_minute, limited.read_at = per_minute, now
        limited.bucket, wait = take(limited.bucket, limited.per_minute, self._clock())
        self._forget_idle()
        return Verdict(wait == 0.0, wait, limited.per_minute)

    async def _read(self, database: Database, tenant_id: int) -> int:
        row = await database.fetch_one(_SQL["requests_per_minute"], {"tenant_id": tenant_id})
        return self._default if row is None or row[0] is None else int(row[0])

    def _forget_idle(self) -> None:
        """Now and then those whose buckets are full again, so that memory follows who is active."""
        self._asked += 1
        if self._asked % _SWEEP_EVERY:
            return
        now = self._clock()
        for tenant_id, limited in list(self._tenants.items()):
            if limited.bucket is not None and is_full(limited.bucket, limited.per_minute, now):
                del self._tenants[tenant_id]
