"""A worker: watches for ready work and runs embedders on the generations that have some. Owns the process's life
from registration to sign-off; must not know how items are embedded, nor whose turn it is (turns.py).

Each wait has an end and each task an owner: the TaskGroup of `run()` holds every embedder and the upkeep.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol
from uuid import UUID

import msgspec
import psycopg
import structlog

from embedmill.database.patience import AWAY, patiently
from embedmill.database.pipelines import Pipeline, pipeline_of_generation
from embedmill.database.pool import Database
from embedmill.embed.embedder import Embedder
from embedmill.embed.gate import Gates
from embedmill.embed.generations import keep_index
from embedmill.errors import EmbedmillError, NotFoundError
from embedmill.events import CallFailed, CallSucceeded, Event, ItemsEnded, VectorsReused
from embedmill.logs import bind
from embedmill.ports import SILENT, EmbeddingProvider, ProviderSpec, Telemetry
from embedmill.queue.config import QueueConfig
from embedmill.queue.items import ready_generations
from embedmill.worker.heartbeat import Heartbeat, Pulse
from embedmill.worker.identity import Identity, current_identity
from embedmill.worker.turns import Rests, Turns
from embedmill.worker.upkeep import LOOK_SECONDS, Findings, Upkeep

_log = structlog.get_logger(__name__)

# A generation whose provider refuses us, or cannot be built, is left alone for this long.
REFUSED_PAUSE_SECONDS = 60.0
# An embedder that has not moved for so long waits for its provider or its turn: it takes nobody's place.
UNMOVED_SECONDS = 2.0
# Looks for ready work are so far apart at least, however often somebody calls: each is a query.
LOOK_APART_SECONDS = 0.02
# Indexes that are built at the same time: each holds a connection for minutes.
INDEXES_AT_ONCE = 2


class WorkerOptions(msgspec.Struct, frozen=True):
    """How this one worker works; what holds for all stands in the configuration, and `look_seconds` is how often it
    looks there. `embedders` is how many generations are worked on at the same time, those not counted that wait for
    their provider."""

    calls_in_flight: int = 8
    idle_seconds: float = 0.25
    look_seconds: float = LOOK_SECONDS
    embedders: int = 16


class Companion(Protocol):
    """Other work of the same process, in the same worker's name: it lives between registration and sign-off."""

    async def run(self) -> None: ...

    def stop(self) -> None: ...


class Worker:
    """Embeds whatever is ready, until it is told to stop."""

    def __init__(
        self,
        database: Database,
        build_provider: Callable[[ProviderSpec], EmbeddingProvider],
        options: WorkerOptions,
        *,
        on_event: Callable[[Event], None] = lambda event: None,
        companions: Callable[[UUID], Sequence[Companion]] = lambda worker_id: (),
        telemetry: Telemetry = SILENT,
    ) -> None:
        """`companions` are made for the worker's id."""
        self._database = database
        self._build_provider = build_provider
        self._options = options
        self._on_event = on_event
        self._telemetry = telemetry
        self.identity: Identity = current_identity()
        self.was_drained = False
        """It stopped because somebody asked this worker to, and not because its process is to end."""
        self._companions = tuple(companions(self.identity.worker_id))
        self._pulse = Pulse()
        self._chance = random.Random()  # noqa: S311 - jitter, no secret
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._config = QueueConfig()
        self._gates = Gates(
            calls_in_flight=options.calls_in_flight,
            chance=self._chance,
            rate_limit_delay_seconds=self._config.rate_limit_delay_ms / 1000,
        )
        self._heartbeat = Heartbeat(
            database.url,
            self.identity,
            self._pulse,
            interval_seconds=self._config.worker_heartbeat_interval_ms / 1000,
            session_name=database.session_name,
        )
        self._upkeep = Upkeep(
            database,
            self.identity,
            heartbeat_seconds=lambda: self._heartbeat.interval_seconds,
            apply=self._apply,
            on_rescued=self.wake,
            on_drain=self._drain,
            look_seconds=options.look_seconds,
            tenants=lambda: sorted({each.pipeline.tenant_id for each in self._embedders.values()}),
            heed=self._heed,
            telemetry=telemetry,
        )
        self._embedders: dict[int, Embedder] = {}
        self._turns = Turns()
        self._rests = Rests()
        self._indexing: set[asyncio.Task[None]] = set()
        self._index_builders = asyncio.Semaphore(INDEXES_AT_ONCE)
        self._providers: dict[bytes, EmbeddingProvider] = {}

    def stop(self) -> None:
        """Begin a graceful stop: calls in flight are written, the rest goes back."""
        self._stopping.set()
        self._wake.set()
        for companion in self._companions:
            companion.stop()
        self._stop_embedders()

    def _drain(self) -> None:
        if not self._stopping.is_set():
            self.was_drained = True
            _log.info("drained: stopping in order")
        self.stop()

    def look(self) -> None:
        """There may be work for generations that nobody works on: look now and not at the next poll. Whoever is at work
        looks by itself, and should not fill its calls with less for it."""
        self._wake.set()

    def wake(self) -> None:
        """There may be work that somebody waits for: look now, and send it though it fills no call."""
        self.look()
        for embedder in self._embedders.values():
            embedder.nudge()

    def troubles(self) -> dict[int, str]:
        """Why generations do not get on here, one sentence for each: refused, limited, the provider away."""
        return self._rests.reasons()

    async def run(self) -> None:
        """Work until `stop()`, or until somebody drains it. Raises DatabaseError only where the database is gone from
        the start, and stays away."""
        await patiently(self._upkeep.take_up_settings)
        await patiently(lambda: asyncio.to_thread(self._heartbeat.start))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._upkeep.run())
                for companion in self._companions:
                    tasks.create_task(companion.run())
                await self._watch(tasks)
                self._upkeep.stop()
                for task in self._indexing:
                    task.cancel()
            await self._upkeep.resign()
        finally:
            await asyncio.to_thread(self._heartbeat.stop)
            for provider in self._providers.values():
                await provider.aclose()

    def _apply(self, config: QueueConfig) -> None:
        """Take up changed settings at once. With the queue disabled nothing is claimed, and what is under way ends
        as it does at a stop."""
        before, self._config = self._config, config
        self._gates.set_rate_limit_delay(config.rate_limit_delay_ms / 1000)
        self._heartbeat.change_interval(config.worker_heartbeat_interval_ms / 1000)
        if (before.batch_size, before.lease_seconds) != (config.batch_size, config.lease_seconds):
            # Their next stretch, which begins in a moment, has the new values.
            for embedder in self._embedders.values():
                embedder.end_turn(at_once=True)
        if not config.queue_enabled:
            self._stop_embedders()
        self._wake.set()

    async def _heed(self, findings: Findings) -> None:
        """Pass on what concerns the work in hand."""
        for embedder in list(self._embedders.values()):
            await embedder.heed(
                findings.cancelled_items,
                has_budget=embedder.pipeline.tenant_id in findings.budgeted_tenants,
            )

    async def _watch(self, tasks: asyncio.TaskGroup) -> None:
        """Start embedders for generations that have ready work and none yet, as long as there is room."""
        running: dict[int, asyncio.Task[None]] = {}
        while not self._stopping.is_set():
            self._wake.clear()
            waiting: list[int] = []
            if self._config.queue_enabled:
                ready = await patiently(partial(ready_generations, self._database))
                now = time.monotonic()
                waiting = self._turns.order(
                    [each for each in ready if each not in running and not self._rests.holds(each, now)]
                )
            while (
                waiting and self._room(running) and self._config.queue_enabled and not self._stopping.is_set()
            ):
                generation_id = waiting.pop(0)
                self._turns.take(generation_id)
                task = tasks.create_task(self._embed(generation_id, tasks))
                running[generation_id] = task
                task.add_done_callback(lambda _, key=generation_id: running.pop(key))  # type: ignore[misc]
            if waiting:
                self._make_room(len(waiting))
                for task in running.values():
                    task.add_done_callback(self._wake_up)
            await asyncio.sleep(LOOK_APART_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._options.idle_seconds)
        if running:
            await asyncio.wait(running.values())

    def _room(self, running: dict[int, asyncio.Task[None]]) -> int:
        """How many more embedders there is room for."""
        unmoved = sum(each.seconds_unmoved() > UNMOVED_SECONDS for each in self._embedders.values())
        return max(0, self._options.embedders - (len(running) - unmoved))

    def _make_room(self, wanted: int) -> None:
        """Those that have worked longest end their turn."""
        for embedder in list(self._embedders.values())[:wanted]:
            embedder.end_turn()

    def _wake_up(self, _: asyncio.Task[None]) -> None:
        self._wake.set()

    def _stop_embedders(self) -> None:
        for embedder in self._embedders.values():
            embedder.stop()

    async def _embed(self, generation_id: int, tasks: asyncio.TaskGroup) -> None:
        """One stretch of work on a generation, from the first ready item to the last."""
        started = time.monotonic()
        try:
            embedder = await self._start_embedder(generation_id)
        except EmbedmillError as error:
            self._pause(generation_id, str(error))
            return
        bind(
            tenant_id=embedder.pipeline.tenant_id, pipeline=embedder.pipeline.name
        )  # to the end of this task
        try:
            await self._keep_index(embedder.pipeline, may_build=False)
            await embedder.run()
        except* psycopg.errors.UndefinedTable as missing:
            if await self._exists(generation_id):
                raise
            _log.info("generation pruned", generation_id=generation_id, error=str(missing.exceptions[0]))
        finally:
            del self._embedders[generation_id]
            self._pulse.total_processing_ms += int((time.monotonic() - started) * 1000)
            self._pulse.current_work = ", ".join(e.pipeline.name for e in self._embedders.values()) or None
        if embedder.fatal is not None:
            self._pause(generation_id, str(embedder.fatal), announce=False)
        elif embedder.rest_seconds:
            rest = min(embedder.rest_seconds, REFUSED_PAUSE_SECONDS)
            self._rests.begin(generation_id, time.monotonic() + rest, embedder.trouble or "")
            self._tell_troubles()
        # Beside the next stretch of work, not before it: a large index takes minutes to build.
        indexing = tasks.create_task(self._keep_index(embedder.pipeline, may_build=True))
        self._indexing.add(indexing)
        indexing.add_done_callback(self._indexing.discard)

    async def _exists(self, generation_id: int) -> bool:
        try:
            await patiently(partial(pipeline_of_generation, self._database, generation_id))
        except NotFoundError:
            return False
        return True

    async def _keep_index(self, pipeline: Pipeline, *, may_build: bool) -> None:
        builders = self._index_builders if may_build else contextlib.nullcontext()
        with contextlib.suppress(*AWAY):
            async with builders:
                await keep_index(self._database, pipeline, may_build=may_build)

    async def settle_indexes(self) -> None:
        """Wait for the indexes that are being built."""
        while self._indexing:
            await asyncio.wait(self._indexing)

    async def _start_embedder(self, generation_id: int) -> Embedder:
        pipeline = await patiently(partial(pipeline_of_generation, self._database, generation_id))
        spec = pipeline.generation.spec
        provider = self._provider(spec)
        embedder = Embedder(
            self._database,
            pipeline,
            provider,
            self._gates.gate(spec.provider, pipeline.quota_key),
            worker_id=self.identity.worker_id,
            lease_seconds=self._config.lease_seconds,
            heartbeat_seconds=self._heartbeat.interval_seconds,
            lease_age=self._heartbeat.age_seconds,
            batch_size=self._config.batch_size,
            tenant_weight=pipeline.tenant_weight,
            on_event=self._note,
            chance=self._chance,
            telemetry=self._telemetry,
        )
        self._embedders[generation_id] = embedder
        self._pulse.current_work = ", ".join(e.pipeline.name for e in self._embedders.values())
        if self._stopping.is_set() or not self._config.queue_enabled:
            embedder.stop()
        return embedder

    def _provider(self, spec: ProviderSpec) -> EmbeddingProvider:
        """Providers are kept from one stretch to the next: their connections and models are warm."""
        key = msgspec.json.encode(spec)
        if key not in self._providers:
            self._providers[key] = self._build_provider(spec)
        return self._providers[key]

    def _pause(self, generation_id: int, message: str, *, announce: bool = True) -> None:
        self._rests.begin(generation_id, time.monotonic() + REFUSED_PAUSE_SECONDS, message)
        self._pulse.errors += 1
        self._pulse.last_error = message
        self._tell_troubles()
        _log.error("generation paused", generation_id=generation_id, error=message)
        if announce:
            self._on_event(CallFailed(generation_id, message, fatal=True))

    def _note(self, event: Event) -> None:
        """Keep the heartbeat's figures, and pass the event on."""
        pulse = self._pulse
        match event:
            case CallSucceeded():
                pulse.chunks_embedded += event.vectors
                self._rests.end(event.generation_id)
            case VectorsReused():
                self._rests.end(event.generation_id)
            case ItemsEnded():
                pulse.tasks_processed += event.completed + event.failed
            case CallFailed():
                pulse.rate_limits_hit += event.rate_limited
                pulse.errors += not event.rate_limited
                pulse.last_error = event.message
            case _:
                pass
        self._tell_troubles()
        self._on_event(event)

    def _tell_troubles(self) -> None:
        """What keeps a generation from getting on is told at once, for whoever asks why it waits."""
        troubles = self.troubles()
        if troubles != self._pulse.troubles:
            self._pulse.troubles = troubles
            self._heartbeat.beat_now()
