"""A claim of one item and an exchange of one go by claim_lanes: it follows what it is derived from, at once."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.config import set_value
from tests.support.queue_rows import claim, enqueue
from tests.support.work import stand_in_pipeline

LANES = """
SELECT priority::text, weight, aging_seconds, has_rivals, is_alone, lease_seconds
  FROM embedmill.claim_lanes l WHERE generation_id = %s ORDER BY l.priority
"""
PAUSE = "UPDATE embedmill.pipelines SET paused_at = now() WHERE id = %s"
RESUME = "UPDATE embedmill.pipelines SET paused_at = NULL WHERE id = %s"


async def lanes(app: App, pipeline: Pipeline) -> list[tuple[object, ...]]:
    return await app.database.fetch(LANES, (pipeline.generation.id,))


async def exchange(app: App, worker: UUID, pipeline: Pipeline) -> list[tuple[object, ...]]:
    return await app.database.fetch(
        "SELECT item_id, tenant, pipeline, quota_key, lease_deadline - now() "
        "  FROM embedmill.exchange_embedding_batch(%s, '{}', '{}', 1, %s)",
        (worker, pipeline.name),
    )


async def test_lanes_say_what_the_configuration_says(app: App, pipeline: Pipeline) -> None:
    assert await lanes(app, pipeline) == [
        ("high", 3.0, 60.0, False, True, 600.0),
        ("medium", 2.0, 60.0, False, True, 600.0),
        ("low", 1.0, 60.0, False, True, 600.0),
    ]
    await set_value(app.database, "priority_weights", '{"high": 5, "medium": 4, "low": 3}', actor="test")
    await set_value(app.database, "priority_aging_seconds", "7", actor="test")
    await set_value(app.database, "lease_seconds", "30", actor="test")
    assert await lanes(app, pipeline) == [
        ("high", 5.0, 7.0, False, True, 30.0),
        ("medium", 4.0, 7.0, False, True, 30.0),
        ("low", 3.0, 7.0, False, True, 30.0),
    ]


async def test_lanes_are_kept_whatever_the_planner_knows_of_the_configuration(
    app: App, pipeline: Pipeline
) -> None:
    """Analysed, the configuration is read by a scan of all its keys: none but queue_enabled is read as a boolean."""
    await app.database.fetch("ANALYZE embedmill.embedding_queue_config")
    await app.database.fetch(PAUSE, (pipeline.id,))
    assert await lanes(app, pipeline) == []
    await app.database.fetch(RESUME, (pipeline.id,))
    assert len(await lanes(app, pipeline)) == 3


@pytest.mark.parametrize(
    ("close", "reopen"),
    [
        (PAUSE, RESUME),
        (
            "UPDATE embedmill.embedding_queue_config SET value = 'false' WHERE key = 'queue_enabled' AND %s > 0",
            "UPDATE embedmill.embedding_queue_config SET value = 'true' WHERE key = 'queue_enabled' AND %s > 0",
        ),
    ],
)
async def test_a_closed_lane_gives_nothing_and_an_opened_one_at_once(
    app: App, pipeline: Pipeline, close: str, reopen: str
) -> None:
    worker = uuid4()
    ids = await enqueue(app.database, pipeline.generation.id, 4)
    assert (await exchange(app, worker, pipeline))[0][0] == ids[0]
    await app.database.fetch(close, (pipeline.id,))
    assert await lanes(app, pipeline) == []
    assert await claim(app.database, pipeline.generation.id, items=1) == []
    assert await exchange(app, worker, pipeline) == []
    await app.database.fetch(reopen, (pipeline.id,))
    assert [item.id for item in await claim(app.database, pipeline.generation.id, items=1)] == [ids[1]]
    assert (await exchange(app, worker, pipeline))[0][0] == ids[2]


async def test_a_cap_takes_the_long_way_and_is_exact(app: App, pipeline: Pipeline) -> None:
    await app.database.fetch("UPDATE embedmill.tenants SET max_processing_items = 2")
    assert await lanes(app, pipeline) == []
    await enqueue(app.database, pipeline.generation.id, 9)
    taken = await asyncio.gather(*(claim(app.database, pipeline.generation.id, items=1) for _ in range(6)))
    assert sum(map(len, taken)) == 2
    await app.database.fetch("UPDATE embedmill.tenants SET max_processing_items = NULL")
    assert len(await claim(app.database, pipeline.generation.id, items=1)) == 1


async def test_with_rivals_a_claim_of_one_is_charged(app: App, pipeline: Pipeline) -> None:
    charged = "SELECT sum(tokens) FROM embedmill.queue_changes WHERE status = 'claimed'"
    await enqueue(app.database, pipeline.generation.id, 3, tokens=7)
    await claim(app.database, pipeline.generation.id, items=1)
    assert await app.database.fetch(charged) == [(None,)], "nobody to be fair to"
    await app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('other')")
    assert {(row[3], row[4]) for row in await lanes(app, pipeline)} == {(True, False)}
    await claim(app.database, pipeline.generation.id, items=1)
    assert await app.database.fetch(charged) == [(7,)]
    worker = uuid4()
    await exchange(app, worker, pipeline)
    assert await app.database.fetch(charged) == [(14,)], "an exchange is charged too"
    await app.database.fetch("DELETE FROM embedmill.tenants WHERE slug = 'other'")
    assert {(row[3], row[4]) for row in await lanes(app, pipeline)} == {(False, True)}


async def test_an_exchange_of_one_says_what_any_claim_says(app: App, pipeline: Pipeline) -> None:
    worker = uuid4()
    ids = await enqueue(app.database, pipeline.generation.id, 3)
    rows = [(await exchange(app, worker, pipeline))[0] for _ in ids]  # the first also makes the worker known
    assert [row[0] for row in rows] == ids
    assert {row[1:] for row in rows} == {rows[0][1:]}
    assert await exchange(app, worker, pipeline) == []


async def test_generations_that_go_or_come_change_the_lanes(app: App, pipeline: Pipeline) -> None:
    other = await stand_in_pipeline(app, "http://127.0.0.1:9/v1", "other", dimensions=16)
    assert len(await lanes(app, other)) == 3
    rows = await app.database.fetch(
        "SELECT embedmill.create_generation(p.id, g.spec, 16, 'vector', g.chunk_tokens, g.chunk_overlap, NULL) "
        "  FROM embedmill.pipelines p JOIN embedmill.generations g ON g.pipeline_id = p.id WHERE p.id = %s",
        (other.id,),
    )
    assert {row[4] for row in await lanes(app, other)} == {False}, (
        "two generations: the turn is to be asked for"
    )
    await app.database.fetch("DELETE FROM embedmill.generations WHERE id = %s", (rows[0][0],))
    assert {row[4] for row in await lanes(app, other)} == {True}
    assert {row[4] for row in await lanes(app, pipeline)} == {True}


async def test_two_changes_at_once_are_both_seen(app: App, pipeline: Pipeline) -> None:
    """The second waits for the first, and then looks: else it would write the lanes as it saw them before."""
    await enqueue(app.database, pipeline.generation.id, 1)
    with psycopg.connect(app.database.url) as first:
        first.execute(PAUSE, (pipeline.id,))
        second = asyncio.create_task(set_value(app.database, "priority_aging_seconds", "11", actor="test"))
        waiting = (
            "SELECT count(*) FROM pg_locks WHERE relation = 'embedmill.claim_lanes'::regclass AND NOT granted"
        )
        while await app.database.fetch(waiting) != [(1,)]:
            assert not second.done()
            await asyncio.sleep(0.01)
        first.commit()
        await second
    assert await lanes(app, pipeline) == []
    assert await claim(app.database, pipeline.generation.id, items=1) == []


async def test_a_change_rolled_back_changes_no_lane(app: App, pipeline: Pipeline) -> None:
    before = await lanes(app, pipeline)
    with psycopg.connect(app.database.url) as connection:
        connection.execute(PAUSE, (pipeline.id,))
        connection.rollback()
    assert await lanes(app, pipeline) == before
