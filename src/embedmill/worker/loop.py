"""A worker: watches for ready work and runs an embedder for each generation that has some. Owns the process's
life from registration to sign-off; must not know how items are embedded.

Each wait has an end and each task an owner: the TaskGroup of `run()` holds every embedder and the sweeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from functools import partial

import msgspec
import structlog

from embedmill.database.patience import AWAY, patiently
from embedmill.database.pipelines import Pipeline, pipeline_of_generation
from embedmill.database.pool import Database
from embedmill.embed.embedder import Embedder
from embedmill.embed.generations import keep_index
from embedmill.errors import EmbedmillError
from embedmill.events import CallFailed, CallSucceeded, Event, ItemsEnded
from embedmill.ports import EmbeddingProvider, ProviderSpec
from embedmill.queue.items import ready_generations
from embedmill.worker.heartbeat import Heartbeat, Pulse
from embedmill.worker.identity import Identity, current_identity
from embedmill.worker.sweeps import rescue

_log = structlog.get_logger(__name__)

# A generation whose provider refuses us, or cannot be built, is left alone for this long.
REFUSED_PAUSE_SECONDS = 60.0


class WorkerOptions(msgspec.Struct, frozen=True):
    """How a worker works. The lease is the hard deadline of an item without any progress."""

    calls_in_flight: int = 8
    heartbeat_seconds: float = 30.0
    lease_seconds: float = 600.0
    idle_seconds: float = 0.25
    sweep_seconds: float = 5.0


class Worker:
    """Embeds whatever is ready, until it is told to stop."""

    def __init__(
        self,
        database: Database,
        build_provider: Callable[[ProviderSpec], EmbeddingProvider],
        options: WorkerOptions,
        *,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._database = database
        self._build_provider = build_provider
        self._options = options
        self._on_event = on_event
        self.identity: Identity = current_identity()
        self._pulse = Pulse()
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._embedders: dict[int, Embedder] = {}
        self._indexing: set[asyncio.Task[None]] = set()
        self._paused_until: dict[int, float] = {}
        self._providers: dict[bytes, EmbeddingProvider] = {}

    def stop(self) -> None:
        """Begin a graceful stop: calls in flight are written, the rest goes back."""
        self._stopping.set()
        self._wake.set()
        for embedder in self._embedders.values():
            embedder.stop()

    def wake(self) -> None:
        """There may be new work: look now and not at the next poll."""
        self._wake.set()

    async def run(self) -> None:
        """Work until `stop()`. Raises DatabaseError only where the database is gone from the start."""
        heartbeat = Heartbeat(
            self._database.url, self.identity, self._pulse, interval_seconds=self._options.heartbeat_seconds
        )
        await asyncio.to_thread(heartbeat.start)
        try:
            async with asyncio.TaskGroup() as tasks:
                sweeping = tasks.create_task(self._sweep())
                await self._watch(tasks)
                for task in (sweeping, *self._indexing):
                    task.cancel()
        finally:
            await asyncio.to_thread(heartbeat.stop)
            for provider in self._providers.values():
                await provider.aclose()

    async def _watch(self, tasks: asyncio.TaskGroup) -> None:
        """Start an embedder for each generation that has ready work and none yet."""
        running: dict[int, asyncio.Task[None]] = {}
        while not self._stopping.is_set():
            self._wake.clear()
            for generation_id in await patiently(partial(ready_generations, self._database)):
                paused = self._paused_until.get(generation_id, 0.0) > time.monotonic()
                if generation_id not in running and not paused and not self._stopping.is_set():
                    task = tasks.create_task(self._embed(generation_id, tasks))
                    running[generation_id] = task
                    task.add_done_callback(lambda _, key=generation_id: running.pop(key))  # type: ignore[misc]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._options.idle_seconds)
        if running:
            await asyncio.wait(running.values())

    async def _embed(self, generation_id: int, tasks: asyncio.TaskGroup) -> None:
        """One stretch of work on a generation, from the first ready item to the last."""
        started = time.monotonic()
        try:
            embedder = await self._start_embedder(generation_id)
        except EmbedmillError as error:
            self._pause(generation_id, str(error))
            return
        try:
            await self._keep_index(embedder.pipeline, may_build=False)
            await embedder.run()
        finally:
            del self._embedders[generation_id]
            self._pulse.total_processing_ms += int((time.monotonic() - started) * 1000)
            self._pulse.current_work = ", ".join(e.pipeline.name for e in self._embedders.values()) or None
        if embedder.fatal is not None:
            self._pause(generation_id, str(embedder.fatal), announce=False)
        elif embedder.rest_seconds:
            rest = min(embedder.rest_seconds, REFUSED_PAUSE_SECONDS)
            self._paused_until[generation_id] = time.monotonic() + rest
        # Beside the next stretch of work, not before it: a large index takes minutes to build.
        indexing = tasks.create_task(self._keep_index(embedder.pipeline, may_build=True))
        self._indexing.add(indexing)
        indexing.add_done_callback(self._indexing.discard)

    async def _keep_index(self, pipeline: Pipeline, *, may_build: bool) -> None:
        with contextlib.suppress(*AWAY):
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
            worker_id=self.identity.worker_id,
            calls_in_flight=2 if spec.provider == "local" else self._options.calls_in_flight,
            lease_seconds=self._options.lease_seconds,
            on_event=self._note,
            chance=random.Random(),  # noqa: S311 - jitter, no secret
        )
        self._embedders[generation_id] = embedder
        self._pulse.current_work = ", ".join(e.pipeline.name for e in self._embedders.values())
        if self._stopping.is_set():
            embedder.stop()
        return embedder

    def _provider(self, spec: ProviderSpec) -> EmbeddingProvider:
        """Providers are kept from one stretch to the next: their connections and models are warm."""
        key = msgspec.json.encode(spec)
        if key not in self._providers:
            self._providers[key] = self._build_provider(spec)
        return self._providers[key]

    def _pause(self, generation_id: int, message: str, *, announce: bool = True) -> None:
        self._paused_until[generation_id] = time.monotonic() + REFUSED_PAUSE_SECONDS
        self._pulse.errors += 1
        self._pulse.last_error = message
        _log.error("generation paused", generation_id=generation_id, error=message)
        if announce:
            self._on_event(CallFailed(generation_id, message, fatal=True))

    async def _sweep(self) -> None:
        """Rescue what dead workers left, at once and then every few seconds."""
        while True:
            try:
                if await rescue(self._database, self.identity):
                    self.wake()
            except AWAY as error:
                _log.warning("sweep missed", error=str(error).strip())
            await asyncio.sleep(self._options.sweep_seconds)

    def _note(self, event: Event) -> None:
        """Keep the heartbeat's figures, and pass the event on."""
        pulse = self._pulse
        match event:
            case CallSucceeded():
                pulse.chunks_embedded += event.vectors
            case ItemsEnded():
                pulse.tasks_processed += event.completed + event.failed
            case CallFailed():
                pulse.rate_limits_hit += event.rate_limited
                pulse.errors += not event.rate_limited
                pulse.last_error = event.message
            case _:
                pass
        self._on_event(event)
