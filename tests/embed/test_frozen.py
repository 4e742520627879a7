"""A worker that cannot trust its leases asks before it pays: frozen, or without a heartbeat for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.embed.holding import LeaseWatch
from embedmill.errors import ProviderUnavailableError
from embedmill.ports import EmbeddingResponse, ProviderLimits, Purpose
from tests.embed.desk import Desk, Later, Run
from tests.support import audit
from tests.support.provider import vectors_for
from tests.support.work import add_document, missing_chunks

A, B = [f"a {n}" for n in range(5)], [f"b {n}" for n in range(5)]


async def test_a_worker_that_was_frozen_pays_for_nothing_that_it_lost(app: App, pipeline: Pipeline) -> None:
    """Its heart beats again when it looks: that alone must not be believed."""
    await add_document(app, pipeline, "a", A)
    await add_document(app, pipeline, "b", B)
    provider = FreezingProvider(app, pipeline, sources=["a", "b"])
    await Run(app, pipeline, provider=provider, heartbeat_seconds=0.05)()
    assert [sorted(call) for call in provider.calls] == [A + B]
    assert {row[1] for row in await audit.live_items(app)} == {"processing"}, "the successor's"


async def test_what_is_still_held_is_sent_without_what_was_lost(app: App, pipeline: Pipeline) -> None:
    await add_document(app, pipeline, "a", A)
    await add_document(app, pipeline, "b", B)
    provider = FreezingProvider(app, pipeline, sources=["a"])
    await Run(app, pipeline, provider=provider, heartbeat_seconds=0.05)()
    assert [sorted(call) for call in provider.calls] == [A + B, B]
    assert await missing_chunks(app, pipeline) == len(A)
    (stolen,) = await audit.live_items(app)
    assert stolen[1:] == ("processing", 0, 0)
    assert await audit.ended_items(app) == [("completed", 0, 0, None)]


async def test_a_lost_text_that_another_item_needs_is_sent_for_that_one(app: App, pipeline: Pipeline) -> None:
    await add_document(app, pipeline, "a", A)
    await add_document(app, pipeline, "b", [*A, *B])
    provider = FreezingProvider(app, pipeline, sources=["a"])
    await Run(app, pipeline, provider=provider, heartbeat_seconds=0.05)()
    assert [sorted(call) for call in provider.calls] == [A + B, A + B]
    assert await missing_chunks(app, pipeline) == len(A)


async def test_a_worker_that_is_trusted_does_not_ask(app: App, pipeline: Pipeline) -> None:
    """What it lost is thrown away when it is written, as ever."""
    await add_document(app, pipeline, "a", A)
    provider = FreezingProvider(app, pipeline, sources=["a"])
    await Run(app, pipeline, provider=provider, heartbeat_seconds=30)()
    assert len(provider.calls) == 2
    assert await missing_chunks(app, pipeline) == len(A)


def test_trust_lasts_one_and_a_half_intervals_from_the_last_beat() -> None:
    clock, beaten_at = Later(), [0.0]
    beaten_at[0] = clock() - 4
    watch = LeaseWatch(lease_age=lambda: clock() - beaten_at[0], heartbeat_seconds=10, clock=clock)
    clock.ahead += 10.9
    assert not watch.are_doubtful()
    for _ in range(20):
        beaten_at[0] = clock()
        for _ in range(2):
            assert not watch.are_doubtful()
            clock.ahead += 5
    clock.ahead += 15.1
    beaten_at[0] = clock()  # it woke up, and beat before it looked
    assert watch.are_doubtful()
    assert watch.are_doubtful(), "until it has asked"


class FreezingProvider:
    """During the first call the worker sleeps for long, its heart included; a successor takes documents over; then
    the call breaks and is made again."""

    def __init__(self, app: App, pipeline: Pipeline, *, sources: Sequence[str]) -> None:
        self.app = app
        self.successor = Desk(app, pipeline)
        self.sources = list(sources)
        self.calls: list[Sequence[str]] = []
        self.model, self.dimensions = "freezing", 16
        self.limits = ProviderLimits(10, 10_000, 1000)

    async def embed(self, inputs: Sequence[str], purpose: Purpose) -> EmbeddingResponse:
        self.calls.append(inputs)
        if len(self.calls) > 1:
            return EmbeddingResponse(vectors_for(inputs, 16), len(inputs), self.model)
        await self.app.database.fetch(
            "UPDATE embedmill.embedding_queue q SET lease_token = nextval('embedmill.lease_tokens'), worker_id = %s "
            "  FROM embedmill.knowledge_documents d WHERE d.id = q.document_id AND d.source_id = ANY (%s)",
            (self.successor.worker_id, self.sources),
        )
        await asyncio.sleep(0.2)
        raise ProviderUnavailableError("broken by the freeze")

    async def aclose(self) -> None:
        pass
