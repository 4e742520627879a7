"""The waits between attempts."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from embedmill.core.retrying import BASE_SECONDS, CAP_SECONDS, backoff_seconds


@given(st.integers(0, 100_000), st.integers())
def test_a_wait_is_never_negative_and_never_over_its_ceiling(attempt: int, seed: int) -> None:
    wait = backoff_seconds(attempt, random.Random(seed))
    assert 0.0 <= wait <= min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(attempt, 100))


def test_waits_grow_and_spread_a_crowd_over_the_whole_span() -> None:
    chance = random.Random(1)
    for attempt in (0, 3, 6, 20):
        waits = [backoff_seconds(attempt, chance) for _ in range(2000)]
        ceiling = min(CAP_SECONDS, BASE_SECONDS * 2**attempt)
        assert min(waits) < 0.05 * ceiling
        assert max(waits) > 0.95 * ceiling
        assert 0.45 * ceiling < sum(waits) / len(waits) < 0.55 * ceiling


def test_the_same_chance_gives_the_same_waits() -> None:
    first, second = random.Random(7), random.Random(7)
    assert [backoff_seconds(n, first) for n in range(9)] == [backoff_seconds(n, second) for n in range(9)]
