"""How many calls at a time, against simulated servers; whose turn, against the shares that weights promise."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedmill.core.concurrency import SIZE_STEP, TOLERANCE, Concurrency, FairShares

CALLS = st.one_of(
    st.tuples(st.just("ok"), st.floats(0, 1e6), st.integers(0, 2**40)),
    st.tuples(st.just("limited"), st.floats(0, 1e6), st.just(0)),
)


class Server:
    """`places` calls are worked on at the same time, the others queue; more than `most` are answered 429."""

    def __init__(self, service: Callable[[float, int], float], *, places: int = 8, most: int = 10**9) -> None:
        self.service = service
        self.most = most
        self.free_at = [0.0] * places

    def answer_at(self, now: float, tokens: int, in_flight: int) -> tuple[float, bool]:
        """When the answer comes, and whether it is a 429."""
        if in_flight > self.most:
            return now + 0.05, True
        start = max(now, heapq.heappop(self.free_at))
        end = start + self.service(now, tokens)
        heapq.heappush(self.free_at, end)
        return end, False


def drive(
    concurrency: Concurrency, server: Server, *, calls: int, size: Callable[[], int], now: float = 0.0
) -> tuple[list[int], int, float]:
    """A client that always has work: the limit after each answer, how many were 429, the time at the end."""
    out: list[tuple[float, int, float, int, bool]] = []
    limits, refused, number = [], 0, 0
    while len(limits) < calls:
        while len(out) < concurrency.limit:
            tokens = size()
            end, is_429 = server.answer_at(now, tokens, len(out) + 1)
            heapq.heappush(out, (end, number, now, tokens, is_429))
            number += 1
        now, _, sent_at, tokens, is_429 = heapq.heappop(out)
        if is_429:
            concurrency.limited(sent_at, now)
            refused += 1
        else:
            concurrency.succeeded(now - sent_at, tokens)
        limits.append(concurrency.limit)
    return limits, refused, now


@given(st.integers(1, 100), st.integers(1, 100), st.lists(CALLS, max_size=200))
def test_the_limit_stays_between_its_bounds_whatever_happens(
    one: int, other: int, story: list[tuple[str, float, int]]
) -> None:
    low, high = sorted((one, other))
    concurrency = Concurrency(high, minimum=low)
    assert concurrency.limit == high
    for number, (kind, value, tokens) in enumerate(story):
        if kind == "ok":
            concurrency.succeeded(value, tokens)
        else:
            concurrency.limited(number - value, float(number))
        assert low <= concurrency.limit <= high


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 32),
    st.floats(0.0, 5.0),
    st.floats(0.0, 0.01),
    st.lists(st.integers(1, 300_000), min_size=1, max_size=150),
)
def test_a_provider_of_steady_latency_keeps_all_its_calls_whatever_their_sizes_and_order(
    maximum: int, base: float, per_token: float, sizes: list[int]
) -> None:
    concurrency = Concurrency(maximum)
    for tokens in sizes + sorted(sizes) + sorted(sizes, reverse=True):
        concurrency.succeeded(base + per_token * tokens, tokens)
        assert concurrency.limit == maximum


@pytest.mark.parametrize("places", [1, 3, 8, 20])
def test_a_server_that_queues_steadily_keeps_all_its_calls(places: int) -> None:
    """It was always so slow: fewer calls would not make it faster."""
    chance = random.Random(places)
    server = Server(lambda now, tokens: 0.2 * chance.uniform(0.8, 1.2), places=places)
    limits, _, _ = drive(Concurrency(8), server, calls=2000, size=lambda: 1000)
    assert sum(limits) / len(limits) > 7.8


def test_after_any_trouble_a_steady_provider_gets_all_its_calls_back() -> None:
    concurrency = Concurrency(8)
    for number in range(50):
        concurrency.limited(number, number)
    assert concurrency.limit == 1
    limits, _, _ = drive(concurrency, Server(lambda now, tokens: 0.1), calls=100, size=lambda: 100, now=100.0)
    assert limits[-1] == 8
    assert limits.index(8) <= 40, "one more for each round trip"


def test_calls_that_fail_together_shrink_it_once() -> None:
    concurrency = Concurrency(8)
    assert [concurrency.limited(10.0 + n / 100, 11.0 + n / 100) for n in range(8)] == [True] + [False] * 7
    assert concurrency.limit == 4
    assert concurrency.limited(12.0, 13.0)
    assert concurrency.limit == 2


@pytest.mark.parametrize("most", [2, 3, 5])
def test_a_server_that_takes_fewer_calls_is_found_out(most: int) -> None:
    server = Server(lambda now, tokens: 0.2, places=most, most=most)
    limits, refused, _ = drive(Concurrency(16), server, calls=3000, size=lambda: 1000)
    settled = limits[200:]
    assert most / 2 - 1 <= min(settled)
    assert max(settled) <= most + 1
    assert refused / len(limits) < 0.35
    assert sum(settled) / len(settled) > 0.6 * most


def test_latency_that_grows_shrinks_it_gently_and_gives_all_back_afterwards() -> None:
    """As when others fill the server's queue for a while."""
    slow = [1.0]
    chance = random.Random(1)
    concurrency = Concurrency(16)
    server = Server(lambda now, tokens: 0.0001 * tokens * slow[0] * chance.uniform(0.9, 1.1), places=16)

    def size() -> int:
        return chance.randint(100, 10_000)

    before, _, now = drive(concurrency, server, calls=500, size=size)
    assert min(before) >= 15
    slow[0] = 6.0
    during, _, now = drive(concurrency, server, calls=240, size=size, now=now)
    assert 4 <= min(during) <= 9
    assert all(later >= earlier - 1 for earlier, later in pairwise(during)), "no leaps"
    slow[0] = 1.0
    after, _, _ = drive(concurrency, server, calls=300, size=size, now=now)
    assert after[-1] == 16


def test_a_provider_that_stays_slow_gets_its_calls_back() -> None:
    concurrency = Concurrency(8)
    for _ in range(300):
        concurrency.succeeded(0.3, 1000)
    limits = []
    for _ in range(700):
        concurrency.succeeded(1.2, 1000)
        limits.append(concurrency.limit)
    assert min(limits) < 8
    assert limits[-1] == 8


def test_one_call_that_hung_is_no_inflation() -> None:
    concurrency = Concurrency(16)
    for number in range(500):
        concurrency.succeeded(20.0 if number % 100 == 99 else 0.2, 1000)
        assert concurrency.limit == 16


def test_sizes_that_are_compared_never_differ_by_what_is_tolerated() -> None:
    assert SIZE_STEP < TOLERANCE


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3000)), min_size=50, max_size=400),
    st.lists(st.floats(0.25, 8.0), min_size=5, max_size=5),
)
def test_tenants_that_always_wait_get_tokens_by_their_weights(
    calls: list[tuple[int, int]], weights: list[float]
) -> None:
    """At any moment no two differ by more than a largest call each."""
    shares = FairShares()
    for tenant in range(5):
        shares.enter(tenant)
    served = [0.0] * 5
    for _, tokens in calls:
        tenant = shares.next(range(5))
        shares.charge(tenant, tokens, weights[tenant])
        served[tenant] += tokens / weights[tenant]
    assert max(served) - min(served) <= 3000 / min(weights) + 1e-6


def test_a_tenant_that_was_away_has_no_claim_on_the_time_before_and_no_debt_is_forgiven() -> None:
    shares = FairShares()
    shares.enter(1)
    for _ in range(100):
        shares.charge(shares.next([1]), 1000, 1.0)
    shares.enter(2)
    served = []
    for _ in range(10):
        served.append(shares.next([1, 2]))
        shares.charge(served[-1], 1000, 1.0)
    assert served.count(2) in {5, 6}
    shares.charge(2, 50_000, 1.0)
    shares.leave(2)
    shares.enter(2)
    served = []
    for _ in range(40):
        served.append(shares.next([1, 2]))
        shares.charge(served[-1], 1000, 1.0)
    assert served == [1] * 40


def test_who_comes_after_a_long_time_in_which_nobody_was_there_starts_level_with_the_next() -> None:
    shares = FairShares()
    shares.enter(1)
    for _ in range(100):
        shares.charge(shares.next([1]), 1000, 1.0)
    shares.leave(1)
    shares.enter(2)
    shares.enter(1)
    served = []
    for _ in range(10):
        served.append(shares.next([2, 1]))
        shares.charge(served[-1], 1000, 1.0)
    assert abs(served.count(1) - served.count(2)) <= 2


def test_tenants_that_left_are_forgotten() -> None:
    shares = FairShares()
    for tenant in range(1000):
        shares.enter(tenant)
        shares.charge(shares.next([tenant]), 10, 1.0)
        shares.leave(tenant)
    assert len(shares._virtual) <= 2
    assert math.isfinite(shares._now)
