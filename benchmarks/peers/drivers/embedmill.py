"""What all ways of embedmill share: a database with its schema, a pipeline on the stand-in, a worker, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.peers.protocol import DIMENSIONS, MODEL, Job
from embedmill.app import App, open_app, prepare_database
from embedmill.cli.running import collect_garbage_seldom
from embedmill.core.documents import ChunkPlan
from embedmill.database.pipelines import Pipeline
from embedmill.logs import configure_logs
from embedmill.ports import ProviderSpec
from embedmill.settings import Settings
from embedmill.worker.loop import Worker

INPUTS_PER_CALL = 2048
PLAN = ChunkPlan(256, 0)
_POLL_SECONDS = 0.01
_EMBEDDED = "SELECT coalesce(sum(embedded), 0) FROM embedmill.coverage_counters"


def spec_of(base_url: str) -> ProviderSpec:
    return ProviderSpec(
        provider="openai",
        model=MODEL,
        dimensions=DIMENSIONS,
        base_url=base_url,
        timeout_seconds=60,
        max_inputs_per_call=INPUTS_PER_CALL,
    )


@asynccontextmanager
async def opened(job: Job) -> AsyncIterator[tuple[App, Pipeline]]:
    """The app with a pipeline `peers`, full-text index and all, as `embedmill pipeline create` makes it."""
    settings = Settings(database_url=job.url, data_dir=Path(job.scratch))
    configure_logs(settings)
    collect_garbage_seldom()  # as commands do
    async with open_app(settings, prepare_database(settings)) as app:
        pipeline = await app.create_pipeline(
            "peers",
            spec_of(job.base_url),
            explicit=frozenset({"max_inputs_per_call"}),
            storage="vector",
            chunk_plan=PLAN,
            text_search_config="english",
            price_per_million_tokens=None,
            calls_per_minute=None,
            tokens_per_minute=None,
        )
        yield app, pipeline


@asynccontextmanager
async def working(app: App) -> AsyncIterator[Worker]:
    """A worker in this process, as `embedmill ingest` has one; it has announced itself."""
    async with asyncio.TaskGroup() as tasks:
        worker = app.worker()
        tasks.create_task(worker.run())
        await until_announced(app)
        yield worker
        worker.stop()


async def until_announced(app: App) -> None:
    while not await app.database.fetch("SELECT 1 FROM embedmill.embedding_queue_workers"):  # noqa: ASYNC110 - in SQL
        await asyncio.sleep(_POLL_SECONDS)


async def until_embedded(app: App, texts: int) -> None:
    while (await app.database.fetch(_EMBEDDED))[0][0] < texts:  # noqa: ASYNC110 - in SQL
        await asyncio.sleep(_POLL_SECONDS)
