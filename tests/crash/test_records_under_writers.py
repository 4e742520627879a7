"""Users write to their tables all through, while the workers that keep these embedded are shot, frozen and started
again, and PostgreSQL is restarted: in the end each row has the vector of its present text, and nothing else stands.
EMBEDMILL_TEST_KILLS is how many faults (`make crash` asks for the long form); EMBEDMILL_TEST_SEED repeats the drawing
that a failure prints."""

from __future__ import annotations

import asyncio
import os
import random
import time
from functools import partial

import pytest

from embedmill.database.patience import patiently
from embedmill.database.pipelines import Pipeline
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table
from tests.support.audit import assert_books_balance
from tests.support.faults.mill import CALLS_IN_FLIGHT, INPUTS_PER_CALL, Mill
from tests.support.faults.postgres import ShutdownMode
from tests.support.record_audit import assert_tables_are_embedded
from tests.support.record_writers import KINDS, writing
from tests.support.records import is_quiet
from tests.support.work import DIMENSIONS

TEMPLATE = "$title\n\n$body"
WORKERS = 2
DOUBLED = KINDS[0]
"""The table that is in two pipelines."""


@pytest.mark.timeout(1500)
async def test_each_row_has_the_vector_of_its_present_text_whatever_is_written_and_whoever_is_shot(
    mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = int(os.environ.get("EMBEDMILL_TEST_KILLS", "4"))
    seed = int(os.environ.get("EMBEDMILL_TEST_SEED", str(time.time_ns() % 1_000_000)))
    print(f"EMBEDMILL_TEST_SEED={seed} EMBEDMILL_TEST_KILLS={faults}")
    chance = random.Random(seed)
    pipeline, second = await mill.add_pipeline("first"), await mill.add_pipeline("second")
    for kind in KINDS:
        await mill.app.database.fetch(kind.made)
    mill.provider.configure(latency_ms=30, latency_jitter_ms=60)

    with writing(mill.app.settings.database_url or "", chance) as writers:
        await add_tables(mill, pipeline, second)
        await strike(mill, chance, faults)
    await settle(mill)

    sources = [(pipeline, kind, TEMPLATE) for kind in KINDS] + [(second, DOUBLED, "$title")]
    rows = await assert_tables_are_embedded(mill.app, sources, DIMENSIONS)
    await assert_books_balance(mill.app)
    for hand in mill.hands:
        hand.process.assert_it_ended_as_told()
    # Each text that was ever written may be paid for once, in two pipelines where it stands in both; and again what
    # was under way when somebody was shot.
    written = 2 * sum(writer.written for writer in writers)
    under_way = (faults + 1) * WORKERS * CALLS_IN_FLIGHT * INPUTS_PER_CALL
    paid = mill.provider.stats()["inputs_paid"]
    assert paid <= written + under_way, (paid, written, under_way)
    mill.provider.forget_counts()
    await mill.app.database.fetch("UPDATE storm_numbers SET seen = seen + 1")
    assert await mill.app.database.fetch("SELECT * FROM embedmill.record_changes") == []
    acts = {
        act: sum(w.acts.get(act, 0) for w in writers) for act in sorted({a for w in writers for a in w.acts})
    }
    with capsys.disabled():
        print(f"\nseed {seed}, {faults} faults: {rows} rows, {written} texts written, {paid} paid; {acts}")
    assert rows > 0


async def add_tables(mill: Mill, pipeline: Pipeline, second: Pipeline) -> None:
    """While their users write."""
    database = mill.app.database
    for kind in KINDS:
        plan = TablePlan(TEMPLATE, condition=kind.condition)
        await add_table(database, pipeline, kind.name, plan, actor="the storm")
    await add_table(database, second, DOUBLED.name, TablePlan("$title"), actor="the storm")


async def strike(mill: Mill, chance: random.Random, faults: int) -> None:
    """So many faults at random moments; the fallen are replaced."""
    started = 0
    hands = []
    restart_at = chance.randrange(faults)
    for number in range(faults):
        while len(hands) < WORKERS:
            started += 1
            hands.append(mill.start_worker(f"w{started}"))
        await asyncio.sleep(chance.uniform(1.0, 3.0))
        hand = chance.choice(hands)
        if number == restart_at:
            modes: list[ShutdownMode] = ["fast", "immediate"]
            await mill.restart_postgres(chance.choice(modes))
        elif chance.random() < 0.3 and hand.process.is_at_work:
            with mill.lasting("freeze", hand.process.name):
                hand.process.freeze()
                await asyncio.sleep(chance.uniform(1.0, 5.0))
                hand.process.wake()
        else:
            mill.kill(hand)
            hands.remove(hand)
    mill.start_worker(f"w{started + 1}")


async def settle(mill: Mill, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not await patiently(partial(is_quiet, mill.app)):
        assert time.monotonic() < deadline, await picture(mill)
        await asyncio.sleep(0.1)


async def picture(mill: Mill) -> str:
    """What there is still to do, and who could do it."""
    parts = []
    for query in (
        "SELECT record_source_id, id, operation, cardinality(keys), changed_at FROM embedmill.record_changes LIMIT 9",
        "SELECT id, name, trouble, reader_id, reader_deadline, rows, documents FROM embedmill.record_sources",
        "SELECT record_source_id, after_key, started_at, ended_at, next_batch_at FROM embedmill.backfills",
        "SELECT id, status, worker_id, available_at, lease_deadline FROM embedmill.embedding_queue LIMIT 9",
        "SELECT worker_id, status, heartbeat_at FROM embedmill.embedding_queue_workers",
    ):
        parts += [query, *(f"    {row}" for row in await mill.app.database.fetch(query))]
    return "\n".join(
        ["not all is read and embedded", *parts, *(hand.process.said[-2000:] for hand in mill.hands)]
    )
