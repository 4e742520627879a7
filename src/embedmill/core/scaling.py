"""How many worker processes a machine should run. Pure: facts and the time are arguments; owns the rule, not the
reading of the facts and not the processes.

Up, when something that another process could take has waited too long: by one, or by up to as many as run when the
backlog is old. Down, to the most that was needed at any moment of a whole period. In between nothing changes, so
that a constant load comes to rest; a step down that had to be taken back makes the next one slower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

# A step down is taken back where a step up follows within so many periods: the next one needs a period twice as
# long, up to so many times its length.
LONGEST_PATIENCE = 16


@dataclass(frozen=True, slots=True)
class ReadyWork:
    """Items of one quota key that could be claimed now. `quota_binds`: no call of theirs would be granted."""

    quota_key: str
    items: int
    oldest_seconds: float
    is_local: bool = False
    quota_binds: bool = False


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """What is seen at one moment. `busy` processes hold items; `failing` ones died and wait to be started again;
    `drained` ones were stopped by a person, and their places are kept empty until another is asked for."""

    ready: tuple[ReadyWork, ...] = ()
    busy: int = 0
    failing: int = 0
    drained: int = 0


@dataclass(frozen=True, slots=True)
class ScalingLimits:
    """Between which numbers, and how soon. Beyond `local_maximum` processes the local model gets no faster."""

    minimum: int
    maximum: int
    local_maximum: int
    up_after_seconds: float
    down_after_seconds: float


@dataclass(frozen=True, slots=True)
class Decision:
    """How many processes should run, and why."""

    processes: int
    reason: str


class Scaler:
    """Decides again and again for one fleet; remembers what was needed and when it last changed its mind."""

    def __init__(self, processes: int, now: float) -> None:
        self.decision = Decision(processes, "the minimum")
        self._changed_at = now
        self._bound_at: dict[str, float] = {}
        self._needed: deque[tuple[float, int]] = deque()
        self._patience = 1
        self._last_down_at = self._regretted_at = float("-inf")

    def decide(self, facts: FleetFacts, limits: ScalingLimits, now: float) -> Decision:
        """How many processes should run from now on. `now` is in seconds and never goes back."""
        running = self.decision.processes
        bounded = max(min(running, limits.maximum), min(limits.minimum, limits.maximum))
        if bounded != running:
            return self._change(bounded, _bound_reason(running, limits), now)
        self._bound_at.update((work.quota_key, now) for work in facts.ready if work.quota_binds)
        free = [work for work in facts.ready if self._is_free(work, limits, now)]
        helped = [work for work in free if not work.is_local or running < limits.local_maximum]
        self._remember(_needed(facts, free, running, limits), limits, now)
        changed = self._up(facts, helped, limits, now) or self._down(facts, limits, now)
        if changed is None:
            self.decision = Decision(running, _reason_to_stay(facts, helped, running, limits))
        return self.decision

    def _is_free(self, work: ReadyWork, limits: ScalingLimits, now: float) -> bool:
        """Whether only a process is lacking to these items."""
        # Between two calls even a quota that binds looks free for a moment.
        was_bound_at = self._bound_at.get(work.quota_key, float("-inf"))
        return work.items > 0 and not work.quota_binds and now - was_bound_at >= limits.up_after_seconds

    def _up(
        self, facts: FleetFacts, helped: Sequence[ReadyWork], limits: ScalingLimits, now: float
    ) -> Decision | None:
        running, period = self.decision.processes, limits.up_after_seconds
        old = [work for work in helped if work.oldest_seconds >= period]
        # What was started last needs as long to show its effect; and what dies is not mended by more of it. Nor is
        # whoever was drained let in again by another door.
        if not old or running >= limits.maximum or facts.failing or facts.drained:
            return None
        if now - self._changed_at < period:
            return None
        only_local = all(work.is_local for work in old)
        most = min(limits.maximum, limits.local_maximum) if only_local else limits.maximum
        items = sum(work.items for work in old)
        step = min(running, int(_oldest(old) / period)) if period else running
        if now - self._last_down_at < LONGEST_PATIENCE * limits.down_after_seconds:
            self._patience = min(LONGEST_PATIENCE, 2 * self._patience)
            self._regretted_at = now
        wanted = min(running + max(1, min(step, items)), most)
        return self._change(wanted, f"oldest waits {_oldest(old):.0f} s", now)

    def _down(self, facts: FleetFacts, limits: ScalingLimits, now: float) -> Decision | None:
        if now - self._regretted_at > 4 * LONGEST_PATIENCE * limits.down_after_seconds:
            self._patience = 1
        period = self._patience * limits.down_after_seconds
        needed = self._needed[0][1]
        if needed >= self.decision.processes or now - self._changed_at < period:
            return None
        self._last_down_at = now
        is_idle = needed == limits.minimum and not facts.busy and not facts.ready
        return self._change(needed, f"{'idle' if is_idle else f'{needed} sufficed'} for {period:.0f} s", now)

    def _change(self, processes: int, reason: str, now: float) -> Decision:
        self.decision = Decision(processes, reason)
        self._changed_at = now
        self._needed.clear()
        self._bound_at = {key: at for key, at in self._bound_at.items() if now - at < 3600}
        return self.decision

    def _remember(self, needed: int, limits: ScalingLimits, now: float) -> None:
        """Keep the most that was needed within the period: the first entry, and those that will succeed it."""
        while self._needed and self._needed[-1][1] <= needed:
            self._needed.pop()
        self._needed.append((now, needed))
        while self._needed[0][0] < now - self._patience * limits.down_after_seconds:
            self._needed.popleft()


def local_maximum(*, processors: int, threads: int | None) -> int:
    """How many processes the local model can use: each takes `threads` processors, and all of them by default."""
    return max(1, processors // (threads or processors))


def _needed(facts: FleetFacts, free: Sequence[ReadyWork], running: int, limits: ScalingLimits) -> int:
    """How many processes there is work for at this moment: those at work, and one for what is ready; all that
    run and can help, where something is old."""
    needed = facts.busy + bool(free)
    for work in free:
        if work.oldest_seconds >= limits.up_after_seconds:
            needed = max(needed, min(running, limits.local_maximum) if work.is_local else running)
    if facts.ready and all(work.is_local for work in facts.ready):
        needed = min(needed, limits.local_maximum)
    return min(max(needed, limits.minimum), running)


def _reason_to_stay(
    facts: FleetFacts, helped: Sequence[ReadyWork], running: int, limits: ScalingLimits
) -> str:
    if not facts.ready:
        return "nothing waits"
    if running >= limits.maximum:
        return f"max_concurrent_workers is {limits.maximum}"
    if facts.failing or facts.drained:
        return (
            "workers die: more of them would not help"
            if facts.failing
            else "a worker was drained: no other is started until its place may be filled"
        )
    if helped:
        return f"oldest waits {_oldest(helped):.0f} s"
    if all(work.is_local for work in facts.ready):
        return "the local model has all processors"
    return "quota binds"


def _oldest(works: Sequence[ReadyWork]) -> float:
    return max((work.oldest_seconds for work in works), default=0.0)


def _bound_reason(running: int, limits: ScalingLimits) -> str:
    if running > limits.maximum:
        return f"max_concurrent_workers is {limits.maximum}"
    return f"min_concurrent_workers is {limits.minimum}"
