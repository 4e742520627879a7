"""Search by vector, by text and fused, with filters, on a real database; the stand-in gives equal texts equal
vectors and different texts all but orthogonal ones, so the right answer is known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ConfigurationError
from embedmill.search.searcher import Filter, Mode, Searcher
from tests.support.provider import RunningProvider, start_provider
from tests.support.work import add_document, app_on, run_worker_until_settled, stand_in_pipeline

TIDES = "The spring tide follows the new moon and the full moon."
BREAD = "Rye bread needs a sour dough and a slow oven."
MILL = "The mill grinds rye when the tide is out."


@pytest.fixture
async def found(
    database: str, tmp_path: Path
) -> AsyncIterator[tuple[App, Pipeline, Searcher, RunningProvider]]:
    batch = uuid4()
    with start_provider(dimensions=64) as provider:
        async with app_on(database, tmp_path) as app:
            pipeline = await stand_in_pipeline(app, provider.base_url, storage="halfvec")
            await add_document(app, pipeline, "/sea/tides_1.txt", [TIDES, "Nothing else here."], batch)
            await add_document(app, pipeline, "/kitchen/bread.txt", [BREAD], batch)
            await add_document(app, pipeline, "/sea/mill.txt", [MILL], batch)
            await app.database.fetch(
                """UPDATE embedmill.knowledge_documents SET metadata = '{"lang": "en", "n": 1}'
                    WHERE source_id LIKE '/sea/%'"""
            )
            await run_worker_until_settled(app, batch)
            model = app.provider(pipeline.generation.spec)
            yield app, pipeline, Searcher(app.database, pipeline, model), provider
            await model.aclose()


async def test_the_vector_of_the_very_text_comes_first_with_a_similarity_of_one(
    found: tuple[App, Pipeline, Searcher, RunningProvider],
) -> None:
    _, _, searcher, _ = found
    hits = await searcher.search(BREAD, mode=Mode.VECTOR)
    assert hits[0].text == BREAD
    assert hits[0].score == pytest.approx(1.0, abs=1e-3)
    assert hits[0].vector_rank == 1
    assert hits[0].text_rank is None
    assert len(hits) == 4
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


async def test_text_search_prefers_passages_with_every_word_and_falls_back_to_some(
    found: tuple[App, Pipeline, Searcher, RunningProvider],
) -> None:
    _, _, searcher, _ = found
    hits = await searcher.search("rye tide", mode=Mode.TEXT)
    assert hits[0].text == MILL
    assert {hit.text for hit in hits} == {MILL, TIDES, BREAD}
    assert [hit.text for hit in await searcher.search("rye -bread", mode=Mode.TEXT)] == [MILL]
    assert [hit.text for hit in await searcher.search('"sour dough"', mode=Mode.TEXT)] == [BREAD]
    assert await searcher.search("zeppelin", mode=Mode.TEXT) == []


async def test_hybrid_puts_what_both_lists_have_first_and_fills_the_page(
    found: tuple[App, Pipeline, Searcher, RunningProvider],
) -> None:
    _, _, searcher, _ = found
    hits = await searcher.search(TIDES, limit=3)
    assert hits[0].text == TIDES
    assert hits[0].vector_rank == hits[0].text_rank == 1
    assert hits[0].score == pytest.approx(1.0, abs=5e-3), "the very text, every word"
    assert len(hits) == 3
    assert 0.5 > hits[1].score > hits[2].score


@pytest.mark.parametrize("mode", list(Mode))
async def test_filters_hold_in_every_mode(
    found: tuple[App, Pipeline, Searcher, RunningProvider], mode: Mode
) -> None:
    _, _, searcher, _ = found
    query = f"{TIDES} {BREAD} {MILL}"
    by_source = await searcher.search(query, mode=mode, where=Filter(source="/sea/*"))
    assert {hit.source_id for hit in by_source} == {"/sea/tides_1.txt", "/sea/mill.txt"}
    assert await searcher.search(query, mode=mode, where=Filter(source="/sea/tides?1*"))
    assert await searcher.search(query, mode=mode, where=Filter(source="/s%")) == [], "% is no wildcard"
    by_metadata = await searcher.search(query, mode=mode, where=Filter(metadata={"lang": "en"}))
    assert {hit.source_id for hit in by_metadata} == {"/sea/tides_1.txt", "/sea/mill.txt"}
    one = by_metadata[0].document_id
    by_document = await searcher.search(query, mode=mode, where=Filter(document_id=one))
    assert {hit.document_id for hit in by_document} == {one}


async def test_a_query_is_a_row_in_the_ledger_and_a_text_search_is_none(
    found: tuple[App, Pipeline, Searcher, RunningProvider],
) -> None:
    app, _, searcher, _ = found
    count = "SELECT count(*), sum(input_tokens) FROM embedmill.llm_usage_log WHERE usage_type = 'query'"
    await searcher.search("rye", mode=Mode.TEXT)
    assert (await app.database.fetch(count))[0][0] == 0
    await searcher.search("rye", mode=Mode.VECTOR)
    calls, tokens = (await app.database.fetch(count))[0]
    assert (calls, tokens > 0) == (1, True)


async def test_the_index_gives_the_same_answer_and_the_filter_does_not_empty_the_page(
    found: tuple[App, Pipeline, Searcher, RunningProvider],
) -> None:
    app, pipeline, searcher, _ = found
    batch = uuid4()
    for number in range(6):
        await add_document(
            app, pipeline, f"/bulk/{number}", [f"bulk {number} {i}" for i in range(400)], batch
        )
    worker = await run_worker_until_settled(app, batch)
    del worker
    from embedmill.embed.generations import keep_index

    await keep_index(app.database, pipeline)
    valid = await app.database.fetch(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)",
        (f"embedmill.vectors_{pipeline.generation.id}_hnsw",),
    )
    assert valid == [(True,)]
    assert (await searcher.search(MILL, mode=Mode.VECTOR))[0].text == MILL
    rare = await searcher.search("bulk 3 17", mode=Mode.VECTOR, where=Filter(source="/kitchen/*"))
    assert [hit.text for hit in rare] == [BREAD]


@pytest.mark.parametrize(("query", "limit"), [("", 5), ("   ", 5), ("x", 0), ("x", 1001)])
async def test_what_cannot_be_asked_is_told_in_a_sentence(
    found: tuple[App, Pipeline, Searcher, RunningProvider], query: str, limit: int
) -> None:
    _, _, searcher, _ = found
    with pytest.raises(ConfigurationError, match=r"empty|--limit"):
        await searcher.search(query, limit=limit)


@pytest.mark.parametrize(
    "query", ["'; DROP TABLE x; --", "a & | ! ( :*", "\x00nul", "🦀 東京", "x" * 20_000, "<->"]
)
async def test_no_query_can_break_the_search(
    found: tuple[App, Pipeline, Searcher, RunningProvider], query: str
) -> None:
    _, _, searcher, _ = found
    await searcher.search(query, mode=Mode.HYBRID)
