"""How many calls a provider takes at a time, and whose turn is next. Pure; owns the arithmetic of both. The time is
an argument; who waits, and for what, is embed/gate.py's business."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

# A 429 halves the limit.
SHRINK_FACTOR = 0.5
# Latency may rise to this multiple of what it was in the long run before it counts as inflated.
TOLERANCE = 1.5
# Sizes of calls whose latencies are compared with each other differ by at most this factor. Below TOLERANCE: where
# latency grows with size and at most in proportion to it, sizes alone never look like inflation.
SIZE_STEP = math.sqrt(2.0)
# The weights of one call in the averages: about the last ten calls, about the last two hundred of its size.
SHORT_WEIGHT = 0.1
LONG_WEIGHT = 0.005
# A gradient is never steeper than this, and a round trip of calls follows it by this much (Gradient2).
STEEPEST_GRADIENT = 0.5
SMOOTHING = 0.2
# Below this, latency is that of our own machine and no sign of the provider's.
LEAST_LATENCY_SECONDS = 0.05


class Concurrency:
    """The limit of calls in flight, between `minimum` and `maximum`; it begins at the maximum.

    A 429 halves it, once for all the calls that were out together. A success adds one for each round trip of calls,
    unless latency is inflated: the recent calls over the long run, each beside calls of about its size. Then it
    shrinks gently, as Gradient2 of Netflix's concurrency-limits does, towards a floor of
    1 / (1 - gradient)**2, which is at least 4: a slow provider is spared, not abandoned. The long run follows what
    is steady, so a provider that stays slow gets all its calls back, and one that was always so never lost any.
    """

    def __init__(self, maximum: int, *, minimum: int = 1) -> None:
        self._minimum = float(minimum)
        self._maximum = float(maximum)
        self._limit = float(maximum)
        self._shrunk_at = -math.inf
        self._long: dict[int, tuple[float, int]] = {}  # by size: mean of log latency, calls
        self._inflation = 0.0  # log of recent over long run

    @property
    def limit(self) -> int:
        return int(self._limit)

    @property
    def maximum(self) -> int:
        return int(self._maximum)

    def limited(self, sent_at: float, now: float) -> bool:
        """A 429. Returns whether it is the first of its round trip: calls that were sent before the last shrink
        say nothing new."""
        if sent_at < self._shrunk_at:
            return False
        self._shrunk_at = now
        self._limit = max(self._minimum, self._limit * SHRINK_FACTOR)
        return True

    def succeeded(self, latency_seconds: float, tokens: int) -> None:
        self._observe(latency_seconds, tokens)
        gradient = min(1.0, max(STEEPEST_GRADIENT, TOLERANCE / math.exp(self._inflation)))
        if gradient == 1.0:
            self._limit = min(self._maximum, self._limit + 1.0 / self._limit)
            return
        change = self._limit * gradient + math.sqrt(self._limit) - self._limit
        self._limit = max(self._minimum, self._limit + min(0.0, SMOOTHING * change / self._limit))

    def _observe(self, latency_seconds: float, tokens: int) -> None:
        """In logarithms: one call that hung weighs like ten slow ones and not like a thousand."""
        seen = math.log(max(latency_seconds, LEAST_LATENCY_SECONDS))
        size = math.floor(math.log(max(tokens, 1)) / math.log(SIZE_STEP))
        mean, calls = self._long.get(size, (seen, 0))
        self._inflation += SHORT_WEIGHT * (seen - mean - self._inflation)
        self._long[size] = (mean + max(LONG_WEIGHT, 1.0 / (calls + 1)) * (seen - mean), calls + 1)


class FairShares:
    """Start-time fair queueing between tenants: each has a virtual time that grows by tokens over weight, and the
    lowest comes next. One that was away begins where the others are: it has no claim on what it did not use."""

    def __init__(self) -> None:
        self._virtual: dict[int, float] = {}
        self._present: Counter[int] = Counter()
        self._now = 0.0  # the virtual time of whoever was served last

    def enter(self, tenant_id: int) -> None:
        """A tenant has work (once more: it may have several pipelines)."""
        if not self._present[tenant_id]:
            self._virtual[tenant_id] = max(self._virtual.get(tenant_id, 0.0), self._now)
        self._present[tenant_id] += 1

    def leave(self, tenant_id: int) -> None:
        self._present[tenant_id] -= 1
        if not self._present[tenant_id]:
            del self._present[tenant_id]
            if not self._present:
                self._now = max(self._virtual.values())
            # What lies behind the others is worth nothing; only a debt is remembered.
            for each in [t for t, v in self._virtual.items() if v <= self._now and t not in self._present]:
                del self._virtual[each]

    def charge(self, tenant_id: int, tokens: int, weight: float) -> None:
        """A call of so many tokens is sent."""
        self._virtual[tenant_id] += max(tokens, 1) / weight

    def next(self, waiting: Iterable[int]) -> int:
        """Whose turn it is among those who wait (at least one, all of them entered); the first of equals."""
        chosen = min(waiting, key=lambda tenant_id: self._virtual[tenant_id])
        self._now = max(self._now, self._virtual[chosen])
        return chosen
