"""Tenants beside each other, caps and switches: by the public claim, with many claimers at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.config import set_value
from embedmill.queue.items import Return, Waiting, return_items
from embedmill.queue.quotas import cool_down, grant_quota
from tests.support.queue_rows import claim, enqueue, grow_older

GIVE_BACK = Return(Waiting.PENDING, 0, 0, "stopped", None)
PIPELINE = """
SELECT embedmill.create_pipeline(%s, 'p', '{"provider": "openai", "model": "m", "dimensions": 3}', 3, 'vector', 256, 32,
                                 'simple', 0, NULL, NULL, NULL, false)
"""


async def tenant(app: App, slug: str, *, weight: float = 1.0, cap: int | None = None) -> int:
    """A tenant with a pipeline; returns its generation."""
    (row,) = await app.database.fetch(
        "INSERT INTO embedmill.tenants (slug, weight, max_processing_items) VALUES (%s, %s, %s) RETURNING id",
        (slug, weight, cap),
    )
    await app.database.fetch(PIPELINE, (row[0],))
    (generation,) = await app.database.fetch(
        "SELECT id FROM embedmill.generations WHERE tenant_id = %s", (row[0],)
    )
    return int(generation[0])


async def next_batch(app: App, size: int) -> list[tuple[int, str]]:
    """(item, tenant) of what the public claim gives a new worker."""
    rows = await app.database.fetch(
        "SELECT item_id, tenant FROM embedmill.get_next_embedding_batch(%s, %s)", (uuid4(), size)
    )
    # That worker is gone at once: what it holds must not come back in the middle of a count.
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue_workers SET heartbeat_at = now() + interval '1 d'"
    )
    return [(row[0], row[1]) for row in rows]


async def test_a_tenant_with_ten_items_ends_beside_one_with_very_many(app: App) -> None:
    large, small = await tenant(app, "large"), await tenant(app, "small")
    await enqueue(app.database, large, 50_000, tokens=500, priority="high")
    for _ in range(5):
        assert {name for _, name in await next_batch(app, 10)} == {"large"}
    await app.database.fetch("SELECT embedmill.fold_queue_changes()")
    mine = set(await enqueue(app.database, small, 10, tokens=500, priority="low"))
    turns = 0
    while mine:
        mine -= {item for item, _ in await next_batch(app, 2)}
        turns += 1
        assert turns <= 12, f"{len(mine)} of the ten items wait after {turns} turns"


async def test_tenants_take_turns_on_pipelines_of_the_same_name(app: App) -> None:
    for name in ("one", "two"):
        await enqueue(app.database, await tenant(app, name), 20, tokens=100)
    taken: Counter[str] = Counter()
    for _ in range(20):
        rows = await app.database.fetch(
            "SELECT tenant FROM embedmill.get_next_embedding_batch(%s, 1, 'p')", (uuid4(),)
        )
        taken.update(row[0] for row in rows)
    assert taken == {"one": 10, "two": 10}


@pytest.mark.parametrize("folded", [False, True])
async def test_turns_go_by_tokens_and_weight_not_by_items(app: App, folded: bool) -> None:
    """Items of 900 tokens beside items of 100, and a third tenant of weight two: each has its share of tokens."""
    tokens_of = {"long": 900, "short": 100, "heavy": 300}
    for name, tokens in tokens_of.items():
        generation = await tenant(app, name, weight=2 if name == "heavy" else 1)
        await enqueue(app.database, generation, 2000, tokens=tokens)
    spent: Counter[str] = Counter()
    for turn in range(200):
        for _, name in await next_batch(app, 1):
            spent[name] += tokens_of[name]
        if folded and turn % 7 == 0:
            await app.database.fetch("SELECT embedmill.fold_queue_changes()")
    whole = sum(spent.values())
    assert spent["long"] / whole == pytest.approx(0.25, abs=0.05)
    assert spent["short"] / whole == pytest.approx(0.25, abs=0.05)
    assert spent["heavy"] / whole == pytest.approx(0.5, abs=0.05)


async def test_a_tenant_that_was_idle_saves_no_turns_up(app: App) -> None:
    busy, idle = await tenant(app, "busy"), await tenant(app, "idle")
    await enqueue(app.database, busy, 1000, tokens=100)
    for _ in range(100):
        await next_batch(app, 1)
    await app.database.fetch("SELECT embedmill.fold_queue_changes()")
    await enqueue(app.database, idle, 1000, tokens=100)
    served = Counter([(await next_batch(app, 1))[0][1] for _ in range(40)])
    assert served["busy"] >= 15, "whoever was idle for long would shut out those who work"


@pytest.mark.parametrize("cap", [1, 3])
async def test_a_cap_is_never_overshot_by_many_claimers_at_once(app: App, cap: int) -> None:
    generation = await tenant(app, "capped", cap=cap)
    await enqueue(app.database, generation, 60)
    most = ended = 0

    async def work() -> None:
        nonlocal most, ended
        while ended < 30:
            items = await claim(app.database, generation, items=2)
            (row,) = await app.database.fetch(
                "SELECT count(*) FROM embedmill.embedding_queue WHERE status = 'processing'"
            )
            most = max(most, row[0])
            if items:
                await return_items(app.database, items, GIVE_BACK)
                ended += len(items)

    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(8))), 60)
    assert most == cap


async def test_a_cap_that_is_reached_lets_other_tenants_go_on(app: App) -> None:
    capped, free = await tenant(app, "capped", cap=1), await tenant(app, "free")
    await enqueue(app.database, capped, 5)
    await enqueue(app.database, free, 5)
    taken = [name for _ in range(4) for _, name in await next_batch(app, 2)]
    assert Counter(taken) == {"capped": 1, "free": 5}


async def test_all_quotas_at_zero_then_refilled_go_on_after_a_restart(app: App, pipeline: Pipeline) -> None:
    """Nobody waits for somebody who waits: the state is a row, and the clock alone frees it."""
    key, generation = pipeline.quota_key, pipeline.generation.id
    await enqueue(app.database, generation, 3)
    await app.database.fetch("UPDATE embedmill.quotas SET calls_per_minute = 1, calls_level = -1")
    await cool_down(app.database, key, 3600, "used up")
    items = await claim(app.database, generation)
    assert await grant_quota(app.database, key, 10) > 3500
    await return_items(
        app.database, items, Return(Waiting.RATE_LIMITED, 0, 3_600_000, "rate_limited", "used up")
    )
    assert await claim(app.database, generation) == []
    # The whole fleet stops; an hour later, on new connections, all is as if nothing had been.
    await app.database.fetch(
        "UPDATE embedmill.quotas SET refilled_at = refilled_at - interval '1 h', "
        "       cooldown_until = cooldown_until - interval '1 h 1 s'"
    )
    await grow_older(app.database, 3601)
    again = await claim(app.database, generation)
    assert [(item.id, item.retry_count) for item in again] == [(item.id, 0) for item in items]
    assert await grant_quota(app.database, key, 10) == 0


async def test_a_paused_pipeline_and_a_queue_that_is_off_give_nothing_and_lose_nothing(
    app: App, pipeline: Pipeline
) -> None:
    expected = await enqueue(app.database, pipeline.generation.id, 3)
    await app.database.fetch("UPDATE embedmill.pipelines SET paused_at = now() WHERE id = %s", (pipeline.id,))
    assert await next_batch(app, 10) == await claim(app.database, pipeline.generation.id) == []
    await app.database.fetch("UPDATE embedmill.pipelines SET paused_at = NULL")
    await set_value(app.database, "queue_enabled", "false", actor="test")
    assert await next_batch(app, 10) == await claim(app.database, pipeline.generation.id) == []
    await set_value(app.database, "queue_enabled", "true", actor="test")
    assert [item for item, _ in await next_batch(app, 10)] == expected
