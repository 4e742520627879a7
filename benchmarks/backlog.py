"""The cost of a row as the backlog grows: to claim, embed and complete it with 1 thousand to 10 million items waiting.

    python -m benchmarks.backlog [--backlogs 1000 100000 1000000 10000000] [--stretches 15] [--rows 500]

Every waiting item is real: its document, its chunk with full text and all indexes, in one lane of three. They are
written set-wise, with the triggers' counts done by hand. Each size has a server of its own, and they take turns: a
worker's embedder runs a stretch of so many rows on the head of the queue, with a provider that answers at once and
vectors of 64 numbers, so that what is the same for any backlog hides nothing; then as many items are put back at the
tail. Medians of the processor time of the server's sessions, of ours, and of the clock, for a row; and the rows a
second of a real `embedmill worker` process where the backlog outlasts it. Folders under BACKLOG_FOLDER are kept,
and what they hold is not filled again.
There is no vector index at any size: a bulk load runs without one (core/indexing.py), and where a trickle has one it
costs the same for any backlog.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from tests.support.commands import EMBEDMILL
from tests.support.provider import RunningProvider, start_provider
from tests.support.work import app_on, stand_in_pipeline

from benchmarks.results import save_result, show_table
from embedmill.app import App, find_database, stop_database
from embedmill.database.pipelines import Pipeline, find_pipeline, tenant_id
from embedmill.database.queries import load_queries
from embedmill.embed.embedder import Embedder
from embedmill.embed.gate import Gates
from embedmill.embed.loading import Allowance
from embedmill.errors import NotFoundError
from embedmill.settings import Settings

_SQL = load_queries("benchmarks", "backlog.sql")
DIMENSIONS = 64
INPUTS_PER_CALL = 100
CALLS_IN_FLIGHT = 4
SLAB = 250_000


class Cost(NamedTuple):
    """Of one row, in microseconds."""

    wall: float
    server: float
    worker: float


class Stage(NamedTuple):
    """A server on which so much waits."""

    backlog: int
    app: App
    pipeline: Pipeline
    url: str
    folder: Path
    costs: list[Cost]


async def measure_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All sizes side by side: each round gives every one of them a stretch."""
    async with AsyncExitStack() as stack:
        provider = stack.enter_context(start_provider(dimensions=DIMENSIONS))
        stages = [
            await stack.enter_async_context(stage_of(backlog, provider)) for backlog in options.backlogs
        ]
        for number in range(options.stretches + 1):
            for stage in stages if number % 2 else reversed(stages):
                stage.costs.append(await stretch(stage, options.rows))
                await add_items(stage.app, stage.pipeline, options.rows)
        return with_ratios([await summary(stage, options.worker_seconds) for stage in stages])


@asynccontextmanager
async def stage_of(backlog: int, provider: RunningProvider) -> AsyncIterator[Stage]:
    kept = os.environ.get("BACKLOG_FOLDER")
    with database_in(Path(kept) / str(backlog) if kept else None) as (url, folder):
        async with app_on(url, folder) as app:
            pipeline = await pipeline_on(app, provider)
            seconds = await fill_to(app, pipeline, backlog)
            print(f"   {backlog:,} wait, after {seconds:.0f} s", flush=True)
            yield Stage(backlog, app, pipeline, url, folder, [])


@contextmanager
def database_in(folder: Path | None) -> Iterator[tuple[str, Path]]:
    """A server in this folder, which stays; without one, in a temporary folder, which goes."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        settings = Settings(data_dir=folder or Path(temporary))
        try:
            yield find_database(settings), settings.data_dir
        finally:
            stop_database(settings)


async def pipeline_on(app: App, provider: RunningProvider) -> Pipeline:
    """The pipeline, made by the first run of a folder."""
    try:
        await app.database.fetch(_SQL["point_at"], {"base_url": provider.base_url})
        return await find_pipeline(app.database, await tenant_id(app.database, "default"), "standin")
    except NotFoundError:
        return await stand_in_pipeline(
            app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=INPUTS_PER_CALL
        )


async def fill_to(app: App, pipeline: Pipeline, backlog: int) -> float:
    """So many items wait, and the server has nothing left to do for itself; the seconds that it took."""
    started = time.monotonic()
    waiting = await waiting_items(app)
    if waiting > backlog * 1.02:
        raise SystemExit(
            f"the folder holds {waiting:,} waiting items already: leave out --backlogs {backlog}"
        )
    while waiting < backlog:
        rows = min(SLAB, backlog - waiting)
        await add_items(app, pipeline, rows)
        waiting += rows
    await app.database.fetch("SELECT embedmill.fold_queue_changes()")
    await app.database.fetch("VACUUM ANALYZE")
    await app.database.fetch("CHECKPOINT")
    return time.monotonic() - started


async def waiting_items(app: App) -> int:
    return int((await app.database.fetch(_SQL["waiting"]))[0][0])


async def add_items(app: App, pipeline: Pipeline, rows: int) -> None:
    """At the tail of the queue. Triggers rest meanwhile: what they count is counted by hand."""
    ids = {
        "tenant_id": pipeline.tenant_id,
        "pipeline_id": pipeline.id,
        "generation_id": pipeline.generation.id,
    }
    async with app.database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("SET LOCAL synchronous_commit = off")
        cursor = await connection.execute(_SQL["highest"])
        highest = (await cursor.fetchone() or (0,))[0]
        await connection.execute(_SQL["fill"], {**ids, "first": highest + 1, "last": highest + rows})
        await connection.execute(_SQL["count_filled"], {**ids, "rows": rows})


async def stretch(stage: Stage, rows: int) -> Cost:
    """An embedder works off so many rows, as a worker's does."""
    app, pipeline = stage.app, stage.pipeline
    provider = app.provider(pipeline.generation.spec)
    chance = random.Random(1)
    allowance = Allowance(rows)
    gates = Gates(calls_in_flight=CALLS_IN_FLIGHT, chance=chance, rate_limit_delay_seconds=1.0)
    embedder = Embedder(
        app.database,
        pipeline,
        provider,
        gates.gate(pipeline.generation.spec.provider, pipeline.quota_key),
        worker_id=uuid4(),
        lease_seconds=300.0,
        heartbeat_seconds=10.0,
        on_event=lambda event: None,
        chance=chance,
        allowance=allowance,
    )
    server = await server_seconds(app)
    worker, started = time.process_time(), time.perf_counter()
    await embedder.run()
    await app.database.fetch("SELECT embedmill.fold_queue_changes()")  # what a worker's sweep does for it
    wall, worked = time.perf_counter() - started, time.process_time() - worker
    server = await server_seconds(app) - server
    await provider.aclose()
    assert allowance.left == 0, f"{allowance.left} rows were not claimed"
    return Cost(*(seconds / rows * 1e6 for seconds in (wall, server, worked)))


async def server_seconds(app: App) -> float:
    """Processor time of the server's sessions (Linux tells). The pool keeps its sessions from one look to the next."""
    processes = await app.database.fetch(_SQL["server_processes"])
    files = [Path(f"/proc/{pid}/schedstat") for (pid,) in processes]
    return sum(int(file.read_text().split()[0]) for file in files if file.exists()) / 1e9


async def worker_speed(stage: Stage, seconds: float) -> int | None:
    """Rows a second of a worker process in so many seconds; None where the backlog would end before."""
    if stage.backlog < seconds * 4_000 or not seconds:
        return None
    since = datetime.now(UTC)
    async with worker_process(stage.url, stage.folder):
        await asyncio.sleep(seconds)
    embedded, took = (await stage.app.database.fetch(_SQL["embedded_by_calls"], {"since": since}))[0]
    return round(embedded / took)


@asynccontextmanager
async def worker_process(url: str, folder: Path) -> AsyncIterator[None]:
    environment = {"EMBEDMILL_DATABASE_URL": url, "EMBEDMILL_DATA_DIR": str(folder), "PATH": ""}
    with subprocess.Popen([EMBEDMILL, "worker"], env=environment, stdout=subprocess.DEVNULL) as worker:  # noqa: ASYNC220
        try:
            yield
        finally:
            worker.terminate()
            await asyncio.to_thread(worker.wait, 120)


async def summary(stage: Stage, worker_seconds: float) -> dict[str, Any]:
    """Medians; the first stretch, in which sessions load their plans, is not counted."""
    costs = stage.costs[1:]
    speed = await worker_speed(stage, worker_seconds)
    sizes = (await stage.app.database.fetch(_SQL["sizes"]))[0]
    return {
        "waiting": stage.backlog,
        "server_us_a_row": round(statistics.median(cost.server for cost in costs)),
        "worker_us_a_row": round(statistics.median(cost.worker for cost in costs)),
        "cpu_us_a_row": round(statistics.median(cost.server + cost.worker for cost in costs)),
        "wall_us_a_row": round(statistics.median(cost.wall for cost in costs)),
        "worker_process_rows_per_second": speed,
        "database": sizes[0],
        "queue": sizes[1],
    }


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each size beside the smallest."""
    for row in rows:
        for cost in ("cpu", "wall"):
            row[f"{cost}_ratio"] = round(row[f"{cost}_us_a_row"] / rows[0][f"{cost}_us_a_row"], 2)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backlogs", type=int, nargs="+", default=[1_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--stretches", type=int, default=15)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--worker-seconds", type=float, default=20)
    options = parser.parse_args()
    rows = asyncio.run(measure_all(options))
    show_table("The cost of a row by what waits (10 million: at most 1.5 times a thousand)", rows)
    save_result("backlog", rows, vars(options))


if __name__ == "__main__":
    main()
