"""What a lease token opens: held, completed, given back with the current one; nothing with any other."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import msgspec

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.items import (
    Item,
    Return,
    Waiting,
    complete_items,
    hold_items,
    live_items,
    return_items,
    return_strays,
)
from tests.support import audit
from tests.support.queue_rows import claim, enqueue, grow_older

STOPPED = Return(Waiting.PENDING, 0, 0, "stopped", None)
FAILED = Return(Waiting.PENDING, 1, 5_000, "provider_unavailable", "answered 503")
LIMITED = Return(Waiting.RATE_LIMITED, 0, 7_000, "rate_limited", "answered 429")


def stale(item: Item) -> Item:
    return msgspec.structs.replace(item, lease_token=item.lease_token - 1)


async def test_only_the_current_token_holds_an_item(app: App, pipeline: Pipeline) -> None:
    await enqueue(app.database, pipeline.generation.id, 3)
    first, second, third = await claim(app.database, pipeline.generation.id)
    async with app.database.transaction() as connection:
        assert await hold_items(connection, [first, stale(second)]) == {first.id}
        # A token opens its own item and no other.
        swapped = msgspec.structs.replace(third, lease_token=first.lease_token)
        assert await hold_items(connection, [first, swapped]) == {first.id}


async def test_a_token_of_an_earlier_claim_completes_and_returns_nothing(
    app: App, pipeline: Pipeline
) -> None:
    generation = pipeline.generation.id
    await enqueue(app.database, generation, 1)
    (old,) = await claim(app.database, generation)
    await return_items(app.database, [old], STOPPED)
    (new,) = await claim(app.database, generation)
    assert new.id == old.id
    assert await return_items(app.database, [old], FAILED) == set()
    async with app.database.transaction() as connection:
        assert await hold_items(connection, [old]) == set()
        assert await hold_items(connection, [new]) == {new.id}
    assert await audit.live_items(app) == [(new.id, "processing", 0, 0)]


async def test_an_item_that_waits_again_is_held_by_nobody(app: App, pipeline: Pipeline) -> None:
    await enqueue(app.database, pipeline.generation.id, 1)
    items = await claim(app.database, pipeline.generation.id)
    await return_items(app.database, items, STOPPED)
    async with app.database.transaction() as connection:
        assert await hold_items(connection, items) == set()


async def test_two_transactions_that_hold_the_same_items_in_another_order_do_not_deadlock(
    app: App, pipeline: Pipeline
) -> None:
    await enqueue(app.database, pipeline.generation.id, 50)
    items = await claim(app.database, pipeline.generation.id)

    async def hold(order: list[Item]) -> int:
        async with app.database.transaction() as connection:
            return len(await hold_items(connection, order))

    shares = await asyncio.gather(*(hold(items if n % 2 else items[::-1]) for n in range(20)))
    assert shares == [50] * 20


async def test_a_completed_item_moves_to_the_history_with_its_story(app: App, pipeline: Pipeline) -> None:
    worker = uuid4()
    await enqueue(app.database, pipeline.generation.id, 2, priority="low", tokens=11)
    first, second = await claim(app.database, pipeline.generation.id, worker_id=worker)
    async with app.database.transaction() as connection:
        assert await complete_items(connection, pipeline.generation.id, [first.id]) == {first.id}
    assert await live_items(app.database) == 1
    rows = await app.database.fetch(
        "SELECT id, status::text, priority::text, estimated_tokens, worker_id, vector_count, "
        "       processing_completed_at >= processing_started_at FROM embedmill.embedding_jobs ORDER BY id"
    )
    assert rows == [
        (first.id, "completed", "low", 11, worker, 0, True),
        (second.id, "processing", "low", 11, worker, None, None),
    ]


async def test_a_failed_attempt_is_counted_and_waits_its_delay(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    await enqueue(app.database, generation, 1)
    (item,) = await claim(app.database, generation)
    assert await return_items(app.database, [item], FAILED) == set()
    assert await audit.live_items(app) == [(item.id, "pending", 1, 0)]
    await grow_older(app.database, 4)
    assert await claim(app.database, generation) == []
    await grow_older(app.database, 1.1)
    assert [again.retry_count for again in await claim(app.database, generation)] == [1]


async def test_a_rate_limit_costs_no_attempt_however_often(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    await enqueue(app.database, generation, 1)
    for _ in range(20):
        (item,) = await claim(app.database, generation)
        assert await return_items(app.database, [item], LIMITED) == set()
        assert await audit.live_items(app) == [(item.id, "rate_limited", 0, 0)]
        assert await claim(app.database, generation) == []
        await grow_older(app.database, 7.1)


async def test_a_stop_gives_items_back_at_their_old_place(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    early = await enqueue(app.database, generation, 3, available_in=-60)
    await enqueue(app.database, generation, 3)
    taken = await claim(app.database, generation, items=3)
    await return_items(app.database, taken, STOPPED)
    assert [item.id for item in await claim(app.database, generation, items=3)] == early


async def test_attempts_used_up_end_as_failed_with_a_dead_letter_that_says_why(
    app: App, pipeline: Pipeline
) -> None:
    generation = pipeline.generation.id
    await enqueue(app.database, generation, 2)
    last: set[int] = set()
    for attempt in range(4):
        items = await claim(app.database, generation)
        assert [item.retry_count for item in items] == [attempt] * 2
        last = await return_items(app.database, items, FAILED)
        await grow_older(app.database, 6)
    assert last == {item.id for item in items}
    assert await audit.live_items(app) == []
    assert await audit.ended_items(app) == [("failed", 4, 0, "answered 503")] * 2
    assert await audit.dead_letters(app) == [("provider_unavailable", None, "answered 503")] * 2
    assert await claim(app.database, generation) == []


async def test_nothing_to_give_back_is_no_error(app: App) -> None:
    assert await return_items(app.database, [], STOPPED) == set()


async def test_what_a_worker_does_not_know_it_holds_goes_back(app: App, pipeline: Pipeline) -> None:
    """The claim was committed, its answer was lost on the way."""
    generation, worker = pipeline.generation.id, uuid4()
    await enqueue(app.database, generation, 4)
    mine = await claim(app.database, generation, worker_id=worker, items=3)
    (theirs,) = await claim(app.database, generation)
    await return_strays(app.database, worker, generation, [mine[0].id])
    statuses = {row[0]: row[1] for row in await audit.live_items(app)}
    assert statuses == {
        mine[0].id: "processing",
        mine[1].id: "pending",
        mine[2].id: "pending",
        theirs.id: "processing",
    }
