"""The governor's client: asks the shared quota before each provider call. Owns the waiting, not the sums,
which the database does under a lock (functions/50_quotas.sql)."""

from __future__ import annotations

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.queue", "queue.sql")

# A call's part of a minute's tokens. The window is filled up by whole calls: the smaller they are, the less of it
# stays empty. Above 3% a call holds the others up (functions/50_quotas.sql).
LEAST_CALL_SHARE = 0.015
MOST_CALL_SHARE = 0.03
# Where calls are scarce too, they are large enough that tokens bind, also when they are not quite full.
ROOM_IN_CALLS = 1.2


def largest_call(calls_per_minute: int | None, tokens_per_minute: int) -> int:
    """The most tokens that one call should hold under these limits, so that nearly all of them can be used."""
    share = LEAST_CALL_SHARE if calls_per_minute is None else ROOM_IN_CALLS / calls_per_minute
    return max(1, int(tokens_per_minute * min(max(share, LEAST_CALL_SHARE), MOST_CALL_SHARE)))


async def grant_quota(database: Database, quota_key: str, tokens: int) -> float:
    """Spend one call of `tokens`; 0.0 when granted, else the seconds after which to ask again."""
    row = await database.fetch_one(_SQL["grant_quota"], {"quota_key": quota_key, "tokens": tokens})
    return row[0] / 1000 if row else 0.0


async def settle_quota(database: Database, quota_key: str, tokens: int, seconds_ago: float) -> None:
    """The provider counted `tokens` more (or fewer) than granted for a call that began `seconds_ago`."""
    await database.fetch(
        _SQL["settle_quota"], {"quota_key": quota_key, "tokens": tokens, "seconds_ago": seconds_ago}
    )


async def cool_down(database: Database, quota_key: str, seconds: float, reason: str | None = None) -> None:
    """Hold back everybody who shares the quota, because the provider asked for it."""
    await database.fetch(
        _SQL["cool_down"], {"quota_key": quota_key, "delay_ms": int(seconds * 1000), "reason": reason}
    )
