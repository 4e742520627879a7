"""The governor on the database's own clock: many askers at once, defaults of the configuration, settling, a
provider's "wait" that holds for all. What needs minutes stands in test_quota_windows.py."""

from __future__ import annotations

import asyncio
import time

import pytest

from embedmill.app import App
from embedmill.queue.config import set_value
from embedmill.queue.quotas import cool_down, grant_quota, settle_quota
from tests.support.quota_clock import KEY


async def limit(app: App, calls: int | None, tokens: int | None, *, uses_defaults: bool = False) -> None:
    await app.database.fetch(
        "INSERT INTO embedmill.quotas (quota_key, calls_per_minute, tokens_per_minute, uses_defaults) "
        "VALUES (%s, %s, %s, %s)",
        (KEY, calls, tokens, uses_defaults),
    )


async def let_pass(app: App, seconds: float) -> None:
    """As if so much time had passed for the row; whole seconds where the window matters."""
    await app.database.fetch(
        "UPDATE embedmill.quotas SET refilled_at = refilled_at - make_interval(secs => %(seconds)s), "
        "       cooldown_until = cooldown_until - make_interval(secs => %(seconds)s)",
        {"seconds": seconds},
    )


async def spent(app: App) -> tuple[int, int]:
    """(calls, tokens) that the window knows of."""
    row = await app.database.fetch_one(
        "SELECT (SELECT sum(c) FROM unnest(window_calls) AS c), (SELECT sum(t) FROM unnest(window_tokens) AS t) "
        "  FROM embedmill.quotas WHERE quota_key = %s",
        (KEY,),
    )
    assert row is not None
    return int(row[0]), int(row[1])


async def test_eight_connections_at_once_get_no_more_than_the_pace_and_none_is_forgotten(app: App) -> None:
    """A limit of 600: 18 from the full bucket, ten a second then, and every grant stands in the window."""
    await limit(app, 600, 600_000)
    await let_pass(app, 600)
    begun = time.monotonic()

    async def ask(times: int) -> list[float]:
        return [await grant_quota(app.database, KEY, 100) for _ in range(times)]

    waits = [wait for some in await asyncio.gather(*(ask(40) for _ in range(8))) for wait in some]
    elapsed = time.monotonic() - begun
    granted = waits.count(0.0)
    assert 18 <= granted <= 18 + 1 + 9.6 * elapsed
    assert await spent(app) == (granted, 100 * granted)


@pytest.mark.parametrize("limits", [(1, None), (None, 100)])
async def test_of_eight_at_once_only_one_gets_the_last_call(
    app: App, limits: tuple[int | None, int | None]
) -> None:
    await limit(app, *limits)
    waits = await asyncio.gather(*(grant_quota(app.database, KEY, 100) for _ in range(8)))
    assert sorted(waits)[0] == 0
    assert 50 < sorted(waits)[1] <= max(waits) <= 62.5


async def test_the_bucket_never_holds_more_than_its_share_however_long_nobody_asks(app: App) -> None:
    await limit(app, 100, 10_000)
    await let_pass(app, 86_400 * 365)
    waits = [await grant_quota(app.database, KEY, 1) for _ in range(8)]
    assert waits[:3] == [0, 0, 0]
    assert 0.0 not in waits[5:], (
        "three of a hundred at once, one that leaves a debt, one that came in meanwhile"
    )


async def test_the_defaults_of_the_configuration_hold_where_a_key_asks_for_them(app: App) -> None:
    await limit(app, None, None, uses_defaults=True)
    await set_value(app.database, "api_quota_per_minute", "1", actor="test")
    assert await grant_quota(app.database, KEY, 10) == 0
    assert await grant_quota(app.database, KEY, 10) > 50
    await set_value(app.database, "api_quota_per_minute", "1000000", actor="test")
    await let_pass(app, 61)
    assert await grant_quota(app.database, KEY, 90_000) == 0
    assert await grant_quota(app.database, KEY, 10) > 50, "100,000 tokens a minute are the default"
    await set_value(app.database, "token_quota_per_minute", "2000000000", actor="test")
    assert await grant_quota(app.database, KEY, 10) < 1, "a change holds at once"


async def test_a_limit_of_its_own_goes_before_the_default(app: App) -> None:
    await limit(app, 1, None, uses_defaults=True)
    await set_value(app.database, "api_quota_per_minute", "1000", actor="test")
    assert await grant_quota(app.database, KEY, 10) == 0
    assert await grant_quota(app.database, KEY, 10) > 50


async def test_without_limits_and_defaults_nothing_is_limited(app: App) -> None:
    await limit(app, None, None)
    for setting in ("api_quota_per_minute", "token_quota_per_minute"):
        await set_value(app.database, setting, "1", actor="test")
    assert [await grant_quota(app.database, KEY, 1_000_000) for _ in range(5)] == [0] * 5


async def test_what_the_provider_counted_beyond_the_grant_is_spent_too(app: App) -> None:
    await limit(app, None, 6000)
    assert await grant_quota(app.database, KEY, 100) == 0
    await settle_quota(app.database, KEY, 5000, 0)
    assert await spent(app) == (1, 5100)
    assert 51 < await grant_quota(app.database, KEY, 100) <= 5100 / 96


async def test_what_the_provider_counted_less_can_be_asked_for_again(app: App) -> None:
    await limit(app, None, 6000)
    granted_at = time.monotonic()
    assert await grant_quota(app.database, KEY, 6000) == 0
    assert await grant_quota(app.database, KEY, 5000) > 50
    await settle_quota(app.database, KEY, -5990, time.monotonic() - granted_at)
    assert await spent(app) == (1, 10)
    assert await grant_quota(app.database, KEY, 5000) <= 10 / 96


async def test_a_late_settlement_takes_nothing_from_what_others_spent_since(app: App) -> None:
    """A call of two minutes: its grant has left the window, and those in it were others'."""
    await limit(app, None, 1000)
    assert await grant_quota(app.database, KEY, 900) == 0
    await settle_quota(app.database, KEY, -900, 120)
    await let_pass(app, 120)  # the debt is paid, the window is as it was
    assert await spent(app) == (1, 900)
    assert await grant_quota(app.database, KEY, 900) > 0


async def test_settling_without_a_limit_leaves_no_debt_for_a_later_one(app: App) -> None:
    await limit(app, 100, None)
    assert await grant_quota(app.database, KEY, 10) == 0
    await settle_quota(app.database, KEY, 1_000_000, 0)
    await app.database.fetch("UPDATE embedmill.quotas SET tokens_per_minute = 100000")
    await let_pass(app, 61)
    assert await grant_quota(app.database, KEY, 10) == 0


@pytest.mark.parametrize("calls", [None, 600])
async def test_a_cooldown_holds_everybody_back_and_the_longest_wins(app: App, calls: int | None) -> None:
    await limit(app, calls, None)
    await let_pass(app, 60)
    await cool_down(app.database, KEY, 20, "answered 429")
    await cool_down(app.database, KEY, 2, "answered 429, briefly")
    waits = await asyncio.gather(*(grant_quota(app.database, KEY, 1) for _ in range(8)))
    assert min(waits) > 15
    assert max(waits) <= 20
    state = await app.database.fetch_one("SELECT * FROM embedmill.quota_state(%s)", (KEY,))
    assert state is not None
    assert state[2:4] == (0, 0), "whoever was held back spent nothing"
    assert state[5:] == ("answered 429", True)
    await let_pass(app, 20)
    assert await grant_quota(app.database, KEY, 1) == 0


async def test_a_day_s_cooldown_can_be_answered(app: App) -> None:
    await limit(app, None, None)
    await cool_down(app.database, KEY, 24 * 3600)
    assert 86_300 < await grant_quota(app.database, KEY, 1) <= 86_400


async def test_without_limits_asking_writes_nothing(app: App) -> None:
    await limit(app, None, None)
    version = "SELECT ctid::text, xmin::text FROM embedmill.quotas WHERE quota_key = %s"
    before = await app.database.fetch_one(version, (KEY,))
    for _ in range(5):
        assert await grant_quota(app.database, KEY, 10_000_000) == 0
        await settle_quota(app.database, KEY, 1000, 0)
    assert await app.database.fetch_one(version, (KEY,)) == before
