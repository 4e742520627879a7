"""Rows that change while their text is at the provider, workers that die, workers in SQL: in the end each column has
the vector of its row's present text."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table
from tests.support.audit import assert_books_balance
from tests.support.columns import (
    JOBS,
    add_column_source,
    as_array,
    assert_columns_match,
    insert_jobs,
    until_quiet,
    user_of,
    wait_until,
    work_columns,
    working,
)
from tests.support.commands import CommandLine
from tests.support.provider.handle import RunningProvider
from tests.support.provider.vectors import vector_for
from tests.support.work import DIMENSIONS, stand_in_pipeline

AT_WORK = "SELECT count(*) > 0 FROM embedmill.embedding_queue WHERE status = 'processing'"


async def until_asked(provider: RunningProvider) -> None:
    async with asyncio.timeout(20):
        while not (await asyncio.to_thread(provider.stats))["in_flight"]:
            await asyncio.sleep(0.01)


async def test_what_is_edited_or_deleted_while_it_is_at_the_provider_ends_with_the_newer_text(
    app: App, provider: RunningProvider
) -> None:
    # The call outlasts the four statements on a busy machine too, and is not given up meanwhile.
    pipeline = await stand_in_pipeline(
        app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=10, timeout_seconds=20.0
    )
    async with user_of(app) as user:
        await user.execute(JOBS)
        a, b, c, d = await insert_jobs(user, "miller", "baker", "cook", "clerk")
        await add_column_source(app, pipeline, condition="is_active")
        provider.configure(latency_ms=3000)
        async with working(app):
            await until_asked(provider)
            provider.configure(latency_ms=0)
            await user.execute("UPDATE public.jobs SET title = 'grinder' WHERE id = %s", (a,))
            await user.execute("DELETE FROM public.jobs WHERE id = %s", (b,))
            await user.execute("UPDATE public.jobs SET is_active = false WHERE id = %s", (c,))
            await user.execute("UPDATE public.jobs SET company = 'x' WHERE id = %s", (d,))
            await until_quiet(app)
    assert await app.database.fetch("SELECT id FROM public.jobs WHERE embedding IS NULL") == [(c,)]
    assert (
        await assert_columns_match(
            app, "SELECT title || E'\\n\\n' || description, embedding::text FROM public.jobs WHERE is_active"
        )
        == 2
    )
    await assert_books_balance(app)


async def test_a_parked_vector_never_overwrites_that_of_a_newer_text(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user, user_of(app) as other:
        await user.execute(JOBS)
        (row,) = await insert_jobs(user, "miller")
        await add_column_source(app, pipeline)
        async with working(app):
            async with other.transaction():
                await other.execute("UPDATE public.jobs SET title = 'grinder' WHERE id = %s", (row,))
                # The older text is embedded and paid while the edit is not committed.
                await wait_until(app, "SELECT count(*) > 0 FROM embedmill.column_debts")
            await until_quiet(app)
    assert await assert_columns_match(app) == 1
    await assert_books_balance(app)


async def test_equal_texts_are_paid_once_whichever_row_comes_first(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        await insert_jobs(user, *["miller"] * 15, "baker")
        await add_column_source(app, pipeline)
        await work_columns(app)
        assert provider.stats()["inputs_paid"] == 2
        await insert_jobs(user, *["miller"] * 5)
        await work_columns(app)
        await user.execute("UPDATE public.jobs SET description = 'We look for a miller.', title = 'miller'")
        await work_columns(app)
    assert provider.stats()["inputs_paid"] == 2
    assert await assert_columns_match(app) == 21
    await assert_books_balance(app)


async def test_a_worker_that_is_killed_leaves_nothing_half_done(
    app: App, pipeline: Pipeline, provider: RunningProvider, database: str, tmp_path: Path
) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        await insert_jobs(user, *(f"miller {n}" for n in range(60)))
        await add_column_source(app, pipeline)
        provider.configure(latency_ms=100)
        command = CommandLine(tmp_path / "other", database)
        for _ in range(2):
            worker = command.start("worker")
            try:
                await wait_until(app, AT_WORK)
                await asyncio.to_thread(os.kill, worker.pid, signal.SIGKILL)
            finally:
                worker.kill()
                await asyncio.to_thread(worker.communicate)
        await work_columns(app)
    assert await assert_columns_match(app) == 60
    assert provider.stats()["inputs_paid"] <= 60 + 2 * 80
    await assert_books_balance(app)


@pytest.mark.parametrize("is_locked", [False, True])
async def test_a_worker_in_sql_writes_the_column(
    app: App, pipeline: Pipeline, provider: RunningProvider, is_locked: bool
) -> None:
    worker_id = uuid4()
    async with user_of(app) as user, user_of(app) as other:
        await user.execute(JOBS)
        (row,) = await insert_jobs(user, "miller")
        await add_column_source(app, pipeline)
        reader = app.record_reader(worker_id)
        assert await reader.read_one_source()
        items = await app.database.fetch(
            "SELECT item_id, lease_token FROM embedmill.get_next_embedding_batch(%s, 1, 'standin')",
            (worker_id,),
        )
        inputs = await app.database.fetch(
            "SELECT chunk_id, input FROM embedmill.get_embedding_inputs(%s, %s)", items[0]
        )
        vector = "[" + ",".join(repr(float(x)) for x in vector_for(inputs[0][1], DIMENSIONS)) + "]"
        async with other.transaction():
            if is_locked:
                await other.execute("SELECT FROM public.jobs WHERE id = %s FOR UPDATE", (row,))
            stored = await app.database.fetch(
                "SELECT embedmill.store_embeddings(%s, %s, %s, %s)",
                (*items[0], [inputs[0][0]], [vector]),
            )
            assert stored == [(1,)]
            ((found,),) = await app.database.fetch("SELECT embedding::text FROM public.jobs")
            assert (as_array(found) is None) == is_locked
        await app.database.fetch(
            "SELECT embedmill.complete_embedding_queue_item(%s::bigint, %s, %s::bigint, true)",
            (items[0][0], worker_id, items[0][1]),
        )
        await work_columns(app)
        await reader._cutter.aclose()
    assert await assert_columns_match(app) == 1
    assert provider.stats()["inputs_paid"] == 0
    await assert_books_balance(app)


async def test_a_pipeline_keeps_both_kinds_of_sources(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    from embedmill.sources.table_plans import TablePlan
    from embedmill.sources.tables import add_table

    async with user_of(app) as user:
        await user.execute(JOBS)
        await user.execute("CREATE TABLE public.posts (id int PRIMARY KEY, body text)")
        await insert_jobs(user, "miller", "baker")
        await user.execute(
            "INSERT INTO public.posts VALUES (1, E'miller\n\nWe look for a miller.'), (2, 'other')"
        )
        await add_column_source(app, pipeline)
        await work_columns(app)
        await add_table(app.database, pipeline, "public.posts", TablePlan("$body"), actor="test")
        await work_columns(app)
    assert provider.stats()["inputs_paid"] == 3  # the post's text had its vector in the job's column
    assert await assert_columns_match(app) == 2
    vectors = await app.database.fetch(
        f"SELECT c.text, v.embedding::text FROM embedmill.vectors_{pipeline.generation.id} v "
        "JOIN embedmill.knowledge_chunks c ON c.id = v.chunk_id WHERE v.embedding IS NOT NULL"
    )
    assert len(vectors) == 2
    for text, vector in vectors:
        found = as_array(vector)
        assert found is not None
        assert (found == vector_for(text, DIMENSIONS)).all()


async def test_what_a_user_s_trigger_does_to_another_table_while_we_write_is_followed(
    app: App, pipeline: Pipeline
) -> None:
    """An embedded job tells its company: that change of another followed table is the user's, not ours."""
    async with user_of(app) as user:
        await user.execute(JOBS)
        await user.execute(
            "CREATE TABLE public.companies (id int PRIMARY KEY, title text);"
            "INSERT INTO public.companies VALUES (1, 'nobody yet');"
            "CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "UPDATE public.companies SET title = 'embeds ' || NEW.title; RETURN NULL; END $$;"
            "CREATE TRIGGER tell AFTER UPDATE OF embedding ON public.jobs "
            "FOR EACH ROW EXECUTE FUNCTION public.tell()"
        )
        await insert_jobs(user, "miller")
        await add_column_source(app, pipeline)
        await add_table(app.database, pipeline, "public.companies", TablePlan("$title"), actor="test")
        await work_columns(app)
    assert await assert_columns_match(app) == 1
    assert await app.database.fetch(
        "SELECT c.text FROM embedmill.knowledge_chunks c JOIN embedmill.knowledge_documents d ON d.id = c.document_id "
        "WHERE d.source_type = 'public.companies'"
    ) == [("embeds miller",)]
    assert await app.database.fetch("SELECT count(*) FROM embedmill.record_changes") == [(0,)]
    await assert_books_balance(app)
