"""An HNSW graph hides what stands beyond hundreds of vectors that are all but equal: a search notices by a sample, and
compares one by one."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from psycopg import sql

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.embed.generations import keep_index
from embedmill.search.searcher import Filter, Mode, Searcher
from tests.support.provider import start_provider
from tests.support.provider.vectors import vector_for
from tests.support.work import add_document, app_on, run_worker_until_settled, stand_in_pipeline

DIMENSIONS = 64
BOOKS, PAGES, RECORDS = 20, 10, 2500
HAS_INDEX = "SELECT to_regclass(%s) IS NOT NULL"


@pytest.fixture
async def shelf(database: str, tmp_path: Path) -> AsyncIterator[tuple[App, Pipeline, Searcher]]:
    """Twenty books, and a table of numbers whose records look alike, with an index over all of them."""
    batch = uuid4()
    with start_provider(dimensions=DIMENSIONS) as provider:
        async with app_on(database, tmp_path) as app:
            pipeline = await stand_in_pipeline(app, provider.base_url, storage="halfvec")
            await add_document(app, pipeline, "/numbers.csv", [f"record {n}" for n in range(RECORDS)], batch)
            for book in range(BOOKS):
                pages = [f"book {book} page {page}" for page in range(PAGES)]
                await add_document(app, pipeline, f"/books/{book}", pages, batch)
            await run_worker_until_settled(app, batch)
            await make_alike(app, pipeline)
            await keep_index(app.database, pipeline)
            name = f"embedmill.vectors_{pipeline.generation.id}_hnsw"
            assert await app.database.fetch(HAS_INDEX, (name,)) == [(True,)]
            model = app.provider(pipeline.generation.spec)
            yield app, pipeline, Searcher(app.database, pipeline, model)
            await model.aclose()


async def make_alike(app: App, pipeline: Pipeline) -> None:
    """The records lie around one place, which is nearer to most queries than what has nothing to do with them."""
    chance = random.Random(3)
    middle = sum(np.asarray(vector_for(f"book {n} page 0", DIMENSIONS)) for n in range(BOOKS))
    table = sql.Identifier("embedmill", f"vectors_{pipeline.generation.id}")
    numbers = [
        json.dumps([float(x) + chance.gauss(0, 0.002) for x in middle / np.linalg.norm(middle)])
        for _ in range(RECORDS)
    ]
    await app.database.fetch(
        sql.SQL(
            "UPDATE {} v SET embedding = n.numbers::halfvec FROM embedmill.knowledge_chunks c "
            "  JOIN unnest(%(numbers)s::text[]) WITH ORDINALITY AS n (numbers, place) ON n.place = c.ordinal + 1 "
            "  JOIN embedmill.knowledge_documents d ON d.id = c.document_id AND d.source_id = '/numbers.csv' "
            " WHERE v.chunk_id = c.id"
        ).format(table),
        {"numbers": numbers},
    )


QUERIES = [f"book {book} page {page}" for book in range(BOOKS) for page in (0, 5)]


async def test_what_an_island_hides_is_found(shelf: tuple[App, Pipeline, Searcher]) -> None:
    _, _, searcher = shelf
    for query in QUERIES:
        hits = await searcher.search(query, mode=Mode.VECTOR, limit=10)
        assert (hits[0].text, hits[0].score) == (query, pytest.approx(1, abs=1e-3))
        assert len({hit.chunk_id for hit in hits}) == 10
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


async def test_what_an_island_hides_is_found_under_a_filter_that_leaves_most(
    shelf: tuple[App, Pipeline, Searcher],
) -> None:
    _, _, searcher = shelf
    for query in QUERIES[::4]:
        hits = await searcher.search(query, mode=Mode.VECTOR, limit=10, where=Filter(source="/*"))
        assert hits[0].text == query
        among_books = await searcher.search(
            query, mode=Mode.VECTOR, limit=10, where=Filter(source="/books/*")
        )
        assert among_books[0].text == query
