"""What a user of plain SQL or an ORM sees of a table source: its view, and embedmill.search."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.embed.generations import keep_index
from embedmill.sources.table_changes import remove_table
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table, find_table
from tests.support.provider import RunningProvider, vector_for
from tests.support.records import add_feed, push_shards, work_until_quiet
from tests.support.work import stand_in_pipeline

JOBS = """
CREATE TABLE public.jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL, description text, location text,
    "Odd Column" numeric);
INSERT INTO public.jobs (title, description, location) VALUES
    ('Miller', 'Grinds wheat between stones.', 'Berlin'), ('Baker', 'Bakes bread at night.', 'Berlin'),
    ('Carter', 'Drives sacks of flour.', 'Wien')
"""


async def add_jobs(app: App, pipeline: Pipeline) -> int:
    async with app.database.connection() as connection:
        await connection.execute(JOBS)
    plan = TablePlan(template="$title\n\n$description", metadata_columns=("location",))
    added = await add_table(app.database, pipeline, "public.jobs", plan, actor="test")
    await work_until_quiet(app)
    return added.source.id


def literal(text: str, dimensions: int) -> str:
    return "[" + ",".join(str(x) for x in vector_for(text, dimensions)) + "]"


async def search(app: App, *arguments: Any) -> list[tuple[Any, ...]]:
    places = ", ".join(["%s", "%s::vector", "%s", "%s::jsonb"][: len(arguments)])
    return await app.database.fetch(
        f"SELECT key, chunk, score, metadata FROM embedmill.search({places})".encode(), arguments
    )


async def test_the_view_has_the_row_s_columns_its_chunks_and_their_vectors(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_jobs(app, pipeline)
    rows = await app.database.fetch(
        'SELECT id, title, "Odd Column", embedmill_chunk, embedmill_embedding IS NOT NULL '
        "  FROM embedmill.public_jobs_embedded WHERE location = 'Berlin' ORDER BY id"
    )
    assert rows == [
        (1, "Miller", None, "Miller\n\nGrinds wheat between stones.", True),
        (2, "Baker", None, "Baker\n\nBakes bread at night.", True),
    ]


async def test_a_column_can_be_dropped_and_changed_under_the_view_which_follows(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source_id = await add_jobs(app, pipeline)
    async with app.database.connection() as connection:
        await connection.execute('ALTER TABLE public.jobs DROP COLUMN "Odd Column"')
        await connection.execute("ALTER TABLE public.jobs ADD COLUMN salary integer DEFAULT 5")
        await connection.execute("SELECT embedmill.make_source_view(%s)", (source_id,))
    rows = await app.database.fetch("SELECT salary FROM embedmill.public_jobs_embedded")
    assert rows == [(5,)] * 3


async def test_the_search_needs_no_path_of_its_caller(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """A function with `SET search_path = ''`, or a role whose path lacks the schema that pgvector was put into."""
    await add_jobs(app, pipeline)
    query = literal("Baker\n\nBakes bread at night.", pipeline.generation.dimensions)
    async with app.database.transaction() as connection:
        await connection.execute("SET LOCAL search_path = ''")
        cursor = await connection.execute(
            "SELECT key FROM embedmill.search('public.jobs', %s::public.vector, 1)", (query,)
        )
        assert await cursor.fetchall() == [("2",)]


async def test_the_search_finds_the_nearest_and_heeds_limit_and_filter(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_jobs(app, pipeline)
    query = literal("Baker\n\nBakes bread at night.", pipeline.generation.dimensions)
    best, *_ = await search(app, "public.jobs", query)
    assert (best[0], best[1], best[3]) == ("2", "Baker\n\nBakes bread at night.", {"location": "Berlin"})
    assert best[2] == pytest.approx(1.0, abs=1e-5)
    assert len(await search(app, "public.jobs", query, 2)) == 2
    assert [row[0] for row in await search(app, "public.jobs", query, 5, '{"location": "Wien"}')] == ["3"]


async def test_a_shard_feed_is_searched_by_its_type(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    feed = await add_feed(app, pipeline, "articles")
    await push_shards(app, feed, {"a": "Wheat.", "b": "Rye."})
    await work_until_quiet(app)
    rows = await search(app, "articles", literal("Rye.", pipeline.generation.dimensions), 1)
    assert [(row[0], row[1]) for row in rows] == [("b", "Rye.")]


async def test_many_documents_are_searched_by_the_index_and_few_of_them_one_by_one(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    feed = await add_feed(app, pipeline, "articles")
    await push_shards(app, feed, {f"n{n}": f"Article {n}." for n in range(1_100)})
    await work_until_quiet(app)
    await app.database.fetch(
        "UPDATE embedmill.knowledge_documents SET metadata = '{\"shelf\": 1}' WHERE source_id LIKE '%99'"
    )
    await keep_index(app.database, pipeline)
    query = literal("Article 99.", pipeline.generation.dimensions)
    many = await search(app, "articles", query, 20)
    assert (len(many), many[0][0]) == (20, "n99")
    few = await search(app, "articles", query, 20, '{"shelf": 1}')
    assert (len(few), few[0][0]) == (11, "n99")
    assert [row[2] for row in few] == sorted((row[2] for row in few), reverse=True)


async def test_wrong_questions_are_told(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    await add_jobs(app, pipeline)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="has 3 dimensions"):
        await search(app, "public.jobs", "[1,2,3]")
    with pytest.raises(psycopg.Error, match="there is no source public\\.users"):
        await search(app, "public.users", "[1,2,3]")


async def test_each_pipeline_s_view_of_a_table_goes_with_its_source_and_no_other(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_jobs(app, pipeline)
    other = await stand_in_pipeline(app, provider.base_url, "other", dimensions=8)
    plan = TablePlan(template="$title")
    added = await add_table(app.database, other, "public.jobs", plan, backfills=False, actor="test")
    second = f"public_jobs_{added.source.id}_embedded"
    views = "SELECT viewname FROM pg_views WHERE schemaname = 'embedmill' AND viewname LIKE 'public_jobs%%' ORDER BY 1"
    assert await app.database.fetch(views) == [(second,), ("public_jobs_embedded",)]
    tenant = await app.tenant_id()
    first = await find_table(app.database, tenant, "public.jobs", pipeline="standin")
    await remove_table(app.database, first, with_vectors=True, actor="test")
    assert await app.database.fetch(views) == [(second,)]
    await app.database.fetch("SELECT embedmill.make_source_view(%s)", (added.source.id,))
    await remove_table(app.database, added.source, with_vectors=False, actor="test")
    assert await app.database.fetch(views) == []
