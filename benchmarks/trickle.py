"""How soon a single row is searchable: ten writers commit inserts and updates, a row a transaction, into a table that
real `embedmill worker` processes follow; the latency from the commit of the row to the commit of its vector, over
the provider's own 100 ms.

    python -m benchmarks.trickle [--dimensions 384 1536] [--rates 20 50] [--workers 1] [--seconds 40]

Both ends are the commit times that the server itself keeps (track_commit_timestamp), so that nobody has to look and
thereby disturb. Such a time is taken when the commit record is written, before it is flushed: one flush stands between
them, the row's, as it should. Writers keep to their times whether or not the system keeps up. An updated row is one
that was embedded before the measurement, and each row is written once, so every write is a sample. The first seconds,
in which processes warm up, are not counted; the vector index of the generation stands.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
from tests.support.commands import EMBEDMILL
from tests.support.provider import RunningProvider, start_provider
from tests.support.records import is_quiet
from tests.support.work import app_on, stand_in_pipeline

from benchmarks.results import save_result, show_table
from embedmill.app import App, find_database, stop_database
from embedmill.database.queries import load_queries, vectors_table
from embedmill.settings import Settings
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table

_SQL = load_queries("benchmarks", "trickle.sql")
WRITERS = 10
LATENCY_MS = 100
WARM_UP_SECONDS = 5.0
# Enough that the generation has its vector index, and each vector is inserted into it.
STANDING_ROWS = 2_000
STAGES = ("read", "claimed", "embedded", "committed")


async def measure(
    dimensions: int, workers: int, rate: int, seconds: float, provider: RunningProvider
) -> dict[str, Any]:
    """One run on a fresh server."""
    provider.configure(dimensions=dimensions)
    updates = int(rate * seconds)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, timed_database() as url:
        async with app_on(url, Path(folder)) as app:
            source, generation = await follow_table(app, provider, dimensions, max(STANDING_ROWS, updates))
            async with worker_processes(app, workers, url, Path(folder)) as running:
                await indexed(app, generation)
                await write_rows(url, rate, WARM_UP_SECONDS, [])
                await quiet(app)
                began, worked = datetime.now(UTC), processor_seconds(running)
                written = await write_rows(url, rate, seconds, list(range(1, updates + 1)))
                worked = processor_seconds(running) - worked
                await quiet(app)
            rows = await app.database.fetch(
                _SQL["latencies"].format(vectors=vectors_table(generation)),
                {"source": source, "ids": written},
            )
            calls = await app.database.fetch(_SQL["call_latency"], {"since": began})
    assert len(rows) == len(written), f"{len(rows)} of {len(written)} rows have their vector"
    return (
        {"dimensions": dimensions}
        | summary(workers, rate, rows)
        | {
            "rows_per_call": round(len(written) / calls[0][0], 1),
            "call_p50_ms": round(calls[0][1]),
            "worker_cores": round(worked / seconds, 2),
        }
    )


@contextmanager
def timed_database() -> Iterator[str]:
    """An embedded server that keeps commit times, a setting of its start; else as every user has it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        settings = Settings(data_dir=Path(folder))
        with psycopg.connect(find_database(settings), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
        stop_database(settings)
        try:
            yield find_database(settings)
        finally:
            stop_database(settings)


async def follow_table(app: App, provider: RunningProvider, dimensions: int, rows: int) -> tuple[int, int]:
    """The table with its first rows, followed; the ids of the source and of the generation."""
    pipeline = await stand_in_pipeline(
        app, provider.base_url, dimensions=dimensions, max_inputs_per_call=1000, timeout_seconds=60
    )
    await app.database.fetch(_SQL["make_table"])
    await app.database.fetch(_SQL["fill_table"], {"rows": rows})
    plan = TablePlan("$title\n\n$body")
    added = await add_table(app.database, pipeline, "public.notes", plan, actor="benchmark")
    return added.source.id, pipeline.generation.id


@asynccontextmanager
async def worker_processes(
    app: App, number: int, url: str, folder: Path
) -> AsyncIterator[list[subprocess.Popen[bytes]]]:
    """Workers that have announced themselves and finished the backfill."""
    environment = {"EMBEDMILL_DATABASE_URL": url, "EMBEDMILL_DATA_DIR": str(folder), "PATH": ""}
    running = [
        subprocess.Popen([EMBEDMILL, "worker"], env=environment, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
        for _ in range(number)
    ]
    try:
        registered = (
            "SELECT count(*) FROM embedmill.embedding_queue_workers WHERE status IN ('active', 'idle')"
        )
        while (await app.database.fetch(registered))[0][0] < number:
            assert all(worker.poll() is None for worker in running), "a worker has ended"
            await asyncio.sleep(0.1)
        await quiet(app)
        yield running
    finally:
        for worker in running:
            worker.terminate()
        for worker in running:
            await asyncio.to_thread(worker.wait, 120)


async def quiet(app: App) -> None:
    """Until nothing is left to read or to embed; then a moment more, so that nobody is still warm from it."""
    async with asyncio.timeout(300):
        while not await is_quiet(app):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.25)
    await asyncio.sleep(1)


async def indexed(app: App, generation: int) -> None:
    """Until a worker has built the vector index."""
    async with asyncio.timeout(300):
        name = f"vectors_{generation}_hnsw"
        while not (await app.database.fetch(_SQL["has_index"], {"name": name}))[0][0]:  # noqa: ASYNC110
            await asyncio.sleep(0.25)


async def write_rows(url: str, rate: int, seconds: float, updatable: list[int]) -> list[int]:
    """`rate` rows a second by all writers together; each third one an update. The keys that were written."""
    chance = random.Random(rate)
    chance.shuffle(updatable)
    ends_at = time.monotonic() + seconds
    written: list[int] = []

    async def write(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            due = time.monotonic()
            while (due := due + chance.expovariate(rate / WRITERS)) < ends_at:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                title, body = f"Writer {number}", f"{chance.random()}" + " mill river wheel stone" * 12
                values: dict[str, Any] = {"title": title, "body": body}
                if updatable and chance.random() < 1 / 3:
                    cursor = await connection.execute(_SQL["update_row"], values | {"id": updatable.pop()})
                else:
                    cursor = await connection.execute(_SQL["insert_row"], values)
                row = await cursor.fetchone()
                assert row is not None
                written.append(row[0])

    await asyncio.gather(*(write(number) for number in range(WRITERS)))
    return written


def processor_seconds(running: list[subprocess.Popen[bytes]]) -> float:
    """Of the workers and their parsing processes, so far."""
    total = 0.0
    for worker in running:
        process = psutil.Process(worker.pid)
        for each in (process, *process.children(recursive=True)):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def summary(workers: int, rate: int, rows: list[tuple[float, ...]]) -> dict[str, Any]:
    """Percentiles over the provider's latency, and the median of each stage, the provider's latency within."""
    over = sorted(row[0] - LATENCY_MS for row in rows)
    stages = {
        f"{stage}_p50_ms": round(percentile(sorted(row[at] for row in rows), 0.5))
        for at, stage in enumerate(STAGES, 1)
    }
    result = {
        "workers": workers,
        "rows_per_second": rate,
        "rows": len(rows),
        "p50_ms": round(percentile(over, 0.5)),
        "p90_ms": round(percentile(over, 0.9)),
        "p99_ms": round(percentile(over, 0.99)),
        "most_ms": round(over[-1]),
    }
    print(f"   {result} {stages}", flush=True)
    return result | stages


def percentile(ordered: list[float], share: float) -> float:
    """The nearest-rank percentile of sorted values."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def measure_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    with start_provider(latency_ms=LATENCY_MS) as provider:
        return [
            await measure(dimensions, workers, rate, options.seconds, provider)
            for dimensions in options.dimensions
            for workers in options.workers
            for rate in options.rates
        ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dimensions", type=int, nargs="+", default=[384, 1536])
    parser.add_argument("--rates", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=40)
    options = parser.parse_args()
    rows = asyncio.run(measure_all(options))
    show_table(
        "Trickle: commit of a row to its vector, over the provider's 100 ms (p50 < 150, p99 < 500)", rows
    )
    save_result("trickle", rows, vars(options) | {"writers": WRITERS, "latency_ms": LATENCY_MS})


if __name__ == "__main__":
    main()
