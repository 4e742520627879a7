"""Vectors in a column of the user's own table: by UPDATE of that column and of nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.search.searcher import Mode, Searcher
from tests.support.audit import assert_books_balance
from tests.support.columns import (
    JOBS,
    add_column_source,
    assert_columns_match,
    insert_jobs,
    others_of,
    user_of,
    work_columns,
)
from tests.support.commands import CommandLine
from tests.support.provider.handle import RunningProvider
from tests.support.work import DIMENSIONS, add_document, stand_in_pipeline

SCHEMA = '"Odd ""Name"""'
TABLE = SCHEMA + '''."Job's %s"'''
TEXT = '"Text ""x"""'
COUNTING = """
CREATE TABLE public.told (operation text, column_changed boolean);
CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO told VALUES (TG_OP, to_jsonb(NEW) - 'embedding' IS DISTINCT FROM
                                    to_jsonb(CASE TG_OP WHEN 'UPDATE' THEN OLD END) - 'embedding');
    RETURN NEW;
END $$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON public.jobs FOR EACH ROW EXECUTE FUNCTION public.tell();
"""


async def test_each_row_has_the_vector_of_its_text_and_no_other_column_is_touched(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        await insert_jobs(user, *(f"miller {n}" for n in range(25)))
        await user.execute(COUNTING)
        before = await others_of(app)
        source = await add_column_source(app, pipeline)
        await work_columns(app)

    assert await assert_columns_match(app) == 25
    assert await others_of(app) == before
    assert await app.database.fetch(
        "SELECT operation, column_changed, count(*) FROM public.told GROUP BY 1, 2"
    ) == [("UPDATE", False, 25)]
    assert await app.database.fetch("SELECT count(*) FROM embedmill.record_changes") == [(0,)]
    # The proof stands beside the chunk, the vector only in the column.
    assert await app.database.fetch(
        f"SELECT count(*), count(embedding) FROM embedmill.vectors_{pipeline.generation.id}"
    ) == [(25, 0)]
    assert await app.database.fetch(
        "SELECT chunks, embedded FROM embedmill.coverage_counters WHERE record_source_id = %s", (source,)
    ) == [(25, 25)]
    assert provider.stats()["inputs_paid"] == 25
    await assert_books_balance(app)


async def test_changes_are_followed_and_what_is_not_embedded_any_more_has_no_vector(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        a, b, c, d = await insert_jobs(user, "miller", "baker", "cook", "clerk")
        await add_column_source(app, pipeline, condition="is_active")
        await work_columns(app)
        provider.forget_counts()

        await user.execute("UPDATE public.jobs SET title = 'grinder' WHERE id = %s", (a,))
        await user.execute("UPDATE public.jobs SET salary = 1, company = 'x' WHERE id = %s", (b,))
        await user.execute("UPDATE public.jobs SET is_active = false WHERE id = %s", (c,))
        await user.execute("DELETE FROM public.jobs WHERE id = %s", (d,))
        (e,) = await insert_jobs(user, "porter")
        await work_columns(app)
        assert provider.stats()["inputs_paid"] == 2
        assert await app.database.fetch("SELECT id FROM public.jobs WHERE embedding IS NULL") == [(c,)]
        assert (
            await assert_columns_match(
                app,
                "SELECT title || E'\\n\\n' || description, embedding::text FROM public.jobs WHERE is_active",
            )
            == 3
        )

        await user.execute("UPDATE public.jobs SET title = '', description = ' ' WHERE id = %s", (e,))
        await user.execute("UPDATE public.jobs SET is_active = true WHERE id = %s", (c,))
        await work_columns(app)
    assert await app.database.fetch("SELECT id FROM public.jobs WHERE embedding IS NULL") == [(e,)]
    await assert_books_balance(app)


async def test_a_text_that_the_model_cannot_read_at_once_is_refused_and_its_neighbours_go_on(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        short, long = await insert_jobs(user, "miller", "baker")
        # Longer than a chunk, short enough for the model: it is embedded whole.
        sections = "\n\n".join(f"# Part {n}\n\n" + "flour and water. " * 60 for n in range(9))
        await user.execute("UPDATE public.jobs SET description = %s WHERE id = %s", (sections + "end", short))
        await user.execute(
            "UPDATE public.jobs SET description = %s WHERE id = %s", ("flour " * 9000 + "end", long)
        )
        source = await add_column_source(app, pipeline)
        await work_columns(app)
    assert await app.database.fetch("SELECT id FROM public.jobs WHERE embedding IS NULL") == [(long,)]
    assert (
        await assert_columns_match(
            app,
            "SELECT title || E'\\n\\n' || description, embedding::text FROM public.jobs WHERE embedding IS NOT NULL",
        )
        == 1
    )
    assert await app.database.fetch(
        "SELECT reason FROM embedmill.dead_letters WHERE resolved_at IS NULL"
    ) == [("too_long",)]
    assert await app.database.fetch(
        "SELECT error_reason, count(*) FROM embedmill.knowledge_documents WHERE record_source_id = %s "
        "GROUP BY 1 ORDER BY 1",
        (source,),
    ) == [("too_long", 1), (None, 1)]


async def test_halfvec_composite_keys_quoted_names_and_partitions(
    app: App, provider: RunningProvider
) -> None:
    pipeline = await stand_in_pipeline(
        app, provider.base_url, "half", dimensions=DIMENSIONS, storage="halfvec"
    )
    async with user_of(app) as user:
        await user.execute(f"CREATE SCHEMA {SCHEMA}")
        await user.execute(
            f'CREATE TABLE {TABLE} ("Region %" text, "No" uuid DEFAULT gen_random_uuid(), {TEXT} text NOT NULL, '
            f'must text NOT NULL, "Vector %I" halfvec({DIMENSIONS}), PRIMARY KEY ("Region %", "No")) '
            'PARTITION BY LIST ("Region %")'
        )
        await user.execute(f"CREATE TABLE {SCHEMA}.north PARTITION OF {TABLE} FOR VALUES IN ('north, \"n\"')")
        await user.execute(f"CREATE TABLE {SCHEMA}.rest PARTITION OF {TABLE} DEFAULT")
        for n in range(12):
            await user.execute(
                f'INSERT INTO {TABLE} ("Region %", {TEXT}, must) VALUES ($1, $2, $3)'.replace("%", "%%")
                .replace("$1", "%s")
                .replace("$2", "%s")
                .replace("$3", "%s"),
                ('north, "n"' if n % 2 else "sou'th", f"text {n}", "a"),
            )
        await add_column_source(app, pipeline, TABLE, template='${Text "x"}', column="Vector %I")
        await work_columns(app)
    assert (
        await assert_columns_match(app, f'SELECT {TEXT}, "Vector %I"::text FROM {TABLE}', tolerance=0.001)
        == 12
    )


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
async def test_search_finds_rows_by_the_vectors_in_their_column(
    app: App, provider: RunningProvider, storage: str
) -> None:
    pipeline = await stand_in_pipeline(app, provider.base_url, "s", dimensions=DIMENSIONS, storage=storage)
    async with user_of(app) as user:
        await user.execute(JOBS)
        await insert_jobs(user, "miller", "baker", "cook")
        await add_column_source(app, pipeline)
        await work_columns(app)
    searching = app.provider(pipeline.generation.spec)
    try:
        searcher = Searcher(app.database, pipeline, searching)
        hits = await searcher.search("baker\n\nWe look for a baker.", mode=Mode.VECTOR, limit=2)
        assert len(hits) == 2
        assert hits[0].text == "baker\n\nWe look for a baker."
        assert hits[0].score == pytest.approx(1, abs=0.001)
        assert len(await searcher.search("cook", mode=Mode.HYBRID)) == 3
    finally:
        await searching.aclose()


async def test_a_worker_that_ends_by_itself_leaves_no_vector_of_what_was_withdrawn(
    app: App, pipeline: Pipeline, tmp_path: Path
) -> None:
    """Rows that leave the condition, or have no text any more; one that is locked is left to the next worker."""
    worker = CommandLine(tmp_path, app.database.url)
    left = "SELECT count(embedding) FROM public.jobs WHERE NOT is_active OR description = ''"
    async with user_of(app) as user, user_of(app) as other:
        await user.execute(JOBS)
        ids = await insert_jobs(user, *(f"miller {number}" for number in range(12)))
        await add_column_source(app, pipeline, template="$description", condition="is_active")
        await asyncio.to_thread(worker.run, "worker", "--until-empty")
        assert await assert_columns_match(app, "SELECT description, embedding::text FROM public.jobs") == 12

        await user.execute("UPDATE public.jobs SET is_active = false WHERE id = ANY (%s)", (ids[:4],))
        await user.execute("UPDATE public.jobs SET description = '' WHERE id = ANY (%s)", (ids[4:6],))
        async with other.transaction():
            await other.execute("SELECT FROM public.jobs WHERE id = %s FOR UPDATE", (ids[0],))
            await asyncio.to_thread(worker.run, "worker", "--until-empty")
            assert await app.database.fetch(left.encode()) == [(1,)]
        await asyncio.to_thread(worker.run, "worker", "--until-empty")
        await work_columns(app)
        assert await app.database.fetch(left.encode()) == [(0,)]
    await assert_books_balance(app)


async def test_what_an_older_release_stages_is_stored(app: App, pipeline: Pipeline) -> None:
    """Beside a newer one its answers are paid all the same; it does not stage whose the chunks are."""
    document = await add_document(app, pipeline, "/old.txt", ["one", "two"])
    number = pipeline.generation.id
    async with app.database.transaction() as connection:
        await connection.execute(
            f"CREATE TEMP TABLE staged_vectors_{number} ON COMMIT DROP AS "
            "SELECT id AS chunk_id, '\\x00'::bytea AS input_hash, "
            f"      array_fill(1, ARRAY[{DIMENSIONS}])::vector AS embedding FROM embedmill.knowledge_chunks".encode()
        )
        await connection.execute("SELECT embedmill.store_staged_vectors(%s)", (number,))
    stored = f"SELECT DISTINCT document_id, embedding IS NULL FROM embedmill.vectors_{number}"
    assert await app.database.fetch(stored.encode()) == [(document.document_id, False)]
