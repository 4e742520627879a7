"""A quota asked on a clock of the test's own, and an independent reckoning of what it granted. Owns the asking;
must not assert."""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import psycopg

KEY = "test/limited"
BEGIN = datetime(2100, 1, 1, tzinfo=UTC)
"""Second 0 of the clock: later than the database's own, which a grant never goes behind."""

Caller = Callable[[random.Random], int]
"""Draws the tokens of a caller's next call."""


class QuotaClock:
    """One quota row, made anew, asked at the seconds that the test names."""

    def __init__(
        self, connection: psycopg.Connection[tuple[object, ...]], calls: int | None, tokens: int | None
    ) -> None:
        self._connection = connection
        self.granted: list[tuple[float, int]] = []
        connection.execute("DELETE FROM embedmill.quotas WHERE quota_key = %s", (KEY,))
        connection.execute(
            "INSERT INTO embedmill.quotas (quota_key, calls_per_minute, tokens_per_minute, refilled_at) "
            "VALUES (%s, %s, %s, %s)",
            (KEY, calls, tokens, BEGIN),
        )

    def ask(self, second: float, tokens: int) -> float:
        """0.0 when granted, else the seconds to wait."""
        row = self._connection.execute(
            "SELECT embedmill.grant_quota(%s, %s, %s)", (KEY, tokens, BEGIN + timedelta(seconds=second))
        ).fetchone()
        assert row is not None
        wait = int(str(row[0])) / 1000
        if wait == 0:
            self.granted.append((second, tokens))
        return wait

    def run(
        self, callers: Sequence[Caller], *, minutes: float, seed: int = 1
    ) -> tuple[list[int], list[float]]:
        """Callers that ask for the next call as soon as they have one, and come back when told, each up to
        20 ms late. Returns (grants of each caller, every wait told)."""
        chance = random.Random(seed)
        due = [(0.0, number, None) for number in range(len(callers))]
        queue: list[tuple[float, int, int | None]] = list(due)
        grants, waits = [0] * len(callers), []
        while queue[0][0] < minutes * 60:
            second, number, tokens = heapq.heappop(queue)
            tokens = callers[number](chance) if tokens is None else tokens
            wait = self.ask(second, tokens)
            late = chance.uniform(0, 0.02)
            if wait == 0:
                grants[number] += 1
                heapq.heappush(queue, (second + late, number, None))
            else:
                waits.append(wait)
                heapq.heappush(queue, (second + wait + late, number, tokens))
        return grants, waits

    def densest_minute(self) -> tuple[int, int]:
        """(most calls, most tokens) of any 60 seconds: of all windows, for the densest begins at a grant."""
        seconds = [second for second, _ in self.granted]
        sums = [0]
        for _, tokens in self.granted:
            sums.append(sums[-1] + tokens)
        most_calls = most_tokens = 0
        for first, begin in enumerate(seconds):
            after = bisect_left(seconds, begin + 60)
            most_calls = max(most_calls, after - first)
            most_tokens = max(most_tokens, sums[after] - sums[first])
        return most_calls, most_tokens

    def share_used(self, calls: int | None, tokens: int | None, minutes: float) -> float:
        """How much of the limit that binds was used."""
        spent = [0.0]
        if calls is not None:
            spent.append(len(self.granted) / (calls * minutes))
        if tokens is not None:
            spent.append(sum(size for _, size in self.granted) / (tokens * minutes))
        return max(spent)
