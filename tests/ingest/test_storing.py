"""Committing what was parsed: chunks replaced with their vectors kept, positions put right, older work
cancelled."""

from __future__ import annotations

import hashlib
import random
from uuid import uuid4

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.ingest.progress import batch_progress, coverage, is_settled
from embedmill.ingest.storing import SourceContent, Storing
from tests.ingest.hand_made import chunks_of, embed_all, save
from tests.support import audit
from tests.support.queue_rows import claim


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
