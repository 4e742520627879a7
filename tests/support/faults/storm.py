"""Faults drawn at random, at random moments, one upon another, while work keeps arriving. Owns the drawing; each fault
itself is mill.py's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.support.faults.accounts import Window
from tests.support.faults.mill import Hand, Mill, Paper, texts_of
from tests.support.faults.postgres import ShutdownMode
from tests.support.faults.wrappers import STEPS

WORKERS = 3
# Below this many items, more work arrives.
LIVE_ITEMS = 30
_PROVIDER_FAULTS = ("429", "500", "drop", "drop_after", "slow_body")


class Storm:
    """`run(faults)` lets so many happen and then waits for calm. `counts` are the faults by kind."""

    def __init__(self, mill: Mill, chance: random.Random) -> None:
        self._mill = mill
        self._chance = chance
        self._slots: list[Hand | None] = [None] * WORKERS
        self._started = 0
        self._papers = 0
        self._is_fed = False
        self._lasting: set[asyncio.Task[None]] = set()
        self._counted: set[tuple[str, float]] = set()
        self.counts: Counter[str] = Counter()

    async def run(self, faults: int) -> None:
        for name in ("first", "second", "third"):
            await self._mill.add_pipeline(name)
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(self._keep_workers())
            feeding = tasks.create_task(self._keep_work())
            while self.counts.total() < faults:
                await self._strike()
                await asyncio.sleep(self._chance.uniform(0.1, 1.2))
            # Never cancelled: a document whose commit is under way would be saved and not be known.
            self._is_fed = True
            await feeding
            while self._lasting:
                await asyncio.wait(self._lasting)
            await self._mill.settle(120)
            keeping.cancel()

    async def _strike(self) -> None:
        """One fault; those at a step come by themselves (`_start`) and are counted where they have come."""
        kinds: dict[Callable[[], Awaitable[str | None]], float] = {
            self._kill: 3,
            self._freeze: 1.5,
            self._stop_in_order: 0.5,
            self._restart: 0.7,
            self._end_sessions: 1.5,
            self._cut: 1.5,
            self._half_open: 1,
            self._lose_commit: 1.5,
            self._provider: 2,
            self._cancel: 1.5,
            self._change: 1.5,
        }
        fault = self._chance.choices(list(kinds), list(kinds.values()))[0]
        if kind := await fault():
            self.counts[kind] += 1

    # Workers ---------------------------------------------------------------------------------------------

    async def _keep_workers(self) -> None:
        """A worker in each slot; the fallen are replaced, those that froze at a step are woken in a while."""
        while True:
            for slot, hand in enumerate(self._slots):
                if hand is not None:
                    self._note_step_faults(hand)
                if hand is None or hand.process.status is not None:
                    self._slots[slot] = self._start()
            await asyncio.sleep(0.1)

    def _start(self) -> Hand:
        self._started += 1
        armed = self._chance.random() < 0.7
        return self._mill.start_worker(
            f"w{self._started}",
            fault_at=f"{self._chance.choice(STEPS)}:{self._chance.randint(1, 5)}" if armed else "",
            fault=self._chance.choice(["kill", "kill", "stop"]) if armed else "",
            clock_skew_seconds=self._chance.choice([0.0, 0.0, -7200.0, 10_000.0, 86_400.0]),
        )

    def _note_step_faults(self, hand: Hand) -> None:
        for step, fault, at in hand.process.journal().faults:
            if (hand.process.name, at) in self._counted:
                continue
            self._counted.add((hand.process.name, at))
            self.counts[f"{fault} at {step}"] += 1
            window = self._mill.note(f"{fault} at {step}", hand.process.name, at)
            if fault == "stop":
                window.end = float("inf")
                self._last(self._wake_later(hand, window))

    async def _wake_later(self, hand: Hand, window: Window) -> None:
        await asyncio.sleep(self._chance.uniform(0.5, 5.0))
        hand.process.wake()
        window.end = time.monotonic()

    def _last(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)

    def _victim(self) -> Hand | None:
        """A worker that is at work and not frozen."""
        hands = [h for h in self._slots if h and h.process.status is None and h.process.is_at_work]
        return self._chance.choice([h for h in hands if not h.process.is_frozen] or [None])

    async def _kill(self) -> str | None:
        if (hand := self._victim()) is None:
            return None
        self._mill.kill(hand)
        return "kill"

    async def _stop_in_order(self) -> str | None:
        if (hand := self._victim()) is None:
            return None
        hand.process.terminate()
        return "graceful stop"

    async def _freeze(self) -> str | None:
        if (hand := self._victim()) is None:
            return None
        window = self._mill.note("freeze", hand.process.name)
        window.end = float("inf")
        hand.process.freeze()
        self._last(self._wake_later(hand, window))
        return "freeze"

    # The way to the database -----------------------------------------------------------------------------

    async def _restart(self) -> str | None:
        modes: list[ShutdownMode] = ["fast", "immediate"]
        mode = self._chance.choice(modes)
        await self._mill.restart_postgres(mode, self._chance.choice([0.0, 0.0, 1.0, 3.0]))
        return f"restart {mode}"

    async def _end_sessions(self) -> str | None:
        if (hand := self._victim()) is None:
            return None
        await self._mill.end_sessions_of(hand)
        return "backends ended"

    async def _cut(self) -> str | None:
        if (hand := self._victim()) is None:
            return None
        self._mill.note("cut", hand.process.name)
        hand.proxy.cut()
        return "cut"

    async def _half_open(self) -> str | None:
        if (hand := self._victim()) is None:
            return None
        is_cut_in_the_end = self._chance.random() < 0.5
        window = self._mill.note("half-open", hand.process.name)
        window.end = float("inf")
        hand.proxy.freeze()

        async def open_later() -> None:
            await asyncio.sleep(self._chance.uniform(0.5, 5.0))
            if is_cut_in_the_end:
                hand.proxy.cut()
            hand.proxy.thaw()
            window.end = time.monotonic()

        self._last(open_later())
        return "half-open"

    async def _lose_commit(self) -> str | None:
        if (hand := self._victim()) is None:
            return None
        hand.proxy.lose_commit()
        window = self._mill.note("commit lost", hand.process.name)
        window.end = float("inf")
        # One that is frozen, or has nothing to write, loses it later or never.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20):
                while not hand.proxy.commit_lost.is_set() and hand.process.status is None:
                    await asyncio.sleep(0.05)
        if not hand.proxy.keep_commits():
            window.end = time.monotonic()
        return "commit lost" if hand.proxy.commit_lost.is_set() else None

    # The provider and the work ---------------------------------------------------------------------------

    async def _provider(self) -> str | None:
        kind = self._chance.choice(_PROVIDER_FAULTS)
        self._mill.provider.configure(faults=[kind] * self._chance.randint(1, 2), slow_body_seconds=1.0)
        return f"provider {kind}"

    async def _cancel(self) -> str | None:
        if (paper := self._paper()) is None:
            return None
        await self._mill.cancel(paper)
        if self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.uniform(0.0, 0.5))
        await self._mill.add_paper(paper.pipeline, paper.source_id, paper.texts)
        return "cancel and enqueue again"

    async def _change(self) -> str | None:
        if (paper := self._paper()) is None:
            return None
        kept = [text for text in paper.texts if self._chance.random() < 0.6]
        fresh = texts_of(f"{paper.source_id} again", self._chance.randint(1, 12), self._chance)
        await self._mill.change(paper, [*kept, *fresh])
        return "change"

    def _paper(self) -> Paper | None:
        """One of the newest: the older ones are done with."""
        newest = list(self._mill.papers.values())[-LIVE_ITEMS:]
        return self._chance.choice(newest) if newest else None

    async def _keep_work(self) -> None:
        while not self._is_fed:
            while not self._is_fed and await self._mill.live_items() < LIVE_ITEMS:
                self._papers += 1
                mark = f"p{self._papers}"
                texts = texts_of(mark, self._chance.randint(1, 40), self._chance)
                await self._mill.add_paper(self._chance.choice(self._mill.pipelines), mark, texts)
            await asyncio.sleep(0.1)
