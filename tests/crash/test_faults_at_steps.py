"""A worker killed, or frozen past its recovery and woken, exactly at each step; another goes on with its work."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.support.faults.mill import Hand, Mill, texts_of
from tests.support.faults.verdict import judge
from tests.support.faults.wrappers import STEPS

DOCUMENTS = 6
CHUNKS = 20


async def fill(mill: Mill, name: str = "standin", *, marks: str = "d", documents: int = DOCUMENTS) -> None:
    chance = random.Random(1)
    found = next((p for p in mill.pipelines if p.name == name), None)
    pipeline = found or await mill.add_pipeline(name)
    for number in range(documents):
        mark = f"{marks}{number}"
        await mill.add_paper(pipeline, mark, texts_of(mark, CHUNKS, chance))


async def until_faulted(hand: Hand, seconds: float = 30.0) -> None:
    """Until the worker has met its fault: fails where it never does."""
    async with asyncio.timeout(seconds):
        while not hand.process.journal().faults:
            assert hand.process.status in (None, -9), hand.process.said
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("step", STEPS)
async def test_a_worker_killed_at_a_step_costs_what_was_in_flight(mill: Mill, step: str) -> None:
    await fill(mill)
    victim = mill.start_worker("victim", fault_at=f"{step}:2", fault="kill")
    await until_faulted(victim)
    mill.note("kill", "victim", victim.process.journal().faults[0][2])
    mill.start_worker("heir")
    await mill.settle()
    verdict = await judge(mill)
    assert verdict.ended == {"completed": DOCUMENTS}
    assert verdict.payments.in_flight <= 2 * 8


@pytest.mark.parametrize("step", STEPS)
async def test_a_worker_frozen_at_a_step_writes_nothing_under_its_old_lease(mill: Mill, step: str) -> None:
    await fill(mill)
    zombie = mill.start_worker("zombie", fault_at=f"{step}:2", fault="stop")
    await until_faulted(zombie)
    window = mill.note("freeze", "zombie", zombie.process.journal().faults[0][2])
    window.end = float("inf")
    mill.start_worker("heir")
    await mill.settle()
    zombie.process.wake()
    mill.note("woken", "zombie")
    await mill.settle()
    await judge(mill)


async def test_a_zombie_that_wakes_beside_its_heir_writes_nothing(mill: Mill) -> None:
    """With an answer in its hands, while another holds the same item under a newer token."""
    await fill(mill, documents=2)
    zombie = mill.start_worker("zombie", fault_at="response:1", fault="stop")
    await until_faulted(zombie)
    window = mill.note("freeze", "zombie", zombie.process.journal().faults[0][2])
    window.end = float("inf")
    mill.provider.configure(latency_ms=2000)
    mill.start_worker("heir")
    await until_claimed_again(mill)
    zombie.process.wake()
    mill.note("woken", "zombie")
    await mill.settle()
    mill.provider.configure(latency_ms=50)
    verdict = await judge(mill)
    assert verdict.payments.paid_again >= 1


async def until_claimed_again(mill: Mill) -> None:
    """Until an item that the zombie held is the heir's."""
    async with asyncio.timeout(30):
        while True:
            claims = [c for c in await mill.observer.changes() if c.new_status == "processing"]
            held = {c.item_id for c in claims if c.session == "zombie"}
            if any(c.session == "heir" and c.item_id in held for c in claims):
                return
            await asyncio.sleep(0.05)
