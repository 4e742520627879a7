"""The workloads that are profiled, each as another benchmark starts it. Owns their sizes: so large that there are 15 to
30 seconds of steady work on two cores. Measures nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from tests.support.provider import start_provider
from tests.support.records import is_quiet
from tests.support.work import app_on

from benchmarks import backfill, backlog, trickle, uploads
from benchmarks.local_engine import prose_chunks
from benchmarks.peers.drivers.embedmill import until_announced
from benchmarks.peers.texts import write_files
from benchmarks.profiles.watching import Scene
from benchmarks.scaling.processes import commands, stage
from benchmarks.servers import benchmark_database
from benchmarks.writing import texts_of
from embedmill.app import App
from embedmill.search.searcher import Mode
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table

DIMENSIONS, INPUTS_PER_CALL, SLOW_MS = 1536, 500, 100
INGESTED_CHUNKS, LOCAL_CHUNKS, ROWS = 60_000, 700, 40_000
ROWS_A_SECOND, DOCUMENTS, UPLOADS_AT_ONCE = 50, 1_000, 10
SEARCHED_CHUNKS, WAITING_ITEMS = 100_000, 1_000_000
STEADY_SECONDS = 20
SEED = 7

Workload = Callable[[float], AbstractAsyncContextManager[Scene]]


@asynccontextmanager
async def ingest(scale: float, *, latency_ms: int) -> AsyncIterator[Scene]:
    """`embedmill ingest` of a folder of text files."""
    with start_provider(dimensions=DIMENSIONS, latency_ms=latency_ms) as provider:
        async with stage(provider, INPUTS_PER_CALL) as (app, pipeline, url, folder):
            files = folder / "files"
            files.mkdir()
            write_files(files, round(INGESTED_CHUNKS * scale), SEED)
            async with ingesting(app, pipeline.name, url, folder) as (pid, work):
                yield Scene(url, pid, provider.pid, app.database.session_name, "chunks", work)


@asynccontextmanager
async def local(scale: float) -> AsyncIterator[Scene]:
    """`embedmill ingest` of prose with the bundled model."""
    with tempfile.TemporaryDirectory() as temporary, benchmark_database() as url:
        folder, files = Path(temporary), Path(temporary) / "files"
        files.mkdir()
        texts = prose_chunks(round(LOCAL_CHUNKS * scale))
        for start in range(0, len(texts), 50):
            (files / f"{start}.txt").write_text("\n\n".join(texts[start : start + 50]), "utf-8")
        async with app_on(url, folder) as app, ingesting(app, "default", url, folder) as (pid, work):
            yield Scene(url, pid, None, app.database.session_name, "chunks", work)


@asynccontextmanager
async def ingesting(
    app: App, pipeline: str, url: str, folder: Path
) -> AsyncIterator[tuple[int, Callable[[], Awaitable[int]]]]:
    """The command, since it has announced itself, and its work: to the last chunk of the folder's files."""
    files = folder / "files"
    documents = len(list(files.iterdir()))
    with commands(url, folder, ["ingest", "--pipeline", pipeline, str(files)]) as (command,):
        await until_announced(app)

        async def work() -> int:
            await until_completed(app, documents)
            return await embedded(app)

        yield command.pid, work


@asynccontextmanager
async def table(scale: float) -> AsyncIterator[Scene]:
    """A table's backfill into a column of it, by a worker that runs already."""
    rows = round(ROWS * scale)
    with (
        start_provider(dimensions=DIMENSIONS, latency_ms=SLOW_MS) as provider,
        tempfile.TemporaryDirectory() as folder,
        benchmark_database() as url,
    ):
        async with backfill.worker_on(url, Path(folder), provider) as (app, pipeline, worker):
            await app.database.fetch(backfill.TABLE.format(rows=rows))

            async def work() -> int:
                plan = TablePlan("$title\n\n$description", target_column="embedding")
                await add_table(app.database, pipeline, "public.jobs", plan, actor="benchmark")
                while not await is_quiet(app):  # noqa: ASYNC110 - other processes
                    await asyncio.sleep(0.1)
                return await embedded(app)

            yield Scene(url, worker.pid, provider.pid, app.database.session_name, "rows", work)


@asynccontextmanager
async def single_rows(scale: float) -> AsyncIterator[Scene]:
    """Writers of single rows of a followed table whose vectors are indexed."""
    with (
        start_provider(dimensions=DIMENSIONS, latency_ms=SLOW_MS) as provider,
        tempfile.TemporaryDirectory() as folder,
        benchmark_database() as url,
    ):
        seconds = STEADY_SECONDS * scale
        async with app_on(url, Path(folder)) as app:
            _, generation = await trickle.follow_table(app, provider, DIMENSIONS, trickle.STANDING_ROWS)
            async with trickle.worker_processes(app, 1, url, Path(folder)) as (worker,):
                await trickle.indexed(app, generation)
                await trickle.write_rows(url, ROWS_A_SECOND, trickle.WARM_UP_SECONDS, [])

                async def work() -> int:
                    updatable = list(range(1, trickle.STANDING_ROWS + 1))
                    return len(await trickle.write_rows(url, ROWS_A_SECOND, seconds, updatable))

                yield Scene(url, worker.pid, provider.pid, app.database.session_name, "rows", work)


@asynccontextmanager
async def search(scale: float, *, mode: Mode) -> AsyncIterator[Scene]:
    """One search after the other, unfiltered, their vectors given."""
    chunks, seconds = round(SEARCHED_CHUNKS * scale), STEADY_SECONDS * scale
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(os.environ.get("PROFILES_FOLDER", temporary)) / str(chunks)
        with asker(folder, chunks, mode, seconds) as (url, pid, ask):
            yield Scene(url, pid, None, "", "searches", partial(asyncio.to_thread, ask))


@contextmanager
def asker(
    folder: Path, chunks: int, mode: Mode, seconds: float
) -> Iterator[tuple[str, int, Callable[[], int]]]:
    """The server's URL, the process that asks, and how it is told to; that says how many searches it were."""
    command = [sys.executable, "-m", "benchmarks.profiles.asking"]
    command += [str(folder), str(chunks), mode.value, str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        told, says = process.stdin, process.stdout
        assert told is not None
        assert says is not None
        ready = next((line for line in says if line.startswith("ready ")), None)
        if ready is None:
            raise SystemExit("the searches do not begin; what they said stands above")

        def ask() -> int:
            told.write("go\n")
            told.flush()
            return int(says.readline())

        yield ready.split()[1], process.pid, ask


@asynccontextmanager
async def small_uploads(scale: float) -> AsyncIterator[Scene]:
    """Small documents uploaded to `embedmill up` with one worker process, to the last vector."""
    texts = texts_of(round(DOCUMENTS * scale) * 10, SEED)
    files = [
        (f"{start}.txt", "\n\n".join(texts[start : start + 10]).encode())
        for start in range(0, len(texts), 10)
    ]
    with start_provider(dimensions=DIMENSIONS, latency_ms=SLOW_MS) as provider:
        async with stage(provider, INPUTS_PER_CALL) as (app, _, url, folder):
            with uploads.running_service(url, folder, "--processes", "1") as (address, pid):
                await until_announced(app)

                async def work() -> int:
                    await uploads.measure("small", address, pid, files, at_once=UPLOADS_AT_ONCE)
                    await until_completed(app, len(files))
                    return len(files)

                yield Scene(url, pid, provider.pid, app.database.session_name, "documents", work)


@asynccontextmanager
async def claims(scale: float) -> AsyncIterator[Scene]:
    """A worker at the head of a long queue of single chunks, whose vectors are short and come at once."""
    with start_provider(dimensions=backlog.DIMENSIONS) as provider:
        async with backlog.stage_of(round(WAITING_ITEMS * scale), provider) as waiting:
            app = waiting.app
            with commands(waiting.url, waiting.folder, ["worker"]) as (worker,):
                await until_announced(app)

                async def work() -> int:
                    before = await embedded(app)
                    await asyncio.sleep(STEADY_SECONDS * scale)
                    return await embedded(app) - before

                yield Scene(waiting.url, worker.pid, provider.pid, app.database.session_name, "items", work)


async def until_completed(app: App, documents: int) -> None:
    """What comes after it, as the building of an index, is no part of the work."""
    completed = "SELECT count(*) FROM embedmill.ingestion_jobs WHERE status = 'completed'"
    while (await app.database.fetch(completed))[0][0] < documents:  # noqa: ASYNC110 - other processes
        await asyncio.sleep(0.1)


async def embedded(app: App) -> int:
    rows = await app.database.fetch("SELECT sum(embedded) FROM embedmill.coverage_counters")
    return int(rows[0][0])


WORKLOADS: dict[str, Workload] = {
    "ingest": partial(ingest, latency_ms=0),
    "ingest-slow-provider": partial(ingest, latency_ms=SLOW_MS),
    "ingest-local-model": local,
    "backfill": table,
    "trickle": single_rows,
    "search-vector": partial(search, mode=Mode.VECTOR),
    "search-hybrid": partial(search, mode=Mode.HYBRID),
    "uploads": small_uploads,
    "claims": claims,
}
