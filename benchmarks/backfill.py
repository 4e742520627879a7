"""Rows of a user's table on their way to vectors: rows a second of a backfill by the installed `embedmill worker`, with
a provider that takes 100 ms and with one that takes no time, beside a plain loop that embeds one row a call in a
transaction of its own (the way of working that did 14.7 rows a second in the story that this began with); and the
worker's memory while a table of a million rows is walked.

    python -m benchmarks.backfill [--rows 10000] [--loop-rows 150] [--large 1000000] [--lacking 30000]
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
from tests.support.provider import RunningProvider, start_provider
from tests.support.records import is_quiet
from tests.support.work import app_on, stand_in_pipeline

from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table

DIMENSIONS = 1536
TABLE = """
CREATE TABLE public.jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL,
                          description text NOT NULL, embedding vector(1536));
INSERT INTO public.jobs (title, description)
SELECT 'Job ' || n, 'Number ' || n || repeat(' mill river wheel stone', 12) FROM generate_series(1, {rows}) AS n;
ANALYZE public.jobs;
"""
# What stands already, as the walk finds it: documents of all rows but the last ones.
STANDING = """
INSERT INTO embedmill.knowledge_documents
    (tenant_id, pipeline_id, record_source_id, source_type, source_id, name, content_hash)
SELECT s.tenant_id, s.pipeline_id, s.id, s.name, n::text, 'job ' || n, '\\x00'
  FROM embedmill.record_sources s, generate_series(1, %(standing)s) AS n;
"""
WAITING = "SELECT count(*) FROM embedmill.embedding_queue"


async def main_story(options: argparse.Namespace) -> list[dict[str, Any]]:
    results = []
    with tempfile.TemporaryDirectory() as folder, start_provider(dimensions=DIMENSIONS) as provider:
        provider.configure(latency_ms=100)
        with benchmark_database() as url:
            results.append(loop(url, provider, options.loop_rows))
        for latency_ms in (100, 0):
            for target in (None, "embedding"):
                provider.configure(latency_ms=latency_ms)
                with benchmark_database() as url:
                    results.append(
                        await backfill(url, Path(folder), provider, options.rows, target, latency_ms)
                    )
        provider.configure(latency_ms=100)
        with benchmark_database() as url:
            results.append(await walk(url, Path(folder), provider, options.large, options.lacking))
    return results


def loop(url: str, provider: RunningProvider, rows: int) -> dict[str, Any]:
    """As it was done: read a row, call, write its vector, commit."""
    with psycopg.connect(url) as connection, httpx2.Client() as client:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(TABLE.format(rows=rows).encode())
        connection.commit()
        started = time.monotonic()
        for number in range(1, rows + 1):
            row = connection.execute(
                "SELECT title, description FROM public.jobs WHERE id = %s", (number,)
            ).fetchone()
            assert row is not None
            answer = client.post(
                f"{provider.base_url}/embeddings",
                json={"model": "stand-in", "input": [f"{row[0]}\n\n{row[1]}"]},
            )
            vector = answer.json()["data"][0]["embedding"]
            connection.execute("UPDATE public.jobs SET embedding = %s WHERE id = %s", (str(vector), number))
            connection.commit()
        return _result("a loop, one row a call", 100, rows, time.monotonic() - started)


async def backfill(
    url: str, folder: Path, provider: RunningProvider, rows: int, target: str | None, latency_ms: int
) -> dict[str, Any]:
    """From `table add` to the last vector, with one worker that runs already."""
    async with worker_on(url, folder, provider) as (app, pipeline, worker):
        await app.database.fetch(TABLE.format(rows=rows))
        started = time.monotonic()
        await add_table(
            app.database, pipeline, "public.jobs", TablePlan("$title\n\n$description", target_column=target),
            actor="benchmark",
        )  # fmt: skip
        samples = await _watch(app, worker)
        seconds = time.monotonic() - started
        embedded = await app.database.fetch("SELECT sum(embedded) FROM embedmill.coverage_counters")
        assert embedded[0][0] == rows, embedded
    return _result(f"backfill into {target or 'chunks'}", latency_ms, rows, seconds) | samples


async def walk(url: str, folder: Path, provider: RunningProvider, rows: int, lacking: int) -> dict[str, Any]:
    """A table of which most rows are embedded, and the last ones are not."""
    async with worker_on(url, folder, provider) as (app, pipeline, worker):
        await app.database.fetch(TABLE.format(rows=rows))
        started = time.monotonic()
        plan = TablePlan("$title\n\n$description")
        await add_table(app.database, pipeline, "public.jobs", plan, backfills=False, actor="benchmark")
        counted = time.monotonic() - started
        await app.database.fetch(STANDING, {"standing": rows - lacking})
        await app.database.fetch("ANALYZE embedmill.knowledge_documents")
        started = time.monotonic()
        await app.database.fetch(
            "INSERT INTO embedmill.backfills (record_source_id, tenant_id, started_at) "
            "SELECT id, tenant_id, now() FROM embedmill.record_sources"
        )
        samples = await _watch(app, worker)
        seconds = time.monotonic() - started
    name = f"walk over {rows:,}, of which {lacking:,} lack a vector"
    return _result(name, 100, rows, seconds) | samples | {"add_seconds": round(counted, 1)}


@asynccontextmanager
async def worker_on(
    url: str, folder: Path, provider: RunningProvider
) -> AsyncIterator[tuple[App, Pipeline, psutil.Process]]:
    """The app, its pipeline, and a worker process that has announced itself."""
    async with app_on(url, folder) as app:
        pipeline = await stand_in_pipeline(
            app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=100, timeout_seconds=60
        )
        command = [str(Path(sys.executable).with_name("embedmill")), "worker"]
        environment = {"EMBEDMILL_DATABASE_URL": url, "EMBEDMILL_DATA_DIR": str(folder), "PATH": ""}
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as worker:  # noqa: ASYNC220
            try:
                while not await app.database.fetch("SELECT 1 FROM embedmill.embedding_queue_workers"):
                    assert worker.poll() is None, "the worker has ended"
                    await asyncio.sleep(0.05)
                yield app, pipeline, psutil.Process(worker.pid)
            finally:
                worker.terminate()
                worker.wait(timeout=120)


async def _watch(app: App, worker: psutil.Process) -> dict[str, Any]:
    """Until all is done: the most that waited, and the most memory of the worker alone and with its parser."""
    waiting, own, whole = 0, 0.0, 0.0
    while not await is_quiet(app):
        assert worker.status() != psutil.STATUS_ZOMBIE, "the worker has ended"
        rows = await app.database.fetch(WAITING)
        waiting = max(waiting, rows[0][0])
        processes = [worker, *worker.children(recursive=True)]
        resident = [process.memory_info().rss / 1e6 for process in processes if process.is_running()]
        own, whole = max(own, resident[0]), max(whole, sum(resident))
        await asyncio.sleep(0.1)
    return {"most_waiting": waiting, "worker_mb": round(own), "with_parser_mb": round(whole)}


def _result(what: str, latency_ms: int, rows: int, seconds: float) -> dict[str, Any]:
    print(f"{what}: {rows / seconds:.1f} rows/s", flush=True)
    return {
        "what": what,
        "latency_ms": latency_ms,
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds, 1),
        "times_14_7": round(rows / seconds / 14.7, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--loop-rows", type=int, default=150)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--lacking", type=int, default=30_000)
    options = parser.parse_args()
    rows = asyncio.run(main_story(options))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    rows = [{column: row.get(column, "") for column in columns} for row in rows]
    show_table("Backfill of a table (10 times the 14.7 rows a second of a loop, at least)", rows)
    save_result("backfill", rows, vars(options))


if __name__ == "__main__":
    main()
