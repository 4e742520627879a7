"""The circuit breaker of one provider: whether calls may be made. Pure; owns the states and the pauses. The time
and chance are arguments; who sends the trial call is embed/gate.py's business."""

from __future__ import annotations

import random
from collections.abc import Mapping
from enum import StrEnum

# So many calls in a row that found no provider open the breaker.
FAILURES_TO_OPEN = 5
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0
# A provider that itself says when it will be back is believed up to this.
LONGEST_STATED_SECONDS = 3600.0


class BreakerStatus(StrEnum):
    """Closed lets every call through, open none, half-open one."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


BREAKER_TRANSITIONS: Mapping[BreakerStatus, Mapping[BreakerStatus, str]] = {
    BreakerStatus.CLOSED: {
        BreakerStatus.OPEN: "five calls in a row found no provider, or it said for how long it is away",
    },
    BreakerStatus.OPEN: {
        BreakerStatus.HALF_OPEN: "the pause is over: one trial call",
        BreakerStatus.CLOSED: "a call that was still out was answered",
    },
    BreakerStatus.HALF_OPEN: {
        BreakerStatus.CLOSED: "the trial, or a call that was still out, was answered",
        BreakerStatus.OPEN: "the trial failed, or was not made after all",
    },
}
"""From each status, where it may go and why."""


class Breaker:
    """An outage is noticed once for all, and asked about by one call at a time."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._failures = 0
        self._openings = 0
        self._opens_until = 0.0
        self.status = BreakerStatus.CLOSED

    @property
    def is_closed(self) -> bool:
        return self.status is BreakerStatus.CLOSED

    def pause_left(self, now: float) -> float:
        """Seconds until a trial may be made; 0.0 where the breaker is not open."""
        return max(0.0, self._opens_until - now) if self.status is BreakerStatus.OPEN else 0.0

    def answered(self) -> None:
        """The provider answered a call, be it with a refusal: it is there."""
        self._failures = self._openings = 0
        if not self.is_closed:
            self._go(BreakerStatus.CLOSED)

    def failed(self, now: float, *, stated_seconds: float | None = None) -> bool:
        """A call found no provider; returns whether that opened the breaker. `stated_seconds` is for how long the
        provider says that it is away, where nobody has an answer to the contrary: that opens it at once.

        While the breaker is not closed only the trial counts: the others were sent before.
        """
        if not self.is_closed:
            return False
        self._failures += 1
        if self._failures < FAILURES_TO_OPEN and stated_seconds is None:
            return False
        self._open(now, stated_seconds)
        return True

    def try_out(self, now: float) -> bool:
        """Begin the trial: True for one caller, once the pause is over. It must report how the trial ended."""
        if self.status is not BreakerStatus.OPEN or now < self._opens_until:
            return False
        self._go(BreakerStatus.HALF_OPEN)
        return True

    def trial_failed(self, now: float, *, stated_seconds: float | None = None) -> None:
        """The trial found no provider; a no-op where another call has been answered meanwhile."""
        if self.status is BreakerStatus.HALF_OPEN:
            self._open(now, stated_seconds)

    def trial_abandoned(self) -> None:
        """The trial was not made after all: the next one may be, at once."""
        if self.status is BreakerStatus.HALF_OPEN:
            self._go(BreakerStatus.OPEN)

    def _open(self, now: float, stated_seconds: float | None) -> None:
        ceiling = min(1.25 * FIRST_PAUSE_SECONDS * 2.0 ** min(self._openings, 16), LONGEST_PAUSE_SECONDS)
        pause = ceiling * self._chance.uniform(0.8, 1.0)
        stated = min(stated_seconds or 0.0, LONGEST_STATED_SECONDS)
        self._openings += 1
        self._failures = 0
        self._opens_until = now + max(pause, stated)
        self._go(BreakerStatus.OPEN)

    def _go(self, status: BreakerStatus) -> None:
        if status not in BREAKER_TRANSITIONS[self.status]:
            raise AssertionError(f"a breaker does not go from {self.status} to {status}")
        self.status = status
