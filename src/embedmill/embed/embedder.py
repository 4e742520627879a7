"""Embeds one generation's waiting items: fills calls, makes them, writes what comes back. Owns a call's life
from packing to commit or return; must not hold a transaction while a provider is waited for.

    find     a provider that answers, and a slot at its gate     gate.py
    fill     claim items, load chunks, reuse vectors             loading.py
    take     the next full call                                  core/batching.py
    call     wait for the quota, then for the provider           calling.py
    write    vectors, ledger, counters, ends: one transaction    persistence.py
    or       bisect (rejected)                                   here
    or       give back (failed, rate limited, stopped)           returns.py
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from uuid import UUID

from embedmill.core.batching import Packer, Unit
from embedmill.database.patience import AWAY, patiently
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.embed.budgeting import Budgets, Cashier
from embedmill.embed.calling import Caller, call_limits
from embedmill.embed.gate import LONGEST_WAIT_SECONDS, Gate, ProviderAwayError, Slot
from embedmill.embed.holding import Holdings, LeaseWatch
from embedmill.embed.loading import Allowance, Loader
from embedmill.embed.persistence import Persistence
from embedmill.embed.results import Call, Outcome
from embedmill.embed.returns import Returns
from embedmill.embed.traffic import Flight, Traffic
from embedmill.errors import (
    BadResponseError,
    InputRejectedError,
    ProviderError,
    ProviderRefusedError,
    RateLimitedError,
)
from embedmill.events import CallFailed, CallSucceeded, ChunkRefused, Event, ItemsEnded, VectorsReused
from embedmill.logs import about
from embedmill.ports import SILENT, EmbeddingProvider, EmbeddingResponse, Telemetry

# A provider that refuses us (key, model, credit) is asked again after this long, should a person have acted.
REFUSED_DELAY_SECONDS = 60.0
# After so many calls, or claims served by copies alone, an embedder makes room where others wait.
TURN_STEPS = 4
# How long a call that is not full waits for more work while others are in flight, where work comes in numbers: of a
# trickle nothing more comes in so short a time, and somebody waits for it.
LINGER_SECONDS = 0.02
LINGER_INPUTS = 16
# Of a call's jobs, so many are named in a line of the log.
MOST_JOBS_TOLD = 5


class Embedder:
    """Works off the items of one generation, one stretch at a time. `run()` returns when nothing is ready, `stop()`
    was called or its turn is over; also when nothing can be done for now: `fatal` says that a person must act,
    `rest_seconds` for how long the quota or the provider holds everybody back, `trouble` why, in a sentence."""

    def __init__(
        self,
        database: Database,
        pipeline: Pipeline,
        provider: EmbeddingProvider,
        gate: Gate,
        *,
        worker_id: UUID,
        lease_seconds: float,
        heartbeat_seconds: float,
        on_event: Callable[[Event], None],
        chance: random.Random,
        lease_age: Callable[[], float] = lambda: 0.0,
        batch_size: int = 500,
        tenant_weight: float = 1.0,
        allowance: Allowance | None = None,
        telemetry: Telemetry = SILENT,
    ) -> None:
        """`lease_age` gives the seconds since the worker's last heartbeat; `batch_size` bounds a claim's items, the
        `allowance` those of all claims together."""
        self.pipeline = pipeline
        self._database = database
        self._generation_id = pipeline.generation.id
        self._worker_id = worker_id
        self._on_event = on_event
        self._telemetry = telemetry
        self._gate = gate
        self._seat = gate.join(pipeline.tenant_id, tenant_weight)
        limits = call_limits(pipeline, provider)
        # Where one text stands in a whole backlog a call never fills up: what is held stays bounded all the same.
        self._most_held = 2 * (gate.concurrency.maximum + 1) * limits.max_inputs + batch_size
        self._persistence = Persistence(database, pipeline, lease_seconds=lease_seconds)
        self._packer = Packer(limits)
        self._holdings = Holdings()
        self._traffic = Traffic()
        self._budgets = Budgets(database, pipeline, worker_id)
        self._loader = Loader(
            database,
            pipeline,
            self._persistence,
            worker_id=worker_id,
            traffic=self._traffic,
            batch_size=batch_size,
            lease_seconds=lease_seconds,
            on_budget=lambda has_budget: self._budgets.watch(has_budget=has_budget),
            allowance=allowance,
            telemetry=telemetry,
        )
        self._returns = Returns(
            database,
            self._generation_id,
            packer=self._packer,
            holdings=self._holdings,
            traffic=self._traffic,
            on_event=on_event,
            chance=chance,
            telemetry=telemetry,
        )
        self._stopping = False
        self._caller = Caller(
            database,
            pipeline,
            provider,
            self._persistence,
            gate,
            self._seat,
            worker_id=worker_id,
            leases=LeaseWatch(lease_age=lease_age, heartbeat_seconds=heartbeat_seconds),
            drop_lost=self._returns.drop_lost,
            budgets=self._budgets,
            cashier=Cashier(self._budgets, gate, self._seat, self._returns),
            on_event=on_event,
            chance=chance,
        )
        self._calls_out = 0
        self._news = asyncio.Event()
        self._steps = 0
        self._turn_steps = max(1, round(TURN_STEPS * tenant_weight))
        self._yields = False
        self._moved_at = time.monotonic()
        self.fatal: ProviderRefusedError | None = None
        self.rest_seconds = 0.0
        self.trouble: str | None = None

    def stop(self) -> None:
        """Claim no more; calls in flight end and are written, the rest goes back."""
        self._stopping = True
        self._seat.end()

    def end_turn(self, *, at_once: bool = False) -> None:
        """Others wait: end the stretch once a turn is used up, or at once; calls that are begun come to their end."""
        self._yields = True
        if at_once:
            self._turn_steps = 0

    def nudge(self) -> None:
        """There may be more to claim: whoever waits for a moment looks now."""
        self._news.set()

    async def heed(self, cancelled: Collection[int], *, has_budget: bool) -> None:
        """What the worker's look has found: items whose job was cancelled, which may be this embedder's, and whether
        the tenant has any budget."""
        if has_budget:
            self._budgets.watch(has_budget=True)
        if cancelled:
            await self._returns.stop(cancelled)

    def seconds_unmoved(self) -> float:
        """For how long nothing was sent, written or copied: it waits for others, or its provider hangs."""
        return time.monotonic() - self._moved_at

    @property
    def _goes_on(self) -> bool:
        turn_is_over = self._yields and self._steps >= self._turn_steps
        return not (self._seat.is_over or turn_is_over or self.fatal or self.rest_seconds)

    async def run(self) -> None:
        """Embed until nothing is ready. Every item that was claimed has ended or gone back when it returns."""
        try:
            if self._stopping:
                return
            if await self._caller.finds_provider():
                async with asyncio.TaskGroup() as calls:
                    await self._send_calls(calls)
                    await self._returns.give_back_rest(in_flight=False)
                await self._returns.give_back_rest(in_flight=True)
                if not self._seat.is_shut:
                    return
            self.rest_seconds = max(self.rest_seconds, self._gate.rest_seconds)
            self.trouble = self.trouble or f"the provider does not answer: {self._gate.last_failure}"
        finally:
            self._gate.leave(self._seat)

    async def _send_calls(self, calls: asyncio.TaskGroup) -> None:
        """One call after the other, as slots are given to us."""
        while self._goes_on and (slot := await self._seat.slot()):
            try:
                units = await self._next_call(slot)
            except BaseException:
                slot.release()
                raise
            if units:
                flight = self._traffic.take_off(units, self._holdings)
                self._calls_out += 1
                self._move()
                calls.create_task(self._fly(flight, slot))
                continue
            slot.release()
            if self._goes_on and not self._calls_out:
                break
            await self._wait_for_news()

    async def _next_call(self, slot: Slot) -> list[Unit]:
        """As much as fits into a call, of what is ready; [] where that is nothing, or we must end."""
        await self._fill()
        if not self._packer.is_full and self._calls_out and len(self._packer) >= LINGER_INPUTS:
            # More may come in a moment, and others are at work: a fuller call is worth the wait.
            slot.release()
            await self._wait_for_news()
            if not await slot.regain():
                return []
            await self._fill()
        return self._packer.take() if self._goes_on else []

    def _move(self) -> None:
        self._steps += 1
        self._moved_at = time.monotonic()

    async def _fill(self) -> None:
        """Claim until a call is full, nothing is ready, or as much is held as is good."""
        while self._goes_on and not self._packer.is_full and len(self._holdings) < self._most_held:
            try:
                outcomes = await self._loader.load_more(self._packer, self._holdings)
            except AWAY:
                # A claim may have been committed without our knowing: what we do not hold goes back.
                await patiently(partial(self._loader.return_strays, self._holdings))
                return
            if outcomes is None:
                return
            for outcome in outcomes:
                self._move()
                await self._see_to(outcome, reused=True)

    async def _wait_for_news(self) -> None:
        """Until a call ends, or a moment has passed in which work may have been enqueued."""
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), LINGER_SECONDS)

    async def _fly(self, flight: Flight, slot: Slot) -> None:
        items = self._holdings.items(target.item_id for unit in flight.units for target in unit.targets)
        jobs = sorted({str(item.job_id) for item in items if item.job_id is not None})
        try:
            with (
                about(job_ids=jobs[:MOST_JOBS_TOLD], jobs=len(jobs)),
                self._telemetry.span("embed", tenant_id=self.pipeline.tenant_id, inputs=len(flight.units)),
            ):
                await self._perform(flight.units, slot, flight)
        finally:
            self._calls_out -= 1
            self._moved_at = time.monotonic()
            self._news.set()
            slot.release()
            await self._returns.settle(flight)

    async def _perform(self, units: list[Unit], slot: Slot, flight: Flight) -> None:
        """One call and what follows from its end."""
        try:
            answer = await self._caller.call(units, self._holdings, slot, flight)
        except RateLimitedError as error:
            delay = error.retry_after_seconds or LONGEST_WAIT_SECONDS
            # Whoever calls next would wait as long: the backlog stays where it is.
            self.rest_seconds = max(self.rest_seconds, delay)
            self.trouble = f"a limit holds it back: {error}"
            self._returns.judge(units, "rate_limited", error, delay_seconds=delay)
        except InputRejectedError as error:
            await self._isolate(units, error, slot, flight)
        except ProviderRefusedError as error:
            self._give_up(units, error)
        except ProviderAwayError as error:
            self._returns.judge(units, "provider_unavailable", error)
        except ProviderError as error:
            if isinstance(error, BadResponseError):
                self._on_event(CallFailed(self._generation_id, str(error)))
            self._returns.judge_failed(units, error)
        else:
            if answer is not None:
                response, call = answer
                await self._write(call, units, response)

    async def _write(self, call: Call, units: list[Unit], response: EmbeddingResponse) -> None:
        """Commit the response, however long the database takes to come back: it is paid for."""
        landing = self._traffic.touch_down(units)
        started = time.perf_counter()
        try:
            outcome = await patiently(
                partial(self._persistence.write_response, call, units, response.vectors, self._holdings)
            )
        finally:
            self._traffic.arrive_home(units, landing)
        self._telemetry.wrote(vectors=outcome.vectors, seconds=time.perf_counter() - started)
        self._on_event(
            CallSucceeded(
                self._generation_id, len(units), outcome.vectors, call.tokens, call.latency_ms / 1000
            )
        )
        await self._see_to(outcome, reused=False)

    async def _isolate(
        self, units: list[Unit], error: InputRejectedError, slot: Slot, flight: Flight
    ) -> None:
        """Find the text that the provider refuses: halve the call until it stands alone, then bury it.

        A provider that has not taken anything yet may refuse every call (a wrong parameter, say): one tiny
        call of our own tells that from poison, before a whole backlog is buried.
        """
        if not await self._caller.takes_anything(units[0].group, self._holdings, slot):
            refused = ProviderRefusedError(f"the provider rejects every input: {error}")
            self._give_up(units, refused)
        elif len(units) == 1:
            self._traffic.close(units)
            self._on_event(ChunkRefused(self._generation_id, str(error)))
            outcome = await patiently(
                partial(self._persistence.bury_chunks, units[0], "input_rejected", str(error), self._holdings)
            )
            await self._see_to(outcome, reused=False)
        else:
            middle = len(units) // 2
            await self._perform(units[:middle], slot, flight)
            await self._perform(units[middle:], slot, flight)

    def _give_up(self, units: Sequence[Unit], error: ProviderRefusedError) -> None:
        """No call can succeed until a person acts: nobody's attempt."""
        self.fatal = error
        self.trouble = f"the provider refuses us: {error}"
        self._on_event(CallFailed(self._generation_id, str(error), fatal=True))
        self._returns.judge(units, "provider_refused", error, delay_seconds=REFUSED_DELAY_SECONDS)

    async def _see_to(self, outcome: Outcome, *, reused: bool) -> None:
        """What follows from a write: ends are noted, what lacks a vector goes back, what is to stop is let go."""
        self._note_ends(outcome, reused=reused)
        await self._returns.give_back_incomplete(outcome.incomplete)
        if outcome.cancelled:
            await self._returns.stop([item.id for item in outcome.cancelled])

    def _note_ends(self, outcome: Outcome, *, reused: bool) -> None:
        self._holdings.forget(outcome.completed)
        self._holdings.forget(outcome.lost)
        self._packer.drop_items(item.id for item in outcome.lost if item.id not in self._holdings)
        if reused and outcome.vectors:
            self._telemetry.reused(vectors=outcome.vectors)
            self._on_event(VectorsReused(self._generation_id, outcome.vectors))
        if outcome.completed:
            self._on_event(ItemsEnded(self._generation_id, completed=len(outcome.completed)))
