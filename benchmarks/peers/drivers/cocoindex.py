"""CocoIndex: a table of PostgreSQL as source and another as target, an embedder that batches what runs at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import cocoindex as coco
import numpy as np
from cocoindex.connectors import postgres
from cocoindex.resources.schema import VectorSchema
from numpy.typing import NDArray
from openai import AsyncOpenAI

from benchmarks.peers.protocol import DIMENSIONS, MODEL, Job

INPUTS_PER_CALL = 256
ROWS_AT_ONCE = 2048
SETTINGS = f"max_batch_size {INPUTS_PER_CALL}, max_inflight_components {ROWS_AT_ONCE:,}"


class Embedder:
    def __init__(self, base_url: str) -> None:
        self._client = AsyncOpenAI(base_url=base_url, api_key="none")

    @coco.fn.as_async(batching=True, max_batch_size=INPUTS_PER_CALL)
    async def embed(self, texts: list[str]) -> list[NDArray[np.float32]]:
        answer = await self._client.embeddings.create(model=MODEL, input=texts)
        return [np.array(datum.embedding, np.float32) for datum in answer.data]

    async def __coco_vector_schema__(self) -> VectorSchema:
        return VectorSchema(np.dtype(np.float32), DIMENSIONS)


POOL = coco.ContextKey[asyncpg.Pool]("pool")
EMBEDDER = coco.ContextKey[Embedder]("embedder")


@dataclass
class Text:
    id: int
    body: str


@dataclass
class Embedded:
    id: int
    body: str
    embedding: Annotated[NDArray[np.float32], EMBEDDER]


@coco.fn(memo=True)
async def embed_text(text: Text, table: postgres.TableTarget[Embedded]) -> None:
    embedding = await coco.use_context(EMBEDDER).embed(text.body)
    table.declare_row(row=Embedded(text.id, text.body, embedding))


@coco.fn
async def embed_table() -> None:
    target = await postgres.mount_table_target(
        POOL,
        table_name="peers",
        table_schema=await postgres.TableSchema.from_class(Embedded, primary_key=["id"]),
        pg_schema_name="public",
    )
    source = postgres.PgTableSource(coco.use_context(POOL), table_name="texts", row_type=Text)
    await coco.mount_each(embed_text, source.fetch_rows().items(lambda text: text.id), target)


class Application:
    def __init__(self, app: Any) -> None:
        self._app = app

    async def embed(self) -> None:
        await self._app.update()


@asynccontextmanager
async def ready(job: Job) -> AsyncIterator[Application]:
    @coco.lifespan
    async def lifespan(builder: coco.EnvironmentBuilder) -> AsyncIterator[None]:
        builder.settings.db_path = Path(job.scratch) / "cocoindex"
        async with await postgres.create_pool(job.url) as pool:
            builder.provide(POOL, pool)
            builder.provide(EMBEDDER, Embedder(job.base_url))
            yield

    async with coco.runtime():
        config = coco.AppConfig(name="Peers", max_inflight_components=ROWS_AT_ONCE)
        yield Application(coco.App(config, embed_table))
