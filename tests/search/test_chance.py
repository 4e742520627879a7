"""How similar to a query what has nothing to do with it is: by a sample of the vectors, wherever they stand."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from psycopg import sql

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.search.searcher import Mode, Searcher
from tests.support.columns import JOBS, User, add_column_source, insert_jobs, user_of, work_columns
from tests.support.work import DIMENSIONS

ASK = "SELECT embedmill.similarity_of_chance(%(generation_id)s, %(query)s)"
# Vectors of two kinds, and a query of the first kind: 0.6 like each of the second.
FIRST = [1.0, 0.0] + [0.0] * (DIMENSIONS - 2)
SECOND = [0.6, 0.8] + [0.0] * (DIMENSIONS - 2)
ZEROS = [0.0] * DIMENSIONS


async def chance(app: App, pipeline: Pipeline) -> float | None:
    values = {"generation_id": pipeline.generation.id, "query": json.dumps(FIRST)}
    ((found,),) = await app.database.fetch(ASK, values)
    return None if found is None else float(found)


async def store(app: App, pipeline: Pipeline, vectors: Sequence[Sequence[float]]) -> None:
    """As they are, without chunks: they are only measured."""
    table = sql.Identifier("embedmill", f"vectors_{pipeline.generation.id}")
    await app.database.fetch(
        sql.SQL(
            "INSERT INTO {} (chunk_id, input_hash, embedding) SELECT -n, '\\x00', v::vector "
            "FROM unnest(%(vectors)s::text[]) WITH ORDINALITY AS u (v, n) ON CONFLICT DO NOTHING"
        ).format(table),
        {"vectors": [json.dumps(vector) for vector in vectors]},
    )


async def test_it_is_the_mean_of_what_a_sample_says(app: App, pipeline: Pipeline) -> None:
    await store(app, pipeline, [SECOND] * 2970 + [FIRST] * 30)
    assert await chance(app, pipeline) == pytest.approx(0.604, abs=0.02)


async def test_all_are_asked_where_they_fill_a_page_or_two(app: App, pipeline: Pipeline) -> None:
    await store(app, pipeline, [SECOND] * 15 + [FIRST] * 5)
    assert await chance(app, pipeline) == pytest.approx(0.7)


async def test_too_few_tell_nothing(app: App, pipeline: Pipeline) -> None:
    assert await chance(app, pipeline) is None
    await store(app, pipeline, [SECOND] * 19)
    assert await chance(app, pipeline) is None


async def with_a_column(app: App, pipeline: Pipeline, user: User, vector: Sequence[float]) -> None:
    """Forty rows whose column holds this vector by now, whatever stood there."""
    await user.execute(JOBS)
    await insert_jobs(user, *(f"miller {number}" for number in range(40)))
    await add_column_source(app, pipeline)
    await work_columns(app)
    await user.execute("UPDATE public.jobs SET embedding = %s", (json.dumps(vector),))
    await user.execute("VACUUM FULL public.jobs")


async def test_vectors_in_a_column_of_a_user_are_asked_too(app: App, pipeline: Pipeline) -> None:
    async with user_of(app) as user:
        await with_a_column(app, pipeline, user, SECOND)
        assert await chance(app, pipeline) == pytest.approx(0.6)
        await store(app, pipeline, [FIRST] * 40)
        assert await chance(app, pipeline) == pytest.approx(0.8)


async def test_a_column_that_can_be_read_no_more_is_left_out(app: App, pipeline: Pipeline) -> None:
    async with user_of(app) as user:
        await with_a_column(app, pipeline, user, SECOND)
        await store(app, pipeline, [FIRST] * 40)
        await user.execute("ALTER TABLE public.jobs DROP COLUMN embedding")
        assert await chance(app, pipeline) == pytest.approx(1.0)


async def test_zeros_in_a_column_are_like_nothing_and_spoil_no_page(app: App, pipeline: Pipeline) -> None:
    async with user_of(app) as user:
        await with_a_column(app, pipeline, user, ZEROS)
        assert await chance(app, pipeline) is None
        model = app.provider(pipeline.generation.spec)
        searcher = Searcher(app.database, pipeline, model)
        assert await searcher.search("miller 7", mode=Mode.VECTOR) == []
        hits = await searcher.search("miller 7", limit=5)
        assert hits[0].text.startswith("miller 7")
        await model.aclose()
