"""Work for a queue, made without parsing: pipelines on the stand-in provider, documents of given chunks, a
worker that runs until nothing is left. Shared by tests and benchmarks; must not assert."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
from psycopg import sql

from embedmill.app import App, open_app, prepare_database
from embedmill.core.documents import Chunk, ChunkPlan, ParsedDocument
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import vectors_table
from embedmill.events import Event
from embedmill.ingest.progress import is_settled
from embedmill.ingest.storing import Launched, SourceContent, Storing
from embedmill.ports import ProviderSpec, Vectors
from embedmill.settings import Settings
from embedmill.worker.loop import Worker, WorkerOptions

DIMENSIONS = 16
"""Of the vectors of most tests."""


@asynccontextmanager
async def app_on(url: str, data_dir: Path, **settings: object) -> AsyncIterator[App]:
    """The app on a test database."""
    chosen = Settings(database_url=url, data_dir=data_dir, **settings)  # type: ignore[arg-type]
    async with open_app(chosen, prepare_database(chosen)) as app:
        yield app


async def stand_in_pipeline(
    app: App,
    base_url: str,
    name: str = "standin",
    *,
    dimensions: int = 64,
    storage: str = "vector",
    max_inputs_per_call: int = 100,
    timeout_seconds: float = 10.0,
    calls_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    price_per_million_tokens: int | None = None,
    chunk_plan: ChunkPlan = ChunkPlan(256, 32),  # noqa: B008 - it is frozen
) -> Pipeline:
    """A pipeline on the stand-in; 8,000 tokens an input, 300,000 a call."""
    spec = ProviderSpec(
        provider="openai",
        model="stand-in",
        dimensions=dimensions,
        base_url=base_url,
        timeout_seconds=timeout_seconds,
        max_inputs_per_call=max_inputs_per_call,
        max_tokens_per_call=300_000,
        max_tokens_per_input=8_000,
    )
    return await app.create_pipeline(
        name,
        spec,
        explicit=frozenset(),
        storage=storage,
        chunk_plan=chunk_plan,
        text_search_config="simple",
        price_per_million_tokens=(
            None if price_per_million_tokens is None else Decimal(price_per_million_tokens)
        ),
        calls_per_minute=calls_per_minute,
        tokens_per_minute=tokens_per_minute,
    )


async def unanswered_pipeline(app: App) -> Pipeline:
    """A pipeline for tests in which no provider is called: nobody listens where it points to."""
    return await stand_in_pipeline(app, "http://127.0.0.1:9/v1", dimensions=DIMENSIONS)


async def add_document(
    app: App,
    pipeline: Pipeline,
    source_id: str,
    texts: Sequence[str],
    batch_id: UUID | None = None,
    *,
    on_launched: Callable[[], None] = lambda: None,
) -> Launched:
    """A document whose chunks are exactly these texts, launched."""
    storing = Storing(app.database, pipeline, batch_id=batch_id or uuid4(), on_launched=on_launched)
    whole = "\n".join(texts)
    chunks = []
    start = 0
    for ordinal, text in enumerate(texts):
        chunks.append(Chunk(ordinal, start, start + len(text), text, len(text.split()) + 2))
        start += len(text) + 1
    content = SourceContent(
        "test",
        source_id,
        source_id,
        len(whole),
        hashlib.sha256(whole.encode("utf-8", "surrogatepass")).digest(),
    )
    return await storing.save(content, ParsedDocument(text=whole, media_type="text/plain"), chunks)


async def run_worker_until_settled(
    app: App,
    batch_id: UUID,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    options: WorkerOptions | None = None,
    seconds: float = 120.0,
) -> Worker:
    """A worker in this process, until every document of the batch has ended."""
    worker = Worker(app.database, app.provider, options or WorkerOptions(), on_event=on_event)
    async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(worker.run())
        while not await is_settled(app.database, batch_id):
            await asyncio.sleep(0.02)
            if running.done():
                break
        worker.stop()
    return worker


async def stored_vectors(app: App, pipeline: Pipeline) -> list[tuple[int, str, Vectors]]:
    """(chunk id, text, vector) of every chunk that has a vector, by an independent reading of the tables."""
    query = sql.SQL(
        "SELECT c.id, c.text, v.embedding::text FROM embedmill.knowledge_chunks c "
        "JOIN {} v ON v.chunk_id = c.id WHERE c.pipeline_id = %s ORDER BY c.id"
    ).format(vectors_table(pipeline.generation.id))
    rows = await app.database.fetch(query, (pipeline.id,))
    return [
        (row[0], row[1], np.array([float(x) for x in row[2][1:-1].split(",")], np.float32)) for row in rows
    ]


async def set_price(app: App, price: int | None) -> None:
    """What a million tokens cost in every pipeline from now on; None: nobody knows."""
    async with app.database.transaction() as connection:
        for table in ("pipelines", "generations"):
            await connection.execute(
                sql.SQL("UPDATE embedmill.{} SET price_per_million_tokens = %s").format(
                    sql.Identifier(table)
                ),
                (price,),
            )


async def missing_chunks(app: App, pipeline: Pipeline) -> int:
    """Chunks of a pipeline without a vector."""
    query = sql.SQL(
        "SELECT count(*) FROM embedmill.knowledge_chunks c WHERE c.pipeline_id = %s "
        "AND NOT EXISTS (SELECT FROM {} v WHERE v.chunk_id = c.id)"
    ).format(vectors_table(pipeline.generation.id))
    row = await app.database.fetch_one(query, (pipeline.id,))
    return int(row[0]) if row else -1
