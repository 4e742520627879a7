"""Which of the generations that have ready work gets an embedder next, and which are left alone for now and why.
Owns the order and the rests; must not start anything. Times are arguments, in seconds of one monotonic clock."""

from __future__ import annotations

from collections.abc import Sequence


class Turns:
    """Rounds: whoever was served in this round comes after those who were not, each in the order that the queue
    gives (tenants that have had least first). So nobody waits longer than a round, however many there are."""

    def __init__(self) -> None:
        self._served: set[int] = set()

    def order(self, waiting: Sequence[int]) -> list[int]:
        """The generations that wait for an embedder, in the order of their turns."""
        fresh = [generation_id for generation_id in waiting if generation_id not in self._served]
        if not fresh:
            self._served.clear()
            return list(waiting)
        return fresh + [generation_id for generation_id in waiting if generation_id in self._served]

    def take(self, generation_id: int) -> None:
        """It gets its turn."""
        self._served.add(generation_id)


class Rests:
    """Generations that are left alone for now. The reason stays until the generation gets on again."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        self._reasons: dict[int, str] = {}

    def begin(self, generation_id: int, until: float, reason: str) -> None:
        self._until[generation_id] = until
        self._reasons[generation_id] = reason

    def end(self, generation_id: int) -> None:
        """It gets on."""
        self._until.pop(generation_id, None)
        self._reasons.pop(generation_id, None)

    def holds(self, generation_id: int, now: float) -> bool:
        return self._until.get(generation_id, now) > now

    def reasons(self) -> dict[int, str]:
        """One sentence for each generation in trouble."""
        return dict(self._reasons)
