"""A change of model where vectors stand in a column of a table: the next generation has a column of its own."""

from __future__ import annotations

import asyncio
from uuid import UUID

import numpy as np
import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.embed.building import GenerationBuilder
from embedmill.embed.generation_states import Stage
from embedmill.embed.next_spec import Changes
from embedmill.errors import ConfigurationError, ConflictError, EmbedmillError
from embedmill.worker.loop import Companion, Worker, WorkerOptions
from tests.embed.generation_work import begin, until
from tests.support.audit import assert_books_balance
from tests.support.columns import (
    JOBS,
    add_column_source,
    as_array,
    insert_jobs,
    until_quiet,
    user_of,
    work_columns,
)
from tests.support.provider.handle import RunningProvider
from tests.support.provider.vectors import vector_for
from tests.support.work import DIMENSIONS, stand_in_pipeline

ANOTHER = Changes(model="another", dimensions=DIMENSIONS)


@pytest.fixture
async def pipeline(app: App, provider: RunningProvider) -> Pipeline:
    provider.configure(salt_by_model=True)
    return await stand_in_pipeline(app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=10)


async def assert_column(app: App, column: str, model: str) -> int:
    rows = await app.database.fetch(
        f"SELECT title || E'\\n\\n' || description, {column}::text FROM public.jobs"
    )
    for text, written in rows:
        found = as_array(written)
        assert found is not None, (column, text)
        assert np.abs(found - vector_for(text, DIMENSIONS, model)).max() <= 0.001, (column, text)
    return len(rows)


async def test_the_next_model_fills_a_column_of_its_own_and_both_are_kept_current(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        ids = await insert_jobs(user, *(f"miller {n}" for n in range(12)))
        await add_column_source(app, pipeline)
        await work_columns(app)
        await user.execute(f"ALTER TABLE public.jobs ADD COLUMN embedding_v2 halfvec({DIMENSIONS})")
        wanted = await app.next_generation(pipeline, ANOTHER, price_per_million_tokens=None, budget_usd=None)
        with pytest.raises(ConfigurationError, match=r"say --column public\.jobs=embedding_v2"):
            await app.migrations(pipeline).start(wanted)
        columns = {"public.jobs": "embedding_v2"}
        generation = await app.migrations(pipeline).start(wanted, columns)

        def companions(worker_id: UUID) -> list[Companion]:
            builder = GenerationBuilder(app.database, app.cutter(), poll_seconds=0.05)
            return [app.record_reader(worker_id), app.column_writer(), builder]

        worker = Worker(app.database, app.provider, WorkerOptions(), companions=companions)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.run())
            await until(app, pipeline, generation, Stage.BUILT)
            await user.execute("UPDATE public.jobs SET title = 'baker' WHERE id = %s", (ids[0],))
            await until_quiet(app)
            assert await assert_column(app, "embedding", "stand-in") == 12
            assert await assert_column(app, "embedding_v2", "another") == 12
            await app.migrations(pipeline).switch()
            await user.execute("UPDATE public.jobs SET title = 'cook' WHERE id = %s", (ids[1],))
            await until_quiet(app)
            worker.stop()
    assert await assert_column(app, "embedding", "stand-in") == 12
    assert await assert_column(app, "embedding_v2", "another") == 12
    assert await app.database.fetch("SELECT target_column FROM embedmill.table_sources") == [
        ("embedding_v2",)
    ]
    await app.migrations(await app.pipeline("standin")).roll_back()
    assert await app.database.fetch("SELECT target_column FROM embedmill.table_sources") == [("embedding",)]
    await assert_books_balance(app)


async def test_a_column_that_is_named_late_is_filled_with_what_was_paid_already(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        await insert_jobs(user, *(f"miller {n}" for n in range(5)))
        await user.execute(f"ALTER TABLE public.jobs ADD COLUMN embedding_v2 vector({DIMENSIONS})")
        # The table is added while the next generation is being built: nobody was asked for its column.
        generation = await begin(app, pipeline, ANOTHER)
        await add_column_source(app, pipeline)
        await work_columns(app)
        builder = GenerationBuilder(app.database, app.cutter(), poll_seconds=0.05)
        worker = Worker(app.database, app.provider, WorkerOptions(), companions=lambda _: [builder])
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.run())
            await until(app, pipeline, generation, Stage.BUILT)
            worker.stop()
        with pytest.raises((EmbedmillError, psycopg.Error), match="stand in a column of it"):
            await app.migrations(pipeline).switch()
        paid = provider.stats()["inputs_paid"]
        state = await app.migrations(pipeline).state(generation)
        await app.migrations(pipeline).go_on(state, columns={"jobs": "embedding_v2"})
        with pytest.raises(ConflictError, match="written into its column embedding_v2 already"):
            await app.migrations(pipeline).go_on(state, columns={"jobs": "embedding"})
        await work_columns(app)
        await app.migrations(pipeline).switch()
    assert await assert_column(app, "embedding_v2", "another") == 5
    assert provider.stats()["inputs_paid"] == paid == 10


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("nowhere", "has no column nowhere"),
        ("title", "cannot hold vectors of 16 dimensions: it is text"),
        ("small", "cannot hold vectors of 16 dimensions: it is vector\\(3\\)"),
        ("embedding", "holds other vectors of embedmill"),
    ],
)
async def test_a_column_that_cannot_hold_the_vectors_is_refused(
    app: App, pipeline: Pipeline, column: str, said: str
) -> None:
    async with user_of(app) as user:
        await user.execute(JOBS)
        await user.execute("ALTER TABLE public.jobs ADD COLUMN small vector(3)")
        generation = await begin(app, pipeline, ANOTHER)
        source = await add_column_source(app, pipeline)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=said):
        await app.database.fetch(
            "SELECT embedmill.set_target_column(%s, %s, %s)", (source, generation, column)
        )
