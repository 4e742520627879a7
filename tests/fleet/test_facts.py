"""What the fleet sees: only what a process of its own could claim now, by index, whatever the statistics say."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest

from embedmill.app import App
from embedmill.core.scaling import FleetFacts, ReadyWork
from embedmill.database.pipelines import Pipeline, find_pipeline
from embedmill.fleet.facts import ENOUGH_ITEMS, read_facts
from tests.fleet.scenes import configure
from tests.support.queue_rows import claim, enqueue, grow_older, register_worker

HOST = "here"
BACKLOG = """
INSERT INTO embedmill.embedding_queue (tenant_id, generation_id, priority, available_at, source_type, source_id)
SELECT 1, %s, (ARRAY['high', 'medium', 'low'])[n %% 3 + 1]::embedmill.queue_priority,
       now() - n * interval '1 ms', 'test', n::text
  FROM generate_series(1, 20000) AS n
"""


async def look(app: App, *pids: int) -> FleetFacts:
    return await read_facts(app.database, HOST, pids, failing=0)


async def only_work(app: App) -> ReadyWork:
    (work,) = (await look(app)).ready
    return work


async def test_nothing_waits_and_nobody_works(app: App, pipeline: Pipeline) -> None:
    assert await look(app, 1, 2) == FleetFacts()
    await enqueue(app.database, pipeline.generation.id, 3, available_in=3600)  # a backoff, a rate limit
    assert await look(app) == FleetFacts()


async def test_the_oldest_of_all_lanes_counts_and_what_is_ahead_does_not(
    app: App, pipeline: Pipeline
) -> None:
    generation = pipeline.generation.id
    await enqueue(app.database, generation, 5, priority="high")
    old = await enqueue(app.database, generation, 2, priority="low")
    await enqueue(app.database, generation, 7, available_in=3600)
    await grow_older(app.database, 40, old)
    work = await only_work(app)
    assert (work.quota_key, work.items, work.is_local, work.quota_binds) == (
        pipeline.quota_key,
        7,
        False,
        False,
    )
    assert 40 <= work.oldest_seconds < 60


async def test_items_are_counted_up_to_a_bound(app: App, pipeline: Pipeline) -> None:
    await enqueue(app.database, pipeline.generation.id, 3 * ENOUGH_ITEMS)
    assert (await only_work(app)).items == ENOUGH_ITEMS


async def test_local_work_is_told_apart(app: App, pipeline: Pipeline) -> None:
    local = await find_pipeline(app.database, 1, "default")
    await enqueue(app.database, local.generation.id, 1)
    await enqueue(app.database, pipeline.generation.id, 1)
    assert {work.quota_key: work.is_local for work in (await look(app)).ready} == {
        local.quota_key: True,
        pipeline.quota_key: False,
    }


async def test_a_key_that_cools_down_or_has_spent_its_minute_binds(app: App, pipeline: Pipeline) -> None:
    await enqueue(app.database, pipeline.generation.id, 1)
    await app.database.fetch("SELECT embedmill.cool_down(%s, 60000)", (pipeline.quota_key,))
    assert (await only_work(app)).quota_binds
    await app.database.fetch(
        "UPDATE embedmill.quotas SET cooldown_until = '-infinity', calls_per_minute = 1 WHERE quota_key = %s",
        (pipeline.quota_key,),
    )
    await app.database.fetch("SELECT embedmill.grant_quota(%s, 10)", (pipeline.quota_key,))
    assert (await only_work(app)).quota_binds


@pytest.mark.parametrize(
    "obstacle",
    [
        "UPDATE embedmill.pipelines SET paused_at = now() WHERE id = %(pipeline)s",
        "SELECT embedmill.set_config_value('queue_enabled', 'false')",
        "UPDATE embedmill.tenants SET max_processing_items = 2 WHERE id = %(tenant)s",
        "UPDATE embedmill.embedding_queue_workers SET troubles = jsonb_build_object(%(generation)s::text, 'no key') "
        " WHERE pid = 7",
    ],
    ids=["paused", "queue off", "tenant at its cap", "left alone by one of ours"],
)
async def test_what_none_of_ours_could_claim_does_not_wait(
    app: App, pipeline: Pipeline, obstacle: str
) -> None:
    generation = pipeline.generation.id
    await register_worker(app.database, host_id=HOST, pid=7)
    await enqueue(app.database, generation, 10)
    await claim(app.database, generation, items=2)
    assert (await look(app, 7)).ready[0].items == 8
    parameters = {"pipeline": pipeline.id, "tenant": pipeline.tenant_id, "generation": str(generation)}
    await app.database.fetch(obstacle.encode(), parameters)
    assert (await look(app, 7)).ready == ()


async def test_busy_are_those_of_our_own_that_hold_items(app: App, pipeline: Pipeline) -> None:
    ours = [await register_worker(app.database, host_id=HOST, pid=pid) for pid in (7, 8)]
    await register_worker(app.database, host_id=HOST, pid=9)
    elsewhere = await register_worker(app.database, host_id="elsewhere", pid=7)
    await enqueue(app.database, pipeline.generation.id, 5)
    for worker_id in (*ours, elsewhere):
        await claim(app.database, pipeline.generation.id, worker_id=worker_id, items=1)
    assert (await look(app, 7, 8, 9)).busy == 2
    assert (await look(app, 8)).busy == 1
    await app.database.fetch("UPDATE embedmill.embedding_queue_workers SET status = 'error' WHERE pid = 8")
    assert (await look(app, 7, 8, 9)).busy == 1


async def test_a_look_reads_by_index_whatever_the_statistics_say(app: App, pipeline: Pipeline) -> None:
    await configure(app, max_concurrent_workers=8)
    await app.database.fetch("UPDATE embedmill.tenants SET max_processing_items = 1000")
    mine = await register_worker(app.database, host_id=HOST, pid=7)
    with psycopg.connect(app.database.url, autocommit=True) as connection:
        connection.execute("ALTER TABLE embedmill.embedding_queue SET (autovacuum_enabled = off)")
        connection.execute(BACKLOG, (pipeline.generation.id,))
    await claim(app.database, pipeline.generation.id, worker_id=mine, items=50)
    await assert_by_index(app, "never analysed")
    await set_all(app, "processing", mine)
    await app.database.fetch("ANALYZE")
    await set_all(app, "pending", None)
    await assert_by_index(app, "stale")
    await app.database.fetch("ANALYZE")
    await assert_by_index(app, "fresh")


async def set_all(app: App, status: str, worker_id: UUID | None) -> None:
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue SET status = %s::embedmill.queue_status, worker_id = %s, lease_token = %s",
        (status, worker_id, None if worker_id is None else 1),
    )


SEEN = """
SELECT coalesce(sum(seq_scan), 0)::bigint, coalesce(sum(idx_tup_fetch), 0)::bigint
  FROM pg_stat_xact_user_tables WHERE relname = 'embedding_queue'
"""


async def assert_by_index(app: App, statistics: str) -> None:
    """On what the statement really did: the server's counts of this session, before and after."""
    from embedmill.database.queries import load_queries

    queries = load_queries("embedmill.fleet", "fleet.sql")
    async with app.database.transaction() as connection:
        await connection.execute(queries["by_index"])
        before = await (await connection.execute(SEEN)).fetchone()
        parameters = {"host_id": HOST, "pids": [7], "enough": ENOUGH_ITEMS}
        rows = await (await connection.execute(queries["fleet_facts"], parameters)).fetchall()
        assert rows[0][2] == 3 * ENOUGH_ITEMS
        after = await (await connection.execute(SEEN)).fetchone()
    assert before is not None
    assert after is not None
    scans, fetched = (after[0] - before[0], after[1] - before[1])
    assert scans == 0, f"the queue is scanned (statistics: {statistics})"
    assert fetched <= 3 * ENOUGH_ITEMS + 1100, f"too much of the queue is read ({statistics}): {fetched}"
