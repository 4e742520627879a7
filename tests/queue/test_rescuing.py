"""Who is given up, what becomes of what he held, and that crashes are counted apart from failures."""

from __future__ import annotations

from uuid import UUID

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.items import hold_items, rescue_items
from tests.support import audit
from tests.support.queue_rows import claim, enqueue, register_worker


async def test_a_worker_that_beats_keeps_its_items(app: App, pipeline: Pipeline) -> None:
    worker = await register_worker(app.database, beat_seconds_ago=51)
    await enqueue(app.database, pipeline.generation.id, 3)
    await claim(app.database, pipeline.generation.id, worker_id=worker)
    assert await rescue_items(app.database, []) == 0
    assert {row[1] for row in await audit.live_items(app)} == {"processing"}


async def test_a_silence_of_nearly_two_intervals_frees_the_items_and_marks_the_worker(
    app: App, pipeline: Pipeline
) -> None:
    worker = await register_worker(app.database, heartbeat_ms=600, beat_seconds_ago=1.1)
    await enqueue(app.database, pipeline.generation.id, 3)
    items = await claim(app.database, pipeline.generation.id, worker_id=worker)
    assert await rescue_items(app.database, []) == 3
    assert await audit.live_items(app) == [(item.id, "pending", 0, 1) for item in items]
    assert await status_of(app, worker) == "error"
    assert await rescue_items(app.database, []) == 0


async def test_a_worker_known_to_be_dead_is_not_waited_for(app: App, pipeline: Pipeline) -> None:
    dead, alive = await register_worker(app.database), await register_worker(app.database)
    await enqueue(app.database, pipeline.generation.id, 2)
    await claim(app.database, pipeline.generation.id, worker_id=dead, items=1)
    await claim(app.database, pipeline.generation.id, worker_id=alive, items=1)
    assert await rescue_items(app.database, [dead]) == 1
    assert [row[1] for row in await audit.live_items(app)] == ["pending", "processing"]
    assert (await status_of(app, dead), await status_of(app, alive)) == ("error", "active")


async def test_the_hard_deadline_frees_items_of_a_worker_that_hangs_with_its_heart_beating(
    app: App, pipeline: Pipeline
) -> None:
    worker = await register_worker(app.database)
    await enqueue(app.database, pipeline.generation.id, 2)
    await claim(app.database, pipeline.generation.id, worker_id=worker, items=1, lease_seconds=-1)
    await claim(app.database, pipeline.generation.id, worker_id=worker, items=1, lease_seconds=60)
    assert await rescue_items(app.database, []) == 1
    assert await status_of(app, worker) == "active"


async def test_items_of_a_worker_that_signed_off_or_never_signed_on_are_freed(
    app: App, pipeline: Pipeline
) -> None:
    gone = await register_worker(app.database)
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue_workers SET status = 'stopped' WHERE worker_id = %s", (gone,)
    )
    await enqueue(app.database, pipeline.generation.id, 2)
    await claim(app.database, pipeline.generation.id, worker_id=gone, items=1)
    await claim(app.database, pipeline.generation.id, items=1)
    assert await rescue_items(app.database, []) == 2


async def test_the_token_of_a_rescued_item_opens_nothing(app: App, pipeline: Pipeline) -> None:
    await enqueue(app.database, pipeline.generation.id, 1)
    zombie = await claim(app.database, pipeline.generation.id)
    await rescue_items(app.database, [])
    async with app.database.transaction() as connection:
        assert await hold_items(connection, zombie) == set()
    successor = await claim(app.database, pipeline.generation.id)
    async with app.database.transaction() as connection:
        assert await hold_items(connection, zombie) == set()
        assert await hold_items(connection, successor) == {successor[0].id}


async def test_crashes_are_no_failures_and_the_eleventh_is_the_last(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    (item_id,) = await enqueue(app.database, generation, 1)
    for crashes in range(1, 11):
        await claim(app.database, generation)
        assert await rescue_items(app.database, []) == 1
        assert await audit.live_items(app) == [(item_id, "pending", 0, crashes)]
    await claim(app.database, generation)
    await rescue_items(app.database, [])
    assert await audit.live_items(app) == []
    (ended,) = await audit.ended_items(app)
    assert ended[:3] == ("failed", 0, 11)
    assert [letter[0] for letter in await audit.dead_letters(app)] == ["crash"]


async def test_a_rescuer_does_not_wait_for_an_item_that_is_just_being_written(
    app: App, pipeline: Pipeline
) -> None:
    """The write that comes late still holds its row: it is about to end the item, and it may."""
    await enqueue(app.database, pipeline.generation.id, 1)
    items = await claim(app.database, pipeline.generation.id)
    async with app.database.transaction() as connection:
        assert await hold_items(connection, items) == {items[0].id}
        assert await rescue_items(app.database, []) == 0


async def status_of(app: App, worker: UUID) -> str:
    row = await app.database.fetch_one(
        "SELECT status::text FROM embedmill.embedding_queue_workers WHERE worker_id = %s", (worker,)
    )
    assert row is not None
    return str(row[0])
