"""What a user's table may do to us: locks, triggers and constraints that refuse, a column that goes. No paid vector is
lost, nobody else waits, and what is mended goes on by itself."""

from __future__ import annotations

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.support.audit import assert_books_balance
from tests.support.columns import (
    JOBS,
    add_column_source,
    assert_columns_match,
    insert_jobs,
    until_quiet,
    user_of,
    wait_until,
    work_columns,
    working,
)
from tests.support.provider.handle import RunningProvider
from tests.support.work import DIMENSIONS

TROUBLE = "SELECT trouble FROM embedmill.record_sources"
HAS_TROUBLE = "SELECT trouble IS NOT NULL FROM embedmill.record_sources"
EMPTY = "SELECT count(*) FROM public.jobs WHERE embedding IS NULL"
RAISE = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'not on a Sunday'; END $$
"""
REFUSALS = {
    "a trigger": (
        "CREATE TRIGGER refuse BEFORE UPDATE ON public.jobs FOR EACH ROW EXECUTE FUNCTION public.refuse()",
        "DROP TRIGGER refuse ON public.jobs",
        "not on a Sunday",
    ),
    "a deferred trigger": (
        "CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON public.jobs DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION public.refuse()",
        "DROP TRIGGER refuse ON public.jobs",
        "not on a Sunday",
    ),
    "a constraint": (
        "ALTER TABLE public.jobs ADD CONSTRAINT none CHECK (embedding IS NULL)",
        "ALTER TABLE public.jobs DROP CONSTRAINT none",
        "violates check constraint",
    ),
    "a dropped column": (
        "ALTER TABLE public.jobs DROP COLUMN embedding",
        f"ALTER TABLE public.jobs ADD COLUMN embedding halfvec({DIMENSIONS})",
        "public.jobs",  # by whoever notices it first
    ),
    "other dimensions": (
        "ALTER TABLE public.jobs ALTER COLUMN embedding TYPE vector(3)",
        f"ALTER TABLE public.jobs ALTER COLUMN embedding TYPE vector({DIMENSIONS})",
        "expected 3 dimensions, not 16",
    ),
}


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_table_that_refuses_keeps_its_paid_vectors_until_it_is_mended(
    app: App, pipeline: Pipeline, provider: RunningProvider, kind: str
) -> None:
    breaks, mends, said = REFUSALS[kind]
    async with user_of(app) as user:
        await user.execute(JOBS)
        await user.execute(RAISE)
        await insert_jobs(user, *(f"miller {n}" for n in range(12)))
        await add_column_source(app, pipeline)
        await user.execute(breaks)
        async with working(app):
            await wait_until(app, HAS_TROUBLE)
            await until_quiet(app, with_debts=True)
            ((trouble,),) = await app.database.fetch(TROUBLE)
            assert said in trouble
            assert "miller" not in trouble
            # Nothing more is paid for while the table takes nothing.
            await insert_jobs(user, "baker")
            provider.forget_counts()
            await user.execute(mends)
            await until_quiet(app)
            await wait_until(app, HAS_TROUBLE, expected=False)
    assert provider.paid_for(["baker\n\nWe look for a baker."]) == [1]
    assert provider.stats()["inputs_paid"] == 1
    assert await assert_columns_match(app, tolerance=0.001) == 13
    await assert_books_balance(app)


async def test_a_row_that_is_refused_costs_its_neighbours_nothing(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        ids = await insert_jobs(user, *(f"miller {n}" for n in range(12)))
        await user.execute(
            f"ALTER TABLE public.jobs ADD CONSTRAINT poison CHECK (id <> {ids[4]} OR embedding IS NULL)"
        )
        await add_column_source(app, pipeline)
        async with working(app):
            await wait_until(app, EMPTY, expected=1)
            await wait_until(app, HAS_TROUBLE)
            ((trouble,),) = await app.database.fetch(TROUBLE)
            assert trouble.startswith("1 of its rows do not take their vector")
            await user.execute("ALTER TABLE public.jobs DROP CONSTRAINT poison")
            await until_quiet(app)
            await wait_until(app, HAS_TROUBLE, expected=False)
    assert await assert_columns_match(app) == 12
    assert provider.stats()["inputs_paid"] == 12


async def test_a_locked_row_holds_up_nobody_and_gets_its_paid_vector_later(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user, user_of(app) as other:
        await user.execute(JOBS)
        ids = await insert_jobs(user, *(f"miller {n}" for n in range(25)))
        async with working(app):
            async with other.transaction():
                await other.execute("SELECT FROM public.jobs WHERE id = %s FOR UPDATE", (ids[7],))
                await add_column_source(app, pipeline)
                await until_quiet(app, with_debts=True)
                assert await app.database.fetch("SELECT id FROM public.jobs WHERE embedding IS NULL") == [
                    (ids[7],)
                ]
                assert provider.stats()["inputs_paid"] == 25
            await until_quiet(app)
    assert await assert_columns_match(app) == 25
    assert provider.stats()["inputs_paid"] == 25
    await assert_books_balance(app)


async def test_a_locked_table_is_waited_for_briefly(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user, user_of(app) as other:
        await user.execute(JOBS)
        await insert_jobs(user, *(f"miller {n}" for n in range(5)))
        await add_column_source(app, pipeline)
        provider.configure(latency_ms=400)
        async with working(app):
            await wait_until(
                app, "SELECT count(*) FROM embedmill.embedding_queue WHERE status = 'processing'", 5
            )
            async with other.transaction():
                await other.execute("LOCK TABLE public.jobs IN SHARE MODE")
                await wait_until(app, "SELECT count(*) FROM embedmill.embedding_queue", 0)
                assert await app.database.fetch(EMPTY) == [(5,)]
            await until_quiet(app)
    assert await assert_columns_match(app) == 5
    assert provider.stats()["inputs_paid"] == 5
    assert await app.database.fetch(TROUBLE) == [(None,)]


async def test_names_in_a_users_trigger_mean_what_they_mean_to_him(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        await user.execute("CREATE TABLE public.audit_log (id bigint, at timestamptz DEFAULT now())")
        await user.execute(
            "CREATE FUNCTION public.log() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN INSERT INTO audit_log (id) VALUES (NEW.id); NEW.company := upper(NEW.company); RETURN NEW; END $$"
        )
        await user.execute(
            "CREATE TRIGGER log BEFORE UPDATE ON public.jobs FOR EACH ROW EXECUTE FUNCTION public.log()"
        )
        ids = await insert_jobs(user, "miller", "baker")
        await add_column_source(app, pipeline)
        await work_columns(app)
    assert await assert_columns_match(app) == 2
    assert await app.database.fetch("SELECT id FROM public.audit_log ORDER BY id") == [(i,) for i in ids]
