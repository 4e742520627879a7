"""Another plan of chunks: cut from the stored texts with their places kept, and kept current with each change."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from embedmill.app import App
from embedmill.core.chunking import chunk_document, place_of
from embedmill.core.documents import ChunkPlan, ParsedDocument, Place
from embedmill.database.pipelines import Pipeline
from embedmill.embed.generation_states import Stage
from embedmill.embed.next_spec import Changes
from embedmill.embed.stored_text import places_of_chunks
from embedmill.ingest.storing import PipelineSwitchedError, SourceContent, Storing
from embedmill.ports import CutDocument
from tests.embed.generation_work import assert_current, begin, until, until_quiet, working
from tests.support.provider import RunningProvider
from tests.support.work import DIMENSIONS, run_worker_until_settled, stand_in_pipeline

PLAN = ChunkPlan(60, 0)
SMALLER = Changes(chunk_tokens=20, chunk_overlap=0)


def count_words(texts: Any) -> list[int]:
    return [len(text.split()) * 2 for text in texts]


def a_book(name: str, *, pages: int = 12) -> ParsedDocument:
    """Pages of Markdown, each under a heading of its own."""
    text, places = "", []
    for page in range(1, pages + 1):
        start = len(text)
        sentences = " ".join(f"Sentence {n} of page {page} of {name}." for n in range(6))
        text += f"# Chapter {page}\n\n{sentences}\n\n"
        places.append(Place("page", str(page), start, len(text)))
    return ParsedDocument(text.rstrip(), "application/pdf", name, is_markdown=True, places=tuple(places))


async def save(app: App, pipeline: Pipeline, document: ParsedDocument, batch: Any = None) -> None:
    content = SourceContent(
        "test",
        document.title or "",
        "book",
        len(document.text),
        hashlib.sha256(document.text.encode()).digest(),
    )
    cutter = app.cutter()
    try:
        (cut,) = await cutter.cut([document], pipeline.chunk_plan, pipeline.generation.spec)
    finally:
        await cutter.aclose()
    assert isinstance(cut, CutDocument)
    await Storing(app.database, pipeline, batch_id=batch or uuid4()).save(content, cut.document, cut.chunks)


@pytest.fixture
async def pipeline(app: App, provider: RunningProvider) -> Pipeline:
    provider.configure(salt_by_model=True)
    made = await stand_in_pipeline(
        app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=50, chunk_plan=PLAN
    )
    batch = uuid4()
    for name in ("sea", "mill", "bread"):
        await save(app, made, a_book(name), batch)
    await run_worker_until_settled(app, batch)
    provider.forget_counts()
    return made


async def places_stand(app: App, chunk_set: int, documents: list[ParsedDocument]) -> int:
    """How many chunks of a set there are; each has the place that its offsets have in its document."""
    by_name = {document.title: document for document in documents}
    rows = await app.database.fetch(
        "SELECT d.source_id, c.start_offset, c.end_offset, c.place_kind, c.place_first, c.place_last, c.heading_path "
        "  FROM embedmill.knowledge_chunks c JOIN embedmill.knowledge_documents d ON d.id = c.document_id "
        " WHERE c.chunk_set = %s",
        (chunk_set,),
    )
    for name, start, end, kind, first, last, headings in rows:
        assert place_of(by_name[name].places, start, end) == (kind, first, last)
        if first == last:
            assert headings == [f"Chapter {first}"]
    return len(rows)


async def test_another_plan_is_cut_from_the_stored_texts_with_their_places(
    app: App, pipeline: Pipeline
) -> None:
    books = [a_book(name) for name in ("sea", "mill", "bread")]
    generation = await begin(app, pipeline, SMALLER)
    async with working(app):
        state = await until(app, pipeline, generation, Stage.BUILT)
    assert state.chunk_set not in (0, 1)
    smaller = await places_stand(app, state.chunk_set, books)
    assert smaller == state.embedded > await places_stand(app, 1, books)
    await assert_current(app, pipeline)
    await app.migrations(pipeline).switch()
    switched = await app.pipeline("standin")
    assert switched.chunk_plan == ChunkPlan(20, 0)
    seen = await app.database.fetch("SELECT count(*), count(embedding) FROM embedmill.embeddings_standin")
    assert seen == [(smaller, smaller)]


async def test_a_change_reaches_the_generation_before_as_well_and_pays_for_what_changed(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    generation = await begin(app, pipeline, SMALLER)
    async with working(app):
        await until(app, pipeline, generation, Stage.BUILT)
        await app.migrations(pipeline).switch()
        changed = a_book("sea")
        changed = msgspec.structs.replace(
            changed, text=changed.text.replace("Sentence 3 of page 7", "Sentence X of page 7")
        )
        provider.forget_counts()
        await save(app, await app.pipeline("standin"), changed)
        await until_quiet(app)
        assert provider.stats()["inputs_paid"] <= 6  # three of each plan
        await assert_current(app, pipeline)
        # What can no longer be read has no chunks by any plan.
        storing = Storing(app.database, await app.pipeline("standin"), batch_id=uuid4())
        await storing.save_failure(SourceContent("test", "mill", "book", 1, b"x"), "corrupt", "it is broken")
        await until_quiet(app)
    rows = await app.database.fetch(
        "SELECT count(*) FROM embedmill.knowledge_chunks c "
        "  JOIN embedmill.knowledge_documents d ON d.id = c.document_id WHERE d.source_id = 'mill'"
    )
    assert rows == [(0,)]
    await assert_current(app, pipeline)


async def test_a_document_cut_by_the_plan_before_a_switch_is_to_be_cut_again(
    app: App, pipeline: Pipeline
) -> None:
    generation = await begin(app, pipeline, SMALLER)
    async with working(app):
        await until(app, pipeline, generation, Stage.BUILT)
    await app.migrations(pipeline).switch()
    storing = Storing(app.database, pipeline, batch_id=uuid4())
    book = a_book("sky")
    content = SourceContent("test", "sky", "book", len(book.text), b"sky")
    with pytest.raises(PipelineSwitchedError):
        await storing.save(content, book, chunk_document(book, storing.pipeline.chunk_plan, count_words))
    assert (
        await app.database.fetch("SELECT id FROM embedmill.knowledge_documents WHERE source_id = 'sky'") == []
    )
    await storing.refresh()
    await storing.save(content, book, chunk_document(book, storing.pipeline.chunk_plan, count_words))
    async with working(app):
        await until_quiet(app)
    await assert_current(app, pipeline)


async def test_places_of_texts_from_before_they_were_kept_come_from_their_chunks(
    app: App, pipeline: Pipeline
) -> None:
    await app.database.fetch("UPDATE embedmill.knowledge_document_texts SET places = NULL")
    generation = await begin(app, pipeline, SMALLER)
    async with working(app):
        state = await until(app, pipeline, generation, Stage.BUILT)
    books = [a_book(name) for name in ("sea", "mill", "bread")]
    assert await places_stand(app, state.chunk_set, books) > 36


def test_a_chunk_that_crosses_pages_is_halved_between_them() -> None:
    chunks = [("page", "1", "1", 0, 100), ("page", "1", "2", 90, 200), ("page", "2", "2", 190, 300)]
    assert places_of_chunks(chunks) == (Place("page", "1", 0, 150), Place("page", "2", 150, 300))
    assert places_of_chunks([]) == ()


async def test_a_plan_that_nothing_can_be_cut_by_stops_the_build_with_its_reason(
    app: App, pipeline: Pipeline
) -> None:
    generation = await begin(
        app, pipeline, Changes(chunk_tokens=8, chunk_overlap=0, given={"tokenizer": "o200k_none"})
    )
    async with working(app):
        state = await until(app, pipeline, generation, Stage.STOPPED)
    assert "o200k_none" in (state.stopped_reason or "")
