"""How much of the bare engine's speed the local provider keeps, and how long the first query takes to come.

    python -m benchmarks.local_engine [--chunks 128] [--rounds 6] [--threads N]

Bare: the same engine and threads, all chunks tokenised and sorted at once, a queue, no event loop. Provider:
calls of the size it asks for, two in flight, as a worker makes them. The two take turns, and the ratio is of
the best rounds, for other work on the machine only ever slows a round down; `cpu_ratio` is that of the CPU
time a chunk takes, which other work hardly touches. Chunks are cut from the prose of
Python's own language reference (pydoc_data), seeded, to about 200 tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pydoc_data.topics
import queue
import random
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import psutil

from benchmarks.results import save_result, show_table
from embedmill.adapters.providers.local import LocalProvider, available_cpus, plan_batches
from embedmill.adapters.providers.models import find_model
from embedmill.adapters.providers.onnx_engine import OnnxEngine
from embedmill.adapters.providers.sentence_model import read_sentence_model
from embedmill.adapters.tokenizers import load_token_counter
from embedmill.ports import ProviderSpec, Purpose

MODEL = "all-MiniLM-L6-v2"
CALLS_IN_FLIGHT = 2

START = """
import time
clock, begun, steps = time.perf_counter, time.perf_counter(), {}
def step(name):
    global begun
    steps[name] = (clock() - begun) * 1000
    begun = clock()
import numpy; step("import numpy")
import asyncio; step("import asyncio")
from embedmill.adapters.providers.local import LocalProvider
from embedmill.ports import ProviderSpec, Purpose; step("import embedmill's provider")
import onnxruntime; step("import onnxruntime")
import tokenizers; step("import tokenizers")
from embedmill.adapters.providers.models import find_model
from embedmill.adapters.providers.onnx_engine import OnnxEngine, load_tokenizer
from embedmill.adapters.providers.onnx_graph import build_graph
from embedmill.adapters.providers.safetensors import read_tensors
from embedmill.adapters.providers.sentence_model import read_sentence_model
model = read_sentence_model(find_model("all-MiniLM-L6-v2").folder); step("find and read the folder")
load_tokenizer(model.folder); step("load the tokenizer")
graph = build_graph(model, read_tensors(model.folder)); step("write the graph")
engine = OnnxEngine.load(model); begun = clock()
engine.prepare(quick=True); step("open the quick session")
ids = numpy.array(engine.encode(["how do I reset my password?"])); step("tokenise the query")
engine.run(ids, quick=True); step("first query, quick")
engine.run(ids, quick=True); step("second query, quick")
engine.prepare(quick=False); step("open the packed session")
engine.run(ids); step("first query, packed")
engine.run(ids); step("second query, packed")
import json; print(json.dumps(steps))
"""

WHOLE = """
import asyncio, sys, tempfile
from pathlib import Path
from embedmill.adapters.providers.local import LocalProvider
from embedmill.ports import ProviderSpec, Purpose
async def main():
    provider = LocalProvider(ProviderSpec("local", "all-MiniLM-L6-v2", 384), models_dir=Path(sys.argv[1]))
    await provider.embed(["how do I reset my password?"], Purpose.QUERY)
    await provider.aclose()
asyncio.run(main())
"""


def prose_chunks(count: int, tokens: int = 200, seed: int = 7) -> list[str]:
    """Runs of sentences of about so many tokens each, differing by a quarter either way."""
    chance = random.Random(seed)
    paragraphs = [
        " ".join(paragraph.split())
        for topic in pydoc_data.topics.topics.values()
        for paragraph in topic.split("\n\n")
        if len(paragraph) > 120 and "::" not in paragraph
    ]
    chance.shuffle(paragraphs)
    counter = load_token_counter(None, MODEL, "local")
    words = " ".join(paragraphs).split()
    rate = sum(counter.count([" ".join(words[:5000])])) / 5000
    chunks, at = [], 0
    for _ in range(count):
        length = round(chance.uniform(0.75, 1.25) * tokens / rate)
        chunks.append(" ".join(words[at % len(words) : at % len(words) + length]))
        at += length
    return chunks


def run_bare(engine: OnnxEngine, chunks: list[str], threads: int) -> float:
    begun = time.perf_counter()
    ids = engine.encode(chunks)
    waiting: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for batch in plan_batches([len(each) for each in ids], threads):
        waiting.put(batch)
    vectors = np.empty((len(ids), engine.model.dimensions), np.float32)

    def work() -> None:
        while True:
            try:
                rows = waiting.get_nowait()
            except queue.Empty:
                return
            vectors[rows] = engine.run(np.array([ids[row] for row in rows]))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(chunks) / (time.perf_counter() - begun)


async def run_provider(provider: LocalProvider, chunks: list[str]) -> float:
    size = provider.limits.max_inputs_per_call
    calls = [chunks[start : start + size] for start in range(0, len(chunks), size)]
    in_flight = asyncio.Semaphore(CALLS_IN_FLIGHT)

    async def call(inputs: list[str]) -> None:
        async with in_flight:
            await provider.embed(inputs, Purpose.DOCUMENT)

    begun = time.perf_counter()
    await asyncio.gather(*map(call, calls))
    return len(chunks) / (time.perf_counter() - begun)


async def compare(chunks: list[str], rounds: int, threads: int) -> dict[str, object]:
    engine = OnnxEngine.load(read_sentence_model(find_model(MODEL).folder))
    engine.prepare(quick=False)
    provider = LocalProvider(ProviderSpec("local", MODEL, 384), threads=threads)
    await provider.load()
    run_bare(engine, chunks[:16], threads)
    await run_provider(provider, chunks[:16])
    bare, through, cpu = [], [], [time.process_time()]
    for _ in range(rounds):
        bare.append(run_bare(engine, chunks, threads))
        cpu.append(time.process_time())
        through.append(await run_provider(provider, chunks))
        cpu.append(time.process_time())
    cpu_seconds = np.diff(cpu)
    await provider.aclose()
    counts = load_token_counter(None, MODEL, "local").count(chunks)
    return {
        "chunks": len(chunks),
        "mean_tokens": round(statistics.mean(counts), 1),
        "threads": threads,
        "bare_chunks_per_second": round(max(bare), 1),
        "provider_chunks_per_second": round(max(through), 1),
        "ratio": round(max(through) / max(bare), 3),
        "cpu_ratio": round(float(cpu_seconds[::2].min() / cpu_seconds[1::2].min()), 3),
        "rss_mb": round(psutil.Process().memory_info().rss / 1e6),
    }


def measure_start(repeats: int = 5) -> dict[str, Any]:
    """Milliseconds of each step to a first vector, each in a new process; the best of the repeats."""
    import tempfile

    runs = [
        json.loads(subprocess.run([sys.executable, "-c", START], capture_output=True, check=True).stdout)
        for _ in range(repeats)
    ]
    with tempfile.TemporaryDirectory() as models_dir:
        whole = []
        for _ in range(repeats):  # the first hashes the weights and leaves its note
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", WHOLE, models_dir], check=True)
            whole.append((time.perf_counter() - begun) * 1000)
    steps = {name: round(min(run[name] for run in runs), 1) for name in runs[0]}
    return {
        "steps_ms": steps,
        "process_with_one_query_ms": {"unchecked_weights": round(whole[0]), "best": round(min(whole[1:]))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--chunks", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=available_cpus())
    options = parser.parse_args()
    result = asyncio.run(compare(prose_chunks(options.chunks), options.rounds, options.threads))
    show_table("The local provider against the bare engine (at least 0.9)", [result])
    start = measure_start()
    show_table("From nothing to a first vector, milliseconds", [start["steps_ms"]])
    save_result("local_engine", [result, start], vars(options))


if __name__ == "__main__":
    main()
