"""An audit of a table whose vectors stand in its own column: the story of another system that reported as done what it
never did."""

from __future__ import annotations

import asyncio

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table
from tests.sources.auditing import TABLE, alter, audit, counts, make_table, named
from tests.support.provider import RunningProvider, vector_for
from tests.support.records import work_until_quiet
from tests.support.work import DIMENSIONS

ROWS, EMBEDDED, SAID_DONE = 322, 70, 107


async def inherited_table(app: App, pipeline: Pipeline, *, backfills: bool) -> None:
    """Rows of which some have their vector, and a history that says more."""
    await make_table(app, ROWS)
    alter(app, f"ALTER TABLE public.jobs ADD COLUMN embedding vector({DIMENSIONS})")
    texts = await app.database.fetch(
        "SELECT id, title || E'\\n\\n' || body FROM public.jobs ORDER BY id LIMIT %s", (EMBEDDED,)
    )
    for key, text in texts:
        vector = "[" + ",".join(str(float(x)) for x in vector_for(text, DIMENSIONS)) + "]"
        await app.database.fetch("UPDATE public.jobs SET embedding = %s WHERE id = %s", (vector, key))
    plan = TablePlan("$title\n\n$body", target_column="embedding", adopts=True)
    await add_table(app.database, pipeline, TABLE, plan, backfills=backfills, actor="tester")
    await app.database.fetch(
        "INSERT INTO embedmill.embedding_queue_history"
        "  (id, tenant_id, generation_id, part, status, priority, operation, retry_count, max_retries, crash_count,"
        "   estimated_tokens, actual_tokens, vector_count, created_at, processing_completed_at, source_type,"
        "   source_id, metadata)"
        " SELECT nextval(pg_get_serial_sequence('embedmill.embedding_queue', 'id')), %s, %s, 0, 'completed', 'medium',"
        "        'INSERT', 0, 3, 0, 0, 0, 1, now(), now(), 'public.jobs', n::text, '{}'"
        "   FROM generate_series(1, %s::integer) AS n",
        (pipeline.tenant_id, pipeline.generation.id, SAID_DONE),
    )


async def test_false_completions_are_named_exactly_and_repaired(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await inherited_table(app, pipeline, backfills=True)
    record = await audit(app)
    assert counts(record) == {"done_but_no_vector": SAID_DONE - EMBEDDED}, "the rest is the backfill's"
    assert named(record, "done_but_no_vector") <= {str(n) for n in range(EMBEDDED + 1, SAID_DONE + 1)}
    await audit(app, mends="all")
    assert counts(await audit(app)) == {}, "they wait to be read"
    await work_until_quiet(app)
    await settled(app)
    assert counts(await audit(app)) == {}
    assert await app.database.fetch("SELECT count(*), count(embedding) FROM public.jobs") == [(ROWS, ROWS)]
    assert provider.stats()["inputs_paid"] == ROWS - EMBEDDED, "what stood there is believed"


async def test_a_column_that_lost_its_vector_is_filled_again(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await inherited_table(app, pipeline, backfills=True)
    await work_until_quiet(app)
    await settled(app)
    provider.forget_counts()
    await app.database.fetch("UPDATE public.jobs SET embedding = NULL WHERE id IN (5, 200)")
    record = await audit(app)
    assert counts(record) == {"done_but_no_vector": 2}
    assert named(record, "done_but_no_vector") == {"5", "200"}
    await audit(app, mends="all")
    await work_until_quiet(app)
    await settled(app)
    assert counts(await audit(app)) == {}
    assert provider.stats()["inputs_paid"] == 2
    assert await app.database.fetch("SELECT count(embedding) FROM public.jobs") == [(ROWS,)]


async def settled(app: App) -> None:
    """Until no vector waits to be brought into its column; beside the worker, whose companion does it."""
    writer = app.column_writer()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(writer.run())
        while await app.database.fetch("SELECT key FROM embedmill.column_debts LIMIT 1"):
            await asyncio.sleep(0.02)
        writer.stop()


async def test_rows_that_were_never_read_are_walked_and_their_vectors_believed(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await inherited_table(app, pipeline, backfills=False)
    assert counts(await audit(app)) == {
        "done_but_no_vector": SAID_DONE - EMBEDDED,
        "source_never_queued": ROWS - (SAID_DONE - EMBEDDED),
    }
    await audit(app, mends="all")
    await work_until_quiet(app)
    await settled(app)
    assert counts(await audit(app)) == {}
    assert provider.stats()["inputs_paid"] == ROWS - EMBEDDED, "what stood there is believed"
