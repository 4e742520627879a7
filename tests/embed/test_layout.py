"""Where a table of vectors keeps them: in their rows where that fills the pages, and every row fits."""

from __future__ import annotations

import pytest

from embedmill.app import App
from tests.support.work import stand_in_pipeline

MOST = {"vector": 2000, "halfvec": 4000}  # that pgvector indexes
LAYOUTS = """
SELECT d, embedmill.vector_layout(%s, d) FROM generate_series(1, %s::integer) AS d ORDER BY d
"""
KEPT = """
SELECT attstorage::text FROM pg_attribute
 WHERE attrelid = format('embedmill.vectors_%%s', %s::integer)::regclass AND attname = 'embedding'
"""
BESIDE = """
SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = format('embedmill.vectors_%%s', %s::integer)::regclass
"""


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
async def test_every_vector_that_is_to_stand_in_its_row_fits(app: App, storage: str) -> None:
    layouts = dict(await app.database.fetch(LAYOUTS, (storage, MOST[storage])))
    in_row = [dimensions for dimensions, layout in layouts.items() if layout == "PLAIN"]
    # The largest of all, and the last of each number of rows a page before it would stand half empty.
    edges = [one for one in in_row if layouts.get(one + 1) != "PLAIN"]
    assert edges, "none stands in its row"
    for dimensions in edges:
        pipeline = await stand_in_pipeline(
            app, "http://127.0.0.1:9", f"d{dimensions}", dimensions=dimensions, storage=storage
        )
        generation = pipeline.generation.id
        await app.database.fetch(
            f"INSERT INTO embedmill.vectors_{generation} (chunk_id, input_hash, embedding, document_id) SELECT n, %s, "
            f"(SELECT array_agg(random()) FROM generate_series(1, {dimensions} + 0 * n))::{storage}, n "
            "FROM generate_series(1, 3) AS n".encode(),
            (bytes(16),),
        )
        assert (await app.database.fetch(BESIDE, (generation,)))[0][0] == 0


@pytest.mark.parametrize(
    ("storage", "dimensions", "kept"),
    [
        ("vector", 384, "p"),
        ("vector", 1536, "p"),
        ("vector", 1024, "e"),
        ("vector", 1408, "e"),
        ("halfvec", 2560, "e"),
        ("vector", 768, "p"),
        ("halfvec", 3072, "p"),
    ],
)
async def test_a_page_is_not_left_half_empty(app: App, storage: str, dimensions: int, kept: str) -> None:
    pipeline = await stand_in_pipeline(app, "http://127.0.0.1:9", dimensions=dimensions, storage=storage)
    assert await app.database.fetch(KEPT, (pipeline.generation.id,)) == [(kept,)]
