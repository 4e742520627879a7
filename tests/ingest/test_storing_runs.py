"""Runs that meet on one document: taken up again, overtaken, deleted, all at once."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.ingest.progress import batch_progress, coverage, is_settled
from embedmill.ingest.storing import Storing
from tests.ingest.hand_made import chunks_of, embed_all, reopen, save, take_vectors
from tests.support import audit
from tests.support.queue_rows import claim


async def test_a_failed_job_taken_up_again_enqueues_only_what_is_lacking(
    app: App, pipeline: Pipeline
) -> None:
    launched = await save(app, pipeline, [f"text {n}" for n in range(700)])
    items = await claim(app.database, pipeline.generation.id, items=1)
    await app.database.fetch("SELECT embedmill.bury_items(%s, 'test', 'gave up')", ([items[0].id],))
    await embed_all(app, pipeline)
    await take_vectors(app, pipeline, "ordinal < 500")
    assert [job[1] for job in await audit.newest_jobs(app)] == ["failed"]
    batch = uuid4()
    storing = Storing(app.database, pipeline, batch_id=batch)
    again = await storing.relaunch(launched.document_id, launched.job_id)
    assert (again.enqueued_chunks, again.job_id) == (500, launched.job_id)
    progress = await batch_progress(app.database, batch)
    assert (progress.live_jobs, progress.total_chunks, progress.embedded_chunks) == (1, 700, 200)
    await embed_all(app, pipeline)
    assert await is_settled(app.database, batch)
    await audit.assert_books_balance(app)


async def test_launching_again_widens_an_item_that_waits(app: App, pipeline: Pipeline) -> None:
    """A vector that went missing (an audit took it away) beside those that are still waited for."""
    launched = await save(app, pipeline, [f"text {n}" for n in range(10)])
    await embed_all(app, pipeline)
    await reopen(app, launched)
    storing = Storing(app.database, pipeline, batch_id=uuid4())
    await take_vectors(app, pipeline, "ordinal BETWEEN 4 AND 5")
    await storing.relaunch(launched.document_id, launched.job_id)
    await take_vectors(app, pipeline, "ordinal IN (1, 8)")
    await storing.relaunch(launched.document_id, launched.job_id)
    rows = await app.database.fetch("SELECT first_ordinal, last_ordinal FROM embedmill.embedding_queue")
    assert rows == [(1, 8)]
    await embed_all(app, pipeline)
    assert [job[1] for job in await audit.newest_jobs(app)] == ["completed"]
    await audit.assert_books_balance(app)


async def test_a_run_that_comes_late_with_an_older_job_takes_nothing_from_the_newer(
    app: App, pipeline: Pipeline
) -> None:
    """It had looked the document up before another run saved newer content: the newer job must still end."""
    older = await save(app, pipeline, ["a", "b"])
    newer_batch = uuid4()
    newer = await save(app, pipeline, ["a", "c"], batch=newer_batch)
    await Storing(app.database, pipeline, batch_id=uuid4()).relaunch(older.document_id, older.job_id)
    await embed_all(app, pipeline)
    jobs = await app.database.fetch(
        "SELECT id, status::text FROM embedmill.ingestion_jobs ORDER BY created_at"
    )
    assert jobs == [(older.job_id, "cancelled"), (newer.job_id, "completed")]
    assert await is_settled(app.database, newer_batch)
    await audit.assert_books_balance(app)


async def test_a_run_that_comes_after_the_deletion_finds_nothing_to_do(app: App, pipeline: Pipeline) -> None:
    launched = await save(app, pipeline, ["a", "b"])
    storing = Storing(app.database, pipeline, batch_id=uuid4())
    await storing.delete(launched.document_id)
    again = await storing.relaunch(launched.document_id, launched.job_id)
    assert again.enqueued_chunks == 0
    assert await audit.live_items(app) == []


async def test_deleting_takes_everything_along_also_what_is_in_flight(app: App, pipeline: Pipeline) -> None:
    launched = await save(app, pipeline, ["a", "b"])
    await save(app, pipeline, ["a"], source_id="other")
    await claim(app.database, pipeline.generation.id, items=1)
    storing = Storing(app.database, pipeline, batch_id=uuid4())
    await storing.delete(launched.document_id)
    await storing.delete(launched.document_id)  # a second time there is nothing to do
    assert await chunks_of(app, launched.document_id) == []
    assert [row[0] for row in await audit.ended_items(app)] == ["cancelled"]
    await embed_all(app, pipeline)
    covered = await coverage(app.database, pipeline.generation.id)
    assert (covered.chunks, covered.embedded) == (1, 1)
    await audit.assert_books_balance(app)


async def test_the_run_that_commits_last_has_the_newest_job_also_when_it_began_first(
    app: App, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_document = Storing._save_document

    async def after_another(self: Storing, *arguments: Any, **options: Any) -> tuple[int, int]:
        monkeypatch.setattr(Storing, "_save_document", save_document)
        await save(app, pipeline, ["began last, commits first"])
        return await save_document(self, *arguments, **options)

    monkeypatch.setattr(Storing, "_save_document", after_another)
    last = await save(app, pipeline, ["began first, commits last"])
    assert [job[:2] for job in await audit.newest_jobs(app)] == [(last.job_id, "embedding_in_progress")]


async def test_runs_that_save_relaunch_and_delete_the_same_documents_at_once_all_end(
    app: App, pipeline: Pipeline
) -> None:
    """Every order of locks is met here: a deadlock would end one of them with an error."""

    async def run(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            source = f"doc {chance.randint(0, 3)}"
            texts = [f"text {chance.randint(0, 5)}" for _ in range(4)]
            launched = await save(app, pipeline, texts, source_id=source)
            storing = Storing(app.database, pipeline, batch_id=uuid4())
            if chance.random() < 0.3:
                await storing.delete(launched.document_id)
            elif chance.random() < 0.5:
                await embed_all(app, pipeline)

    async with asyncio.timeout(60):
        await asyncio.gather(*(run(seed) for seed in range(5)))
    await embed_all(app, pipeline)
    assert await audit.live_items(app) == []
    assert {job[1] for job in await audit.newest_jobs(app)} == {"completed"}, (
        "the newest is not the one that counts"
    )
    await audit.assert_books_balance(app)
