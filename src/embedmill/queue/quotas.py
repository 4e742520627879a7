"""The governor's client: asks the shared quota before each provider call. Owns the waiting, not the sums,
which the database does under a lock (functions/50_quotas.sql)."""

from __future__ import annotations

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.queue", "queue.sql")

# A bucket holds 3% of a minute's tokens (functions/50_quotas.sql): a call within it never has to borrow.
BUCKET_SHARE = 0.03


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
