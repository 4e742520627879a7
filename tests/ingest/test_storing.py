"""Committing what was parsed: chunks replaced with their vectors kept, positions put right, older work cancelled,
runs that meet on one document."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from psycopg import sql

from embedmill.app import App
from embedmill.core.documents import Chunk, ParsedDocument, Place
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import vectors_table
from embedmill.ingest.progress import batch_progress, coverage, is_settled
from embedmill.ingest.storing import Launched, SourceContent, Storing
from embedmill.queue.items import complete_items, hold_items
from tests.support import audit
from tests.support.queue_rows import claim
from tests.support.work import app_on, stand_in_pipeline


@pytest_asyncio.fixture
async def app(database: str, tmp_path: Path) -> AsyncIterator[App]:
    async with app_on(database, tmp_path) as app:
        yield app


@pytest_asyncio.fixture
async def pipeline(app: App) -> Pipeline:
    """No provider is called here: vectors are made by hand."""
    return await stand_in_pipeline(app, "http://127.0.0.1:9/v1", dimensions=16)


async def save(
    app: App,
    pipeline: Pipeline,
    texts: list[str],
    *,
    batch: UUID | None = None,
    source_id: str = "doc",
    pages: bool = False,
) -> Launched:
    """A document of these chunks, two on a page where it has pages."""
    whole = "\n".join(texts)
    chunks, places, start = [], [], 0
    for ordinal, text in enumerate(texts):
        path = ("Part", f"Section {ordinal // 2}") if pages else ()
        chunks.append(Chunk(ordinal, start, start + len(text), text, len(text), path))
        if pages:
            places.append(Place("page", str(ordinal // 2 + 1), start, start + len(text) + 1))
        start += len(text) + 1
    content = SourceContent("test", source_id, source_id, len(whole), hashlib.sha256(whole.encode()).digest())
    document = ParsedDocument(whole, "text/plain", title=f"Title of {source_id}", places=tuple(places))
    return await Storing(app.database, pipeline, batch_id=batch or uuid4()).save(content, document, chunks)


async def embed_all(app: App, pipeline: Pipeline) -> None:
    """Give every chunk that lacks one a vector, and end the items: a worker without a provider."""
    generation = pipeline.generation.id
    while items := await claim(app.database, generation):
        async with app.database.transaction() as connection:
            held = await hold_items(connection, items)
            ours = [item for item in items if item.id in held]
            added = await connection.execute(
                sql.SQL(
                    "INSERT INTO {} SELECT id, content_hash, array_fill(1, ARRAY[16])::vector "
                    "  FROM embedmill.knowledge_chunks WHERE document_id = ANY (%s) AND error_reason IS NULL "
                    "ON CONFLICT DO NOTHING"
                ).format(vectors_table(generation)),
                ([item.document_id for item in ours],),
            )
            await complete_items(connection, generation, sorted(held))
            for job in sorted({item.job_id for item in ours if item.job_id is not None}):
                await connection.execute(
                    "SELECT embedmill.advance_jobs(ARRAY[%s::uuid], ARRAY[0], ARRAY[0], ARRAY[0], ARRAY[0::bigint], "
                    "ARRAY[0::numeric])",
                    (job,),
                )
            await connection.execute(
                "SELECT embedmill.count_coverage(%s, %s, 0)", (generation, added.rowcount)
            )


async def chunks_of(app: App, document_id: int) -> list[tuple[Any, ...]]:
    return await app.database.fetch(
        "SELECT text, ordinal, start_offset, end_offset, place_kind, place_first, heading_path, id "
        "  FROM embedmill.knowledge_chunks WHERE document_id = %s ORDER BY ordinal",
        (document_id,),
    )


async def test_a_new_document_is_stored_whole_and_launched(app: App, pipeline: Pipeline) -> None:
    batch = uuid4()
    launched = await save(app, pipeline, ["one", "two", "three"], batch=batch, pages=True)
    assert (launched.chunks, launched.enqueued_chunks, launched.enqueued_tokens) == (3, 3, 11)
    rows = await chunks_of(app, launched.document_id)
    assert [row[:7] for row in rows] == [
        ("one", 0, 0, 3, "page", "1", ["Part", "Section 0"]),
        ("two", 1, 4, 7, "page", "1", ["Part", "Section 0"]),
        ("three", 2, 8, 13, "page", "2", ["Part", "Section 1"]),
    ]
    (text,) = await app.database.fetch("SELECT text FROM embedmill.knowledge_document_texts")
    assert all(text[0][row[2] : row[3]] == row[0] for row in rows)
    assert (await batch_progress(app.database, batch)).live_jobs == 1
    assert not await is_settled(app.database, batch)
    await audit.assert_books_balance(app)


async def test_a_long_document_is_cut_into_items_of_five_hundred(app: App, pipeline: Pipeline) -> None:
    await save(app, pipeline, [f"text {n}" for n in range(1234)])
    rows = await app.database.fetch(
        "SELECT part, first_ordinal, last_ordinal FROM embedmill.embedding_queue ORDER BY part"
    )
    assert rows == [(0, 0, 499), (1, 500, 999), (2, 1000, 1233)]


async def test_a_change_keeps_chunks_and_moves_them_to_where_they_stand_now(
    app: App, pipeline: Pipeline
) -> None:
    first = await save(app, pipeline, ["a", "bb", "ccc", "same", "same"], pages=True)
    await embed_all(app, pipeline)
    before = {row[7]: row for row in await chunks_of(app, first.document_id)}
    batch = uuid4()
    second = await save(app, pipeline, ["new", "same", "a", "ccc", "same"], batch=batch, pages=True)
    assert second.document_id == first.document_id
    assert second.enqueued_chunks == 1
    rows = await chunks_of(app, first.document_id)
    kept = [row for row in rows if row[7] in before]
    assert [row[0] for row in kept] == ["same", "a", "ccc", "same"]
    assert all(before[row[7]][0] == row[0] for row in kept)
    assert [row[1:7] for row in rows] == [
        (0, 0, 3, "page", "1", ["Part", "Section 0"]),
        (1, 4, 8, "page", "1", ["Part", "Section 0"]),
        (2, 9, 10, "page", "2", ["Part", "Section 1"]),
        (3, 11, 14, "page", "2", ["Part", "Section 1"]),
        (4, 15, 19, "page", "3", ["Part", "Section 2"]),
    ]
    progress = await batch_progress(app.database, batch)
    assert (progress.total_chunks, progress.embedded_chunks) == (5, 4)
    await audit.assert_books_balance(app)


async def test_any_change_after_any_other_leaves_exactly_the_new_chunks(app: App, pipeline: Pipeline) -> None:
    """A walk of random edits, some embedded in between and some overtaken in mid-flight."""
    chance = random.Random(11)
    words = [f"text {n}" for n in range(12)]
    document_id = None
    for _ in range(40):
        texts = chance.choices(words, k=chance.randint(0, 9))
        launched = await save(app, pipeline, texts, pages=chance.random() < 0.5)
        document_id = document_id or launched.document_id
        rows = await chunks_of(app, document_id)
        assert [row[0] for row in rows] == texts
        assert [row[1] for row in rows] == list(range(len(texts)))
        if chance.random() < 0.4:
            await claim(app.database, pipeline.generation.id)
        if chance.random() < 0.5:
            await embed_all(app, pipeline)
        await audit.assert_books_balance(app)
    await embed_all(app, pipeline)
    covered = await coverage(app.database, pipeline.generation.id)
    assert covered.chunks == len(texts)


async def test_a_change_in_mid_flight_cancels_the_older_work(app: App, pipeline: Pipeline) -> None:
    old, new = uuid4(), uuid4()
    await save(app, pipeline, ["a", "b"], batch=old)
    (held,) = await claim(app.database, pipeline.generation.id)
    await save(app, pipeline, ["a", "c"], batch=new)
    assert await is_settled(app.database, old)
    assert [row[0] for row in await audit.ended_items(app)] == ["cancelled"]
    assert held.id not in {row[0] for row in await audit.live_items(app)}
    await embed_all(app, pipeline)
    assert await is_settled(app.database, new)
    jobs = await app.database.fetch("SELECT status::text FROM embedmill.ingestion_jobs ORDER BY created_at")
    assert jobs == [("cancelled",), ("completed",)]
    await audit.assert_books_balance(app)


async def test_a_file_that_can_no_longer_be_read_lets_go_of_its_older_content(
    app: App, pipeline: Pipeline
) -> None:
    launched = await save(app, pipeline, ["a", "b"])
    await embed_all(app, pipeline)
    storing = Storing(app.database, pipeline, batch_id=uuid4())
    content = SourceContent("test", "doc", "doc", 7, hashlib.sha256(b"broken").digest())
    await storing.save_failure(content, "corrupt", "it is broken")
    assert await chunks_of(app, launched.document_id) == []
    assert await app.database.fetch("SELECT * FROM embedmill.knowledge_document_texts") == []
    (row,) = await app.database.fetch(
        "SELECT error_reason, error_message, chunk_count FROM embedmill.knowledge_documents"
    )
    assert row == ("corrupt", "it is broken", 0)
    assert [job[1] for job in await audit.newest_jobs(app)] == ["failed"]
    covered = await coverage(app.database, pipeline.generation.id)
    assert (covered.chunks, covered.embedded) == (0, 0)
    await audit.assert_books_balance(app)
    again = await save(app, pipeline, ["a", "b"])
    assert (again.document_id, again.enqueued_chunks) == (launched.document_id, 2)
    (row,) = await app.database.fetch("SELECT error_reason, error_message FROM embedmill.knowledge_documents")
    assert row == (None, None)
    await audit.assert_books_balance(app)


async def test_a_document_without_a_chunk_is_done_at_once(app: App, pipeline: Pipeline) -> None:
    batch = uuid4()
    await save(app, pipeline, [], batch=batch)
    assert await is_settled(app.database, batch)
    assert await audit.live_items(app) == []
    await audit.assert_books_balance(app)


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


async def take_vectors(app: App, pipeline: Pipeline, which: str) -> None:
    """As an audit does that finds them wrong."""
    rows = await app.database.fetch(
        f"DELETE FROM embedmill.vectors_{pipeline.generation.id} WHERE chunk_id IN "
        f"(SELECT id FROM embedmill.knowledge_chunks WHERE {which}) RETURNING chunk_id".encode()
    )
    assert rows
    await app.database.fetch(
        "SELECT embedmill.count_coverage(%s, %s, 0)", (pipeline.generation.id, -len(rows))
    )


async def reopen(app: App, launched: Launched) -> None:
    """A completed job stays completed: only one that failed is taken up again."""
    async with app.database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            "UPDATE embedmill.ingestion_jobs SET status = 'failed' WHERE id = %s", (launched.job_id,)
        )
