"""Counts that nobody waits for are true all the same: under any interleaving, while they are folded, and after
days were dropped. Sweeps happen once."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.config import set_value
from embedmill.queue.items import Return, Waiting, complete_items, hold_items, return_items
from tests.support.queue_rows import claim, enqueue

FAILED = Return(Waiting.PENDING, 4, 0, "test", "a reason")


# In the order in which all others lock items.
DELETE_SOME = """
WITH locked AS MATERIALIZED (SELECT id FROM embedmill.embedding_queue WHERE id % 7 = 0 ORDER BY id FOR UPDATE)
DELETE FROM embedmill.embedding_queue q USING locked l WHERE q.id = l.id
"""


async def counted(app: App) -> tuple[int, ...]:
    row = await app.database.fetch_one("SELECT * FROM embedmill.count_embedding_jobs(1)")
    assert row is not None
    return tuple(row)


async def recounted(app: App) -> tuple[int, ...]:
    row = await app.database.fetch_one(
        "SELECT count(*) FILTER (WHERE status IN ('pending', 'rate_limited')), "
        "       count(*) FILTER (WHERE status = 'processing'), count(*) FILTER (WHERE status = 'completed'), "
        "       count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'cancelled') "
        "  FROM embedmill.embedding_jobs WHERE tenant_id = 1"
    )
    assert row is not None
    return tuple(row)


async def complete(app: App, generation: int, most: int) -> None:
    items = await claim(app.database, generation, items=most)
    async with app.database.transaction() as connection:
        await hold_items(connection, items)
        await complete_items(connection, generation, [item.id for item in items])


async def test_counts_are_true_while_eight_work_and_three_fold(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    await enqueue(app.database, generation, 200)

    async def live(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            act = chance.choice(["enqueue", "complete", "fail", "cancel", "roll back"])
            if act == "enqueue":
                await enqueue(app.database, generation, chance.randint(1, 9))
            elif act == "complete":
                await complete(app, generation, 5)
            elif act == "fail":
                await return_items(app.database, await claim(app.database, generation, items=3), FAILED)
            elif act == "cancel":
                await app.database.fetch(
                    "SELECT embedmill.cancel_items(ARRAY(SELECT id FROM embedmill.embedding_queue "
                    "                                     ORDER BY random() LIMIT 4), 'no')"
                )
            else:
                async with (
                    app.database.connection() as connection,
                    connection.transaction(force_rollback=True),
                ):
                    await connection.execute(DELETE_SOME)

    async def fold() -> None:
        for _ in range(25):
            await app.database.fetch("SELECT embedmill.fold_queue_changes()")
            # One statement sees one moment: it never counts a change twice, nor misses one.
            row = await app.database.fetch_one(
                "SELECT (SELECT c.pending + c.processing FROM embedmill.count_embedding_jobs(1) c) "
                "     = (SELECT count(*) FROM embedmill.embedding_queue)"
            )
            assert row == (True,)

    await asyncio.gather(*(live(seed) for seed in range(8)), *(fold() for _ in range(3)))
    truth = await recounted(app)
    assert await counted(app) == truth
    while (await app.database.fetch("SELECT embedmill.fold_queue_changes()"))[0][0]:
        pass
    assert await app.database.fetch("SELECT count(*) FROM embedmill.queue_changes") == [(0,)]
    assert await counted(app) == truth
    assert min(truth[2:]) > 0, "each kind of end happened"


async def test_folding_many_changes_goes_in_portions(app: App, pipeline: Pipeline) -> None:
    await app.database.fetch(
        "INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items) "
        "SELECT 1, %s, 'live', 1 FROM generate_series(1, 120000)",
        (pipeline.generation.id,),
    )
    folded = [(await app.database.fetch("SELECT embedmill.fold_queue_changes()"))[0][0] for _ in range(3)]
    assert folded == [100_000, 20_000, 0]
    assert (await counted(app))[0] == 120_000


async def test_cancel_racing_completion_ends_each_item_once(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    for _ in range(15):
        ids = await enqueue(app.database, generation, 6)
        items = await claim(app.database, generation)

        async def finish(some: list[int]) -> None:
            async with app.database.transaction() as connection:
                held = await hold_items(connection, [item for item in items if item.id in some])  # noqa: B023
                await complete_items(connection, generation, sorted(held))

        await asyncio.gather(
            finish(ids[:4]),
            app.database.fetch("SELECT embedmill.cancel_items(%s, 'no')", (ids[::-1],)),
            finish(ids[2:]),
        )
        assert await app.database.fetch("SELECT id FROM embedmill.embedding_queue") == []
    ended = await app.database.fetch("SELECT id, count(*) FROM embedmill.embedding_queue_history GROUP BY id")
    assert len(ended) == 90
    assert {row[1] for row in ended} == {1}
    assert await counted(app) == await recounted(app)


async def test_past_the_retention_days_are_dropped_and_the_counts_follow(
    app: App, pipeline: Pipeline
) -> None:
    generation = pipeline.generation.id
    await enqueue(app.database, generation, 6)
    await complete(app, generation, 6)
    today = datetime.now(UTC).date()
    old, kept = today - timedelta(days=8), today - timedelta(days=7)
    for day in (old, kept):
        await app.database.fetch(
            f"CREATE TABLE embedmill.embedding_queue_history_{day:%Y%m%d} "  # type: ignore[arg-type]
            "PARTITION OF embedmill.embedding_queue_history "
            f"FOR VALUES FROM ('{day} 00:00+00') TO ('{day + timedelta(days=1)} 00:00+00')"
        )
    # Two items ended a long time ago, before there were partitions; two on each of those days.
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue_history SET processing_completed_at = processing_completed_at "
        "       - make_interval(days => (ARRAY[100, 8, 7])[id % 3 + 1])"
    )
    await app.database.fetch("DELETE FROM embedmill.queue_changes WHERE status = 'completed'")
    await app.database.fetch(
        "INSERT INTO embedmill.queue_changes (tenant_id, generation_id, day, status, items) "
        "SELECT 1, generation_id, (processing_completed_at AT TIME ZONE 'UTC')::date, 'completed', count(*) "
        "  FROM embedmill.embedding_queue_history GROUP BY 1, 2, 3"
    )
    assert await counted(app) == await recounted(app) == (0, 0, 6, 0, 0)
    await app.database.fetch("SELECT embedmill.fold_queue_changes()")
    await set_value(app.database, "history_retention_days", "7", actor="test")
    assert await app.database.fetch("SELECT embedmill.clean_up()") == [
        ("1 days of history and 0 workers dropped",)
    ]
    assert await counted(app) == await recounted(app) == (0, 0, 2, 0, 0)


async def test_a_long_read_of_the_history_holds_up_no_completion_for_a_new_day(
    app: App, pipeline: Pipeline
) -> None:
    """Making and dropping days needs a lock that a reader denies: given up soon, tried again the next time."""
    generation = pipeline.generation.id
    await app.database.fetch(
        f"DROP TABLE IF EXISTS embedmill.embedding_queue_history_{datetime.now(UTC).date() + timedelta(days=7):%Y%m%d}"  # type: ignore[arg-type]
    )
    async with app.database.transaction() as reader:
        await reader.execute("SELECT count(*) FROM embedmill.embedding_queue_history")
        async with asyncio.timeout(30):
            assert await app.database.fetch("SELECT embedmill.ensure_history_partitions()") == [(0,)]
            await app.database.fetch("SELECT embedmill.clean_up()")
            await enqueue(app.database, generation, 1)
            await complete(app, generation, 1)
    assert await app.database.fetch("SELECT embedmill.ensure_history_partitions()") == [(1,)]


async def lead(app: App, worker: UUID, seconds: float) -> int | None:
    row = await app.database.fetch_one("SELECT embedmill.lead_sweeps(%s, %s)", (worker, seconds))
    return row[0] if row else None


async def test_two_leaders_at_once_run_each_tick_once(app: App) -> None:
    first, second = uuid4(), uuid4()
    term = await lead(app, first, -1)  # its lead has run out, and it does not know
    later = await lead(app, second, 60)
    assert term is not None
    assert later == term + 1
    answers = await asyncio.gather(
        *(
            app.database.fetch("SELECT embedmill.run_sweep('fold_counts', 3600, %s, %s)", (worker, led))
            for worker, led in [(first, term), (second, later)] * 5
        )
    )
    assert sorted(str(answer[0][0]) for answer in answers) == ["0 changes"] + ["None"] * 9
    assert await app.database.fetch("SELECT worker_id FROM embedmill.sweeps") == [(second,)]


async def test_a_leader_that_dies_at_its_task_leaves_the_tick_to_the_next(app: App) -> None:
    first, second = uuid4(), uuid4()
    term = await lead(app, first, -1)
    dying = await psycopg.AsyncConnection.connect(app.database.url)
    await dying.execute("SELECT embedmill.run_sweep('clean_up', 3600, %s, %s)", (first, term))
    takeover = asyncio.ensure_future(lead(app, second, 60))
    await dying.close()  # killed before its commit
    later = await asyncio.wait_for(takeover, 30)
    done = await app.database.fetch("SELECT embedmill.run_sweep('clean_up', 3600, %s, %s)", (second, later))
    assert done == [("0 days of history and 0 workers dropped",)]
    assert await app.database.fetch("SELECT worker_id, term FROM embedmill.sweeps") == [(second, later)]
