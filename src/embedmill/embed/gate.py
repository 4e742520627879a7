"""The gate to one provider within one worker process: who may call it, how many at a time, and whether at all. Owns
what all the embedders that share a quota key must agree on, and keeps it from one stretch to the next; must not
call a provider or touch the database.

    seat    an embedder at the gate, for one stretch of work
    slot    the right to one call in flight, from before its items are claimed until its response is written
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection

from embedmill.core.breaker import Breaker, BreakerStatus
from embedmill.core.concurrency import Concurrency, FairShares
from embedmill.errors import ProviderUnavailableError

# A wait that is longer is not waited for in a slot: the items go back to the queue.
LONGEST_WAIT_SECONDS = 30.0
# How long embedders stay away while another's trial is out.
TRIAL_REST_SECONDS = 0.5
# A provider that says 429 and not for how long is left alone for no longer than this.
LONGEST_UNSTATED_DELAY_SECONDS = 60.0
# So many items are remembered that failed while their provider was away.
MOST_REMEMBERED = 10_000
# Where the quota binds, so many calls of one process have a slot and no grant yet: one that waits, and the next that
# is being made ready meanwhile. Those behind them are neither claimed nor packed: whose turn it is, is decided late.
MOST_UNGRANTED = 2
# The weight of one call in what the provider counts for a token of ours, and how far off that is taken to be.
COUNTING_WEIGHT = 0.1
MOST_COUNTED = 2.0


class ProviderAwayError(ProviderUnavailableError):
    """The provider answers nobody, or we stop: the items of this call are not to blame."""


class Seat:
    """One embedder at the gate. It is over when the embedder stops or the provider is away: its waits end, and it
    gets no more slots."""

    def __init__(self, gate: Gate, tenant_id: int, weight: float) -> None:
        self.tenant_id = tenant_id
        self.weight = weight
        self.is_shut = False
        self._gate = gate
        self._over = asyncio.Event()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def end(self) -> None:
        """No more slots; whoever waits for one, or for time to pass, stops waiting."""
        self._over.set()
        self._gate.dismiss(self)

    def shut(self) -> None:
        """The provider is away."""
        self.is_shut = True
        self.end()

    async def pause(self, seconds: float) -> None:
        """Let time pass, but not beyond the end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)

    async def slot(self) -> Slot | None:
        """Wait for our turn; None where the seat is over first."""
        slot = Slot(self._gate, self)
        return slot if await slot.regain() else None


class Slot:
    """One call's right to be in flight. Given back between its tries, so that a call which waits holds up nobody."""

    def __init__(self, gate: Gate, seat: Seat) -> None:
        self._gate = gate
        self._seat = seat
        self._is_held = False
        self._awaits_grant = False

    async def regain(self) -> bool:
        """Wait for our turn, unless we hold the slot; False where the seat is over first."""
        if not self._is_held:
            self._is_held = self._awaits_grant = await self._gate.admit(self._seat)
        return self._is_held

    def granted(self) -> None:
        """The quota allows its call: the next one may be made ready."""
        if self._awaits_grant:
            self._awaits_grant = False
            self._gate.granted()

    def release(self) -> None:
        """May be called more than once."""
        self.granted()
        if self._is_held:
            self._is_held = False
            self._gate.free()


class Gate:
    """One for each quota key; `chance` and `clock` are for its waits."""

    def __init__(
        self,
        key: str,
        concurrency: Concurrency,
        *,
        chance: random.Random,
        rate_limit_delay_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = key
        self.concurrency = concurrency
        self.breaker = Breaker(chance)
        self.rate_limit_delay_seconds = rate_limit_delay_seconds
        self.last_failure = ""
        self._chance = chance
        self._clock = clock
        self._shares = FairShares()
        self._seats: set[Seat] = set()
        self._waiting: dict[int, deque[tuple[Seat, asyncio.Future[bool]]]] = {}
        self._in_flight = 0
        self._ungranted = 0
        self._quota_binds = False
        self._counted_share = 1.0
        self._answered_at = float("-inf")
        self._unstated_in_a_row = 0
        self._failed_at: OrderedDict[int, float] = OrderedDict()

    # Seats and slots

    def join(self, tenant_id: int, weight: float = 1.0) -> Seat:
        """A seat for one stretch; `leave` it at the end."""
        seat = Seat(self, tenant_id, weight)
        self._seats.add(seat)
        self._shares.enter(tenant_id)
        return seat

    def leave(self, seat: Seat) -> None:
        seat.end()
        self._seats.remove(seat)
        self._shares.leave(seat.tenant_id)

    async def admit(self, seat: Seat) -> bool:
        """Wait for the seat's turn and take a slot; False where the seat is over first."""
        if seat.is_over:
            return False
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(seat.tenant_id, deque()).append((seat, turn))
        self._hand_out()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self._ungranted -= 1
                self.free()
            raise

    def free(self) -> None:
        """A call is over: its slot goes to the tenant that has had least."""
        self._in_flight -= 1
        self._hand_out()

    def dismiss(self, seat: Seat) -> None:
        """Whoever waits on this seat is told that there is nothing to wait for."""
        for waiting_seat, turn in self._waiting.get(seat.tenant_id, ()):
            if waiting_seat is seat and not turn.done():
                turn.set_result(False)

    def _hand_out(self) -> None:
        while self._in_flight < self.concurrency.limit and not (
            self._quota_binds and self._ungranted >= MOST_UNGRANTED
        ):
            for tenant_id, line in list(self._waiting.items()):
                while line and line[0][1].done():
                    line.popleft()
                if not line:
                    del self._waiting[tenant_id]
            if not self._waiting:
                return
            _, turn = self._waiting[self._shares.next(self._waiting)].popleft()
            self._in_flight += 1
            self._ungranted += 1
            turn.set_result(True)

    # The quota

    def asked(self, *, has_to_wait: bool) -> None:
        """The quota was asked for a call: whether it binds for now."""
        self._quota_binds = has_to_wait

    def granted(self) -> None:
        """A call that has a slot got its grant, or needs none any more."""
        self._ungranted -= 1
        self._hand_out()

    def expected(self, tokens: int) -> int:
        """What the provider will count for so many tokens by our estimate, going by what it counted of late."""
        return math.ceil(tokens * self._counted_share)

    def counted(self, tokens: int, counted: int) -> None:
        """The provider counted so many for `tokens` of ours."""
        share = min(max(counted / max(tokens, 1), 1 / MOST_COUNTED), MOST_COUNTED)
        self._counted_share += COUNTING_WEIGHT * (share - self._counted_share)

    # What became of calls

    def sent(self, seat: Seat, tokens: int) -> float:
        """A call goes out, at its tenant's expense; returns when."""
        self._shares.charge(seat.tenant_id, tokens, seat.weight)
        return self._clock()

    def succeeded(self, sent_at: float, tokens: int) -> None:
        self.concurrency.succeeded(self._clock() - sent_at, tokens)
        self._unstated_in_a_row = 0
        self.answered()

    def answered(self) -> None:
        """The provider answered, be it with a refusal: it is there."""
        self._answered_at = self._clock()
        self.breaker.answered()

    def limited(self, sent_at: float, stated_seconds: float | None) -> float:
        """A 429; returns the seconds to wait: what the provider says, else our own delay, which grows with full
        jitter from one round trip of calls to the next."""
        is_news = self.concurrency.limited(sent_at, self._clock())
        self.answered()
        if stated_seconds:
            return stated_seconds
        self._unstated_in_a_row += is_news
        least = self.rate_limit_delay_seconds
        ceiling = least * 2.0 ** min(max(self._unstated_in_a_row - 1, 0), 16)
        return max(least, self._chance.uniform(least, min(ceiling, LONGEST_UNSTATED_DELAY_SECONDS)))

    def failed(self, error: ProviderUnavailableError, first_sent_at: float) -> None:
        """A call found no provider. Should that open the breaker, all the seats are shut."""
        self.last_failure = str(error)
        if self.breaker.failed(self._clock(), stated_seconds=self._stated(error, first_sent_at)):
            self._shut_seats()

    def blames(self, item_ids: Collection[int], first_sent_at: float, *, has_used_up_tries: bool) -> bool:
        """Whether a call that found no provider failed by its own fault, and costs its items an attempt: others were
        answered while it was tried to the end, or since these items failed the last time. Those that are let off
        are remembered, so that an input that kills its provider is found out, also where nobody else calls."""
        failed_before = [self._failed_at[item_id] for item_id in item_ids if item_id in self._failed_at]
        alone = has_used_up_tries and self._answered_at > first_sent_at
        again = any(self._answered_at > failed_at for failed_at in failed_before)
        for item_id in item_ids:
            self._failed_at.pop(item_id, None)
            if not (alone or again):
                self._failed_at[item_id] = self._clock()
        while len(self._failed_at) > MOST_REMEMBERED:
            self._failed_at.popitem(last=False)
        return alone or again

    # The breaker

    @property
    def rest_seconds(self) -> float:
        """For how long it is no use to come: 0.0 while the provider is there, or may be tried."""
        if self.breaker.status is BreakerStatus.HALF_OPEN:
            return TRIAL_REST_SECONDS
        return self.breaker.pause_left(self._clock())

    def try_out(self) -> bool:
        """Begin the trial of a provider that was away; True for one caller at a time."""
        return self.breaker.try_out(self._clock())

    def trial_failed(self, error: ProviderUnavailableError) -> None:
        self.last_failure = str(error)
        self.breaker.trial_failed(self._clock(), stated_seconds=self._stated(error, self._clock()))
        self._shut_seats()

    def _stated(self, error: ProviderUnavailableError, first_sent_at: float) -> float | None:
        """For how long the provider says that it is away, if it is long, and nobody was answered meanwhile."""
        stated = error.retry_after_seconds or 0.0
        return stated if stated > LONGEST_WAIT_SECONDS and self._answered_at < first_sent_at else None

    def _shut_seats(self) -> None:
        if not self.breaker.is_closed:
            for seat in self._seats:
                seat.shut()


class Gates:
    """The gates of one worker process, by quota key."""

    def __init__(
        self, *, calls_in_flight: int, chance: random.Random, rate_limit_delay_seconds: float
    ) -> None:
        self._calls_in_flight = calls_in_flight
        self._chance = chance
        self._rate_limit_delay_seconds = rate_limit_delay_seconds
        self._gates: dict[str, Gate] = {}

    def gate(self, provider: str, quota_key: str) -> Gate:
        """All local pipelines share one of two calls: the engine shares the machine's CPUs."""
        is_local = provider == "local"
        key = "local" if is_local else f"quota {quota_key}"
        if key not in self._gates:
            concurrency = Concurrency(2, minimum=2) if is_local else Concurrency(self._calls_in_flight)
            self._gates[key] = Gate(
                key,
                concurrency,
                chance=self._chance,
                rate_limit_delay_seconds=self._rate_limit_delay_seconds,
            )
        return self._gates[key]

    def set_rate_limit_delay(self, seconds: float) -> None:
        """At once, for all."""
        self._rate_limit_delay_seconds = seconds
        for gate in self._gates.values():
            gate.rate_limit_delay_seconds = seconds
