"""A stint: a bounded piece of a worker's work, for one tenant, done and over within a request. Owns its bounds and its
story; reads and embeds with the same parts as a worker, and is one to the others: registered, with a heartbeat, so
that what it holds is recovered should it die. Must not know who asked for it.

    register    as a worker; what dead ones have left comes free, and where no worker leads, what is due is swept:
                nobody else would, where a scheduler's calls are all there is
    read        changes, then the backfill, of this tenant's sources: so many rows
    embed       what is ready in this tenant's generations: so many items
    sign off    what was not finished has gone back
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from functools import partial

import msgspec

from embedmill.database.patience import patiently
from embedmill.database.pipelines import pipeline_of_generation
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.embed.embedder import Embedder
from embedmill.embed.gate import Gates
from embedmill.embed.loading import Allowance
from embedmill.errors import EmbedmillError
from embedmill.events import CallFailed, CallSucceeded, ChunkRefused, Event, ItemsEnded, VectorsReused
from embedmill.logs import about
from embedmill.ports import SILENT, Cutter, EmbeddingProvider, ProviderSpec, Telemetry
from embedmill.queue.config import QueueConfig
from embedmill.sources.reader import RecordReader
from embedmill.sources.saving import Saved
from embedmill.worker.heartbeat import Heartbeat, Pulse
from embedmill.worker.identity import current_identity
from embedmill.worker.upkeep import Findings, Upkeep

_SQL = load_queries("embedmill.worker", "stint.sql")

CALLS_IN_FLIGHT = 4


class StintBounds(msgspec.Struct, frozen=True):
    """How much is done at the most; None: of every pipeline. What a provider has begun to answer is waited for also
    beyond the seconds: it is paid for."""

    max_items: int
    max_seconds: float
    pipeline_id: int | None = None


class StintReport(msgspec.Struct):
    """What was done. `processed` items ended well, `failed` for good; chunks, tokens; rows `read` of sources. `notes`
    say what kept it from doing more."""

    processed: int = 0
    failed: int = 0
    embedded_chunks: int = 0
    reused_chunks: int = 0
    refused_chunks: int = 0
    tokens: int = 0
    rows_read: int = 0
    rows_refused: int = 0
    notes: list[str] = []


class Stint:
    """One piece of work of one tenant. `run()` once; `stop()` ends it early, in order."""

    def __init__(
        self,
        database: Database,
        tenant_id: int,
        bounds: StintBounds,
        *,
        build_provider: Callable[[ProviderSpec], EmbeddingProvider],
        cutter: Callable[[], Cutter],
        until: asyncio.Event,
        telemetry: Telemetry = SILENT,
    ) -> None:
        """`database` sees all that a worker does, and is this stint's own: others may end its sessions. It ends early,
        in order, when `until` is set."""
        self._until = until
        self._telemetry = telemetry
        self._database = database
        self._tenant_id = tenant_id
        self._bounds = bounds
        self._build_provider = build_provider
        self._make_cutter = cutter
        self._identity = current_identity()
        self._pulse = Pulse(current_work="a request to process the queue")
        self._config = QueueConfig()
        self._report = StintReport()
        self._stopping = asyncio.Event()
        self._allowance = Allowance(bounds.max_items)
        self._embedders: dict[int, Embedder] = {}
        self._resting: set[int] = set()
        self._reader: RecordReader | None = None
        self._chance = random.Random()  # noqa: S311 - jitter, no secret

    def stop(self) -> None:
        """Begin nothing more; what is under way is finished or goes back."""
        self._stopping.set()
        if self._reader is not None:
            self._reader.stop()
        for embedder in self._embedders.values():
            embedder.stop()

    async def run(self) -> StintReport:
        """Do it, and say what was done. Raises DatabaseError where the database is gone from the start."""
        heartbeat = Heartbeat(
            self._database.url,
            self._identity,
            self._pulse,
            interval_seconds=self._config.worker_heartbeat_interval_ms / 1000,
            session_name=self._database.session_name,
        )
        upkeep = Upkeep(
            self._database,
            self._identity,
            heartbeat_seconds=lambda: heartbeat.interval_seconds,
            apply=self._apply,
            on_rescued=lambda: None,
            on_drain=self.stop,
            tenants=lambda: [self._tenant_id],
            heed=self._heed,
            telemetry=self._telemetry,
        )
        await upkeep.take_up_settings()
        heartbeat.change_interval(self._config.worker_heartbeat_interval_ms / 1000)
        await asyncio.to_thread(heartbeat.start)
        try:
            async with asyncio.TaskGroup() as tasks:
                caring = tasks.create_task(upkeep.run())
                ending = tasks.create_task(self._end_in_time())
                try:
                    await self._work(heartbeat)
                finally:
                    upkeep.stop()
                    ending.cancel()
                await caring
            await upkeep.resign()
        finally:
            await asyncio.to_thread(heartbeat.stop)
        return self._report

    async def _end_in_time(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._until.wait(), self._bounds.max_seconds)
        self.stop()

    async def _work(self, heartbeat: Heartbeat) -> None:
        if not self._config.queue_enabled:
            self._note("the queue is off: `embedmill config set queue_enabled true`")
            return
        await self._read()
        gates = Gates(
            calls_in_flight=CALLS_IN_FLIGHT,
            chance=self._chance,
            rate_limit_delay_seconds=self._config.rate_limit_delay_ms / 1000,
        )
        providers: list[EmbeddingProvider] = []
        try:
            while self._allowance.left > 0 and not self._stopping.is_set():
                ready = [each for each in await self._ready_generations() if each not in self._resting]
                if not ready:
                    break
                async with asyncio.TaskGroup() as tasks:
                    for generation_id in ready:
                        tasks.create_task(self._embed(generation_id, gates, heartbeat, providers))
        finally:
            for provider in providers:
                await provider.aclose()

    async def _read(self) -> None:
        """Changes first, then the walks, of this tenant's sources; half of the time at the most, so that what is read
        is embedded as well."""
        sources = [row[0] for row in await self._database.fetch(_SQL["sources"], self._scope)]
        if not sources:
            return
        cutter = self._make_cutter()
        self._reader = RecordReader(
            self._database,
            cutter,
            worker_id=self._identity.worker_id,
            source_ids=sources,
            on_saved=self._note_saved,
            max_rows=self._bounds.max_items,
        )
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._bounds.max_seconds / 2
        try:
            while (
                not self._stopping.is_set()
                and self._reader.goes_on
                and loop.time() < ends_at
                and await self._reader.read_one_source()
            ):
                pass
        finally:
            await cutter.aclose()

    async def _ready_generations(self) -> list[int]:
        """Those of this tenant, and of no other, that have something to claim now."""
        rows = await patiently(partial(self._database.fetch, _SQL["ready_generations"], self._scope))
        return [row[0] for row in rows]

    @property
    def _scope(self) -> dict[str, int | None]:
        return {"tenant_id": self._tenant_id, "pipeline_id": self._bounds.pipeline_id}

    async def _embed(
        self, generation_id: int, gates: Gates, heartbeat: Heartbeat, providers: list[EmbeddingProvider]
    ) -> None:
        """One stretch of work on a generation; where it does not get on, it is left alone for the rest."""
        try:
            pipeline = await patiently(partial(pipeline_of_generation, self._database, generation_id))
            provider = self._build_provider(pipeline.generation.spec)
        except EmbedmillError as error:
            self._rest(generation_id, str(error))
            return
        providers.append(provider)
        embedder = Embedder(
            self._database,
            pipeline,
            provider,
            gates.gate(pipeline.generation.spec.provider, pipeline.quota_key),
            worker_id=self._identity.worker_id,
            lease_seconds=self._config.lease_seconds,
            heartbeat_seconds=heartbeat.interval_seconds,
            lease_age=heartbeat.age_seconds,
            batch_size=self._config.batch_size,
            tenant_weight=pipeline.tenant_weight,
            on_event=self._note_event,
            chance=self._chance,
            allowance=self._allowance,
            telemetry=self._telemetry,
        )
        self._embedders[generation_id] = embedder
        if self._stopping.is_set():
            embedder.stop()
        try:
            with about(tenant_id=self._tenant_id, pipeline=pipeline.name, generation_id=generation_id):
                await embedder.run()
        finally:
            del self._embedders[generation_id]
        if embedder.fatal is not None or embedder.rest_seconds:
            self._rest(generation_id, str(embedder.fatal or embedder.trouble or "it is held back for now"))

    def _apply(self, config: QueueConfig) -> None:
        before, self._config = self._config, config
        if before.queue_enabled and not config.queue_enabled:
            self.stop()

    async def _heed(self, findings: Findings) -> None:
        for embedder in list(self._embedders.values()):
            await embedder.heed(
                findings.cancelled_items, has_budget=self._tenant_id in findings.budgeted_tenants
            )

    def _rest(self, generation_id: int, why: str) -> None:
        self._resting.add(generation_id)
        self._note(why)

    def _note(self, sentence: str) -> None:
        if sentence not in self._report.notes:
            self._report.notes.append(sentence)

    def _note_saved(self, source_id: int, saved: Saved) -> None:
        del source_id
        self._report.rows_read += saved.added + saved.changed + saved.deleted
        self._report.rows_refused += saved.refused

    def _note_event(self, event: Event) -> None:
        report, pulse = self._report, self._pulse
        match event:
            case CallSucceeded():
                report.embedded_chunks += event.vectors
                report.tokens += event.tokens
                pulse.chunks_embedded += event.vectors
            case VectorsReused():
                report.reused_chunks += event.vectors
            case ItemsEnded():
                report.processed += event.completed
                report.failed += event.failed
                pulse.tasks_processed += event.completed + event.failed
            case ChunkRefused():
                report.refused_chunks += 1
            case CallFailed():
                pulse.rate_limits_hit += event.rate_limited
                pulse.errors += not event.rate_limited
                pulse.last_error = event.message
                self._note(event.message)
