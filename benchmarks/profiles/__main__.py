"""What binds in each workload: which processes take the machine's processors, where our Python is, and what the
server's sessions do and wait for, all sampled while it runs.

    python -m benchmarks.profiles [--only NAME ...] [--scale 1]

The workloads: bulk ingest of files with a provider that answers at once (`ingest`), with one that takes 100 ms
(`ingest-slow-provider`) and with the local model (`ingest-local-model`); the backfill of a table into a column of it
(`backfill`) and single rows of a followed table (`trickle`), both with a provider that takes 100 ms; searches over
100,000 chunks, one after the other (`search-vector`, `search-hybrid`); a thousand small documents uploaded over HTTP,
to the last vector (`uploads`); a worker while a million items wait (`claims`).

Rows of `cores` say how many processors each took. Those of `own` are samples of Python on the processor, of all our
processes, by the innermost function of ours, or the library where none of ours waits for it; `mostly` is the library at
work. Those of `server` and `waits` are looks at the sessions that are active, by statement and by wait (CPU: none): the
embedded server has neither pg_stat_statements nor auto_explain, and sampling takes their place. `at_once` is how many
threads or sessions a look saw on average. The looking itself takes of the processors too (`other_cores`, with the
clients that bring the work); shares are what to read. Searches fill an installation, which stays under PROFILES_FOLDER.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from typing import Any

from benchmarks.profiles.watching import watched
from benchmarks.profiles.workloads import WORKLOADS
from benchmarks.results import FOLDER, save_result, show_table


async def profile(name: str, scale: float) -> list[dict[str, Any]]:
    async with WORKLOADS[name](scale) as scene:
        return [{"workload": name, **row} for row in await watched(scene)]


def save_workload(name: str, rows: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """In place of what the result says of this workload; each says how it was run."""
    path = FOLDER / "profiles.json"
    earlier = json.loads(path.read_text("utf-8")) if path.exists() else {"rows": [], "options": {}}
    kept = [row for row in earlier["rows"] if row["workload"] != name]
    ordered = sorted(kept + rows, key=lambda row: [*WORKLOADS].index(row["workload"]))
    save_result("profiles", ordered, earlier["options"] | {name: options})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiles")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, metavar="NAME", default=list(WORKLOADS))
    parser.add_argument("--scale", type=float, default=1, help="of all sizes; only what ran in full is saved")
    options = parser.parse_args()
    for name in options.only:
        load = round(os.getloadavg()[0], 2)
        rows = asyncio.run(profile(name, options.scale))
        for part in dict.fromkeys(row["part"] for row in rows):
            show_table(f"{name}: {part}", [row for row in rows if row["part"] == part])
        if options.scale == 1:
            save_workload(name, rows, {"load_before": load})


if __name__ == "__main__":
    main()
