"""timescale pgai: a vectorizer on the table, and its worker run until its queue is empty."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai  # noqa: F401 - imported at its first call else, within the clock
import pgai
import psycopg
import structlog
from pgai.vectorizer.worker import Worker

from benchmarks.peers.protocol import DIMENSIONS, MODEL, Job

ROWS_OF_A_BATCH = 200
CONCURRENCY = 8
SETTINGS = f"concurrency {CONCURRENCY}, batch_size {ROWS_OF_A_BATCH}, chunking_none, no index"
CREATE = """
SELECT ai.create_vectorizer(
    'public.texts'::regclass,
    loading => ai.loading_column('body'),
    embedding => ai.embedding_openai(%(model)s, %(dimensions)s, base_url => %(base_url)s),
    chunking => ai.chunking_none(),
    indexing => ai.indexing_none(),
    scheduling => ai.scheduling_none(),
    processing => ai.processing_default(batch_size => %(rows)s, concurrency => %(concurrency)s),
    destination => ai.destination_table('texts_embedding'))
"""


class Vectorizer:
    def __init__(self, job: Job) -> None:
        self._job = job

    async def embed(self) -> None:
        """From the command that enqueues all rows to the last vector."""
        values = {
            "model": MODEL,
            "dimensions": DIMENSIONS,
            "base_url": self._job.base_url,
            "rows": ROWS_OF_A_BATCH,
            "concurrency": CONCURRENCY,
        }
        async with await psycopg.AsyncConnection.connect(self._job.url, autocommit=True) as connection:
            await connection.execute(CREATE, values)
        if (failure := await Worker(self._job.url, once=True).run()) is not None:
            raise failure


@asynccontextmanager
async def ready(job: Job) -> AsyncIterator[Vectorizer]:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO)
    )  # as its command does
    pgai.install(job.url)
    yield Vectorizer(job)
