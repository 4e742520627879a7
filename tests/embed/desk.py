"""A worker's desk without its loop: items claimed and loaded as the embedder does it, writes made one at a time
by the test. Owns no provider; the vectors are the stand-in's for exactly that text."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID, uuid4

from embedmill.app import App
from embedmill.core.batching import CallLimits, Packer, Unit
from embedmill.core.concurrency import Concurrency
from embedmill.database.pipelines import Pipeline
from embedmill.embed.embedder import Embedder
from embedmill.embed.gate import Gate
from embedmill.embed.holding import Holdings
from embedmill.embed.loading import Loader
from embedmill.embed.persistence import Persistence
from embedmill.embed.results import Call, Outcome
from embedmill.embed.traffic import Traffic
from embedmill.events import Event
from embedmill.ports import EmbeddingProvider
from embedmill.queue.items import Item, live_items
from tests.support.provider import vectors_for
from tests.support.queue_rows import grow_older

E = TypeVar("E")


class Desk:
    """One claimant. Two desks on one pipeline are two workers."""

    def __init__(self, app: App, pipeline: Pipeline, *, inputs_per_call: int = 1000) -> None:
        self.app = app
        self.pipeline = pipeline
        self.worker_id = uuid4()
        self.holdings = Holdings()
        self.packer = Packer(CallLimits(inputs_per_call, 1_000_000))
        self.persistence = Persistence(app.database, pipeline, lease_seconds=600)
        self.traffic = Traffic()
        self.loader = Loader(
            app.database,
            pipeline,
            self.persistence,
            worker_id=self.worker_id,
            traffic=self.traffic,
            batch_size=500,
            lease_seconds=600,
        )

    async def load(self) -> list[Outcome]:
        """Claim and load what is ready, up to a call; returns what ended by reuse alone."""
        ended: list[Outcome] = []
        while not self.packer.is_full:
            outcomes = await self.loader.load_more(self.packer, self.holdings)
            if outcomes is None:
                break
            ended += outcomes
        return ended

    async def take_over(self) -> None:
        """As if all that others hold had been rescued and claimed by us, with nobody in between."""
        rows = await self.app.database.fetch(
            "UPDATE embedmill.embedding_queue SET worker_id = %s, lease_token = nextval('embedmill.lease_tokens') "
            " WHERE status = 'processing' RETURNING id, lease_token, tenant_id, document_id, job_id, usage_type, "
            "       retry_count, estimated_tokens",
            (self.worker_id,),
        )
        await self.loader.load([Item(*row) for row in rows], self.packer, self.holdings)

    async def write(self, units: list[Unit], *, call_id: UUID | None = None) -> Outcome:
        """As if the provider had just answered these units."""
        call = Call(
            id=call_id or uuid4(),
            worker_id=self.worker_id,
            usage_type="internal_ingestion",
            inputs=len(units),
            tokens=sum(unit.tokens for unit in units),
            latency_ms=1,
        )
        vectors = vectors_for([unit.text for unit in units], self.pipeline.generation.dimensions)
        return await self.persistence.write_response(call, units, vectors, self.holdings)


async def free_all(app: App) -> None:
    """As a rescuer does who finds every worker dead."""
    await app.database.fetch("SELECT embedmill.rescue_items('{}')")


async def ledger(app: App) -> list[tuple[int, int]]:
    """(inputs, tokens) of each call that is on the books."""
    rows = await app.database.fetch("SELECT inputs, input_tokens FROM embedmill.llm_usage_log ORDER BY id")
    return [(row[0], row[1]) for row in rows]


class Impatient(random.Random):
    """Chance that always chooses not to wait: every backoff is its shortest."""

    def uniform(self, a: float, b: float) -> float:
        return min(a, b)


class Later:
    """A clock that a test can put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def gate_on(clock: Callable[[], float] = time.monotonic, *, calls_in_flight: int = 4) -> Gate:
    """A gate whose waits are the shortest there are."""
    return Gate("test", Concurrency(calls_in_flight), chance=Impatient(), clock=clock)


class Run:
    """An embedder on its own, from the first ready item to the last, as often as asked for."""

    def __init__(
        self,
        app: App,
        pipeline: Pipeline,
        *,
        provider: EmbeddingProvider | None = None,
        calls_in_flight: int = 4,
        gate: Gate | None = None,
        lease_seconds: float = 600.0,
        lease_age: Callable[[], float] = lambda: 0.0,
        heartbeat_seconds: float = 30.0,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.app = app
        self.events: list[Event] = []
        self.worker_id = uuid4()
        self.provider = provider or app.provider(pipeline.generation.spec)

        def note(event: Event) -> None:
            self.events.append(event)
            on_event(event)

        self.gate = gate or gate_on(calls_in_flight=calls_in_flight)
        self.embedder = Embedder(
            app.database,
            pipeline,
            self.provider,
            self.gate,
            worker_id=self.worker_id,
            lease_seconds=lease_seconds,
            lease_age=lease_age,
            heartbeat_seconds=heartbeat_seconds,
            on_event=note,
            chance=Impatient(),
        )

    async def __call__(self, *, seconds: float = 20.0) -> Run:
        """Embed what is ready now; what failed waits for its delay when this returns."""
        try:
            async with asyncio.timeout(seconds):
                await self.embedder.run()
        finally:
            await self.provider.aclose()
        return self

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


async def embed_until_idle(app: App, pipeline: Pipeline, *, rounds: int = 8) -> list[Run]:
    """Runs, with the delays of failures cut short between them, until nothing is live any more."""
    runs = []
    for _ in range(rounds):
        runs.append(await Run(app, pipeline)())
        if not await live_items(app.database):
            break
        await grow_older(app.database, 1000)
    return runs
