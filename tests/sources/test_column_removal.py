"""A table whose vectors stand in a column of it: removed, added again, asked about, altered wrongly."""

from __future__ import annotations

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ConfigurationError
from embedmill.sources.column_facts import column_facts
from embedmill.sources.table_changes import RemovedTable, TableAlteration, alter_table, remove_table
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import TableSource, add_table, find_table
from tests.support.audit import assert_books_balance
from tests.support.columns import (
    JOBS,
    add_column_source,
    assert_columns_match,
    insert_jobs,
    user_of,
    work_columns,
)
from tests.support.provider.handle import RunningProvider
from tests.support.work import DIMENSIONS

WITH_A_VECTOR = "SELECT count(embedding) FROM public.jobs"


async def source_of(app: App) -> TableSource:
    return await find_table(app.database, await app.tenant_id(), "public.jobs")


async def test_the_documents_of_a_removed_table_go_and_the_column_keeps_its_vectors(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        ids = await insert_jobs(user, *(f"miller {n}" for n in range(7)))
        await add_column_source(app, pipeline)
        await work_columns(app)
        source = await source_of(app)
        # What is owed to rows of documents that go would be paid by emptying their column.
        await app.database.fetch("SELECT embedmill.empty_columns(%s, %s)", (source.id, [str(ids[0])]))
        removed = await remove_table(app.database, source, with_vectors=False, actor="test")
        assert removed == RemovedTable(documents_kept=0, documents_deleted=7)
        await work_columns(app)
        assert await app.database.fetch(WITH_A_VECTOR) == [(7,)]
        assert await assert_columns_match(app) == 7
        for table in (
            "knowledge_documents",
            "target_columns",
            "column_debts",
            f"vectors_{pipeline.generation.id}",
        ):
            assert await app.database.fetch(f"SELECT count(*) FROM embedmill.{table}") == [(0,)], table
        await assert_books_balance(app)

        # And what it embedded is believed, if one says so.
        await add_column_source(app, pipeline, adopts=True)
        await work_columns(app)
    assert provider.stats()["inputs_paid"] == 7
    assert await assert_columns_match(app) == 7
    await assert_books_balance(app)


async def test_what_is_owed_to_rows_whose_documents_are_gone_empties_nothing(
    app: App, pipeline: Pipeline
) -> None:
    """Whoever writes columns comes by in the middle of a removal."""
    async with user_of(app) as user:
        await user.execute(JOBS)
        ids = await insert_jobs(user, "miller", "baker")
        source = await add_column_source(app, pipeline)
        await work_columns(app)
        await app.database.fetch(
            "SELECT embedmill.empty_columns(%s, %s)", (source, [str(each) for each in ids])
        )
        assert await app.database.fetch("SELECT embedmill.delete_source_documents(%s, 1)", (source,)) == [
            (1,)
        ]
        await app.database.fetch("SELECT embedmill.settle_columns(100)")
        assert await app.database.fetch("SELECT embedmill.delete_source_documents(%s, 100)", (source,)) == [
            (1,)
        ]
        await app.database.fetch("SELECT embedmill.settle_columns(100)")
    assert await app.database.fetch(WITH_A_VECTOR) == [(2,)]


async def test_documents_that_stood_beside_the_table_before_are_deleted_and_not_taken_up(
    app: App, pipeline: Pipeline
) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        await insert_jobs(user, "miller", "baker")
        added = await add_table(
            app.database, pipeline, "public.jobs", TablePlan("$title\n\n$description"), actor="test"
        )
        await work_columns(app)
        removed = await remove_table(app.database, added.source, with_vectors=False, actor="test")
        assert removed.documents_kept == 2
        again = await add_table(
            app.database,
            pipeline,
            "public.jobs",
            TablePlan("$title\n\n$description", target_column="embedding"),
            actor="test",
        )
        assert again.notes[-1].startswith("2 documents of this table that stood beside it are deleted")
        assert await app.database.fetch("SELECT count(*) FROM embedmill.knowledge_documents") == [(0,)]
        await work_columns(app)
    assert await assert_columns_match(app) == 2
    assert await app.database.fetch(
        f"SELECT count(*), count(embedding) FROM embedmill.vectors_{pipeline.generation.id}"
    ) == [(2, 0)]
    await assert_books_balance(app)


async def test_what_is_wrong_with_a_column_is_told_with_what_to_do(app: App, pipeline: Pipeline) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        await user.execute(f"ALTER TABLE public.jobs ADD COLUMN another vector({DIMENSIONS})")
        await add_column_source(app, pipeline)
        change = TableAlteration(target_column="another")
        with pytest.raises(ConfigurationError, match=r"still holds the vectors\. Rename it"):
            await alter_table(app.database, pipeline, await source_of(app), change, actor="test")
        assert (await source_of(app)).target_column == "embedding"


async def test_how_many_rows_have_a_vector_and_which_index_is_lacking(app: App, pipeline: Pipeline) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        await insert_jobs(user, "miller", "baker")
        await add_column_source(app, pipeline)
        await work_columns(app)
        await insert_jobs(user, "cook")
        facts = await column_facts(app.database, await source_of(app))
        assert facts is not None
        assert (facts.rows_with_vector, facts.rows_are_more) == (2, False)
        statement = "CREATE INDEX CONCURRENTLY ON public.jobs USING hnsw (embedding vector_cosine_ops)"
        assert facts.index_statement == statement
        await user.execute("CREATE INDEX ON public.jobs USING hnsw (embedding vector_l2_ops)")
        facts = await column_facts(app.database, await source_of(app))
        assert facts is not None
        assert facts.index_statement == statement  # of another distance
        await user.execute(statement)
        facts = await column_facts(app.database, await source_of(app))
        assert facts is not None
        assert facts.index_statement is None
        async with user_of(app) as holder, holder.transaction():
            await holder.execute("LOCK TABLE public.jobs IN ACCESS EXCLUSIVE MODE")
            facts = await column_facts(app.database, await source_of(app))
            assert facts is not None
            assert facts.rows_with_vector is None
