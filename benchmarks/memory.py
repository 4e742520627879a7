"""Memory of a worker with the openai provider: flat, whether a thousand chunks wait or a million.

    python -m benchmarks.memory [--backlogs 1000 1000000] [--seconds 40]

Each backlog is made in the database (short texts, 1536 dimensions); the installed `embedmill worker` works on it
for so many seconds, or to its end, while its resident memory is sampled.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from tests.support.provider import start_provider
from tests.support.work import app_on, stand_in_pipeline

from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.items import live_items

_DOCUMENTS = """
INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, name)
SELECT %(tenant)s, %(pipeline)s, 'bench', 'doc ' || n, 'doc ' || n FROM generate_series(1, %(documents)s) AS n
"""
_CHUNKS = """
INSERT INTO embedmill.knowledge_chunks
    (tenant_id, pipeline_id, document_id, ordinal, start_offset, end_offset, token_count, text_config,
     content_hash, text)
SELECT %(tenant)s, %(pipeline)s, d.id, n, 0, 0, 30, 'simple', substring(sha256(t::bytea) FROM 1 FOR 16), t
  FROM embedmill.knowledge_documents d, generate_series(0, %(each)s - 1) AS n,
       LATERAL (SELECT d.id || ' ' || n || repeat(' mill river wheel stone', 6) AS t) made
"""
_LAUNCH = """
WITH jobs AS (
    INSERT INTO embedmill.ingestion_jobs (tenant_id, pipeline_id, document_id, status)
    SELECT tenant_id, pipeline_id, id, 'chunk_preview_ready' FROM embedmill.knowledge_documents
    RETURNING id, document_id)
SELECT document_id, id FROM jobs
"""


async def make_backlog(app: App, pipeline: Pipeline, chunks: int) -> None:
    """Documents of up to 500 chunks, launched."""
    each = min(500, chunks)
    values = {
        "tenant": pipeline.tenant_id,
        "pipeline": pipeline.id,
        "documents": chunks // each,
        "each": each,
    }
    await app.database.fetch(_DOCUMENTS, values)
    await app.database.fetch(_CHUNKS, values)
    await app.database.fetch("ANALYZE embedmill.knowledge_chunks")
    for document_id, job_id in await app.database.fetch(_LAUNCH):
        await app.database.fetch(
            "SELECT embedmill.launch_document(%s, %s, gen_random_uuid(), 'medium', 'internal_ingestion')",
            (document_id, job_id),
        )


async def measure(chunks: int, seconds: float) -> dict[str, object]:
    with (
        tempfile.TemporaryDirectory() as folder,
        benchmark_database() as url,
        start_provider(dimensions=1536) as provider,
    ):
        async with app_on(url, Path(folder)) as app:
            pipeline = await stand_in_pipeline(
                app, provider.base_url, dimensions=1536, max_inputs_per_call=1000, timeout_seconds=60
            )
            await make_backlog(app, pipeline, chunks)
            command = [str(Path(sys.executable).with_name("embedmill")), "worker"]
            environment = {"EMBEDMILL_DATABASE_URL": url, "EMBEDMILL_DATA_DIR": folder, "PATH": ""}
            with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as worker:  # noqa: ASYNC220
                process = psutil.Process(worker.pid)
                samples: list[float] = []
                started = time.monotonic()
                while time.monotonic() - started < seconds:
                    samples.append(process.memory_info().rss / 1e6)
                    await asyncio.sleep(0.2)
                    if await live_items(app.database) == 0:
                        break
                worker.terminate()
                worker.wait(timeout=120)
        paid = provider.stats()["inputs_paid"]
    return {
        "backlog_chunks": chunks,
        "embedded_chunks": paid,
        "peak_mb": round(max(samples)),
        "last_mb": round(samples[-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backlogs", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=40)
    options = parser.parse_args()
    rows = [asyncio.run(measure(chunks, options.seconds)) for chunks in options.backlogs]
    show_table("Memory of a worker (under 400 MB, and the same for any backlog)", rows)
    save_result("memory", rows, vars(options))


if __name__ == "__main__":
    main()
