"""The local model through the whole path (enqueue, claim, embed, persist) against the bare engine on the same
chunks: same engine, same threads, no provider, no queue, nothing stored.

    python -m benchmarks.local_path [--chunks 384] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from tests.support.work import add_document, app_on, run_worker_until_settled

from benchmarks.local_engine import prose_chunks, run_bare
from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database
from embedmill.adapters.providers.local import available_cpus
from embedmill.adapters.providers.models import find_model
from embedmill.adapters.providers.onnx_engine import OnnxEngine
from embedmill.adapters.providers.sentence_model import read_sentence_model
from embedmill.app import App
from embedmill.ingest.storing import Storing


async def through_the_path(app: App, chunks: list[str]) -> float:
    """Chunks a second from the launch to the last completed item."""
    pipeline = await app.pipeline("default")
    batch = uuid4()
    launched = [
        await add_document(app, pipeline, f"doc {start}", chunks[start : start + 128], batch)
        for start in range(0, len(chunks), 128)
    ]
    await app.database.fetch("DELETE FROM embedmill.embedding_queue")
    storing = Storing(app.database, pipeline, batch_id=batch)
    started = time.perf_counter()
    for document in launched:
        await storing.relaunch(document.document_id, document.job_id)
    await run_worker_until_settled(app, batch, seconds=600)
    seconds = time.perf_counter() - started
    await app.database.fetch(
        "DELETE FROM embedmill.knowledge_documents WHERE pipeline_id = %s", (pipeline.id,)
    )
    return len(chunks) / seconds


async def measure(count: int, rounds: int) -> dict[str, object]:
    chunks = prose_chunks(count)
    engine = OnnxEngine.load(read_sentence_model(find_model("all-MiniLM-L6-v2").folder))
    engine.prepare(quick=False)
    bare, path = [], []
    with tempfile.TemporaryDirectory() as folder, benchmark_database() as url:
        async with app_on(url, Path(folder)) as app:
            await through_the_path(app, chunks[:64])  # the provider's first load is start-up, not speed
            for _ in range(rounds):
                bare.append(run_bare(engine, chunks, available_cpus()))
                path.append(await through_the_path(app, chunks))
    return {
        "chunks": count,
        "bare_chunks_per_second": round(statistics.median(bare), 1),
        "path_chunks_per_second": round(statistics.median(path), 1),
        "ratio": round(statistics.median(p / b for p, b in zip(path, bare, strict=True)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = [asyncio.run(measure(options.chunks, options.rounds))]
    show_table("Local model: the whole path against the bare engine (at least 0.9)", rows)
    save_result("local_path", rows, vars(options))


if __name__ == "__main__":
    main()
