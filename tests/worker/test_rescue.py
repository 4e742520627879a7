"""Work that others left behind: found by their row, their process or their deadline; a zombie writes nothing."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.config import QueueConfig, set_value
from embedmill.worker.identity import current_identity
from embedmill.worker.loop import WorkerOptions
from embedmill.worker.sweeps import rescue, sweep
from tests.support import audit
from tests.support.provider import RunningProvider
from tests.support.queue_rows import claim, enqueue, register_worker
from tests.support.work import add_document, missing_chunks, run_worker_until_settled, stored_vectors

QUICK = WorkerOptions(calls_in_flight=2, idle_seconds=0.05, look_seconds=0.1)
WORKER = """
import asyncio, sys
from pathlib import Path
from embedmill.worker.loop import Worker, WorkerOptions
from tests.support.work import app_on

async def main():
    async with app_on(sys.argv[1], Path(sys.argv[2])) as app:
        options = WorkerOptions(calls_in_flight=2, idle_seconds=0.05)
        await Worker(app.database, app.provider, options).run()

asyncio.run(main())
"""


async def test_a_worker_killed_on_this_host_is_not_waited_for(app: App, pipeline: Pipeline) -> None:
    """Its row says that it beat a moment ago, and that it does so once in an hour."""
    me = current_identity()
    gone = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
    await gone.wait()
    dead = await register_worker(app.database, host_id=me.host_id, pid=gone.pid, heartbeat_ms=3_600_000)
    alive = await register_worker(
        app.database,
        host_id=me.host_id,
        pid=me.pid,
        pid_started_at=me.pid_started_at,
        heartbeat_ms=3_600_000,
    )
    elsewhere = await register_worker(app.database, pid=gone.pid, heartbeat_ms=3_600_000)
    await enqueue(app.database, pipeline.generation.id, 3)
    for worker_id in (dead, alive, elsewhere):
        await claim(app.database, pipeline.generation.id, worker_id=worker_id, items=1)
    assert await rescue(app.database, me) == 1
    assert [row[1] for row in await audit.live_items(app)] == ["pending", "processing", "processing"]


async def test_sweeps_at_the_same_moment_rescue_each_item_once(app: App, pipeline: Pipeline) -> None:
    await enqueue(app.database, pipeline.generation.id, 40)
    await claim(app.database, pipeline.generation.id)
    me = current_identity()
    assert sum(await asyncio.gather(*(rescue(app.database, me) for _ in range(8)))) == 40
    assert {row[1:] for row in await audit.live_items(app)} == {("pending", 0, 1)}


async def test_a_new_day_s_partitions_are_made_by_the_leader_though_eight_would_lead(app: App) -> None:
    partitions = await history_partitions(app)
    assert len(partitions) >= 9  # more where the template of this database is from the day before
    for partition in partitions:
        if not partition.endswith("_rest"):
            await app.database.fetch(f"DROP TABLE {partition}".encode())
    began = today()
    outcomes = await asyncio.gather(*(sweep(app.database, uuid4(), QueueConfig()) for _ in range(8)))
    assert [each["make_partitions"] for each in outcomes if each] == ["8 partitions"]
    days = [{f"{begin + timedelta(days=day):%Y%m%d}" for day in range(8)} for begin in (began, today())]
    made = {partition.rpartition("_")[2] for partition in await history_partitions(app)}
    assert made - {"rest"} in days


def today() -> date:
    return datetime.now(UTC).date()


async def history_partitions(app: App) -> list[str]:
    rows = await app.database.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits "
        " WHERE inhparent = 'embedmill.embedding_queue_history'::regclass ORDER BY 1"
    )
    return [row[0] for row in rows]


async def test_after_a_kill_the_next_worker_finishes_and_pays_again_only_what_was_in_flight(
    app: App, pipeline: Pipeline, provider: RunningProvider, database: str, tmp_path: Path
) -> None:
    batch = await fill(app, pipeline)
    provider.configure(latency_ms=60)
    victim = start_worker(database, tmp_path)
    await until_stored(app, pipeline, 20)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    provider.configure(latency_ms=0)
    await run_worker_until_settled(app, batch, options=QUICK, seconds=30)
    assert await missing_chunks(app, pipeline) == 0
    assert provider.stats()["inputs_paid"] <= 100 + 2 * 10
    assert max(row[2] for row in await audit.ended_items(app)) == 1
    assert {row[0] for row in await audit.ended_items(app)} == {"completed"}
    await audit.assert_books_balance(app)


async def test_a_frozen_worker_that_wakes_up_finds_its_work_done_and_writes_nothing(
    app: App, pipeline: Pipeline, provider: RunningProvider, database: str, tmp_path: Path
) -> None:
    batch = await fill(app, pipeline)
    provider.configure(latency_ms=60)
    zombie = start_worker(database, tmp_path)
    try:
        await until_stored(app, pipeline, 20)
        zombie.send_signal(signal.SIGSTOP)
        await run_worker_until_settled(app, batch, options=QUICK, seconds=30)
        assert await missing_chunks(app, pipeline) == 0
        before = [(chunk, text) for chunk, text, _ in await stored_vectors(app, pipeline)]
        ended = await audit.ended_items(app)
        zombie.send_signal(signal.SIGCONT)
        later = uuid4()
        await add_document(app, pipeline, "later", ["work for the one that woke"], later)
        async with asyncio.timeout(20):
            while await missing_chunks(app, pipeline):
                await asyncio.sleep(0.05)
    finally:
        zombie.send_signal(signal.SIGCONT)
        zombie.kill()
        zombie.wait()
    after = [(chunk, text) for chunk, text, _ in await stored_vectors(app, pipeline)]
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    assert (await audit.ended_items(app))[: len(ended)] == ended
    await audit.assert_books_balance(app)


async def fill(app: App, pipeline: Pipeline) -> object:
    await set_value(app.database, "worker_heartbeat_interval_ms", "600", actor="test")
    batch = uuid4()
    for number in range(20):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(5)], batch)
    return batch


def start_worker(database: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, database, str(folder)])


async def until_stored(app: App, pipeline: Pipeline, vectors: int) -> None:
    async with asyncio.timeout(30):
        while len(await stored_vectors(app, pipeline)) < vectors:
            await asyncio.sleep(0.01)
