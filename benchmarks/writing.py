"""Chunks through the whole path (enqueue, claim, call, persist) against a bare loop in the same run: full calls
to the same provider, decode, binary COPY of (id, vector), no queue. Also one-chunk documents, as rows are.

    python -m benchmarks.writing [--chunks 40000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import httpx2
import msgspec
import numpy as np
import psycopg
from psycopg import sql
from tests.support.provider import start_provider
from tests.support.work import add_document, app_on, run_worker_until_settled, stand_in_pipeline

from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.ingest.storing import Storing
from embedmill.worker.loop import WorkerOptions

DIMENSIONS = 1536
INPUTS_PER_CALL = 1000
CALLS_IN_FLIGHT = 4


class _Datum(msgspec.Struct):
    embedding: bytes


class _Answer(msgspec.Struct):
    data: list[_Datum]


def texts_of(count: int, seed: int) -> list[str]:
    """Distinct passages of about 25 words."""
    chance = random.Random(seed)
    words = [f"term{i}" for i in range(2000)]
    return [f"{seed} {number} " + " ".join(chance.choices(words, k=25)) for number in range(count)]


async def bare_loop(url: str, base_url: str, texts: list[str], storage: str) -> float:
    """Rows a second of nothing but calls and COPY, with as many calls in flight; its own table."""
    scalar = {"vector": ">f4", "halfvec": ">f2"}[storage]
    row = np.dtype(
        [("n", ">i2"), ("l1", ">i4"), ("id", ">i8"), ("l2", ">i4"), ("dim", ">i2"), ("zero", ">i2"),
         ("vector", scalar, (DIMENSIONS,))]
    )  # fmt: skip
    batches = [range(i, min(i + INPUTS_PER_CALL, len(texts))) for i in range(0, len(texts), INPUTS_PER_CALL)]
    waiting = iter(batches)
    decoder = msgspec.json.Decoder(_Answer)
    statement = sql.SQL("COPY bare (id, embedding) FROM STDIN (FORMAT binary)")

    async def slot(client: httpx2.AsyncClient) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            for batch in waiting:
                body = msgspec.json.encode(
                    {"model": "stand-in", "input": [texts[i] for i in batch], "encoding_format": "base64"}
                )
                response = await client.post(
                    base_url + "/embeddings", content=body, headers={"Content-Type": "application/json"}
                )
                answer = decoder.decode(response.content)
                block = np.zeros(len(batch), row)
                block["n"], block["l1"], block["id"] = 2, 8, np.arange(batch.start, batch.stop)
                block["l2"], block["dim"] = 4 + np.dtype(scalar).itemsize * DIMENSIONS, DIMENSIONS
                joined = b"".join(datum.embedding for datum in answer.data)
                block["vector"] = np.frombuffer(joined, "<f4").reshape(len(batch), DIMENSIONS)
                async with connection.cursor().copy(statement) as copy:
                    await copy.write(b"PGCOPY\n\xff\r\n\x00" + bytes(8) + block.tobytes() + b"\xff\xff")

    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("DROP TABLE IF EXISTS bare")
        kind = sql.SQL("{}({})").format(sql.SQL(storage), sql.Literal(DIMENSIONS))
        await connection.execute(
            sql.SQL("CREATE TABLE bare (id bigint PRIMARY KEY, embedding {} NOT NULL)").format(kind)
        )
        # As our tables have it (benchmarks/layout.py): the limit is to be at its best.
        await connection.execute("ALTER TABLE bare ALTER embedding SET STORAGE PLAIN")
        started = time.perf_counter()
        async with httpx2.AsyncClient(timeout=60) as client, asyncio.TaskGroup() as tasks:
            for _ in range(CALLS_IN_FLIGHT):
                tasks.create_task(slot(client))
        seconds = time.perf_counter() - started
        await connection.execute("DROP TABLE bare")
        await connection.execute("CHECKPOINT")
    return len(texts) / seconds


async def whole_path(app: App, pipeline: Pipeline, texts: list[str], chunks_per_document: int) -> float:
    """Rows a second from enqueueing to the last completed item; the chunks stand already, as after a preview."""
    batch = uuid4()
    launched = []
    for start in range(0, len(texts), chunks_per_document):
        some = texts[start : start + chunks_per_document]
        launched.append(await add_document(app, pipeline, f"{texts[start][:40]}", some, batch))
    # Back to the moment before the launch: the queue is emptied, then everything is enqueued again, timed.
    await app.database.fetch("DELETE FROM embedmill.embedding_queue")
    await app.database.fetch("VACUUM ANALYZE embedmill.knowledge_chunks")
    await app.database.fetch("CHECKPOINT")
    storing = Storing(app.database, pipeline, batch_id=batch)
    options = WorkerOptions(calls_in_flight=CALLS_IN_FLIGHT)
    started = time.perf_counter()
    if chunks_per_document > 1:
        for document in launched:
            await storing.relaunch(document.document_id, document.job_id)
    else:
        await app.database.fetch(
            "SELECT count(*) FROM embedmill.ingestion_jobs j, "
            "LATERAL embedmill.launch_document(j.document_id, j.id, j.batch_id, 'medium', 'internal_ingestion') "
            "WHERE j.batch_id = %s",
            (batch,),
        )
    enqueued = time.perf_counter() - started
    await run_worker_until_settled(app, batch, options=options, seconds=600)
    seconds = time.perf_counter() - started
    print(
        f"   {len(texts) / seconds:,.0f} rows/s, of which enqueueing took {enqueued / seconds:.0%}",
        flush=True,
    )
    await app.database.fetch(
        "DELETE FROM embedmill.knowledge_documents WHERE pipeline_id = %s", (pipeline.id,)
    )
    await app.database.fetch("VACUUM embedmill.embedding_queue, embedmill.knowledge_chunks")
    return len(texts) / seconds


async def measure(chunks: int, rounds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        benchmark_database() as url,
        start_provider(dimensions=DIMENSIONS) as provider,
    ):
        async with app_on(url, Path(folder)) as app:
            for storage in ("vector", "halfvec"):
                pipeline = await stand_in_pipeline(
                    app, provider.base_url, f"bench-{storage}", dimensions=DIMENSIONS, storage=storage,
                    max_inputs_per_call=INPUTS_PER_CALL, timeout_seconds=60,
                )  # fmt: skip
                bare, documents, singles = [], [], []
                for number in range(rounds):
                    bare.append(await bare_loop(url, provider.base_url, texts_of(chunks, 1), storage))
                    documents.append(await whole_path(app, pipeline, texts_of(chunks, 10 + number), 500))
                    singles.append(await whole_path(app, pipeline, texts_of(chunks // 20, 100 + number), 1))
                    print(
                        f"{storage} round {number + 1}: bare {bare[-1]:,.0f}, path {documents[-1]:,.0f}",
                        flush=True,
                    )
                rows.append(
                    {
                        "storage": storage,
                        "bare_rows_per_second": round(statistics.median(bare)),
                        "path_rows_per_second": round(statistics.median(documents)),
                        "one_chunk_documents_per_second": round(statistics.median(singles)),
                        "ratio": round(
                            statistics.median(p / b for p, b in zip(documents, bare, strict=True)), 3
                        ),
                        "ratio_one_chunk": round(
                            statistics.median(p / b for p, b in zip(singles, bare, strict=True)), 3
                        ),
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = asyncio.run(measure(options.chunks, options.rounds))
    show_table("Writing: the whole path against a bare loop (1536 dimensions, at least 0.6)", rows)
    save_result("writing", rows, {"chunks": options.chunks, "rounds": options.rounds})


if __name__ == "__main__":
    main()
