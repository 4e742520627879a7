"""Makes one call to the provider: waits for the shared quota, waits out short outages, keeps the ledger of what
failed. Owns the tries of a call; must not write a vector or decide what becomes of the items."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID, uuid4

from embedmill.core.batching import CallLimits, Unit
from embedmill.core.retrying import backoff_seconds
from embedmill.database.patience import patiently
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.embed.holding import Holdings
from embedmill.embed.persistence import Persistence
from embedmill.embed.results import Call
from embedmill.embed.vector_copy import check_storable
from embedmill.errors import (
    InputRejectedError,
    ProviderError,
    ProviderUnavailableError,
    RateLimitedError,
)
from embedmill.events import CallFailed, Event
from embedmill.ports import EmbeddingProvider, EmbeddingResponse, Purpose
from embedmill.queue.quotas import BUCKET_SHARE, cool_down, grant_quota

# An outage is waited for within the slot, at no cost of an attempt, up to this many tries.
TRIES_IN_SLOT = 5
# A call that must wait longer than this goes back to the queue.
LONGEST_WAIT_SECONDS = 30.0
# What a provider that has refused its first call is asked, to see whether it takes anything.
_HARMLESS = "embedmill"
_HARMLESS_TOKENS = 8


class Caller:
    """Calls one provider on behalf of an embedder. Waits end at once when `stop` is set."""

    def __init__(
        self,
        database: Database,
        pipeline: Pipeline,
        provider: EmbeddingProvider,
        persistence: Persistence,
        *,
        worker_id: UUID,
        stop: asyncio.Event,
        on_event: Callable[[Event], None],
        chance: random.Random,
    ) -> None:
        self._database = database
        self._generation = pipeline.generation
        self._quota_key = pipeline.quota_key
        self._provider = provider
        self._persistence = persistence
        self._worker_id = worker_id
        self._stop = stop
        self._on_event = on_event
        self._chance = chance
        self._has_succeeded = False

    async def call(self, units: Sequence[Unit], holdings: Holdings) -> tuple[EmbeddingResponse, Call]:
        """Ask the provider, waiting out the quota and short outages. Raises the ProviderError that remains."""
        tokens = sum(unit.tokens for unit in units)
        texts = [unit.text for unit in units]
        for attempt in range(TRIES_IN_SLOT):
            await self._wait_for_quota(tokens)
            begun = _Begun(self._worker_id, units, tokens)
            try:
                response = await self._provider.embed(texts, Purpose.DOCUMENT)
                check_storable(response.vectors, self._generation.storage)
            except RateLimitedError as error:
                self._on_event(CallFailed(self._generation.id, str(error), rate_limited=True))
                delay = error.retry_after_seconds or backoff_seconds(attempt + 1, self._chance)
                await patiently(partial(cool_down, self._database, self._quota_key, delay))
                if delay > LONGEST_WAIT_SECONDS or attempt == TRIES_IN_SLOT - 1 or self._stop.is_set():
                    raise
            except ProviderError as error:
                await self._record_failure(begun.failed(error), units, holdings)
                wait = error.retry_after_seconds or backoff_seconds(attempt, self._chance)
                is_last = attempt == TRIES_IN_SLOT - 1 or wait > LONGEST_WAIT_SECONDS
                if is_last or not isinstance(error, ProviderUnavailableError):
                    raise
                self._on_event(CallFailed(self._generation.id, str(error)))
                await self._pause(wait)
                if self._stop.is_set():
                    raise
            else:
                self._has_succeeded = True
                return response, begun.answered(response)
        raise AssertionError("the last attempt returns or raises")

    async def takes_anything(self, group: str, holdings: Holdings) -> bool:
        """Whether the provider takes inputs at all. One that never did is asked with a harmless text, within
        the quota and on the books like any other call."""
        if self._has_succeeded:
            return True
        try:
            _, call = await self.call([Unit(b"", _HARMLESS, _HARMLESS_TOKENS, group, [])], holdings)
        except InputRejectedError:
            return False
        except ProviderError:
            return True  # it says nothing about inputs
        await patiently(partial(self._persistence.record_call, call, []))
        return True

    async def _wait_for_quota(self, tokens: int) -> None:
        """Spend one call of the shared quota. RateLimitedError where that takes too long to wait for here."""
        waited = 0.0
        grant = partial(grant_quota, self._database, self._quota_key, tokens)
        while (wait := await patiently(grant)) > 0:
            if waited + wait > LONGEST_WAIT_SECONDS or self._stop.is_set():
                raise RateLimitedError("the quota is used up for now", retry_after_seconds=wait)
            await self._pause(wait)
            waited += wait

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not beyond a stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _record_failure(self, call: Call, units: Sequence[Unit], holdings: Holdings) -> None:
        items = holdings.items(target.item_id for unit in units for target in unit.targets)
        await patiently(partial(self._persistence.record_call, call, items))


class _Begun:
    """A call that is out: what the ledger will say of it."""

    def __init__(self, worker_id: UUID, units: Sequence[Unit], tokens: int) -> None:
        self._id = uuid4()
        self._worker_id = worker_id
        self._usage_type = units[0].group.partition(" ")[0]
        self._inputs = len(units)
        self._tokens = tokens
        self._started = time.monotonic()

    def answered(self, response: EmbeddingResponse) -> Call:
        return self._entry(self._tokens if response.tokens is None else response.tokens, None)

    def failed(self, error: ProviderError) -> Call:
        return self._entry(self._tokens if error.charged else 0, str(error))

    def _entry(self, tokens: int, error: str | None) -> Call:
        return Call(
            id=self._id,
            worker_id=self._worker_id,
            usage_type=self._usage_type,
            inputs=self._inputs,
            tokens=tokens,
            latency_ms=int((time.monotonic() - self._started) * 1000),
            error=error,
        )


def call_limits(pipeline: Pipeline, provider: EmbeddingProvider) -> CallLimits:
    """What a call may hold: the provider's limits, and no more tokens than the quota's bucket."""
    limits = provider.limits
    most_tokens = limits.max_tokens_per_call
    if pipeline.tokens_per_minute is not None:
        most_tokens = min(most_tokens, max(1, int(pipeline.tokens_per_minute * BUCKET_SHARE)))
    return CallLimits(limits.max_inputs_per_call, most_tokens)
