"""The ledger read: what calls to providers were made, what they counted and cost. Owns the sums; rows are written
where the calls are made (embed/, search/), and nothing here changes one.

A cost that is not known is never 0: each sum says of how many calls it does not know the cost.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec
import psycopg

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError

_SQL = load_queries("embedmill.usage", "ledger.sql")
MOST_ROWS = 10_000


class Grouping(StrEnum):
    """By what the ledger is summed. TENANT sums over all tenants, for whoever may see them."""

    USAGE_TYPE = "usage_type"
    MODEL = "model"
    PIPELINE = "pipeline"
    DAY = "day"
    USER = "user"
    SESSION = "session"
    TENANT = "tenant"


class UsageSum(msgspec.Struct, frozen=True):
    """Calls and what they counted. `group` is the name in the grouping, None where the ledger names none (a call that
    served several jobs, a pipeline that is gone). `cost_usd` is the sum of the known costs, None where none is known;
    `unknown_cost_calls` did cost, but nobody knows how much. Failed calls are among the calls: what they were charged
    is in the sums."""

    group: str | None
    calls: int
    failed_calls: int
    inputs: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    unknown_cost_calls: int
    latency_ms_average: float | None


class UsageSummary(msgspec.Struct, frozen=True):
    """The sums of the groups and of all. `truncated`: there are more groups than are shown; `total` has them too."""

    group_by: str
    since: datetime | None
    until: datetime | None
    time_zone: str
    rows: list[UsageSum]
    total: UsageSum
    truncated: bool


async def summarize_usage(
    database: Database,
    tenant_id: int | None,
    group_by: Grouping,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    time_zone: str = "UTC",
    limit: int = 1000,
) -> UsageSummary:
    """The ledger from `since` on and before `until`, each None for unbounded; days as `time_zone` has them, newest
    first, other groups by tokens. `tenant_id` of None: of all tenants that `database` may see.

    Raises ConfigurationError for a time without its zone, a zone that the database does not know, a limit out of
    1 to 10,000.
    """
    if not 1 <= limit <= MOST_ROWS:
        raise ConfigurationError(f"limit is 1 to {MOST_ROWS}")
    for moment in (since, until):
        if moment is not None and moment.tzinfo is None:
            raise ConfigurationError(
                f"{moment.isoformat()} says no time zone: add Z or an offset such as +02:00"
            )
    given = {
        "tenant_id": tenant_id,
        "group_by": group_by.value,
        "since": since,
        "until": until,
        "time_zone": time_zone,
        "limit": limit + 1,
    }
    rows = await _fetch(database, given, time_zone)
    # The row of all comes first, then as many groups as were asked for and one more.
    sums = [UsageSum(*row) for row in rows]
    return UsageSummary(
        group_by.value, since, until, time_zone, sums[1 : limit + 1], sums[0], len(sums) - 1 > limit
    )


async def _fetch(database: Database, given: dict[str, Any], time_zone: str) -> list[tuple[Any, ...]]:
    try:
        return await database.fetch(_SQL["summarize"], given)
    except (psycopg.errors.InvalidParameterValue, psycopg.DataError, UnicodeEncodeError) as error:
        raise ConfigurationError(
            f"there is no time zone {time_zone!r}: a name such as UTC or Europe/Berlin is wanted"
        ) from error
