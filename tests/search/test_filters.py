"""Filters over an indexed generation: a page is as full and as right as without the index, whether the filter leaves
few chunks, many, or many where the index's scan does not come. The stand-in gives equal texts equal vectors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg import sql

from embedmill.app import App
from embedmill.core.indexing import INDEX_DEPTH
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import SERVICE_ROLE, Database
from embedmill.embed.generations import keep_index
from embedmill.search.candidates import Asked, find_candidates
from embedmill.search.searcher import Filter, Mode, Searcher
from tests.support.provider import start_provider
from tests.support.work import add_document, app_on, run_worker_until_settled, stand_in_pipeline

SHELVES, CHUNKS = 40, 60


@pytest.fixture
async def full(database: str, tmp_path: Path) -> AsyncIterator[tuple[App, Pipeline, Searcher]]:
    """Forty documents of sixty chunks, one of them in English, the others in German, and an index."""
    batch = uuid4()
    with start_provider(dimensions=64) as provider:
        async with app_on(database, tmp_path) as app:
            pipeline = await stand_in_pipeline(app, provider.base_url, storage="halfvec")
            for n in range(SHELVES):
                texts = [f"volume{n} page {i}" for i in range(CHUNKS)]
                await add_document(app, pipeline, f"/shelf/{n}", texts, batch)
            await app.database.fetch(
                "UPDATE embedmill.knowledge_documents SET metadata = jsonb_build_object("
                "'lang', CASE source_id WHEN '/shelf/0' THEN 'en' ELSE 'de' END)"
            )
            await run_worker_until_settled(app, batch)
            await keep_index(app.database, pipeline)
            model = app.provider(pipeline.generation.spec)
            yield app, pipeline, Searcher(app.database, pipeline, model)
            await model.aclose()


async def without_index(app: App, pipeline: Pipeline) -> None:
    await app.database.fetch(
        sql.SQL("DROP INDEX embedmill.{}").format(sql.Identifier(f"vectors_{pipeline.generation.id}_hnsw"))
    )


async def test_a_filter_that_leaves_few_is_answered_exactly(full: tuple[App, Pipeline, Searcher]) -> None:
    app, pipeline, searcher = full
    where = Filter(metadata={"lang": "en"})
    found = await searcher.search("volume5 page 7", mode=Mode.VECTOR, limit=50, where=where)
    await without_index(app, pipeline)
    exact = await searcher.search("volume5 page 7", mode=Mode.VECTOR, limit=50, where=where)
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in exact])
    assert (len(found), {hit.source_id for hit in found}) == (50, {"/shelf/0"})


async def test_vectors_that_an_older_release_wrote_are_found_too(
    full: tuple[App, Pipeline, Searcher],
) -> None:
    """They do not say whose they are; the index of documents stands already."""
    app, pipeline, searcher = full
    every = {}
    for language in ("en", "de"):
        where = Filter(metadata={"lang": language})
        every[language] = await searcher.search("volume0 page 7", mode=Mode.VECTOR, limit=30, where=where)
    await app.database.fetch(
        f"UPDATE embedmill.vectors_{pipeline.generation.id} SET document_id = NULL WHERE chunk_id % 2 = 0".encode()
    )
    for language, expected in every.items():
        where = Filter(metadata={"lang": language})
        found = await searcher.search("volume0 page 7", mode=Mode.VECTOR, limit=30, where=where)
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected])


async def test_a_filter_that_leaves_many_is_answered_by_the_index(
    full: tuple[App, Pipeline, Searcher],
) -> None:
    _, _, searcher = full
    found = await searcher.search("volume5 page 7", mode=Mode.VECTOR, where=Filter(metadata={"lang": "de"}))
    assert found[0].text == "volume5 page 7"
    assert len(found) == 10
    assert "/shelf/0" not in {hit.source_id for hit in found}


async def test_a_scan_that_ends_before_the_page_is_full_is_made_good(
    full: tuple[App, Pipeline, Searcher],
) -> None:
    """As where what passes lies far from the query: here the scan is cut short instead."""
    app, pipeline, searcher = full
    where = Filter(metadata={"lang": "de"})
    await without_index(app, pipeline)
    exact = await searcher.search("volume5 page 7", mode=Mode.VECTOR, limit=500, where=where)
    await keep_index(app.database, pipeline)
    await app.database.fetch(
        "CREATE OR REPLACE FUNCTION embedmill.scan_reach(p_vectors double precision, p_candidates integer) "
        "RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT 1'"
    )
    found = await searcher.search("volume5 page 7", mode=Mode.VECTOR, limit=500, where=where)
    # Of passages at the same distance either may come first.
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in exact])
    assert len(found) == 500


@pytest.mark.parametrize(
    ("options", "depths"),
    [
        ([f"ef_construction={INDEX_DEPTH}"], [200, 280, 280, 560, 1000, 1000]),
        (None, [360, 504, 504, 1000, 1000, 1000]),  # an older release built it
    ],
)
async def test_the_rarer_what_passes_the_deeper_the_index_is_searched(
    app: App, options: list[str] | None, depths: list[int]
) -> None:
    """And without a filter no deeper than the number of vectors asks for; pgvector takes no more than a thousand."""
    rows = await app.database.fetch(
        "SELECT embedmill.scan_depth(1e6, 10, share, %s) "
        "FROM unnest(ARRAY[NULL, 1, 0.1, 0.05, 0.001, 0]::float8[]) WITH ORDINALITY AS s (share, place) ORDER BY place",
        (options,),
    )
    assert [row[0] for row in rows] == depths


async def test_the_index_says_how_it_was_built(full: tuple[App, Pipeline, Searcher]) -> None:
    app, pipeline, _ = full
    rows = await app.database.fetch(
        "SELECT reloptions FROM pg_class WHERE oid = to_regclass(%s)",
        (f"embedmill.vectors_{pipeline.generation.id}_hnsw",),
    )
    assert rows == [([f"ef_construction={INDEX_DEPTH}"],)]


async def test_many_are_filtered_without_an_index(full: tuple[App, Pipeline, Searcher]) -> None:
    app, pipeline, searcher = full
    await without_index(app, pipeline)
    found = await searcher.search(
        "volume5 page 7", mode=Mode.VECTOR, where=Filter(source="/shelf/*"), limit=1000
    )
    assert len(found) == 1000
    assert found[0].text == "volume5 page 7"


@pytest.mark.parametrize("mode", [Mode.VECTOR, Mode.TEXT])
async def test_a_service_finds_what_its_tenant_has_and_a_strangers_nothing(
    full: tuple[App, Pipeline, Searcher], mode: Mode
) -> None:
    app, pipeline, _ = full
    await app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('stranger')")
    ((stranger,),) = await app.database.fetch("SELECT id FROM embedmill.tenants WHERE slug = 'stranger'")
    async with Database(app.database.url, max_connections=1, role=SERVICE_ROLE) as service:
        for tenant, expected in ((pipeline.tenant_id, 10), (stranger, 0)):
            own = service.for_tenant(tenant, actor="test")
            asked = Asked(
                pipeline.generation.id,
                str([0.1] * 64) if mode is Mode.VECTOR else None,
                "volume0" if mode is Mode.TEXT else None,
                10,
                {"document_id": None, "source": None, "metadata": '{"lang": "en"}'},
            )
            async with own.transaction() as connection:
                lists = await find_candidates(own, connection, asked)
            assert len(lists.by_vector) + len(lists.by_text) == expected
