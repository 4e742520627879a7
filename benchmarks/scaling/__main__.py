"""How the project grows and what it takes: rows a second by worker processes (1, 2, 4) with a provider that takes
100 ms, memory of each process, bytes of disk and of log for each chunk, the size of an install, the time of a start.

    python -m benchmarks.scaling [--only processes|memory|storage|install] [--chunks 40000] [--rows 20000]
                                 [--stored 10000] [--rounds 3] [--runs 5]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from typing import Any

from tests.support.provider import start_provider

from benchmarks.results import FOLDER, save_result, show_table
from benchmarks.scaling.install import first_claim, installs
from benchmarks.scaling.processes import LATENCY_MS, memory, speed
from benchmarks.scaling.storage import KINDS, storage

WORKERS = (1, 2, 4)
# Calls so small that the provider's latency binds, and calls so large that the machine does.
INPUTS_PER_CALL = (10, 500)


async def processes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians of rounds, in each of which every number of workers has its turn."""
    seen: dict[tuple[int, int], list[dict[str, Any]]] = {}
    with start_provider(latency_ms=LATENCY_MS) as provider:
        for _ in range(options.rounds):
            for inputs in INPUTS_PER_CALL:
                for workers in WORKERS:
                    # Small calls are slow calls: as many chunks as one worker does in some ten seconds.
                    chunks = min(options.chunks, workers * inputs * 1_000)
                    result = await speed(provider, workers, inputs, chunks)
                    print(f"   {result}", flush=True)
                    seen.setdefault((inputs, workers), []).append(result)
    return [median_of(results) for results in seen.values()]


def median_of(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The round in the middle, by its speed."""
    ordered = sorted(results, key=lambda result: result["rows_per_second"])
    return ordered[len(ordered) // 2]


async def memories(options: argparse.Namespace) -> list[dict[str, Any]]:
    with start_provider(latency_ms=LATENCY_MS) as provider:
        return await memory(provider, options.rows)


async def storages(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    with start_provider() as provider:
        for kind in KINDS:
            for origin in ("documents", "rows"):
                rows.append(await storage(provider, origin, kind, options.stored))
                print(f"   {rows[-1]}", flush=True)
    return rows


async def sizes(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for row in installs(options.runs):
        rows.append(row)
        print(f"   {row}", flush=True)
    with start_provider() as provider:
        rows.append(await first_claim(provider, options.runs))
    columns = ("measure", "what", "distributions", "megabytes", "start", "start_seconds")
    return [{column: row.get(column, "") for column in columns} for row in rows]


MEASURES = {
    "processes": (processes, "Rows a second by worker processes, a provider of 100 ms"),
    "memory": (memories, "The most memory of each process while a table is embedded"),
    "storage": (storages, "Bytes for each chunk, on disk and in the log"),
    "install": (sizes, "Installed size and start"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=MEASURES)
    parser.add_argument("--chunks", type=int, default=40_000)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--stored", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    for name, (measure, title) in MEASURES.items():
        if options.only in (None, name):
            load = round(os.getloadavg()[0], 2)
            rows = asyncio.run(measure(options))
            show_table(title, rows)
            save_measure(name, rows, vars(options) | {"load_before": load})


def save_measure(name: str, rows: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """In place of what the result says of this measure; each says how it was run."""
    path = FOLDER / "scaling.json"
    earlier = json.loads(path.read_text("utf-8")) if path.exists() else {"rows": [], "options": {}}
    kept = [row for row in earlier["rows"] if row["measure"] != name]
    save_result("scaling", kept + rows, earlier["options"] | {name: options})


if __name__ == "__main__":
    main()
