"""Where the quota binds: calls are made ready late, so that tenants' weights divide it; what the provider counts
otherwise than we do is entered."""

from __future__ import annotations

import asyncio
from collections import Counter

from embedmill.app import App
from embedmill.embed.gate import MOST_UNGRANTED, Seat
from tests.embed.desk import Run, gate_on
from tests.support.provider import RunningProvider
from tests.support.work import add_document, missing_chunks, stand_in_pipeline


async def test_while_the_quota_binds_slots_are_given_as_grants_come() -> None:
    gate = gate_on(calls_in_flight=8)
    seat = gate.join(1)
    line = [asyncio.create_task(seat.slot()) for _ in range(8)]
    gate.asked(has_to_wait=True)
    await asyncio.sleep(0)
    assert sum(task.done() for task in line) == MOST_UNGRANTED
    first = line[0].result()
    assert first is not None
    first.granted()
    first.granted()
    await asyncio.sleep(0)
    assert sum(task.done() for task in line) == MOST_UNGRANTED + 1, "one grant, one more slot"
    second = line[1].result()
    assert second is not None
    second.release()
    await asyncio.sleep(0)
    assert sum(task.done() for task in line) == MOST_UNGRANTED + 2, "it needs no grant any more"
    gate.asked(has_to_wait=False)
    third = line[2].result()
    assert third is not None
    third.granted()
    await asyncio.sleep(0)
    assert all(task.done() for task in line)


async def test_a_slot_that_nobody_waits_for_any_more_is_no_call_without_a_grant() -> None:
    gate = gate_on(calls_in_flight=8)
    seat = gate.join(1)
    gate.asked(has_to_wait=True)
    held = [await seat.slot() for _ in range(MOST_UNGRANTED)]
    task = asyncio.create_task(seat.slot())
    await asyncio.sleep(0)
    assert held[0] is not None
    held[0].release()  # the task has its slot by this,
    task.cancel()  # and does not know it yet
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    async with asyncio.timeout(1):
        assert await seat.slot() is not None


async def test_weights_divide_what_the_quota_grants() -> None:
    """Two embedders that come back for the next slot as soon as they have one, as they do."""
    gate = gate_on(calls_in_flight=8)
    served: Counter[int] = Counter()
    grants = asyncio.Semaphore(0)

    async def fly(seat: Seat, slot: object) -> None:
        gate.asked(has_to_wait=True)
        await grants.acquire()
        served[seat.tenant_id] += 1
        gate.sent(seat, 100)
        slot.granted()  # type: ignore[attr-defined]
        slot.release()  # type: ignore[attr-defined]

    async def embed(seat: Seat, calls: asyncio.TaskGroup) -> None:
        while slot := await seat.slot():
            calls.create_task(fly(seat, slot))

    seats = [gate.join(1, 3.0), gate.join(2, 1.0)]
    async with asyncio.TaskGroup() as calls:
        for seat in seats:
            calls.create_task(embed(seat, calls))
        for _ in range(400):
            grants.release()
            for _ in range(5):
                await asyncio.sleep(0)
        shares = served[1] / served[2]
        for seat in seats:
            seat.end()
        for _ in range(20):
            grants.release()
    assert 2.5 < shares < 3.5


async def test_tokens_that_the_provider_counts_otherwise_are_entered_and_expected(
    app: App, provider: RunningProvider
) -> None:
    """Two spaces between words: each text is estimated at 52 tokens, and counted as 99."""
    pipeline = await stand_in_pipeline(
        app, provider.base_url, dimensions=16, max_inputs_per_call=2, tokens_per_minute=1_000_000
    )
    await add_document(app, pipeline, "doc", [f"{n}  " + "word  " * 48 + "end" for n in range(20)])
    run = Run(app, pipeline)
    await run()
    assert await missing_chunks(app, pipeline) == 0
    row = await app.database.fetch_one(
        "SELECT (SELECT sum(t) FROM unnest(window_tokens) AS t) FROM embedmill.quotas WHERE quota_key = %s",
        (pipeline.quota_key,),
    )
    assert row is not None
    paid = provider.stats()["tokens_paid"]
    assert paid > 20 * 90
    assert abs(int(row[0]) - paid) <= 0.01 * paid
