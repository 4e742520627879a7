"""Embeds one generation's waiting items: fills calls, makes them, writes what comes back. Owns a call's life
from packing to commit or return; must not hold a transaction while a provider is waited for.

    fill     claim items, load chunks, reuse vectors             loading.py
    take     the next full call                                  core/batching.py
    grant    wait for the shared quota                           queue/quotas.py
    call     the provider                                        ports.EmbeddingProvider
    write    vectors, ledger, counters, ends: one transaction    persistence.py
    or       bisect (rejected), return (failed, rate limited)    here
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID, uuid4

from embedmill.core.batching import CallLimits, Packer, Unit
from embedmill.core.retrying import backoff_seconds
from embedmill.database.patience import AWAY, patiently
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.embed.holding import HeldItem, Holdings
from embedmill.embed.loading import Loader
from embedmill.embed.persistence import Call, Outcome, Persistence
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
from embedmill.ports import EmbeddingProvider, EmbeddingResponse, Purpose
from embedmill.queue.items import Return, Waiting, return_items, return_strays
from embedmill.queue.quotas import BUCKET_SHARE, cool_down, grant_quota

# An outage is waited for within the slot, at no cost of an attempt, up to this many tries.
TRIES_IN_SLOT = 5
# A call that must wait longer than this for its quota goes back to the queue.
LONGEST_WAIT_SECONDS = 30.0
# A provider that refuses us (key, model, credit) is asked again after this long, should a person have acted.
REFUSED_DELAY_SECONDS = 60.0
# How long a call that is not full waits for more work while others are in flight.
LINGER_SECONDS = 0.02


class Embedder:
    """Works off the items of one generation. `run()` returns when nothing is ready or `stop()` was called."""

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
        self._provider = provider
        self._worker_id = worker_id
        self._on_event = on_event
        self._chance = chance
        self._slots = asyncio.Semaphore(calls_in_flight)
        self._persistence = Persistence(database, pipeline, lease_seconds=lease_seconds)
        self._packer = Packer(call_limits(pipeline, provider))
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
        self._calls_out = 0
        self._news = asyncio.Event()
        self._stopping = False
        self._has_succeeded = False
        self.fatal: ProviderRefusedError | None = None

    def stop(self) -> None:
        """Claim no more; calls in flight end and are written, the rest goes back."""
        self._stopping = True

    async def run(self) -> None:
        """Embed until nothing is ready. Every item that was claimed has ended or gone back when it returns."""
        async with asyncio.TaskGroup() as calls:
            while not self._stopping and self.fatal is None:
                await self._slots.acquire()
                try:
                    await self._fill()
                    if not self._packer.is_full and self._calls_out and len(self._packer):
                        # More may come in a moment, and others are at work: a fuller call is worth the wait.
                        await self._wait_for_news()
                        await self._fill()
                    units = [] if self._stopping or self.fatal else self._packer.take()
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
        try:
            outcomes = await self._loader.fill(self._packer, self._holdings)
        except AWAY:
            # A claim may have been committed without our knowing: what we do not hold goes back.
            held = [held.item.id for held in self._holdings.all()]
            await patiently(
                partial(return_strays, self._database, self._worker_id, self._generation_id, held)
            )
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
            response, call = await self._call(units)
        except RateLimitedError as error:
            delay = error.retry_after_seconds or LONGEST_WAIT_SECONDS
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

    async def _call(self, units: list[Unit]) -> tuple[EmbeddingResponse, Call]:
        """Ask the provider, waiting out the quota and short outages. Raises the ProviderError that remains."""
        tokens = sum(unit.tokens for unit in units)
        usage_type = units[0].group.partition(" ")[0]
        texts = [unit.text for unit in units]
        for attempt in range(TRIES_IN_SLOT):
            await self._wait_for_quota(tokens)
            call_id = uuid4()
            started = time.monotonic()
            try:
                response = await self._provider.embed(texts, Purpose.DOCUMENT)
            except RateLimitedError as error:
                self._on_event(CallFailed(self._generation_id, str(error), rate_limited=True))
                delay = error.retry_after_seconds or backoff_seconds(attempt + 1, self._chance)
                await patiently(partial(cool_down, self._database, self.pipeline.quota_key, delay))
                if delay > LONGEST_WAIT_SECONDS or attempt == TRIES_IN_SLOT - 1 or self._stopping:
                    raise
            except ProviderError as error:
                call = self._ledger_entry(call_id, usage_type, units, tokens, started, error)
                await self._record_failure(call, units)
                last = attempt == TRIES_IN_SLOT - 1 or self._stopping
                if last or not isinstance(error, ProviderUnavailableError):
                    raise
                self._on_event(CallFailed(self._generation_id, str(error)))
                await asyncio.sleep(error.retry_after_seconds or backoff_seconds(attempt, self._chance))
            else:
                self._has_succeeded = True
                counted = tokens if response.tokens is None else response.tokens
                return response, self._ledger_entry(call_id, usage_type, units, counted, started, None)
        raise AssertionError("the last attempt returns or raises")

    async def _wait_for_quota(self, tokens: int) -> None:
        """Spend one call of the shared quota. RateLimitedError where that takes too long to wait for here."""
        waited = 0.0
        grant = partial(grant_quota, self._database, self.pipeline.quota_key, tokens)
        while (wait := await patiently(grant)) > 0:
            if waited + wait > LONGEST_WAIT_SECONDS or self._stopping:
                raise RateLimitedError("the quota is used up for now", retry_after_seconds=wait)
            await asyncio.sleep(wait)
            waited += wait

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
        if not self._has_succeeded and not await self._takes_anything():
            self.fatal = ProviderRefusedError(f"the provider rejects every input: {error}")
            self._on_event(CallFailed(self._generation_id, str(self.fatal), fatal=True))
            delay_ms = int(REFUSED_DELAY_SECONDS * 1000)
            self._judge(units, Return(Waiting.PENDING, 0, delay_ms, "provider_refused", str(error)))
        elif len(units) == 1:
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

    async def _takes_anything(self) -> bool:
        try:
            await self._provider.embed(["embedmill"], Purpose.DOCUMENT)
        except InputRejectedError:
            return False
        except ProviderError:
            return True  # it says nothing about inputs
        self._has_succeeded = True
        return True

    def _judge_failed(self, units: Sequence[Unit], error: ProviderError) -> None:
        """An attempt is spent; the wait grows with the attempts of the most tried item."""
        items = self._holdings.items(target.item_id for unit in units for target in unit.targets)
        attempts = max((item.retry_count for item in items), default=0)
        delay = max(error.retry_after_seconds or 0.0, 1.0 + backoff_seconds(attempts + 1, self._chance))
        reason = "bad_response" if isinstance(error, BadResponseError) else "provider_unavailable"
        self._judge(units, Return(Waiting.PENDING, 1, int(delay * 1000), reason, str(error)))

    def _judge(self, units: Sequence[Unit], verdict: Return) -> None:
        """The items of these units go back once nothing of theirs is in flight."""
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
            ended = await patiently(partial(return_items, self._database, items, verdict))
            self._holdings.forget(held.item.id for held in group)
            if ended:
                self._on_event(ItemsEnded(self._generation_id, failed=len(ended)))

    async def _return_rest(self) -> None:
        """What was claimed and not begun goes back unharmed, for others to take at once."""
        rest = self._holdings.all()
        self._packer.drop_items([held.item.id for held in rest])
        stop = Return(Waiting.PENDING, 0, 0, "stopped", None)
        await patiently(partial(return_items, self._database, [held.item for held in rest], stop))
        self._holdings.forget([held.item.id for held in rest])

    async def _release(self, item_ids: set[int]) -> None:
        """Items that should have ended but miss a vector: back to the queue, which finds what is missing."""
        missed = Return(Waiting.PENDING, 0, 0, "incomplete", None)
        items = self._holdings.items(item_ids)
        await patiently(partial(return_items, self._database, items, missed))
        self._holdings.forget(item_ids)

    def _note_ends(self, outcome: Outcome, *, reused: bool) -> None:
        self._holdings.forget(outcome.completed)
        self._holdings.forget(outcome.lost)
        self._packer.drop_items(outcome.lost)
        if reused and outcome.vectors:
            self._on_event(VectorsReused(self._generation_id, outcome.vectors))
        if outcome.completed:
            self._on_event(ItemsEnded(self._generation_id, completed=len(outcome.completed)))

    async def _record_failure(self, call: Call, units: Sequence[Unit]) -> None:
        items = self._holdings.items(target.item_id for unit in units for target in unit.targets)
        await patiently(partial(self._persistence.record_failed_call, call, items))

    def _ledger_entry(
        self,
        call_id: UUID,
        usage_type: str,
        units: Sequence[Unit],
        tokens: int,
        started: float,
        error: ProviderError | None,
    ) -> Call:
        return Call(
            id=call_id,
            worker_id=self._worker_id,
            usage_type=usage_type,
            inputs=len(units),
            tokens=tokens if error is None or error.charged else 0,
            latency_ms=int((time.monotonic() - started) * 1000),
            error=None if error is None else str(error),
        )


def call_limits(pipeline: Pipeline, provider: EmbeddingProvider) -> CallLimits:
    """What a call may hold: the provider's limits, and no more tokens than the quota's bucket."""
    limits = provider.limits
    most_tokens = limits.max_tokens_per_call
    if pipeline.tokens_per_minute is not None:
        most_tokens = min(most_tokens, max(1, int(pipeline.tokens_per_minute * BUCKET_SHARE)))
    return CallLimits(limits.max_inputs_per_call, most_tokens)
