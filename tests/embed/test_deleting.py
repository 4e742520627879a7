"""Deletions go through the queue like anything else: claimed, fenced, carried out once."""

from __future__ import annotations

from uuid import uuid4

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.ingest.progress import coverage
from tests.embed.desk import Desk, Run
from tests.support import audit
from tests.support.provider import RunningProvider
from tests.support.work import add_document, run_worker_until_settled, stored_vectors

DELETE = "SELECT embedmill.enqueue_embedding('test', %s, 'DELETE', p_pipeline => %s)"


async def test_a_deletion_takes_the_document_its_chunks_and_its_vectors_and_nothing_else(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    batch = uuid4()
    await add_document(app, pipeline, "goes", ["one", "two", "three"], batch)
    await add_document(app, pipeline, "stays", ["four"], batch)
    await run_worker_until_settled(app, batch)
    await app.database.fetch(DELETE, ("goes", pipeline.name))
    await Run(app, pipeline)()
    assert [text for _, text, _ in await stored_vectors(app, pipeline)] == ["four"]
    assert await app.database.fetch("SELECT source_id FROM embedmill.knowledge_documents") == [("stays",)]
    covered = await coverage(app.database, pipeline.generation.id)
    assert (covered.chunks, covered.embedded) == (1, 1)
    assert await audit.live_items(app) == []
    rows = await app.database.fetch(
        "SELECT operation::text, status::text FROM embedmill.embedding_queue_history WHERE source_id = 'goes'"
    )
    assert sorted(rows) == [("DELETE", "completed"), ("INSERT", "completed")]


async def test_what_is_saved_again_before_it_was_deleted_stays(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    batch = uuid4()
    await add_document(app, pipeline, "doc", ["one", "two"], batch)
    await run_worker_until_settled(app, batch)
    await app.database.fetch(DELETE, ("doc", pipeline.name))
    await add_document(app, pipeline, "doc", ["one", "two"], batch)
    await Run(app, pipeline)()
    assert len(await stored_vectors(app, pipeline)) == 2
    assert await audit.live_items(app) == []


async def test_a_deletion_that_was_lost_meanwhile_is_left_to_who_has_it(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    batch = uuid4()
    await add_document(app, pipeline, "doc", ["one"], batch)
    await run_worker_until_settled(app, batch)
    await app.database.fetch(DELETE, ("doc", pipeline.name))
    slow = Desk(app, pipeline)
    (item,) = await app.database.fetch(
        "SELECT id FROM embedmill.claim_items(%s, %s, 1, 100, 100, 600)",
        (slow.worker_id, pipeline.generation.id),
    )
    await app.database.fetch("SELECT embedmill.cancel_items(%s, 'called off')", (list(item),))
    await Run(app, pipeline)()
    assert len(await stored_vectors(app, pipeline)) == 1
