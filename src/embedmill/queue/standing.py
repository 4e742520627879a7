"""How a tenant's queue stands at this moment: what waits, who works, what holds it up, what it cost, what went wrong.
Owns the values that the command line and the dashboard show; everything is read from counts and by indexes, however
much there is."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.queue", "standing.sql")
COUNTED_AT_MOST = 10_000
"""Dead letters and items that wait for a later time are counted up to here."""


class QueueCounts(msgspec.Struct, frozen=True):
    """Items by status: those that live, and those that ended within the retention. `oldest_waiting_seconds`: of those
    that could be taken now; `backing_off` wait after a failure, `rate_limited` after a refusal."""

    pending: int
    processing: int
    rate_limited: int
    backing_off: int
    completed: int
    failed: int
    cancelled: int
    oldest_waiting_seconds: float | None


class HeldUp(msgspec.Struct, frozen=True):
    """What a person has stopped, and what waits for one."""

    queue_enabled: bool
    paused_pipelines: list[str]
    open_dead_letters: int


class BindingQuota(msgspec.Struct, frozen=True):
    """A quota for which work waits now."""

    quota_key: str
    calls_used: int
    calls_per_minute: int | None
    tokens_used: int
    tokens_per_minute: int | None
    cooling_seconds: float
    cooldown_reason: str | None

    @property
    def reason(self) -> str:
        """Why it binds, as the end of a sentence."""
        if self.cooling_seconds > 0:
            reason = f": {self.cooldown_reason}" if self.cooldown_reason else ""
            return f"everybody holds back for {self.cooling_seconds:,.0f} s{reason}"
        used = [
            f"{used:,} of {limit:,} {noun}"
            for noun, used, limit in (
                ("calls", self.calls_used, self.calls_per_minute),
                ("tokens", self.tokens_used, self.tokens_per_minute),
            )
            if limit is not None
        ]
        return f"{' and '.join(used)} of a minute are used; work waits for it"


class WorkerStanding(msgspec.Struct, frozen=True):
    """A worker; `status` is error where it has not been heard of for two heartbeats."""

    id: UUID
    host: str
    pid: int
    status: str
    heartbeat_age_seconds: float
    chunks_embedded: int
    errors: int
    rate_limits_hit: int
    last_error: str | None

    @property
    def is_at_work(self) -> bool:
        return self.status in {"active", "idle"}


class Trouble(msgspec.Struct, frozen=True):
    """A dead letter that nobody has dealt with, or a document that cannot be read."""

    at: datetime
    what: str
    reason: str
    message: str | None


class Spent(msgspec.Struct, frozen=True):
    """Paid today and this month (UTC). A cost of None: no known one; `month_unpriced_calls` are missing from it."""

    today_tokens: int
    today_cost_usd: Decimal | None
    month_tokens: int
    month_cost_usd: Decimal | None
    month_unpriced_calls: int


class Minute(msgspec.Struct, frozen=True):
    """Chunks that were embedded, and refused for good, in one minute."""

    minute: datetime
    embedded: int
    unembeddable: int


async def queue_counts(database: Database, tenant_id: int) -> QueueCounts:
    ((pending, processing, completed, failed, cancelled),) = await _read(database, "queue", tenant_id)
    ((oldest, rate_limited, backing_off),) = await _read(database, "waiting", tenant_id)
    return QueueCounts(
        max(pending - rate_limited, 0),
        processing,
        rate_limited,
        backing_off,
        completed,
        failed,
        cancelled,
        oldest,
    )


async def held_up(database: Database, tenant_id: int) -> HeldUp:
    (row,) = await _read(database, "held_up", tenant_id)
    return HeldUp(*row)


async def binding_quotas(database: Database, tenant_id: int) -> list[BindingQuota]:
    return [BindingQuota(*row) for row in await _read(database, "binding_quotas", tenant_id)]


async def recent_workers(database: Database) -> list[WorkerStanding]:
    """Those at work or heard of within the last hour, of the whole fleet; the 20 heard of last."""
    return [WorkerStanding(*row) for row in await database.fetch(_SQL["workers"])]


async def latest_troubles(database: Database, tenant_id: int) -> list[Trouble]:
    """The ten latest things that a person should look at."""
    return [Trouble(*row) for row in await _read(database, "last_errors", tenant_id)]


async def spent(database: Database, tenant_id: int) -> Spent:
    (row,) = await _read(database, "spent", tenant_id)
    return Spent(*row)


async def minutes(database: Database, tenant_id: int, *, last: int) -> list[Minute]:
    """The last minutes, the one under way included; those in which nothing was done are left out."""
    rows = await database.fetch(_SQL["throughput"], {"tenant_id": tenant_id, "minutes": last})
    return [Minute(*row) for row in rows]


async def _read(database: Database, name: str, tenant_id: int) -> list[tuple[Any, ...]]:
    return await database.fetch(_SQL[name], {"tenant_id": tenant_id})
