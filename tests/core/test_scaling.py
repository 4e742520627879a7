"""How many processes run: up for what waits and can be helped, down for what is not needed, and then at rest."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedmill.core.scaling import (
    LONGEST_PATIENCE,
    Decision,
    FleetFacts,
    ReadyWork,
    Scaler,
    ScalingLimits,
    local_maximum,
)

LIMITS = ScalingLimits(minimum=1, maximum=8, local_maximum=2, up_after_seconds=10, down_after_seconds=60)
POLL_SECONDS = 2.0


def waiting(seconds: float, items: int = 1000, **kind: bool) -> ReadyWork:
    return ReadyWork("key", items, seconds, **kind)


def decisions(
    scaler: Scaler, facts: FleetFacts, seconds: float, *, start: float = 0.0, limits: ScalingLimits = LIMITS
) -> list[Decision]:
    """What is decided, poll by poll, while the facts stay as they are."""
    polls = int(seconds / POLL_SECONDS) + 1
    return [scaler.decide(facts, limits, start + poll * POLL_SECONDS) for poll in range(polls)]


def test_one_more_when_the_oldest_waits_as_long_as_is_allowed() -> None:
    scaler = Scaler(1, 0.0)
    assert scaler.decide(FleetFacts((waiting(9.9),), busy=1), LIMITS, 20.0).processes == 1
    assert scaler.decide(FleetFacts((waiting(14.2),), busy=1), LIMITS, 22.0) == Decision(
        2, "oldest waits 14 s"
    )


def test_an_old_backlog_doubles_the_fleet_each_time_up_to_the_maximum() -> None:
    decided = decisions(Scaler(1, 0.0), FleetFacts((waiting(3600),), busy=1), 60)
    assert sorted({decision.processes for decision in decided}) == [1, 2, 4, 8]
    assert decided[-1] == Decision(8, "max_concurrent_workers is 8")


def test_never_more_new_processes_than_items_that_wait() -> None:
    scaler = Scaler(4, 0.0)
    assert scaler.decide(FleetFacts((waiting(3600, items=1),), busy=4), LIMITS, 20.0).processes == 5


def test_what_was_started_gets_time_to_show_its_effect() -> None:
    decided = decisions(Scaler(1, 0.0), FleetFacts((waiting(12),), busy=1), 18)
    assert [decision.processes for decision in decided] == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]


def test_never_up_while_the_quota_binds_nor_in_the_moments_between() -> None:
    scaler = Scaler(1, 0.0)
    for poll in range(500):
        work = waiting(3600, quota_binds=poll % 4 != 0)
        assert scaler.decide(FleetFacts((work,), busy=1), LIMITS, poll * POLL_SECONDS).processes == 1
    assert scaler.decision.reason == "quota binds"


def test_a_quota_that_binds_holds_no_other_pipeline_back() -> None:
    bound = ReadyWork("bound", 1000, 3600, quota_binds=True)
    decided = decisions(Scaler(1, 0.0), FleetFacts((bound, waiting(12)), busy=1), 10)
    assert decided[-1].processes == 2


def test_when_the_quota_is_free_again_the_fleet_grows() -> None:
    scaler = Scaler(1, 0.0)
    decisions(scaler, FleetFacts((waiting(60, quota_binds=True),), busy=1), 30)
    assert decisions(scaler, FleetFacts((waiting(60),), busy=1), 12, start=32)[-1].processes == 2


def test_local_work_takes_no_more_processes_than_the_processors_carry() -> None:
    local = waiting(3600, is_local=True)
    scaler = Scaler(1, 0.0)
    decided = decisions(scaler, FleetFacts((local,), busy=2), 600)
    assert decided[-1] == Decision(2, "the local model has all processors")
    scaler = Scaler(6, 0.0)  # of a time when there was other work as well
    assert decisions(scaler, FleetFacts((local,), busy=6), 60)[-1] == Decision(2, "2 sufficed for 60 s")


@pytest.mark.parametrize(
    ("processors", "threads", "expected"), [(8, None, 1), (8, 2, 4), (8, 3, 2), (2, 16, 1), (1, 1, 1)]
)
def test_local_processes_times_threads_never_pass_the_processors(
    processors: int, threads: int | None, expected: int
) -> None:
    assert local_maximum(processors=processors, threads=threads) == expected


def test_processes_that_die_are_not_joined_by_more() -> None:
    decided = decisions(Scaler(2, 0.0), FleetFacts((waiting(3600),), failing=1, busy=1), 60)
    assert decided[-1] == Decision(2, "workers die: more of them would not help")


def test_down_to_the_minimum_when_nothing_was_to_be_done_for_the_whole_period() -> None:
    decided = decisions(Scaler(5, 0.0), FleetFacts(), 60)
    assert [decision.processes for decision in decided[:-1]] == [5] * 30
    assert decided[-1] == Decision(1, "idle for 60 s")


def test_down_to_the_most_that_was_needed_at_any_moment_of_the_period() -> None:
    scaler = Scaler(6, 0.0)
    decisions(scaler, FleetFacts(busy=1), 30)
    scaler.decide(FleetFacts(busy=4), LIMITS, 32.0)
    decided = decisions(scaler, FleetFacts(busy=1), 58, start=34.0)
    assert {decision.processes for decision in decided[:13]} == {6}
    assert decided[13] == Decision(4, "4 sufficed for 60 s")
    assert decided[-1].processes == 4


def test_new_bounds_hold_at_once() -> None:
    scaler = Scaler(6, 0.0)
    fewer = ScalingLimits(1, 3, 2, 10, 60)
    assert scaler.decide(FleetFacts(busy=6), fewer, 1.0) == Decision(3, "max_concurrent_workers is 3")
    more = ScalingLimits(5, 8, 2, 10, 60)
    assert scaler.decide(FleetFacts(), more, 2.0) == Decision(5, "min_concurrent_workers is 5")


READY = st.lists(
    st.builds(
        ReadyWork,
        st.sampled_from(["a", "b"]),
        st.integers(0, 100),
        st.floats(0, 10_000),
        st.booleans(),
        st.booleans(),
    ),
    max_size=3,
).map(tuple)
FACTS = st.builds(FleetFacts, READY, st.integers(0, 12), st.integers(0, 2))
ANY_LIMITS = st.builds(
    ScalingLimits,
    st.integers(1, 10),
    st.integers(1, 10),
    st.integers(1, 4),
    st.integers(0, 30),
    st.integers(1, 120),
)


@given(st.lists(st.tuples(FACTS, ANY_LIMITS), min_size=1, max_size=60))
def test_whatever_is_seen_the_bounds_hold_and_no_change_lacks_its_cause(
    seen: list[tuple[FleetFacts, ScalingLimits]],
) -> None:
    scaler, before = Scaler(1, 0.0), 1
    for poll, (facts, limits) in enumerate(seen):
        decided = scaler.decide(facts, limits, poll * POLL_SECONDS).processes
        assert min(limits.minimum, limits.maximum) <= decided <= limits.maximum
        if decided > max(before, limits.minimum):
            assert any(not work.quota_binds for work in facts.ready)
            assert not facts.failing
        before = decided


@settings(deadline=None, max_examples=150)
@given(FACTS, ANY_LIMITS, st.integers(1, 10))
def test_facts_that_do_not_change_bring_the_fleet_to_rest(
    facts: FleetFacts, limits: ScalingLimits, started: int
) -> None:
    scaler = Scaler(started, 0.0)
    decided = decisions(scaler, facts, 3000, limits=limits)
    first = max(min(started, limits.maximum), min(limits.minimum, limits.maximum))
    assert turns([first, *(decision.processes for decision in decided)]) == 0
    assert len({decision.processes for decision in decided[-100:]}) == 1


@settings(deadline=None, max_examples=30)
@given(
    load=st.floats(0.05, 12.0),
    burst_seconds=st.sampled_from([2.0, 10.0, 40.0, 200.0]),
    seconds_an_item=st.floats(0.05, 20.0),
    start=st.integers(1, 8),
)
def test_under_a_constant_load_it_does_not_flap(
    load: float, burst_seconds: float, seconds_an_item: float, start: int
) -> None:
    """A simulated queue for two hours: `load` processes' worth of items, arriving in bursts."""
    numbers = simulate(load, burst_seconds, seconds_an_item, Scaler(start, 0.0), seconds=7200)
    most = LONGEST_PATIENCE * LIMITS.down_after_seconds
    assert turns(numbers) <= 2 * (1 + math.log2(LONGEST_PATIENCE)) + 2 * 7200 / most
    if load > 8:
        assert numbers[-1] == 8
    assert numbers[-1] >= min(8, math.floor(load))


def simulate(
    load: float, burst_seconds: float, seconds_an_item: float, scaler: Scaler, *, seconds: int
) -> list[int]:
    """The number of processes at each poll. Work is served first come, first served; processes are started at once."""
    arrivals: list[tuple[float, float]] = []  # (when, seconds of work)
    numbers = []
    next_burst = 0.0
    for poll in range(int(seconds / POLL_SECONDS)):
        now = poll * POLL_SECONDS
        while next_burst <= now:
            arrivals.append((next_burst, load * burst_seconds))
            next_burst += burst_seconds
        running = scaler.decision.processes
        backlog = sum(work for _, work in arrivals)
        busy = min(running, math.ceil(backlog / seconds_an_item))
        in_hand = busy * seconds_an_item
        ready = max(0.0, backlog - in_hand)
        works = ()
        if ready > 0:
            works = (
                ReadyWork("key", math.ceil(ready / seconds_an_item), now - oldest_behind(arrivals, in_hand)),
            )
        numbers.append(scaler.decide(FleetFacts(works, busy), LIMITS, now).processes)
        serve(arrivals, min(backlog, numbers[-1] * POLL_SECONDS))
    return numbers


def oldest_behind(arrivals: list[tuple[float, float]], in_hand: float) -> float:
    for when, work in arrivals:
        if work > in_hand:
            return when
        in_hand -= work
    return arrivals[-1][0]


def serve(arrivals: list[tuple[float, float]], done: float) -> None:
    while arrivals and done > 0:
        when, work = arrivals.pop(0)
        if work > done:
            arrivals.insert(0, (when, work - done))
        done -= min(work, done)


def turns(numbers: list[int]) -> int:
    """How often the number went the other way."""
    steps = [b - a for a, b in pairwise(numbers) if a != b]
    return sum(1 for a, b in pairwise(steps) if a * b < 0)
