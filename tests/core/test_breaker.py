"""The circuit breaker: its table, its pauses, and who may call."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.core.breaker import (
    BREAKER_TRANSITIONS,
    FAILURES_TO_OPEN,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    LONGEST_STATED_SECONDS,
    Breaker,
    BreakerStatus,
)

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["failed", "answered", "try_out", "trial_failed", "trial_abandoned"]),
        st.floats(0, 100),
        st.none() | st.floats(0, 1e9),
    ),
    max_size=100,
)


def opened(now: float = 0.0, seed: int = 0) -> Breaker:
    breaker = Breaker(random.Random(seed))
    opened = [breaker.failed(now) for _ in range(FAILURES_TO_OPEN)]
    assert opened == [False] * (FAILURES_TO_OPEN - 1) + [True]
    return breaker


@given(STEPS, st.integers())
def test_it_goes_only_where_the_table_lets_it_and_one_trial_is_out_at_a_time(
    steps: list[tuple[str, float, float | None]], seed: int
) -> None:
    breaker = Breaker(random.Random(seed))
    now = 0.0
    for what, seconds, stated in steps:
        now += seconds
        before = breaker.status
        if what == "failed":
            assert breaker.failed(now, stated_seconds=stated) == (breaker.status is not before)
        elif what == "answered":
            breaker.answered()
            assert breaker.is_closed
        elif what == "try_out":
            may = breaker.try_out(now)
            assert may == (before is BreakerStatus.OPEN and breaker.status is BreakerStatus.HALF_OPEN)
            assert not breaker.try_out(now)
        elif what == "trial_failed":
            breaker.trial_failed(now, stated_seconds=stated)
        else:
            breaker.trial_abandoned()
        assert breaker.status is before or breaker.status in BREAKER_TRANSITIONS[before]
        assert 0 <= breaker.pause_left(now) <= LONGEST_STATED_SECONDS + 1e-6


def test_every_status_can_be_left() -> None:
    assert set(BREAKER_TRANSITIONS) == set(BreakerStatus)
    assert all(BREAKER_TRANSITIONS.values())


def test_failures_count_only_in_a_row() -> None:
    breaker = Breaker(random.Random(0))
    for _ in range(100):
        for _ in range(FAILURES_TO_OPEN - 1):
            assert not breaker.failed(0.0)
        breaker.answered()
    assert breaker.is_closed


@pytest.mark.parametrize("seed", range(20))
def test_pauses_grow_from_five_seconds_to_a_minute_and_begin_anew_after_an_answer(seed: int) -> None:
    breaker = opened(seed=seed)
    now, pauses = 0.0, [breaker.pause_left(0.0)]
    for _ in range(10):
        now += breaker.pause_left(now) + 1e-9
        assert not breaker.try_out(now - 0.001)
        assert breaker.try_out(now)
        breaker.trial_failed(now)
        pauses.append(breaker.pause_left(now))
    assert FIRST_PAUSE_SECONDS <= pauses[0] <= 1.25 * FIRST_PAUSE_SECONDS
    assert all(later > earlier for earlier, later in pairwise(pauses[:4]))
    assert all(47 <= pause <= LONGEST_PAUSE_SECONDS + 1e-6 for pause in pauses[4:])
    assert len(set(pauses[4:])) > 1, "a fleet does not come back as one"
    assert breaker.try_out(now + 60)
    breaker.answered()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(now + 60)
    assert breaker.pause_left(now + 60) <= 1.25 * FIRST_PAUSE_SECONDS + 1e-6


def test_a_call_that_was_out_when_it_opened_proves_nothing_by_failing_and_all_by_an_answer() -> None:
    breaker = opened()
    left = breaker.pause_left(1.0)
    assert not breaker.failed(1.0)
    assert breaker.pause_left(1.0) == left
    assert breaker.try_out(60.0)
    assert not breaker.failed(60.0)
    assert breaker.status is BreakerStatus.HALF_OPEN
    breaker.answered()
    breaker.trial_failed(61.0)
    assert breaker.is_closed


def test_a_trial_that_was_not_made_costs_no_pause() -> None:
    breaker = opened()
    assert breaker.try_out(10.0)
    breaker.trial_abandoned()
    assert breaker.try_out(10.0)


def test_a_provider_that_says_for_how_long_it_is_away_is_believed_within_reason() -> None:
    breaker = Breaker(random.Random(0))
    assert breaker.failed(0.0, stated_seconds=600)
    assert breaker.pause_left(0.0) == 600
    other = Breaker(random.Random(0))
    assert other.failed(0.0, stated_seconds=1e9)
    assert other.pause_left(0.0) == LONGEST_STATED_SECONDS
