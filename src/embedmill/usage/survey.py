"""The usage of a span as people look at it: all its sums in one reading, what documents cost, which jobs a budget
holds. Owns these readings; the sums by one grouping are ledger.py's, single calls calls.py's.

Sums come from half hours that are always current, so that a million calls cost no more than a thousand. Where the days
of a time zone are not made of half hours (Nepal), the half hours that a day's beginning cuts are summed call by call.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError

_SQL = load_queries("embedmill.usage", "survey.sql")
MOST_GROUPS = 100
_MOST_JOBS = 50


class Sum(msgspec.Struct, frozen=True):
    """Calls and what they counted. `cost_usd` is the sum of the known costs, None where none is known, of which
    `failed_cost_usd` is that of failed calls; of `unknown_cost_calls` nobody knows it. `charged_failed_calls` failed,
    and their tokens counted all the same."""

    what: str
    day: date | None
    group: str | None
    calls: int
    failed_calls: int
    charged_failed_calls: int
    inputs: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None
    failed_cost_usd: Decimal
    unknown_cost_calls: int
    latency_ms_average: float | None

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class Survey(msgspec.Struct, frozen=True):
    """`days`: a sum for each day and kind of usage, days in order; the others by tokens, MOST_GROUPS at most."""

    total: Sum
    by_type: list[Sum]
    by_model: list[Sum]
    by_pipeline: list[Sum]
    by_tenant: list[Sum]
    days: list[Sum]


class JobCosts(msgspec.Struct, frozen=True):
    """Of the latest completed uploads whose cost is known, at most a thousand; None where there is none."""

    jobs: int
    average_usd: Decimal | None
    average_chunks: float | None


class HeldJob(msgspec.Struct, frozen=True):
    """A job that waits because a budget is reached: its own since `reached_at`, or the tenant's (None)."""

    job_id: UUID
    name: str
    updated_at: datetime
    total_chunks: int
    embedded_chunks: int
    limit_usd: Decimal | None
    spent_usd: Decimal | None
    reached_at: datetime | None


async def survey_usage(
    database: Database, tenant_id: int | None, since: datetime, until: datetime | None, time_zone: str
) -> Survey:
    """The span from `since`, which is the beginning of a day of the zone, and before `until` (None: to this moment).
    `tenant_id` of None: of all tenants that `database` may see. Raises ConfigurationError for a zone that the
    database does not know."""
    given = {
        "tenant_id": tenant_id,
        "since": since,
        "until": until,
        "time_zone": time_zone,
        "limit": MOST_GROUPS,
    }
    try:
        sums = [Sum(*row) for row in await database.fetch(_SQL["survey"], given)]
    except (psycopg.errors.InvalidParameterValue, psycopg.DataError, UnicodeEncodeError) as error:
        raise ConfigurationError(
            f"there is no time zone {time_zone!r}: a name such as UTC or Europe/Berlin is wanted"
        ) from error
    found: dict[str, list[Sum]] = {}
    for one in sums:
        found.setdefault(one.what, []).append(one)
    return Survey(
        found["total"][0],
        *(found.get(what, []) for what in ("usage_type", "model", "pipeline", "tenant", "day")),
    )


async def job_costs(database: Database, tenant_id: int, since: datetime, until: datetime | None) -> JobCosts:
    """What uploads of the span cost on average."""
    row = await database.fetch_one(
        _SQL["cost_of_jobs"], {"tenant_id": tenant_id, "since": since, "until": until}
    )
    return JobCosts(*(row or (0, None, None)))


async def held_jobs(database: Database, tenant_id: int) -> list[HeldJob]:
    """Jobs that a budget holds, the latest first, fifty at most."""
    given: dict[str, Any] = {"tenant_id": tenant_id, "limit": _MOST_JOBS}
    return [HeldJob(*row) for row in await database.fetch(_SQL["held_jobs"], given)]
