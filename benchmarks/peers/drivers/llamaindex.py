"""LlamaIndex: IngestionPipeline with OpenAIEmbedding and PGVectorStore, asynchronous."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.vector_stores.postgres import PGVectorStore

from benchmarks.peers.protocol import DIMENSIONS, MODEL, Job, sqlalchemy_url

INPUTS_PER_CALL = 500
CALLS_IN_FLIGHT = 8
SETTINGS = (
    f"arun, num_workers {CALLS_IN_FLIGHT} of the embedding, embed_batch_size {INPUTS_PER_CALL}, no cache"
)


class Pipeline:
    def __init__(self, pipeline: IngestionPipeline, nodes: list[TextNode]) -> None:
        self._pipeline = pipeline
        self._nodes = nodes

    async def embed(self) -> None:
        await self._pipeline.arun(nodes=self._nodes)


@asynccontextmanager
async def ready(job: Job) -> AsyncIterator[Pipeline]:
    store = PGVectorStore(
        connection_string=sqlalchemy_url(job.url, "postgresql+psycopg2"),
        async_connection_string=sqlalchemy_url(job.url, "postgresql+asyncpg"),
        table_name="peers",
        schema_name="public",
        embed_dim=DIMENSIONS,
        use_jsonb=True,
    )
    store._initialize()  # its tables, which its first insertion would make
    embedding = OpenAIEmbedding(
        model_name=MODEL,
        api_base=job.base_url,
        api_key="none",
        embed_batch_size=INPUTS_PER_CALL,
        num_workers=CALLS_IN_FLIGHT,
        reuse_client=True,
    )
    pipeline = IngestionPipeline(transformations=[embedding], vector_store=store, disable_cache=True)
    yield Pipeline(pipeline, [TextNode(text=text) for text in job.texts])
    await store.close()
