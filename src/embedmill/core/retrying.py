"""When a failed item is tried again. Pure; owns the arithmetic, not the decision which errors qualify."""

from __future__ import annotations

import random

BASE_SECONDS = 1.0
CAP_SECONDS = 300.0


def backoff_seconds(attempt: int, chance: random.Random) -> float:
    """Full jitter on an exponential: uniform in [0, min(cap, base * 2**attempt)]; `attempt` counts from 0.

    Full jitter spreads a crowd that failed together, see "Exponential Backoff And Jitter" (AWS, 2015).
    """
    ceiling = min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(attempt, 32))
    return chance.uniform(0.0, ceiling)
