"""LangChain: PGVectorStore of langchain-postgres with OpenAIEmbeddings, batches added side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langchain_openai import OpenAIEmbeddings
from langchain_postgres import PGEngine, PGVectorStore

from benchmarks.peers.protocol import DIMENSIONS, MODEL, Job, sqlalchemy_url

INPUTS_PER_CALL = 500
BATCHES_AT_ONCE = 4
SETTINGS = f"aadd_texts, {BATCHES_AT_ONCE} batches at once of {INPUTS_PER_CALL}, asyncpg"


class Store:
    def __init__(self, store: PGVectorStore, texts: list[str]) -> None:
        self._store = store
        self._texts = texts

    async def embed(self) -> None:
        batches = iter(range(0, len(self._texts), INPUTS_PER_CALL))

        async def slot() -> None:
            for start in batches:
                await self._store.aadd_texts(self._texts[start : start + INPUTS_PER_CALL])

        await asyncio.gather(*(slot() for _ in range(BATCHES_AT_ONCE)))


@asynccontextmanager
async def ready(job: Job) -> AsyncIterator[Store]:
    engine = PGEngine.from_connection_string(sqlalchemy_url(job.url, "postgresql+asyncpg"))
    await engine.ainit_vectorstore_table(table_name="peers", vector_size=DIMENSIONS)
    embeddings = OpenAIEmbeddings(
        model=MODEL,
        base_url=job.base_url,
        api_key="none",
        chunk_size=2048,
        check_embedding_ctx_length=False,
    )
    store = await PGVectorStore.create(engine=engine, table_name="peers", embedding_service=embeddings)
    yield Store(store, job.texts)
    await engine.close()
