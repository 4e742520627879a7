"""The ledger as rows, for whoever takes it elsewhere: calls one by one, or their sums by day. Owns the reading, in
pages of calls so that no memory and no transaction grows with them; how a file looks is its writer's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.usage", "survey.sql")
PAGE = 1000


class Call(msgspec.Struct, frozen=True):
    """A call to a provider. `cost_usd` of None is unknown; `session_id` is the ingestion job, where it served one."""

    id: int
    at: datetime
    tenant: str | None
    pipeline: str | None
    usage_type: str
    action: str
    provider: str
    model: str
    inputs: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None
    latency_ms: int
    user_id: str | None
    session_id: UUID | None
    call_id: UUID
    error: str | None


class DaySum(msgspec.Struct, frozen=True):
    """A day's calls of one tenant, pipeline, type and model. `cost_usd`: the known ones', None where none is known."""

    day: str
    tenant: str | None
    pipeline: str | None
    usage_type: str
    provider: str
    model: str
    calls: int
    failed_calls: int
    inputs: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None
    unknown_cost_calls: int
    latency_ms_average: int | None


async def read_calls(
    database: Database, tenant_id: int | None, since: datetime, until: datetime | None
) -> AsyncIterator[list[Call]]:
    """Pages of calls of the span, oldest first; of all tenants (None) in the order in which they were written. Each
    page is a transaction of its own; an empty span has no page."""
    given: dict[str, Any] = {"tenant_id": tenant_id, "since": since, "until": until, "limit": PAGE}
    after_at, after_id = since, -1
    name = "calls" if tenant_id is not None else "calls_of_all"
    while True:
        rows = await database.fetch(_SQL[name], {**given, "after_at": after_at, "after_id": after_id})
        if rows:
            yield [Call(*row) for row in rows]
        if len(rows) < PAGE:
            return
        after_id, after_at = rows[-1][0], rows[-1][1]


async def read_day_sums(
    database: Database, tenant_id: int | None, since: datetime, until: datetime | None, time_zone: str
) -> list[DaySum]:
    """The span's calls by day of the zone, tenant, pipeline, type and model, days in order."""
    given = {"tenant_id": tenant_id, "since": since, "until": until, "time_zone": time_zone}
    return [DaySum(*row) for row in await database.fetch(_SQL["daily"], given)]
