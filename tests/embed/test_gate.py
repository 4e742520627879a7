"""The gate on its own: slots for those that have had least, an end for those that wait in vain, the shutting of all
seats at an outage, and who is to blame for a failure."""

from __future__ import annotations

import asyncio
import random

import pytest

from embedmill.core.breaker import FAILURES_TO_OPEN
from embedmill.core.concurrency import Concurrency
from embedmill.embed.gate import LONGEST_UNSTATED_DELAY_SECONDS, Gate, Gates, Seat, Slot
from embedmill.errors import ProviderUnavailableError
from tests.embed.desk import Later, gate_on

DOWN = ProviderUnavailableError("down")


async def waiting(seat: Seat) -> asyncio.Task[Slot | None]:
    """A task that stands in line by now."""
    task = asyncio.create_task(seat.slot())
    await asyncio.sleep(0)
    return task


async def taken(seat: Seat) -> Slot:
    slot = await seat.slot()
    assert slot is not None
    return slot


async def test_the_next_slot_goes_to_the_tenant_that_has_had_least_for_its_weight() -> None:
    gate = gate_on(calls_in_flight=1)
    heavy, light, important = gate.join(1), gate.join(2), gate.join(3, 4.0)
    gate.sent(heavy, 5000)
    gate.sent(light, 1000)
    gate.sent(important, 3000)
    slot = await taken(heavy)
    line = [await waiting(heavy), await waiting(light), await waiting(important)]
    order = []
    for _ in line:
        slot.release()
        await asyncio.sleep(0)
        (index,) = [number for number, task in enumerate(line) if task.done() and number not in order]
        order.append(index)
        slot = line[index].result() or slot
    assert order == [2, 1, 0]


async def test_pipelines_of_one_tenant_take_turns() -> None:
    gate = gate_on(calls_in_flight=1)
    one, other = gate.join(1), gate.join(1)
    slot = await taken(one)
    first, second = await waiting(one), await waiting(other)
    slot.release()
    await asyncio.sleep(0)
    assert (first.done(), second.done()) == (True, False)
    second.cancel()


async def test_a_slot_that_was_given_to_somebody_who_was_cancelled_is_not_lost() -> None:
    gate = gate_on(calls_in_flight=1)
    seat = gate.join(1)
    slot = await taken(seat)
    task = await waiting(seat)
    slot.release()  # given, and not yet noticed
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(1):
        await taken(seat)


async def test_whoever_waits_is_told_of_the_end_and_takes_nothing_with_it() -> None:
    gate = gate_on(calls_in_flight=1)
    seat, other = gate.join(1), gate.join(2)
    slot = await taken(other)
    task = await waiting(seat)
    seat.end()
    assert await task is None
    assert await seat.slot() is None
    slot.release()
    slot.release()  # once too often harms nobody
    for _ in range(2):
        (await taken(other)).release()


async def test_a_429_takes_slots_away_as_they_come_back() -> None:
    gate = gate_on(calls_in_flight=4)
    seat = gate.join(1)
    slots = [await taken(seat) for _ in range(4)]
    sent_at = gate.sent(seat, 10)
    for _ in slots:
        gate.limited(sent_at, 1.0)
    task = await waiting(seat)
    slots[0].release()
    slots[1].release()
    await asyncio.sleep(0)
    assert not task.done()
    slots[2].release()
    await asyncio.sleep(0)
    assert task.done()


async def test_an_outage_shuts_the_seats_of_this_gate_and_of_no_other() -> None:
    gates = Gates(calls_in_flight=4, chance=random.Random(0), rate_limit_delay_seconds=1.0)
    gate, other = gates.gate("openai", "a"), gates.gate("openai", "b")
    seats = [gate.join(1), gate.join(2)]
    bystander = other.join(1)
    for _ in range(FAILURES_TO_OPEN):
        assert not any(seat.is_shut for seat in seats)
        gate.failed(DOWN, 0.0)
    assert all(seat.is_shut for seat in seats)
    assert not bystander.is_over
    assert gate.rest_seconds + 0.1 >= 5
    assert other.rest_seconds == 0
    assert gates.gate("openai", "a") is gate
    assert gates.gate("local", "a") is gates.gate("local", "b")


async def test_who_failed_while_others_were_answered_is_to_blame() -> None:
    clock = Later()
    gate = gate_on(clock)
    first_sent_at = clock()
    assert not gate.blames({1}, first_sent_at, has_used_up_tries=True), "nobody was answered"
    clock.ahead += 1
    gate.answered()
    assert gate.blames({2}, first_sent_at, has_used_up_tries=True)
    assert not gate.blames({3}, first_sent_at, has_used_up_tries=False), "it was not tried to the end"
    assert gate.blames({1, 4}, clock(), has_used_up_tries=False), "answered since it failed the last time"
    assert not gate.blames({1, 4}, clock(), has_used_up_tries=False), "blamed once for each time"


async def test_a_429_that_says_nothing_is_waited_out_longer_from_one_round_trip_to_the_next() -> None:
    clock = Later()
    gate = Gate("test", Concurrency(8), chance=random.Random(7), rate_limit_delay_seconds=0.5, clock=clock)
    seat = gate.join(1)
    longest = []
    for _ in range(12):
        sent_at = gate.sent(seat, 10)
        clock.ahead += 1
        delays = [gate.limited(sent_at, None) for _ in range(50)]
        assert min(delays) >= 0.5
        longest.append(max(delays))
    assert longest[0] == 0.5
    assert 0.8 < longest[1] <= 1.0
    assert 3.2 < longest[3] <= 4.0
    assert longest[-1] <= LONGEST_UNSTATED_DELAY_SECONDS
    gate.succeeded(gate.sent(seat, 10), 10)
    assert gate.limited(gate.sent(seat, 10), None) == 0.5
    assert gate.limited(gate.sent(seat, 10), 17.0) == 17.0
