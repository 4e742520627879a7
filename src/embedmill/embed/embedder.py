"""Embeds one generation's waiting items: fills calls, makes them, writes what comes back. Owns a call's life
from packing to commit or return; must not hold a transaction while a provider is waited for.

    fill     claim items, load chunks, reuse vectors             loading.py
    take     the next full call                                  core/batching.py
    call     wait for the quota, then for the provider           calling.py
    write    vectors, ledger, counters, ends: one transaction    persistence.py
    or       bisect (rejected), return (failed, rate limited)    here
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from embedmill.core.batching import Packer, Unit
from embedmill.core.retrying import backoff_seconds
from embedmill.database.patience import AWAY, patiently
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.embed.calling import LONGEST_WAIT_SECONDS, Caller, call_limits
from embedmill.embed.holding import HeldItem, Holdings
from embedmill.embed.loading import MOST_ITEMS, Loader
from embedmill.embed.persistence import Persistence
from embedmill.embed.results import Call, Outcome
from embedmill.embed.traffic import Flight, Traffic
from embedmill.errors import (
    BadResponseError,
    InputRejectedError,
    ProviderError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)
from embedmill.events import CallFailed, CallSucceeded, ChunkRefused, Event, ItemsEnded, VectorsReused
from embedmill.ports import EmbeddingProvider, EmbeddingResponse
from embedmill.queue.items import Item, Return, Waiting, return_items, return_strays

# A provider that refuses us (key, model, credit) is asked again after this long, should a person have acted.
REFUSED_DELAY_SECONDS = 60.0
# How long a call that is not full waits for more work while others are in flight.
LINGER_SECONDS = 0.02


class Embedder:
    """Works off the items of one generation. `run()` returns when nothing is ready or `stop()` was called; also
    when nothing can be done for now: `fatal` says that a person must act, `rest_seconds` for how long the
    quota or the provider holds everybody back."""

    def __init__(
        self,
        database: Database,
        pipeline: Pipeline,
        provider: EmbeddingProvider,
        *,
        worker_id: UUID,
        calls_in_flight: int,
        lease_seconds: float,
        on_event: Callable[[Event], None],
        chance: random.Random,
    ) -> None:
        self.pipeline = pipeline
        self._database = database
        self._generation_id = pipeline.generation.id
        self._worker_id = worker_id
        self._on_event = on_event
        self._chance = chance
        self._slots = asyncio.Semaphore(calls_in_flight)
        limits = call_limits(pipeline, provider)
        # Where one text stands in a whole backlog a call never fills up: what is held stays bounded all the same.
        self._most_held = 2 * (calls_in_flight + 1) * limits.max_inputs + MOST_ITEMS
        self._persistence = Persistence(database, pipeline, lease_seconds=lease_seconds)
        self._packer = Packer(limits)
        self._holdings = Holdings()
        self._traffic = Traffic()
        self._loader = Loader(
            database,
            pipeline,
            self._persistence,
            worker_id=worker_id,
            traffic=self._traffic,
            lease_seconds=lease_seconds,
        )
        self._stop = asyncio.Event()
        self._caller = Caller(
            database,
            pipeline,
            provider,
            self._persistence,
            worker_id=worker_id,
            stop=self._stop,
            on_event=on_event,
            chance=chance,
        )
        self._calls_out = 0
        self._news = asyncio.Event()
        self.fatal: ProviderRefusedError | None = None
        self.rest_seconds = 0.0

    def stop(self) -> None:
        """Claim no more; calls in flight end and are written, the rest goes back."""
        self._stop.set()

    @property
    def _stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def _goes_on(self) -> bool:
        return not self._stopping and self.fatal is None and not self.rest_seconds

    async def run(self) -> None:
        """Embed until nothing is ready. Every item that was claimed has ended or gone back when it returns."""
        async with asyncio.TaskGroup() as calls:
            while self._goes_on:
                await self._slots.acquire()
                try:
                    await self._fill()
                    if not self._packer.is_full and self._calls_out and len(self._packer):
                        # More may come in a moment, and others are at work: a fuller call is worth the wait.
                        await self._wait_for_news()
                        await self._fill()
                    units = self._packer.take() if self._goes_on else []
                except BaseException:
                    self._slots.release()
                    raise
                if not units:
                    self._slots.release()
                    if not self._calls_out:
                        break
                    await self._wait_for_news()
                    continue
                flight = self._traffic.take_off(units, self._holdings)
                self._calls_out += 1
                calls.create_task(self._fly(flight))
        await self._return_rest()

    async def _fill(self) -> None:
        """Claim until a call is full, nothing is ready, or as much is held as is good."""
        while self._goes_on and not self._packer.is_full and len(self._holdings) < self._most_held:
            try:
                outcomes = await self._loader.load_more(self._packer, self._holdings)
            except AWAY:
                # A claim may have been committed without our knowing: what we do not hold goes back.
                held = [held.item.id for held in self._holdings.all()]
                await patiently(
                    partial(return_strays, self._database, self._worker_id, self._generation_id, held)
                )
                return
            if outcomes is None:
                return
            for outcome in outcomes:
                self._note_ends(outcome, reused=True)
                await self._release(outcome.incomplete)

    async def _wait_for_news(self) -> None:
        """Until a call ends, or a moment has passed in which work may have been enqueued."""
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), LINGER_SECONDS)

    async def _fly(self, flight: Flight) -> None:
        try:
            await self._perform(flight.units)
        finally:
            self._calls_out -= 1
            self._news.set()
            self._slots.release()
            due = self._traffic.end(flight, self._holdings)
            await self._return_due(due)

    async def _perform(self, units: list[Unit]) -> None:
        """One call and what follows from its end."""
        try:
            response, call = await self._caller.call(units, self._holdings)
        except RateLimitedError as error:
            delay = error.retry_after_seconds or LONGEST_WAIT_SECONDS
            # Whoever calls next would wait as long: the backlog stays where it is.
            self.rest_seconds = max(self.rest_seconds, delay)
            self._judge(units, Return(Waiting.RATE_LIMITED, 0, int(delay * 1000), "rate_limited", str(error)))
        except InputRejectedError as error:
            await self._isolate(units, error)
        except ProviderRefusedError as error:
            self.fatal = error
            self._on_event(CallFailed(self._generation_id, str(error), fatal=True))
            delay_ms = int(REFUSED_DELAY_SECONDS * 1000)
            self._judge(units, Return(Waiting.PENDING, 0, delay_ms, "provider_refused", str(error)))
        except ProviderError as error:
            self._on_event(CallFailed(self._generation_id, str(error)))
            self._judge_failed(units, error)
        else:
            await self._write(call, units, response)

    async def _write(self, call: Call, units: list[Unit], response: EmbeddingResponse) -> None:
        """Commit the response, however long the database takes to come back: it is paid for."""
        landing = self._traffic.touch_down(units)
        try:
            outcome = await patiently(
                partial(self._persistence.write_response, call, units, response.vectors, self._holdings)
            )
        finally:
            self._traffic.arrive_home(units, landing)
        self._on_event(
            CallSucceeded(
                self._generation_id, len(units), outcome.vectors, call.tokens, call.latency_ms / 1000
            )
        )
        self._note_ends(outcome, reused=False)
        await self._release(outcome.incomplete)

    async def _isolate(self, units: list[Unit], error: InputRejectedError) -> None:
        """Find the text that the provider refuses: halve the call until it stands alone, then bury it.

        A provider that has not taken anything yet may refuse every call (a wrong parameter, say): one tiny
        call of our own tells that from poison, before a whole backlog is buried.
        """
        if not await self._caller.takes_anything(units[0].group, self._holdings):
            self.fatal = ProviderRefusedError(f"the provider rejects every input: {error}")
            self._on_event(CallFailed(self._generation_id, str(self.fatal), fatal=True))
            delay_ms = int(REFUSED_DELAY_SECONDS * 1000)
            self._judge(units, Return(Waiting.PENDING, 0, delay_ms, "provider_refused", str(error)))
        elif len(units) == 1:
            self._traffic.close(units)
            self._on_event(ChunkRefused(self._generation_id, str(error)))
            outcome = await patiently(
                partial(self._persistence.bury_chunks, units[0], "input_rejected", str(error), self._holdings)
            )
            self._note_ends(outcome, reused=False)
            await self._release(outcome.incomplete)
        else:
            middle = len(units) // 2
            await self._perform(units[:middle])
            await self._perform(units[middle:])

    def _judge_failed(self, units: Sequence[Unit], error: ProviderError) -> None:
        """An attempt is spent; the wait grows with the attempts of the most tried item."""
        if self._stopping and isinstance(error, ProviderUnavailableError):
            # It was we who gave up before its tries in the slot were used up.
            self._judge(units, Return(Waiting.PENDING, 0, 0, "stopped", str(error)))
            return
        items = self._holdings.items(target.item_id for unit in units for target in unit.targets)
        attempts = max((item.retry_count for item in items), default=0)
        delay = max(error.retry_after_seconds or 0.0, 1.0 + backoff_seconds(attempts + 1, self._chance))
        reason = "bad_response" if isinstance(error, BadResponseError) else "provider_unavailable"
        self._judge(units, Return(Waiting.PENDING, 1, int(delay * 1000), reason, str(error)))

    def _judge(self, units: Sequence[Unit], verdict: Return) -> None:
        """The items of these units go back once nothing of theirs is in flight."""
        self._traffic.close(units)
        item_ids = {target.item_id for unit in units for target in unit.targets}
        for item_id in item_ids:
            held = self._holdings.get(item_id)
            if held is not None:
                held.verdict = verdict
        self._packer.drop_items(item_ids)

    async def _return_due(self, due: Sequence[HeldItem]) -> None:
        verdicts: dict[Return, list[HeldItem]] = {}
        for held in due:
            if held.verdict is not None:
                verdicts.setdefault(held.verdict, []).append(held)
        for verdict, group in verdicts.items():
            items = [held.item for held in group]
            self._holdings.forget(items)  # first: once they are back, a claim may bring them again at once
            ended = await patiently(partial(return_items, self._database, items, verdict))
            if ended:
                self._on_event(ItemsEnded(self._generation_id, failed=len(ended)))

    async def _return_rest(self) -> None:
        """What was claimed and not begun goes back unharmed, for others to take at once."""
        rest = [held.item for held in self._holdings.all()]
        self._packer.drop_items([item.id for item in rest])
        self._holdings.forget(rest)
        stop = Return(Waiting.PENDING, 0, 0, "stopped", None)
        await patiently(partial(return_items, self._database, rest, stop))

    async def _release(self, items: Sequence[Item]) -> None:
        """Items that should have ended but miss a vector: back to the queue, which finds what is missing."""
        self._holdings.forget(items)
        missed = Return(Waiting.PENDING, 0, 0, "incomplete", None)
        await patiently(partial(return_items, self._database, items, missed))

    def _note_ends(self, outcome: Outcome, *, reused: bool) -> None:
        self._holdings.forget(outcome.completed)
        self._holdings.forget(outcome.lost)
        self._packer.drop_items(item.id for item in outcome.lost if item.id not in self._holdings)
        if reused and outcome.vectors:
            self._on_event(VectorsReused(self._generation_id, outcome.vectors))
        if outcome.completed:
            self._on_event(ItemsEnded(self._generation_id, completed=len(outcome.completed)))
