"""Requests a minute: a burst of a minute's worth, then the steady rate, each tenant for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from embedmill.access.limits import RequestLimiter
from embedmill.core.buckets import Bucket, is_full, take
from embedmill.database.pool import Database


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest_asyncio.fixture
async def owner(database: str) -> AsyncIterator[Database]:
    async with Database(database) as opened:
        await opened.fetch("INSERT INTO embedmill.tenants (slug, requests_per_minute) VALUES ('acme', 3)")
        yield opened


async def allowed(limiter: RequestLimiter, database: Database, tenant_id: int, times: int) -> int:
    return sum([(await limiter.check(database, tenant_id)).allowed for _ in range(times)])


async def test_each_tenant_has_its_own_limit_or_the_default(owner: Database) -> None:
    clock = Clock()
    limiter = RequestLimiter(5, clock=clock)
    assert await allowed(limiter, owner, 1, 20) == 5
    assert await allowed(limiter, owner, 2, 20) == 3
    refused = await limiter.check(owner, 2)
    assert (refused.allowed, refused.retry_after_seconds, refused.per_minute) == (False, 20.0, 3)
    clock.seconds += refused.retry_after_seconds
    assert await allowed(limiter, owner, 2, 5) == 1, "whoever waits as told gets in"
    clock.seconds += 3600
    assert await allowed(limiter, owner, 2, 20) == 3, "an hour of silence saves up a minute's worth"


async def test_a_changed_limit_holds_without_a_restart(owner: Database) -> None:
    clock = Clock()
    limiter = RequestLimiter(5, clock=clock)
    assert await allowed(limiter, owner, 2, 20) == 3
    await owner.fetch("UPDATE embedmill.tenants SET requests_per_minute = 60 WHERE id = 2")
    clock.seconds += 11
    assert await allowed(limiter, owner, 2, 100) == 11


async def test_idle_tenants_are_forgotten(owner: Database) -> None:
    clock = Clock()
    limiter = RequestLimiter(100_000, clock=clock)
    for tenant_id in range(1000, 1200):
        await limiter.check(owner, tenant_id)
    clock.seconds += 5  # their buckets are full again
    assert await allowed(limiter, owner, 1, 1000) == 1000
    assert len(limiter._tenants) == 1


def test_a_bucket_fills_steadily_and_a_clock_that_goes_back_gives_nothing() -> None:
    bucket, wait = take(None, 2, 0.0)
    bucket, wait = take(bucket, 2, 0.0)
    assert wait == 0.0
    bucket, wait = take(bucket, 2, 0.0)
    assert wait == 30.0
    bucket, wait = take(bucket, 2, -1000.0)
    assert wait == 30.0
    bucket, wait = take(bucket, 2, 30.0)
    assert wait == 0.0
    assert not is_full(bucket, 2, 60.0)
    assert is_full(bucket, 2, 90.0)
    assert take(Bucket(100.0, 0.0), 1, 0.0)[0].level == 0.0, "a limit that was lowered holds at once"
