"""Rows a second by worker processes, and the memory of each process. Owns starting and watching the commands; must not
know what disk or installs take."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
from tests.support.commands import EMBEDMILL
from tests.support.provider import RunningProvider
from tests.support.work import app_on, stand_in_pipeline

from benchmarks.memory import make_backlog
from benchmarks.servers import benchmark_database
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import load_queries
from embedmill.queue.items import live_items
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table

_SQL = load_queries("benchmarks.scaling", "scaling.sql")
LATENCY_MS = 100
CALLS_IN_FLIGHT = 8  # of a worker, by default
DIMENSIONS = 1536
TABLE = """
CREATE TABLE public.notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL);
INSERT INTO public.notes (body)
SELECT 'Number ' || n || repeat(' mill river wheel stone', 12) FROM generate_series(1, {rows}) AS n;
"""


async def speed(provider: RunningProvider, workers: int, inputs: int, chunks: int) -> dict[str, Any]:
    """Rows a second of so many workers that stand ready, in calls of so many inputs; and what the provider's latency
    alone would allow them."""
    async with stage(provider, inputs) as (app, pipeline, url, folder):
        await app.database.fetch(_SQL["pause"])
        await make_backlog(app, pipeline, chunks)
        await app.database.fetch("VACUUM ANALYZE")
        await app.database.fetch("CHECKPOINT")
        with commands(url, folder, *(["worker"] for _ in range(workers))) as running:
            while (await app.database.fetch(_SQL["workers"]))[0][0] < workers:
                assert all(each.poll() is None for each in running), "a worker has ended"
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)
            busy, clock = processor_seconds(provider, running), time.monotonic()
            began = (await app.database.fetch(_SQL["resume"]))[0][0]
            while await live_items(app.database):  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.1)
            clock = time.monotonic() - clock
            busy = {part: after - busy[part] for part, after in processor_seconds(provider, running).items()}
        ended, embedded = (await app.database.fetch(_SQL["last_end"]))[0]
    assert embedded == chunks, f"{embedded} of {chunks} chunks are embedded"
    return {
        "measure": "processes",
        "workers": workers,
        "inputs_per_call": inputs,
        "rows_per_second": round(chunks / (ended - began).total_seconds()),
        "latency_allows": round(workers * CALLS_IN_FLIGHT * inputs / (LATENCY_MS / 1000)),
        **{f"{part}_cores": round(seconds / clock, 2) for part, seconds in busy.items()},
    }


async def memory(provider: RunningProvider, rows: int) -> list[dict[str, Any]]:
    """The most memory of each process: the service, a supervisor with two workers and their parsing processes, and the
    server, while a table is read and embedded."""
    async with stage(provider, 100) as (app, pipeline, url, folder):
        await app.database.fetch(TABLE.format(rows=rows))
        started = [["up", "--no-workers", "--port", "0"], ["worker", "--processes", "2"]]
        with commands(url, folder, *started) as (service, supervisor):
            while (await app.database.fetch(_SQL["workers"]))[0][0] < 2:  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.1)
            await add_table(app.database, pipeline, "public.notes", TablePlan("$body"), actor="benchmark")
            most: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
            server = server_process(url)
            while not await embedded(app, rows):
                for role, process in by_role(service, supervisor, server):
                    sample(most, role, process)
                await asyncio.sleep(0.5)
    return [
        {"measure": "memory", "process": role, "rss_mb": round(rss / 1e6), "pss_mb": round(pss / 1e6)}
        for role, (rss, pss) in sorted(most.items())
    ]


@asynccontextmanager
async def stage(provider: RunningProvider, inputs: int) -> AsyncIterator[tuple[App, Pipeline, str, Path]]:
    """A fresh server with a pipeline on the stand-in."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, benchmark_database() as url:
        async with app_on(url, Path(folder)) as app:
            pipeline = await stand_in_pipeline(
                app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=inputs, timeout_seconds=60
            )
            yield app, pipeline, url, Path(folder)


@contextmanager
def commands(url: str, folder: Path, *arguments: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """These `embedmill` commands, ended in order."""
    environment = {"EMBEDMILL_DATABASE_URL": url, "EMBEDMILL_DATA_DIR": str(folder), "PATH": ""}
    running = [
        subprocess.Popen([EMBEDMILL, *each], env=environment, stdout=subprocess.DEVNULL) for each in arguments
    ]
    try:
        yield running
    finally:
        for each in running:
            each.terminate()
        for each in running:
            each.wait(120)


def processor_seconds(provider: RunningProvider, running: list[subprocess.Popen[bytes]]) -> dict[str, float]:
    """So far: of all workers, of the stand-in, and of the whole machine."""
    machine = psutil.cpu_times()
    return {
        "workers": sum(seconds_of(psutil.Process(each.pid)) for each in running),
        "stand_in": seconds_of(psutil.Process(provider.pid)),
        "machine": sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice,
    }


def seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def server_process(url: str) -> psutil.Process:
    """The server's first process: the parent of any session."""
    import psycopg

    with psycopg.connect(url) as connection:
        parent = psutil.Process(connection.info.backend_pid).parent()
    assert parent is not None
    return parent


def by_role(
    service: subprocess.Popen[bytes], supervisor: subprocess.Popen[bytes], server: psutil.Process
) -> Iterator[tuple[str, list[psutil.Process]]]:
    """The processes that are measured as one."""
    yield "service", [psutil.Process(service.pid)]
    yield "supervisor", [psutil.Process(supervisor.pid)]
    workers = psutil.Process(supervisor.pid).children()
    for worker in workers:
        yield "a worker", [worker]
        for parser in worker.children():
            yield "its parsing process", [parser]
    yield (
        "all of embedmill",
        [
            psutil.Process(service.pid),
            psutil.Process(supervisor.pid),
            *psutil.Process(supervisor.pid).children(recursive=True),
        ],
    )
    yield "PostgreSQL, all its processes", [server, *server.children(recursive=True)]


def sample(most: dict[str, tuple[float, float]], role: str, processes: list[psutil.Process]) -> None:
    """PSS shares what several processes map among them; RSS counts it in each."""
    try:
        facts = [process.memory_full_info() for process in processes]
    except psutil.NoSuchProcess:
        return
    rss, pss = sum(fact.rss for fact in facts), sum(fact.pss for fact in facts)
    most[role] = (max(most[role][0], rss), max(most[role][1], pss))


async def embedded(app: App, rows: int) -> bool:
    found = await app.database.fetch("SELECT sum(embedded) FROM embedmill.coverage_counters")
    return bool(found[0][0] == rows)
