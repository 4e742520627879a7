"""Which items a claim takes, in what order, how many, and that no two claims take the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.config import set_value
from embedmill.queue.items import Return, Waiting, ready_generations, return_items
from tests.support.queue_rows import claim, enqueue, grow_older
from tests.support.work import stand_in_pipeline

GIVE_BACK = Return(Waiting.PENDING, 0, 0, "stopped", None)


async def test_higher_priority_goes_first_and_within_one_the_older(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    low = await enqueue(app.database, generation, 3, priority="low")
    medium = await enqueue(app.database, generation, 3, priority="medium")
    high = await enqueue(app.database, generation, 3, priority="high")
    order = [(await claim(app.database, generation, items=1))[0].id for _ in range(9)]
    assert order == high + medium + low


async def test_waiting_outweighs_priority_in_the_end(app: App, pipeline: Pipeline) -> None:
    """A weight grows once more for each minute waited: low x 22, medium x 2 x 2, high x 3 x 1."""
    generation = pipeline.generation.id
    low = await enqueue(app.database, generation, 1, priority="low", available_in=-21 * 60)
    medium = await enqueue(app.database, generation, 1, priority="medium", available_in=-1 * 60)
    high = await enqueue(app.database, generation, 1, priority="high")
    order = [(await claim(app.database, generation, items=1))[0].id for _ in range(3)]
    assert order == low + medium + high


async def test_where_all_wait_a_claim_is_shared_by_the_weights_and_a_change_takes_effect_at_once(
    app: App, pipeline: Pipeline
) -> None:
    generation = pipeline.generation.id
    lane = {
        item: priority
        for priority in ("high", "medium", "low")
        for item in await enqueue(app.database, generation, 300, priority=priority, available_in=-0.01)
    }

    async def shares() -> Counter[str]:
        return Counter(lane[item.id] for item in await claim(app.database, generation, items=60))

    assert await shares() == {"high": 30, "medium": 20, "low": 10}
    await set_value(app.database, "priority_weights", '{"high": 1, "medium": 1, "low": 4}', actor="test")
    assert await shares() == {"high": 10, "medium": 10, "low": 40}


@pytest.mark.parametrize("taken_at_once", [1, 20])
async def test_low_priority_ends_under_a_nine_to_one_flood_of_high(
    app: App, pipeline: Pipeline, taken_at_once: int
) -> None:
    """Each minute 60 items come, 54 of them high, and a fleet that is two minutes behind does 60: a low item
    waits longer, about three times as long as a high one, but no longer than that."""
    generation, database = pipeline.generation.id, app.database
    await enqueue(database, generation, 120, priority="high")
    low: list[set[int]] = []
    done: set[int] = set()
    for _minute in range(16):
        await enqueue(database, generation, 54, priority="high")
        low.append(set(await enqueue(database, generation, 6, priority="low")))
        for _ in range(60 // taken_at_once):
            done.update(item.id for item in await claim(database, generation, items=taken_at_once))
        await grow_older(database, 60)
    waiting = [minute for minute, items in enumerate(low) if items - done]
    assert min(waiting, default=16) >= 16 - 8, f"low items of the minutes {waiting} of 16 still wait"
    left = {item.id for item in await claim(database, generation)}
    assert len(left) >= 100, "the flood was over: nothing was shown"


async def test_a_claim_stops_at_its_bounds_but_always_takes_one(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    await enqueue(app.database, generation, 20, chunks=3, tokens=30)
    assert len(await claim(app.database, generation, chunks=10)) == 4
    assert len(await claim(app.database, generation, tokens=61)) == 3
    assert len(await claim(app.database, generation, items=5)) == 5
    assert len(await claim(app.database, generation, chunks=1, tokens=1, items=1)) == 1
    await enqueue(app.database, generation, 2, priority="high", chunks=500, tokens=100_000)
    assert len(await claim(app.database, generation, chunks=100, tokens=5_000)) == 1


async def test_bounds_hold_across_the_lanes_together(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    for priority in ("high", "medium", "low"):
        await enqueue(app.database, generation, 4, priority=priority, chunks=5)
    taken = await claim(app.database, generation, chunks=30)
    assert len(taken) == 6


async def test_eight_claimers_at_once_share_the_items_without_overlap(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    expected = []
    for priority in ("high", "medium", "low"):
        expected += await enqueue(app.database, generation, 140, priority=priority)

    async def claim_until_nothing_is_left() -> list[tuple[int, int]]:
        mine = []
        while taken := await claim(app.database, generation, items=7):
            mine += [(item.id, item.lease_token) for item in taken]
        return mine

    shares = await asyncio.gather(*(claim_until_nothing_is_left() for _ in range(8)))
    taken = [item for share in shares for item in share]
    assert sorted(item_id for item_id, _ in taken) == sorted(expected)
    assert len({token for _, token in taken}) == len(taken)


async def test_a_claimer_that_has_not_committed_yet_holds_up_nobody(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    everything = await enqueue(app.database, generation, 10)
    async with app.database.transaction() as connection:
        cursor = await connection.execute(
            "SELECT id FROM embedmill.claim_items(%s, %s, 5, 100, 1000, 60)", (uuid4(), generation)
        )
        theirs = {row[0] for row in await cursor.fetchall()}
        async with asyncio.timeout(5):
            ours = {item.id for item in await claim(app.database, generation, items=5)}
    assert len(theirs) == len(ours) == 5
    assert theirs | ours == set(everything)


async def test_what_is_not_due_yet_is_not_claimed(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    later = await enqueue(app.database, generation, 3, available_in=30)
    assert await claim(app.database, generation) == []
    assert await ready_generations(app.database) == []
    await grow_older(app.database, 31, later[:1])
    assert await ready_generations(app.database) == [generation]
    assert [item.id for item in await claim(app.database, generation)] == later[:1]


async def test_a_claim_keeps_to_its_generation(app: App, pipeline: Pipeline) -> None:
    other = await stand_in_pipeline(app, "http://127.0.0.1:9/v1", "other", dimensions=16)
    await enqueue(app.database, pipeline.generation.id, 2)
    (theirs,) = await enqueue(app.database, other.generation.id, 1)
    assert [item.id for item in await claim(app.database, other.generation.id)] == [theirs]
    assert await ready_generations(app.database) == [pipeline.generation.id]


async def test_a_lease_token_is_never_given_twice(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    await enqueue(app.database, generation, 5)
    tokens: list[int] = []
    for _ in range(6):
        items = await claim(app.database, generation)
        tokens += [item.lease_token for item in items]
        await return_items(app.database, items, GIVE_BACK)
    assert len(tokens) == 30
    assert len(set(tokens)) == 30


async def test_a_claim_that_was_rolled_back_leaves_its_tokens_unused(app: App, pipeline: Pipeline) -> None:
    """A worker that lost its connection at the commit may still hold the answer in its hands."""
    generation = pipeline.generation.id
    await enqueue(app.database, generation, 1)
    async with app.database.connection() as connection, connection.transaction(force_rollback=True):
        cursor = await connection.execute(
            "SELECT lease_token FROM embedmill.claim_items(%s, %s, 5, 100, 1000, 60)", (uuid4(), generation)
        )
        lost = await cursor.fetchone()
    (item,) = await claim(app.database, generation)
    assert lost is not None
    assert item.lease_token != lost[0]
