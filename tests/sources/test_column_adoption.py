"""A table whose rows have vectors in the column already: they are believed where it was added so, and not paid for."""

from __future__ import annotations

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.backfill import Backfill
from embedmill.sources.catalog import record_source
from embedmill.sources.reading import SourceReading
from tests.support.audit import assert_books_balance
from tests.support.columns import (
    JOBS,
    User,
    add_column_source,
    assert_columns_match,
    insert_jobs,
    others_of,
    user_of,
    wait_until,
    work_columns,
    working,
)
from tests.support.provider.handle import RunningProvider
from tests.support.work import DIMENSIONS

OLD = "[" + ",".join(["0.25"] * DIMENSIONS) + "]"
NOTHING = "[" + ",".join(["0"] * DIMENSIONS) + "]"
LACKING = "SELECT title || E'\\n\\n' || description, embedding::text FROM public.jobs WHERE id > %d"


async def prepare(user: User) -> list[int]:
    """30 rows: the first 10 have a vector of another system's, the 11th one of zeros."""
    await user.execute(JOBS)
    ids = await insert_jobs(user, *(f"miller {n}" for n in range(30)))
    await user.execute("UPDATE public.jobs SET embedding = %s WHERE id = ANY (%s)", (OLD, ids[:10]))
    await user.execute("UPDATE public.jobs SET embedding = %s WHERE id = %s", (NOTHING, ids[10]))
    return ids


async def test_vectors_that_stand_already_are_adopted_and_nothing_is_paid_for_them(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user:
        ids = await prepare(user)
        before = await others_of(app)
        source = await add_column_source(app, pipeline, adopts=True)
        await work_columns(app)
        assert provider.stats()["inputs_paid"] == 20
        assert await app.database.fetch(
            "SELECT chunks, embedded FROM embedmill.coverage_counters WHERE record_source_id = %s", (source,)
        ) == [(30, 30)]
        assert await others_of(app) == before
        old = await app.database.fetch("SELECT id FROM public.jobs WHERE embedding = %s ORDER BY id", (OLD,))
        assert [row[0] for row in old] == ids[:10]
        assert await assert_columns_match(app, LACKING % ids[9]) == 20

        # What is edited from now on is embedded anew.
        await user.execute("UPDATE public.jobs SET title = 'grinder' WHERE id = %s", (ids[0],))
        await work_columns(app)
    assert provider.stats()["inputs_paid"] == 21
    assert await assert_columns_match(app, LACKING.replace(">", "=") % ids[0]) == 1
    await assert_books_balance(app)


async def test_without_adoption_every_row_is_embedded(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user:
        await prepare(user)
        await add_column_source(app, pipeline)
        await work_columns(app)
    assert provider.stats()["inputs_paid"] == 30
    assert await assert_columns_match(app) == 30


async def test_a_row_with_a_change_to_be_read_is_not_adopted(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user:
        ids = await prepare(user)
        source_id = await add_column_source(app, pipeline, adopts=True)
        await user.execute("UPDATE public.jobs SET title = 'grinder' WHERE id = %s", (ids[3],))
        # The backfill comes first, while the change waits to be read: this row's vector is of its older text.
        source = await record_source(app.database, source_id)
        cutter = app.cutter()
        try:
            reading = SourceReading(app.database, source, pipeline, cutter, reader_token=None)
            saved = await Backfill(app.database, reading, None).step()
        finally:
            await cutter.aclose()
        assert saved is not None
        assert (saved.added, saved.adopted) == (30, 9)
        await work_columns(app)
    assert await assert_columns_match(app, LACKING.replace(">", "=") % ids[3]) == 1
    assert provider.stats()["inputs_paid"] == 21


async def test_a_row_that_comes_back_has_the_vector_of_its_newer_text(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user, user_of(app) as other:
        await user.execute(JOBS)
        (row,) = await insert_jobs(user, "miller")
        await add_column_source(app, pipeline, condition="is_active")
        await work_columns(app)
        async with other.transaction():
            await user.execute("UPDATE public.jobs SET is_active = false")
            # From now on its column cannot be emptied: that is still owed when it comes back.
            await other.execute("SELECT FROM public.jobs FOR UPDATE")
            async with working(app):
                await wait_until(app, "SELECT count(*) > 0 FROM embedmill.column_debts")
        await user.execute("UPDATE public.jobs SET is_active = true, title = 'grinder' WHERE id = %s", (row,))
        await work_columns(app)
    assert await assert_columns_match(app) == 1
    await assert_books_balance(app)


@pytest.mark.parametrize("is_new_column", [False, True])
async def test_a_column_that_is_renamed_keeps_its_vectors_and_another_one_is_filled(
    app: App, pipeline: Pipeline, provider: RunningProvider, is_new_column: bool
) -> None:
    from embedmill.sources.table_changes import TableAlteration, alter_table
    from embedmill.sources.tables import find_table

    async with user_of(app) as user:
        await user.execute(JOBS)
        await insert_jobs(user, "miller", "baker")
        await add_column_source(app, pipeline)
        await work_columns(app)
        if is_new_column:
            await user.execute(f"ALTER TABLE public.jobs DROP embedding, ADD emb vector({DIMENSIONS})")
        else:
            await user.execute("ALTER TABLE public.jobs RENAME embedding TO emb")
        source = await find_table(app.database, pipeline.tenant_id, "public.jobs")
        await alter_table(app.database, pipeline, source, TableAlteration(target_column="emb"), actor="test")
        await insert_jobs(user, "cook")
        await work_columns(app)
    assert (
        await assert_columns_match(
            app, "SELECT title || E'\\n\\n' || description, emb::text FROM public.jobs"
        )
        == 3
    )
    assert provider.stats()["inputs_paid"] == (5 if is_new_column else 3)
    await assert_books_balance(app)
