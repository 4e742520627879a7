"""Leases that are lost while a call is out, and taken again by the very worker that lost them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.events import ItemsEnded
from embedmill.ports import EmbeddingResponse, ProviderLimits, Purpose
from tests.embed.desk import Desk, Run, free_all
from tests.support import audit
from tests.support.provider import vectors_for
from tests.support.work import add_document, missing_chunks, stored_vectors

TEXTS = [f"text {n}" for n in range(8)]


async def test_an_item_that_its_own_worker_claims_again_while_its_call_is_out_is_written_once(
    app: App, pipeline: Pipeline
) -> None:
    """The call took longer than the lease, a sweep freed the item, and the embedder that still waits for the
    answer is the one that claims it again: the same chunks board the same call twice."""
    await add_document(app, pipeline, "slow", TEXTS)
    provider = GatedProvider()
    run = Run(app, pipeline, provider=provider)
    running = asyncio.create_task(run())
    await provider.asked.wait()
    await free_all(app)
    await add_document(app, pipeline, "other", ["something else"])
    await provider.asked_for("something else")
    provider.gate.set()
    async with asyncio.timeout(10):
        await running
    assert await missing_chunks(app, pipeline) == 0
    assert sum(event.completed for event in run.of(ItemsEnded)) == 2
    assert [row[:2] for row in await audit.ended_items(app)] == [("completed", 0)] * 2
    await audit.assert_books_balance(app)


async def test_the_same_again_with_a_successor_that_did_a_part_in_between(
    app: App, pipeline: Pipeline
) -> None:
    await add_document(app, pipeline, "slow", TEXTS)
    provider = GatedProvider()
    run = Run(app, pipeline, provider=provider)
    running = asyncio.create_task(run())
    await provider.asked.wait()
    successor = Desk(app, pipeline, inputs_per_call=3)
    await successor.take_over()
    await successor.write(successor.packer.take())
    await free_all(app)
    await add_document(app, pipeline, "other", ["something else"])
    await provider.asked_for("something else")
    provider.gate.set()
    async with asyncio.timeout(10):
        await running
    assert await missing_chunks(app, pipeline) == 0
    assert len(await stored_vectors(app, pipeline)) == 9
    assert await audit.live_items(app) == []
    assert {job[1] for job in await audit.newest_jobs(app)} == {"completed"}
    await audit.assert_books_balance(app)


async def test_a_lease_lost_for_good_is_noticed_and_nothing_of_it_is_written(
    app: App, pipeline: Pipeline
) -> None:
    await add_document(app, pipeline, "slow", TEXTS)
    provider = GatedProvider()
    run = Run(app, pipeline, provider=provider)
    running = asyncio.create_task(run())
    await provider.asked.wait()
    successor = Desk(app, pipeline)
    await successor.take_over()
    run.embedder.stop()
    provider.gate.set()
    async with asyncio.timeout(10):
        await running
    assert await stored_vectors(app, pipeline) == []
    assert len((await successor.write(successor.packer.take())).completed) == 1
    await audit.assert_books_balance(app)


async def test_each_response_puts_the_deadline_of_its_items_off(app: App, pipeline: Pipeline) -> None:
    """The deadline is for an item without progress, not for a long one."""
    await add_document(app, pipeline, "doc", TEXTS)
    desk = Desk(app, pipeline, inputs_per_call=4)
    await desk.load()
    await app.database.fetch("UPDATE embedmill.embedding_queue SET lease_deadline = now() + interval '1 s'")
    await desk.write(desk.packer.take())
    rows = await app.database.fetch(
        "SELECT lease_deadline > now() + interval '9 minutes' FROM embedmill.embedding_queue"
    )
    assert rows == [(True,)]


class GatedProvider:
    """Answers when the test opens its gate."""

    def __init__(self) -> None:
        self.asked, self.gate = asyncio.Event(), asyncio.Event()
        self.model, self.dimensions = "gated", 16
        self.limits = ProviderLimits(10, 10_000, 1000)
        self._seen: list[str] = []
        self._news = asyncio.Condition()

    async def embed(self, inputs: Sequence[str], purpose: Purpose) -> EmbeddingResponse:
        async with self._news:
            self._seen += inputs
            self._news.notify_all()
        self.asked.set()
        await self.gate.wait()
        return EmbeddingResponse(vectors_for(inputs, 16), len(inputs), self.model)

    async def asked_for(self, text: str) -> None:
        """Until a call with this text is out."""
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(lambda: text in self._seen)

    async def aclose(self) -> None:
        pass
