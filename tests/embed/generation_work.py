"""Migrations for tests: begun, carried out by a worker with its builder, and read back independently. Asserts only what
`assert_current` says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import numpy as np
from psycopg import sql

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import vectors_table
from embedmill.embed.building import GenerationBuilder
from embedmill.embed.generation_states import GenerationState, Stage
from embedmill.embed.next_spec import Changes
from embedmill.worker.loop import Worker, WorkerOptions
from tests.support.provider import vector_for


@asynccontextmanager
async def working(app: App, *, window: int = 50) -> AsyncIterator[Worker]:
    """A worker that also builds, for as long as the block lasts."""
    worker = Worker(
        app.database,
        app.provider,
        WorkerOptions(idle_seconds=0.02),
        companions=lambda _: [
            GenerationBuilder(app.database, app.cutter(), poll_seconds=0.05, window=window)
        ],
    )
    running = asyncio.create_task(worker.run())
    try:
        yield worker
        assert not running.done(), "the worker ended by itself"
    finally:
        worker.stop()
        await running


async def begin(
    app: App,
    pipeline: Pipeline,
    changes: Changes,
    *,
    price: Decimal | None = None,
    budget: Decimal | None = None,
) -> int:
    """The id of the next generation, whose build begins."""
    wanted = await app.next_generation(pipeline, changes, price_per_million_tokens=price, budget_usd=budget)
    return await app.migrations(pipeline).start(wanted)


async def until(app: App, pipeline: Pipeline, generation_id: int, stage: Stage) -> GenerationState:
    """The generation, once it is there."""
    async with asyncio.timeout(60):
        while (state := await app.migrations(pipeline).state(generation_id)).stage is not stage:
            await asyncio.sleep(0.02)
    return state


async def until_quiet(app: App) -> None:
    """Until nothing waits, neither to be cut nor to be embedded."""
    query = (
        "SELECT EXISTS (SELECT FROM embedmill.embedding_queue) OR EXISTS (SELECT FROM embedmill.stale_cuts)"
    )
    async with asyncio.timeout(60):
        while (await app.database.fetch(query))[0][0]:
            await asyncio.sleep(0.02)


async def assert_current(app: App, pipeline: Pipeline) -> None:
    """Every chunk of every generation has the vector of its text by its model, no vector is without its chunk, every
    document is cut by each plan, and the counters say the same."""
    for state in await app.migrations(pipeline).states():
        vectors = vectors_table(state.id)
        rows = await app.database.fetch(
            sql.SQL(
                "SELECT c.text, v.embedding::text FROM embedmill.knowledge_chunks c "
                "  LEFT JOIN {} v ON v.chunk_id = c.id WHERE c.pipeline_id = %s AND c.chunk_set = %s"
            ).format(vectors),
            (pipeline.id, state.chunk_set),
        )
        for text, written in rows:
            assert written is not None, f"generation {state.number}: {text!r} has no vector"
            vector = np.array([float(x) for x in written[1:-1].split(",")], np.float32)
            expected = vector_for(text, state.dimensions, state.spec.model)
            assert np.allclose(vector, expected, atol=2e-3), (
                f"generation {state.number}: {text!r} has another's"
            )
        (count,) = await app.database.fetch(sql.SQL("SELECT count(*) FROM {}").format(vectors))
        assert count[0] == len(rows), f"generation {state.number}: vectors without a chunk"
        assert (state.chunks, state.embedded, state.unembeddable) == (len(rows), len(rows), 0)
        uncut = await app.database.fetch(
            "SELECT d.source_id FROM embedmill.knowledge_documents d WHERE d.pipeline_id = %s AND d.chunk_count > 0 "
            "AND NOT EXISTS (SELECT FROM embedmill.knowledge_chunks c WHERE c.document_id = d.id AND c.chunk_set = %s)",
            (pipeline.id, state.chunk_set),
        )
        assert uncut == [], f"generation {state.number}: documents without chunks"
        misplaced = await app.database.fetch(
            "SELECT c.id FROM embedmill.knowledge_chunks c "
            "  JOIN embedmill.knowledge_document_texts t USING (document_id) "
            " WHERE c.pipeline_id = %s AND c.chunk_set = %s "
            "   AND substr(t.text, c.start_offset + 1, c.end_offset - c.start_offset) <> c.text",
            (pipeline.id, state.chunk_set),
        )
        assert misplaced == [], f"generation {state.number}: chunks of an older text"
