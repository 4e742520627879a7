"""The governor: never over the limit in any sliding minute, by whomever it is asked; a provider's "wait" holds for
all; without limits it costs nothing. Time passes by turning the bucket's own clock back."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable

import pytest

from embedmill.app import App
from embedmill.queue.quotas import BUCKET_SHARE, cool_down, grant_quota

KEY = "test/limited"


async def limit(app: App, calls: int | None, tokens: int | None) -> None:
    await app.database.fetch(
        "INSERT INTO embedmill.quotas (quota_key, calls_per_minute, tokens_per_minute) VALUES (%s, %s, %s)",
        (KEY, calls, tokens),
    )


async def let_pass(app: App, seconds: float) -> None:
    await app.database.fetch(
        "UPDATE embedmill.quotas SET refilled_at = refilled_at - make_interval(secs => %s), "
        "       cooldown_until = cooldown_until - make_interval(secs => %s)",
        (seconds, seconds),
    )


async def spend(app: App, minutes: float, next_tokens: Callable[[int], int]) -> list[tuple[float, int]]:
    """Ask as soon as allowed for so many minutes of the bucket's time; returns (second, tokens) of each grant."""
    granted: list[tuple[float, int]] = []
    turned, started = 0.0, time.monotonic()
    while turned < minutes * 60:
        tokens = next_tokens(len(granted))
        wait = await grant_quota(app.database, KEY, tokens)
        # What went by on the real clock since the question was put counts too; seen late it only looks denser.
        if wait == 0:
            granted.append((turned + time.monotonic() - started, tokens))
        else:
            await let_pass(app, wait)
            turned += wait
    return granted


def densest_minute(granted: list[tuple[float, int]], weight: Callable[[int], int]) -> int:
    times = [second for second, _ in granted]
    return max(
        sum(weight(tokens) for _, tokens in granted[first : bisect_right(times, begin + 59.9)])
        for first, begin in enumerate(times)
    )


@pytest.mark.parametrize("calls", [1, 3, 19, 60])
async def test_no_sliding_minute_has_more_calls_than_the_limit(app: App, calls: int) -> None:
    await limit(app, calls, None)
    await let_pass(app, 3600)  # a full bucket, the worst beginning
    granted = await spend(app, 4, lambda _: 1000)
    assert densest_minute(granted, lambda _: 1) <= calls
    assert len(granted) >= int(calls * 0.9 * 4), "far below the limit: most of the quota is wasted"


async def test_no_sliding_minute_has_more_tokens_than_the_limit(app: App) -> None:
    per_minute = 20_000
    largest = int(per_minute * BUCKET_SHARE)
    await limit(app, None, per_minute)
    await let_pass(app, 3600)
    granted = await spend(app, 4, lambda n: (largest, 7, largest // 3, largest - 1)[n % 4])
    assert densest_minute(granted, lambda tokens: tokens) <= per_minute
    assert sum(tokens for _, tokens in granted) >= per_minute * 0.9 * 4


async def test_both_limits_are_spent_together_or_not_at_all(app: App) -> None:
    await limit(app, 600, 1200)
    await let_pass(app, 60)
    calls, tokens = await levels(app)
    assert await grant_quota(app.database, KEY, 60) == 0
    assert await grant_quota(app.database, KEY, 60) > 0  # the tokens are used up, calls are not
    calls, tokens = await levels(app)
    assert calls == pytest.approx(29, abs=0.6)
    assert tokens == pytest.approx(0, abs=1.0)


async def test_a_call_larger_than_the_bucket_waits_for_a_full_one_and_leaves_a_debt(app: App) -> None:
    await limit(app, None, 1000)
    await let_pass(app, 60)
    assert await grant_quota(app.database, KEY, 400) == 0
    wait = await grant_quota(app.database, KEY, 10)
    assert 22 < wait < 23  # 350 of debt and the 10 asked for, at 950 a minute


async def test_eight_at_once_get_no_more_than_the_bucket_holds(app: App) -> None:
    await limit(app, 100, None)
    await let_pass(app, 600)
    waits = await asyncio.gather(*(grant_quota(app.database, KEY, 1) for _ in range(40)))
    # 5 in the bucket; what trickles in while they queue is 1.6 a second.
    assert 5 <= waits.count(0) <= 8


async def test_the_bucket_never_holds_more_than_its_share_however_long_nobody_asks(app: App) -> None:
    await limit(app, 100, 10_000)
    await let_pass(app, 86_400 * 365)
    assert await grant_quota(app.database, KEY, 100) == 0
    calls, tokens = await levels(app)
    assert (calls, tokens) == (4, 400)


async def test_a_lowered_limit_holds_at_once(app: App) -> None:
    await limit(app, 6000, None)
    await let_pass(app, 60)
    await grant_quota(app.database, KEY, 1)
    await app.database.fetch("UPDATE embedmill.quotas SET calls_per_minute = 20")
    assert await grant_quota(app.database, KEY, 1) == 0
    assert await grant_quota(app.database, KEY, 1) > 2


@pytest.mark.parametrize("calls", [None, 600])
async def test_a_cooldown_holds_everybody_back_and_the_longest_wins(app: App, calls: int | None) -> None:
    await limit(app, calls, None)
    await let_pass(app, 60)
    await cool_down(app.database, KEY, 20)
    await cool_down(app.database, KEY, 2)
    waits = await asyncio.gather(*(grant_quota(app.database, KEY, 1) for _ in range(8)))
    assert min(waits) > 18
    assert max(waits) <= 20
    await let_pass(app, 20)
    assert await grant_quota(app.database, KEY, 1) == 0


async def test_a_day_s_cooldown_can_be_answered(app: App) -> None:
    await limit(app, None, None)
    await cool_down(app.database, KEY, 24 * 3600)
    assert 86_390 < await grant_quota(app.database, KEY, 1) <= 86_400


async def test_without_limits_asking_writes_nothing(app: App) -> None:
    await limit(app, None, None)
    version = "SELECT ctid::text, xmin::text FROM embedmill.quotas WHERE quota_key = %s"
    before = await app.database.fetch_one(version, (KEY,))
    for _ in range(5):
        assert await grant_quota(app.database, KEY, 10_000_000) == 0
    assert await app.database.fetch_one(version, (KEY,)) == before


async def levels(app: App) -> tuple[float, float]:
    row = await app.database.fetch_one(
        "SELECT calls_level, tokens_level FROM embedmill.quotas WHERE quota_key = %s", (KEY,)
    )
    assert row is not None
    return row[0], row[1]
