"""Workers whose way to the database fails: ended sessions, cut and half-open connections, a lost answer to COMMIT, a
server that restarts; and a clock that is hours off."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.support.faults.mill import Hand, Mill, Paper, texts_of
from tests.support.faults.postgres import ShutdownMode
from tests.support.faults.verdict import judge

CHUNKS = 20


async def fill(mill: Mill, name: str, documents: int = 12) -> list[Paper]:
    pipeline = await mill.add_pipeline(name)
    chance = random.Random(name)
    marks = [f"{name}{number}" for number in range(documents)]
    return [await mill.add_paper(pipeline, mark, texts_of(mark, CHUNKS, chance)) for mark in marks]


async def until_written(mill: Mill, vectors: int) -> None:
    async with asyncio.timeout(30):
        while await mill.observer.writes() < vectors:
            await asyncio.sleep(0.01)


async def start_two(mill: Mill) -> tuple[Hand, Hand]:
    """Two workers on the work of two pipelines, in the middle of it."""
    hands = mill.start_worker("one"), mill.start_worker("two")
    await fill(mill, "left")
    await fill(mill, "right")
    await until_written(mill, 40)
    return hands


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_of_the_server_is_waited_for(mill: Mill, mode: ShutdownMode) -> None:
    await start_two(mill)
    await mill.restart_postgres(mode)
    await mill.settle()
    verdict = await judge(mill)
    assert verdict.ended == {"completed": 24}


async def test_sessions_that_the_server_ends_are_replaced(mill: Mill) -> None:
    one, two = await start_two(mill)
    assert await mill.end_sessions_of(one) >= 2
    assert await mill.end_sessions_of(two) >= 2
    await mill.settle()
    await judge(mill)


async def test_connections_cut_at_a_moment_s_notice_lose_nothing(mill: Mill) -> None:
    for hand in await start_two(mill):
        mill.note("cut", hand.process.name)
        hand.proxy.cut()
    await mill.settle()
    await judge(mill)


async def test_a_worker_behind_a_half_open_connection_is_given_up_and_comes_back(mill: Mill) -> None:
    one, _ = await start_two(mill)
    with mill.lasting("half-open", one.process.name):
        one.proxy.freeze()
        await until_heirs_finished(mill)
        one.proxy.cut()
        one.proxy.thaw()
    await fill(mill, "later", 2)
    await mill.settle()
    await judge(mill)


async def test_packets_that_arrive_after_the_lease_write_nothing(mill: Mill) -> None:
    one, _ = await start_two(mill)
    with mill.lasting("held back", one.process.name):
        one.proxy.freeze()
        await until_heirs_finished(mill)
        one.proxy.thaw()
    await mill.settle()
    await judge(mill)


async def until_heirs_finished(mill: Mill) -> None:
    """Until nothing waits for the worker that is cut off."""
    async with asyncio.timeout(30):
        while await mill.live_items():
            await asyncio.sleep(0.05)


async def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_repeated(mill: Mill) -> None:
    hand = mill.start_worker("one")
    hand.proxy.lose_commit()
    await fill(mill, "left")
    assert await asyncio.to_thread(hand.proxy.commit_lost.wait, 30)
    mill.note("commit lost", "one")
    await mill.settle()
    verdict = await judge(mill)
    assert verdict.payments.paid_again == 0


@pytest.mark.parametrize("hours", [-7, 7])
async def test_a_wall_clock_that_is_hours_off_changes_nothing(mill: Mill, hours: int) -> None:
    mill.provider.configure(faults=["429"] * 2, retry_after="date")
    mill.start_worker("skewed", clock_skew_seconds=hours * 3600.0)
    mill.start_worker("right")
    await fill(mill, "left")
    await mill.settle()
    verdict = await judge(mill)
    assert (verdict.rescued, verdict.payments.paid_again) == (0, 0)


async def test_cancel_and_change_race_completion(mill: Mill) -> None:
    mill.start_worker("one")
    mill.start_worker("two")
    papers = await fill(mill, "left", 20)
    chance = random.Random(3)
    for number, paper in enumerate(papers):
        await until_written(mill, number * 10)
        if number % 2:
            await mill.change(paper, [*paper.texts[:10], *texts_of(f"{paper.source_id} again", 10, chance)])
        else:
            await mill.cancel(paper)
            await mill.add_paper(paper.pipeline, paper.source_id, paper.texts)
    await mill.settle()
    await judge(mill)
