"""Makes one call to the provider: waits for the shared quota, waits out short outages, keeps the ledger of what
failed. Owns the tries of a call; must not write a vector or decide what becomes of the items."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from uuid import UUID, uuid4

from embedmill.core.batching import CallLimits, Unit
from embedmill.core.breaker import FAILURES_TO_OPEN
from embedmill.core.retrying import backoff_seconds
from embedmill.database.patience import AWAY, patiently
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.embed.attempts import Begun, Grant, Story, harmless_unit
from embedmill.embed.budgeting import Budgets, Cashier
from embedmill.embed.gate import LONGEST_WAIT_SECONDS, Gate, ProviderAwayError, Seat, Slot
from embedmill.embed.holding import Holdings, LeaseWatch
from embedmill.embed.persistence import Persistence
from embedmill.embed.results import Call, Reservation
from embedmill.embed.traffic import Flight
from embedmill.embed.vector_copy import check_storable
from embedmill.errors import (
    InputRejectedError,
    ProviderError,
    ProviderUnavailableError,
    RateLimitedError,
)
from embedmill.events import CallFailed, Event
from embedmill.ports import EmbeddingProvider, EmbeddingResponse, Purpose
from embedmill.queue.quotas import cool_down, grant_quota, largest_call, settle_quota

# A call is tried as often as it takes to open the breaker: when its tries are used up, either the breaker has opened,
# or somebody else was answered meanwhile, and the failure is this call's own.
TRIES_IN_SLOT = FAILURES_TO_OPEN
# A provider that says with a good answer that its limit is used up is left alone for no longer than this: should it
# be wrong, or mean the time until the limit is whole again, the next answer says so.
LONGEST_HOLD_SECONDS = 60.0
# A grant that differs from what the provider counted by no more than this is left as it is.
SETTLED_SHARE = 0.01
_TRIAL_GROUP = "internal_ingestion"


class Caller:
    """Calls one provider on behalf of an embedder. Waits end at once when its seat is over."""

    def __init__(
        self,
        database: Database,
        pipeline: Pipeline,
        provider: EmbeddingProvider,
        persistence: Persistence,
        gate: Gate,
        seat: Seat,
        *,
        worker_id: UUID,
        leases: LeaseWatch,
        drop_lost: Callable[[list[Unit], Collection[int]], None],
        budgets: Budgets,
        cashier: Cashier,
        on_event: Callable[[Event], None],
        chance: random.Random,
    ) -> None:
        self._database = database
        self._generation = pipeline.generation
        self._quota_key = pipeline.quota_key
        self._has_token_limit = pipeline.tokens_per_minute is not None
        self._provider = provider
        self._persistence = persistence
        self._gate = gate
        self._seat = seat
        self._worker_id = worker_id
        self._leases = leases
        self._drop_lost = drop_lost
        self._budgets = budgets
        self._cashier = cashier
        self._on_event = on_event
        self._chance = chance
        self._has_succeeded = False

    async def call(
        self, units: list[Unit], holdings: Holdings, slot: Slot, flight: Flight | None = None
    ) -> tuple[EmbeddingResponse, Call] | None:
        """Ask the provider for what of the units is still ours and may be paid for, waiting out the quota and short
        outages. None where nothing is: then nothing was sent. Units whose every item was lost, is to stop or has no
        budget are taken out of the list. The `flight` they are on is marked while the provider has it.

        Raises the ProviderError that remains: a ProviderUnavailableError where these items are to blame for it,
        a ProviderAwayError where they are not.
        """
        story = Story()
        while await slot.regain():
            begun = await self._get_ready(units, holdings, slot, story)
            if begun is None:
                return None
            try:
                response = await self._send([unit.text for unit in units], begun, flight)
            except RateLimitedError as error:
                await self._budgets.release(begun.reservation)
                await self._wait_out_limit(error, begun, story)
            except ProviderUnavailableError as error:
                self._gate.failed(error, story.first_sent_at)
                await self._record_failure(begun.failed(error), units, holdings)
                await self._wait_out_outage(error, units, story, slot)
            except ProviderError as error:
                self._gate.answered()
                await self._record_failure(begun.failed(error), units, holdings)
                raise
            else:
                return response, begun.answered(response)
            # Whoever has a turn now goes first, and where the limit has shrunk, fewer do.
            slot.release()
        raise ProviderAwayError(story.last_error or "given up before it was sent")

    async def _get_ready(
        self, units: list[Unit], holdings: Holdings, slot: Slot, story: Story
    ) -> Begun | None:
        """All that a call needs before it is sent; None where nothing of it is left to be sent. The budget is asked
        before the quota: what it refuses has then cost those who share the quota nothing."""
        self._drop_let_go(units, holdings)
        reservation = await self._cashier.reserve(units, holdings)
        if not units:
            return None
        try:
            granted = await self._wait_for_quota(sum(unit.tokens for unit in units))
        except RateLimitedError:
            await self._budgets.release(reservation)
            raise
        slot.granted()
        await self._confirm_leases(units, holdings)
        self._drop_let_go(units, holdings)
        if not units:
            await self._budgets.release(reservation)
            return None
        return self._begin(units, story, granted, reservation)

    async def _send(self, texts: list[str], begun: Begun, flight: Flight | None) -> EmbeddingResponse:
        if flight is None:
            return await self._ask(texts, begun)
        flight.is_sent = True
        try:
            return await self._ask(texts, begun)
        except BaseException:
            flight.is_sent = False
            raise

    async def takes_anything(self, group: str, holdings: Holdings, slot: Slot) -> bool:
        """Whether the provider takes inputs at all. One that never did is asked with a harmless text, within
        the quota and on the books like any other call."""
        if self._has_succeeded:
            return True
        try:
            answer = await self.call([harmless_unit(group)], holdings, slot)
        except InputRejectedError:
            return False
        except ProviderError:
            return True  # it says nothing about inputs
        if answer is not None:
            await patiently(partial(self._persistence.record_call, answer[1], []))
        return True

    async def finds_provider(self) -> bool:
        """Whether calls may be made. Of a provider that was away one embedder asks, when the pause is over, with a
        harmless text: no item's fortune hangs on a trial, and none that kills its provider can spoil it."""
        if self._gate.breaker.is_closed:
            return True
        if not self._gate.try_out():
            return False
        try:
            return await self._make_trial()
        finally:
            self._gate.breaker.trial_abandoned()  # unless it has been decided

    async def _make_trial(self) -> bool:
        unit = harmless_unit(_TRIAL_GROUP)
        try:
            granted = await self._wait_for_quota(unit.tokens)
        except RateLimitedError:
            return False
        # Not reserved, for the few tokens of a trial: only spent.
        begun = self._begin([unit], Story(), granted, Reservation(uuid4(), unit.tokens, [], []))
        try:
            response = await self._ask([unit.text], begun)
        except ProviderUnavailableError as error:
            self._gate.trial_failed(error)
            self._on_event(CallFailed(self._generation.id, str(error)))
            await patiently(partial(self._persistence.record_call, begun.failed(error), []))
            return False
        except RateLimitedError as error:
            await self._cool_down(self._gate.limited(begun.sent_at, error.retry_after_seconds), str(error))
        except ProviderError as error:
            self._gate.answered()
            await patiently(partial(self._persistence.record_call, begun.failed(error), []))
        else:
            await patiently(partial(self._persistence.record_call, begun.answered(response), []))
        return True

    def _begin(
        self, units: Sequence[Unit], story: Story, granted: Grant, reservation: Reservation | None
    ) -> Begun:
        sent_at = self._gate.sent(self._seat, sum(unit.tokens for unit in units))
        begun = Begun(self._worker_id, units, sent_at, granted, reservation)
        story.first_sent_at = min(story.first_sent_at, begun.sent_at)
        return begun

    async def _ask(self, texts: list[str], begun: Begun) -> EmbeddingResponse:
        response = await self._provider.embed(texts, Purpose.DOCUMENT)
        check_storable(response.vectors, self._generation.storage)
        self._has_succeeded = True
        self._gate.succeeded(begun.sent_at, begun.tokens)
        await self._settle(begun, response.tokens)
        if response.exhausted_seconds:
            await self._cool_down(
                min(response.exhausted_seconds, LONGEST_HOLD_SECONDS),
                "the provider says that its limit is used up",
            )
        return response

    async def _settle(self, begun: Begun, counted: int | None) -> None:
        """Enter what the provider counted otherwise than was granted. Once, for it must not be repeated: what is lost
        by a database that is away leaves the window within a minute."""
        if not counted or not self._has_token_limit:
            return
        self._gate.counted(begun.tokens, counted)
        more = counted - begun.granted.tokens
        if abs(more) > SETTLED_SHARE * begun.granted.tokens:
            age = time.monotonic() - begun.granted.at
            with contextlib.suppress(*AWAY):
                await settle_quota(self._database, self._quota_key, more, age)

    async def _wait_for_quota(self, tokens: int) -> Grant:
        """Spend one call of the shared quota, of as many tokens as the provider will count. RateLimitedError where
        that takes too long to wait for here."""
        waited = 0.0
        expected = self._gate.expected(tokens)
        grant = partial(grant_quota, self._database, self._quota_key, expected)
        wait = await patiently(grant)
        self._gate.asked(has_to_wait=wait > 0)
        while wait > 0:
            if waited + wait > LONGEST_WAIT_SECONDS or self._seat.is_over:
                raise RateLimitedError("the quota is used up for now", retry_after_seconds=wait)
            await self._seat.pause(wait)
            waited += wait
            wait = await patiently(grant)
        return Grant(expected, time.monotonic())

    async def _confirm_leases(self, units: list[Unit], holdings: Holdings) -> None:
        """Whoever was frozen, or cannot say that it lives, asks what it still holds before it pays for it."""
        if self._leases.are_doubtful():
            lost = await self._leases.confirm(self._database, holdings)
            self._drop_lost(units, lost)

    def _drop_let_go(self, units: list[Unit], holdings: Holdings) -> None:
        """What was given back while this call waited is not sent."""
        if holdings.has_let_go:
            self._drop_lost(units, ())

    async def _wait_out_limit(self, error: RateLimitedError, begun: Begun, story: Story) -> None:
        """Everybody who shares the quota waits. Raises where this call had better wait in the queue."""
        delay = self._gate.limited(begun.sent_at, error.retry_after_seconds)
        self._on_event(CallFailed(self._generation.id, str(error), rate_limited=True))
        await self._cool_down(delay, str(error))
        story.limits += 1
        if delay > LONGEST_WAIT_SECONDS or story.limits == TRIES_IN_SLOT or self._seat.is_over:
            raise RateLimitedError(str(error), retry_after_seconds=delay) from error

    async def _wait_out_outage(
        self, error: ProviderUnavailableError, units: Sequence[Unit], story: Story, slot: Slot
    ) -> None:
        """A pause, without the slot. Raises where this call has been tried enough, or its seat is over."""
        self._on_event(CallFailed(self._generation.id, str(error)))
        wait = error.retry_after_seconds or backoff_seconds(story.failures, self._chance)
        story.failures += 1
        story.last_error = str(error)
        has_used_up_tries = story.failures == TRIES_IN_SLOT or wait > LONGEST_WAIT_SECONDS
        if not has_used_up_tries and not self._seat.is_over:
            slot.release()
            await self._seat.pause(wait)
        if not has_used_up_tries and not self._seat.is_over:
            return
        item_ids = {target.item_id for unit in units for target in unit.targets}
        has_stopped = self._seat.is_over and not self._seat.is_shut
        if not has_stopped and self._gate.blames(
            item_ids, story.first_sent_at, has_used_up_tries=has_used_up_tries
        ):
            raise error
        raise ProviderAwayError(str(error), retry_after_seconds=error.retry_after_seconds) from error

    async def _cool_down(self, seconds: float, reason: str) -> None:
        await patiently(partial(cool_down, self._database, self._quota_key, seconds, reason))

    async def _record_failure(self, call: Call, units: Sequence[Unit], holdings: Holdings) -> None:
        items = holdings.items(target.item_id for unit in units for target in unit.targets)
        await patiently(partial(self._persistence.record_call, call, items))


def call_limits(pipeline: Pipeline, provider: EmbeddingProvider) -> CallLimits:
    """What a call may hold: the provider's limits, and no more tokens than is good under the quota."""
    limits = provider.limits
    most_tokens = limits.max_tokens_per_call
    if pipeline.tokens_per_minute is not None:
        most_tokens = min(most_tokens, largest_call(pipeline.calls_per_minute, pipeline.tokens_per_minute))
    return CallLimits(limits.max_inputs_per_call, most_tokens)
