"""Embeds one document without the queue: for when it is off, or does not take a document. Owns the whole way from
lacking chunks to an ended job; must not touch a queue item. Slower than the queue's way (a call holds chunks of one
document only), as safe: each response is saved when it arrives, fenced by the document's row and version.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Self
from uuid import UUID, uuid4

from embedmill.core.batching import CallLimits, Packer, Target, Unit
from embedmill.core.retrying import backoff_seconds
from embedmill.database.patience import patiently
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.embed.budgeting import POLL_SECONDS, Budgets
from embedmill.embed.calling import call_limits
from embedmill.embed.direct_persistence import DirectPersistence, DirectWork
from embedmill.embed.results import Call, Reservation
from embedmill.embed.vector_copy import check_storable
from embedmill.errors import (
    BudgetReachedError,
    InputRejectedError,
    ProviderError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)
from embedmill.events import CallFailed, CallSucceeded, ChunkRefused, Event, VectorsReused
from embedmill.logs import about
from embedmill.ports import (
    SILENT,
    EmbeddingProvider,
    EmbeddingResponse,
    ProviderSpec,
    Purpose,
    Telemetry,
)
from embedmill.queue.config import QueueConfig, read_config
from embedmill.queue.quotas import cool_down, grant_quota

_SQL = load_queries("embedmill.embed", "embed.sql")
_DIRECT = load_queries("embedmill.embed", "direct.sql")

USAGE_TYPE = "internal_ingestion"
# A call is tried again so often while the provider is away, some two minutes, before the document is given up.
MOST_FAILURES = 6
# After a wait that was longer, whether the job was cancelled meanwhile is asked before the call is made.
HEED_SECONDS = 2.0
# Chunks of a document that are held in memory at a time.
_PAGE = 2000


class DirectEmbedder:
    """Embeds documents of one pipeline one by one, several at once if asked so. Use as an async context manager: the
    provider is built when the first document comes, and closed at the end."""

    def __init__(
        self,
        database: Database,
        pipeline: Pipeline,
        build_provider: Callable[[ProviderSpec], EmbeddingProvider],
        *,
        worker_id: UUID,
        on_event: Callable[[Event], None] = lambda event: None,
        telemetry: Telemetry = SILENT,
    ) -> None:
        self._telemetry = telemetry
        self._database = database
        self._pipeline = pipeline
        self._generation = pipeline.generation
        self._build_provider = build_provider
        self._worker_id = worker_id
        self._on_event = on_event
        self._persistence = DirectPersistence(database, pipeline)
        self._budgets = Budgets(database, pipeline, worker_id)
        self._chance = random.Random()  # noqa: S311 - jitter, no secret
        self._provider: EmbeddingProvider | None = None
        self._has_succeeded = False
        self._refusal: ProviderRefusedError | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._provider is not None:
            await self._provider.aclose()

    async def embed(self, document_id: int, job_id: UUID) -> None:
        """Embed what the document lacks and end its job: completed, or failed with the reason; launching it again
        goes on from there. A job that is cancelled meanwhile keeps what was done."""
        message = None
        try:
            with about(tenant_id=self._pipeline.tenant_id, job_id=job_id), self._telemetry.span("embed"):
                await self._embed_document(document_id, job_id)
        except BudgetReachedError as error:
            message = str(error)
        except ProviderError as error:
            message = str(error)
            is_fatal = isinstance(error, ProviderRefusedError)
            self._on_event(CallFailed(self._generation.id, message, fatal=is_fatal))
        await patiently(partial(self._persistence.end_job, document_id, job_id, message))

    async def _embed_document(self, document_id: int, job_id: UUID) -> None:
        row = await self._database.fetch_one(_DIRECT["document_version"], {"document_id": document_id})
        if row is None:
            return  # deleted meanwhile, and its job with it
        config = await read_config(self._database)
        work = DirectWork(document_id, row[0], job_id)
        first_ordinal = 0
        while work.goes_on:
            rows = await self._database.fetch(
                _DIRECT["load_chunks"],
                {
                    "generation_id": self._generation.id,
                    "tenant_id": self._pipeline.tenant_id,
                    "document_id": document_id,
                    "first_ordinal": first_ordinal,
                    "limit": _PAGE,
                },
            )
            if not rows:
                break
            first_ordinal = rows[-1][1] + 1
            self._budgets.watch(has_budget=rows[0][5])
            units = [Unit(bytes(r[3]), r[4], r[2], USAGE_TYPE, [Target(0, r[0])]) for r in rows]
            await self._embed_units(await self._reuse(units, work), work, config)

    async def _embed_units(self, units: Sequence[Unit], work: DirectWork, config: QueueConfig) -> None:
        if not units:
            return
        limits = call_limits(self._pipeline, self._open_provider())
        # Whether it was cancelled is seen with each response: a call is no longer than the check is to be apart.
        packer = Packer(
            CallLimits(min(limits.max_inputs, config.cancellation_check_interval), limits.max_tokens)
        )
        for unit in units:
            packer.add(unit)
        while work.goes_on and (call := packer.take()):
            await _to_its_end(self._embed_call(call, work))

    async def _embed_call(self, units: list[Unit], work: DirectWork) -> None:
        """One call, or the halves of one that holds a text which the provider refuses."""
        try:
            answer = await self._call(units, work)
        except InputRejectedError as error:
            if not await self._takes_anything(work):
                self._refusal = ProviderRefusedError(f"the provider rejects every input: {error}")
                raise self._refusal from error
            if len(units) == 1:
                self._on_event(ChunkRefused(self._generation.id, str(error)))
                await patiently(partial(self._persistence.bury_chunks, units[0], str(error), work))
                return
            middle = len(units) // 2
            await self._embed_call(units[:middle], work)
            await self._embed_call(units[middle:], work)
        else:
            if answer is None:
                return
            response, call = answer
            started = time.perf_counter()
            vectors = await patiently(
                partial(self._persistence.write_response, call, units, response.vectors, work)
            )
            self._telemetry.wrote(vectors=vectors, seconds=time.perf_counter() - started)
            self._on_event(
                CallSucceeded(self._generation.id, len(units), vectors, call.tokens, call.latency_ms / 1000)
            )

    async def _call(self, units: Sequence[Unit], work: DirectWork) -> tuple[EmbeddingResponse, Call] | None:
        """Ask the provider, waiting out limits and short outages; None where the job was cancelled during a wait.
        Raises the ProviderError that remains, and BudgetReachedError."""
        provider = self._open_provider()
        tokens = sum(unit.tokens for unit in units)
        failures = limits = 0
        asked_at = time.monotonic()
        while True:
            call_id = uuid4()
            reservation = await self._reserve(Reservation(call_id, tokens, [work.job_id], [tokens]))
            await self._wait_for_quota(tokens)
            if time.monotonic() - asked_at > HEED_SECONDS and not await self._is_wanted(work):
                await self._budgets.release(reservation)
                return None
            started = asked_at = time.monotonic()
            entry = partial(self._entry, call_id, len(units), started, reservation)
            try:
                response = await provider.embed([unit.text for unit in units], Purpose.DOCUMENT)
                check_storable(response.vectors, self._generation.storage)
            except RateLimitedError as error:
                limits += 1
                await self._budgets.release(reservation)
                wait = error.retry_after_seconds or backoff_seconds(limits, self._chance)
                self._on_event(CallFailed(self._generation.id, str(error), rate_limited=True))
                await patiently(
                    partial(cool_down, self._database, self._pipeline.quota_key, wait, str(error))
                )
            except ProviderError as error:
                failed = entry(tokens if error.charged else 0, str(error))
                await patiently(partial(self._persistence.record_call, failed, work))
                failures += 1
                if isinstance(error, ProviderRefusedError):
                    self._refusal = error
                if not isinstance(error, ProviderUnavailableError) or failures > MOST_FAILURES:
                    raise
                self._on_event(CallFailed(self._generation.id, str(error)))
                await asyncio.sleep(error.retry_after_seconds or backoff_seconds(failures, self._chance))
            else:
                self._has_succeeded = True
                return response, entry(tokens if response.tokens is None else response.tokens, None)

    async def _takes_anything(self, work: DirectWork) -> bool:
        """Whether the provider takes inputs at all: one that never did is asked with a harmless text."""
        if self._has_succeeded:
            return True
        try:
            answer = await self._call([Unit(b"", "embedmill", 8, USAGE_TYPE, [])], work)
        except InputRejectedError:
            return False
        if answer is not None:
            await patiently(partial(self._persistence.record_call, answer[1], work))
        return True

    async def _reserve(self, reservation: Reservation) -> Reservation | None:
        """What the call may cost; where calls that are under way may still leave the room, they are waited for."""
        while self._budgets.bind:
            refusals = await self._budgets.reserve(reservation)
            if not refusals:
                return reservation
            if reached := [refusal for refusal in refusals if refusal.is_reached]:
                await self._budgets.park(reached, reservation)
                raise BudgetReachedError(reached[0].message)
            await asyncio.sleep(POLL_SECONDS)
        return None

    async def _is_wanted(self, work: DirectWork) -> bool:
        row = await patiently(
            partial(self._database.fetch_one, _DIRECT["is_wanted"], {"job_id": work.job_id})
        )
        work.is_wanted = bool(row and row[0])
        return work.is_wanted

    async def _wait_for_quota(self, tokens: int) -> None:
        grant = partial(grant_quota, self._database, self._pipeline.quota_key, tokens)
        while (wait := await patiently(grant)) > 0:  # noqa: ASYNC110 - it waits for the minute, not for an event
            await asyncio.sleep(wait)

    async def _reuse(self, units: list[Unit], work: DirectWork) -> list[Unit]:
        """Copy the vectors of texts that have one; returns the rest."""
        rows = await self._database.fetch(
            _SQL["find_donors"],
            {"generation_id": self._generation.id, "content_hashes": list({u.content_hash for u in units})},
        )
        donors = {bytes(row[0]): (row[1], row[2]) for row in reversed(rows)}
        served: set[int] = set()
        for generation_id in {generation_id for _, generation_id in donors.values()}:
            pairs = [
                (unit.targets[0].chunk_id, donors[unit.content_hash][0])
                for unit in units
                if donors.get(unit.content_hash, (0, 0))[1] == generation_id
            ]
            served |= await patiently(partial(self._persistence.copy_vectors, pairs, generation_id, work))
        if served:
            self._telemetry.reused(vectors=len(served))
            self._on_event(VectorsReused(self._generation.id, len(served)))
        return [unit for unit in units if unit.targets[0].chunk_id not in served]

    def _open_provider(self) -> EmbeddingProvider:
        if self._refusal is not None:
            raise self._refusal
        if self._provider is None:
            self._provider = self._build_provider(self._generation.spec)
        return self._provider

    def _entry(
        self,
        call_id: UUID,
        inputs: int,
        started: float,
        reservation: Reservation | None,
        tokens: int,
        error: str | None,
    ) -> Call:
        return Call(
            id=call_id,
            worker_id=self._worker_id,
            usage_type=USAGE_TYPE,
            inputs=inputs,
            tokens=tokens,
            latency_ms=int((time.monotonic() - started) * 1000),
            error=error,
            reservation=reservation,
        )


async def _to_its_end(call: Coroutine[Any, Any, None]) -> None:
    """A call that was sent is paid for: whoever ends us waits until its response is written."""
    task = asyncio.ensure_future(call)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
