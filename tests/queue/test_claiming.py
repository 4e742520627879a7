"""Which items a claim takes, in what order, how many, and that no two claims take the same."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
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
    generation = pipeline.generation.id
    low = await enqueue(app.database, generation, 1, priority="low", available_in=-21 * 60)
    medium = await enqueue(app.database, generation, 1, priority="medium", available_in=-9 * 60)
    high = await enqueue(app.database, generation, 1, priority="high")
    order = [(await claim(app.database, generation, items=1))[0].id for _ in range(3)]
    assert order == low + high + medium


async def test_a_flood_of_high_priority_cannot_starve_the_low(app: App, pipeline: Pipeline) -> None:
    """Ten new high items a minute for a fleet that does ten a minute: the low one ends all the same."""
    generation = pipeline.generation.id
    (low,) = await enqueue(app.database, generation, 1, priority="low")
    await enqueue(app.database, generation, 20, priority="high")
    for _minute in range(30):
        await enqueue(app.database, generation, 10, priority="high")
        if low in {item.id for item in await claim(app.database, generation, items=10)}:
            break
        await grow_older(app.database, 60)
    else:
        raise AssertionError("the low item still waits after half an hour")
    assert await claim(app.database, generation), "the flood was over: nothing was shown"


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
