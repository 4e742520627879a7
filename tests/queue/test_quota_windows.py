"""The governor on a clock of the test's own: no sliding minute above the limit whatever is asked when, the limit
used while there is work, and every caller served."""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.quota_clock import Caller, QuotaClock

LIMITS = st.one_of(st.none(), st.integers(1, 30), st.integers(31, 100_000))
GAPS = st.one_of(
    st.just(0.0), st.floats(0, 0.999), st.floats(1, 5), st.sampled_from([59.999, 60.0, 60.001, 61.0, 3600.0])
)
ASKS = st.lists(st.tuples(GAPS, st.floats(0, 1), st.booleans()), min_size=5, max_size=60)


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(calls=LIMITS, tokens=LIMITS, largest=st.sampled_from([0.01, 0.03, 0.3, 1.0]), asks=ASKS)
def test_no_sliding_minute_is_above_the_limit_whatever_is_asked_when(
    connection: psycopg.Connection[tuple[object, ...]],
    calls: int | None,
    tokens: int | None,
    largest: float,
    asks: list[tuple[float, float, bool]],
) -> None:
    """Some ask once and go; some (the last of the three) ask again when told, and alone they are served then."""
    quota = QuotaClock(connection, calls, tokens)
    second = 0.0
    for gap, size, comes_back in asks:
        second += gap
        asked = max(1, int(size * largest * (tokens or 1000)))
        wait = quota.ask(second, asked)
        if wait == 0:
            continue
        assert calls is not None or tokens is not None, "nothing is limited, and yet it was told to wait"
        # An empty minute and the debt of a whole one are the longest that there can be.
        assert 0.001 <= wait <= 61 + 60 / 0.96
        if comes_back:
            second += wait
            assert quota.ask(second, asked) == 0, "told to come back now, and refused: nobody came between"
    most_calls, most_tokens = quota.densest_minute()
    assert calls is None or most_calls <= calls
    assert tokens is None or most_tokens <= tokens


def always(tokens: int) -> Caller:
    return lambda _: tokens


def between(least: int, most: int) -> Caller:
    return lambda chance: chance.randint(least, most)


@pytest.mark.parametrize(
    ("calls", "tokens", "callers"),
    [
        pytest.param(60, None, [always(5000)] * 4, id="calls bind"),
        pytest.param(7, None, [always(5000)] * 3, id="few calls"),
        pytest.param(None, 100_000, [always(3_000)] * 4, id="tokens bind, calls of 3%"),
        pytest.param(None, 100_000, [between(600, 3_000)] * 5, id="calls of any size to 3%"),
        pytest.param(None, 100_000, [always(3_000), *[always(400)] * 4], id="one large caller among small"),
        pytest.param(60, 100_000, [between(1_000, 2_500)] * 4, id="both are near"),
    ],
)
def test_a_persistent_queue_uses_95_percent_and_never_more_than_all(
    connection: psycopg.Connection[tuple[object, ...]],
    calls: int | None,
    tokens: int | None,
    callers: list[Caller],
) -> None:
    minutes = 4.0
    quota = QuotaClock(connection, calls, tokens)
    grants, waits = quota.run(callers, minutes=minutes)
    most_calls, most_tokens = quota.densest_minute()
    assert calls is None or most_calls <= calls
    assert tokens is None or most_tokens <= tokens
    assert quota.share_used(calls, tokens, minutes) >= 0.95
    assert min(waits) >= 0.001
    assert max(waits) <= 61
    # Nobody is passed over: what each had is within a factor of three of an equal share of the grants.
    fair = sum(grants) / len(grants)
    assert min(grants) >= fair / 3, grants


def test_a_call_of_a_tenth_of_the_minute_is_served_among_small_ones(
    connection: psycopg.Connection[tuple[object, ...]],
) -> None:
    """One input alone may be that large; the small ones must not for ever take what it waits for."""
    quota = QuotaClock(connection, None, 100_000)
    grants, _ = quota.run([always(10_000), *[always(500)] * 5], minutes=4)
    assert grants[0] >= 8
    assert quota.densest_minute()[1] <= 100_000
    assert quota.share_used(None, 100_000, 4) >= 0.9


def test_a_call_larger_than_the_limit_goes_alone_in_its_minute(
    connection: psycopg.Connection[tuple[object, ...]],
) -> None:
    quota = QuotaClock(connection, None, 1000)
    assert quota.ask(0, 10) == 0
    wait = quota.ask(0.5, 2500)
    assert 60 < wait <= 62
    assert quota.ask(0.5 + wait, 2500) == 0
    assert 61 < quota.ask(1 + wait, 1) < 62 + 2500 / 16, (
        "its debt is paid at the pace, and it is told how long"
    )


def test_a_limit_that_comes_later_finds_no_debt_of_the_time_without_one(
    connection: psycopg.Connection[tuple[object, ...]],
) -> None:
    quota = QuotaClock(connection, None, 1_000_000)
    for second in range(50):
        assert quota.ask(second, 1000) == 0
    connection.execute("UPDATE embedmill.quotas SET calls_per_minute = 60, tokens_per_minute = NULL")
    assert quota.ask(120, 1_000_000) == 0
    connection.execute("UPDATE embedmill.quotas SET tokens_per_minute = 100000")
    assert quota.ask(122, 1000) <= 60, "the million was spent without a limit"


def test_a_lowered_limit_holds_at_once(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    quota = QuotaClock(connection, 6000, None)
    random_seconds = sorted(random.Random(1).uniform(0, 10) for _ in range(100))
    for second in random_seconds:
        quota.ask(second, 1)
    assert len(quota.granted) > 50
    connection.execute("UPDATE embedmill.quotas SET calls_per_minute = 20")
    wait = quota.ask(11, 1)
    assert wait >= 59 - 10, "more than twenty went in this minute: the next has to wait for most of them"
    assert quota.ask(11 + wait, 1) == 0
