"""Asks one search after the other, as `benchmarks/search` does: a process of its own, so that nothing else is in its
profile. It fills the installation where it is not yet, says its URL, waits for a word, asks for so many seconds, says
how many searches that were, and stays until its input ends.

python -m benchmarks.profiles.asking FOLDER CHUNKS MODE SECONDS
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path

from benchmarks.search.__main__ import PAGE, WARM_UP, Given, literal
from benchmarks.search.filling import installation
from embedmill.database.pool import SERVICE_ROLE, Database
from embedmill.search.searcher import Filter, Mode, Searcher

QUERIES = 1_000


async def main(folder: Path, chunks: int, mode: Mode, seconds: float) -> None:
    async with (
        installation(folder, chunks) as made,
        Database(made.url, max_connections=2, role=SERVICE_ROLE) as service,
    ):
        holding = made.holdings["default"]
        vectors, texts, _ = holding.passages.queries(QUERIES)
        asked = list(zip(texts, map(literal, vectors), strict=True))
        tenant = service.for_tenant(holding.pipeline.tenant_id, actor="benchmark")
        searcher = Searcher(tenant, holding.pipeline, None)

        async def ask(text: str, vector: str) -> None:
            await searcher._search(text, [mode], PAGE, Filter(), Given(vector))

        for each in asked[:WARM_UP]:
            await ask(*each)
        # What the filling said stands before it.
        print(f"ready {made.url}", flush=True)
        sys.stdin.readline()
        ends_at, searches = time.monotonic() + seconds, 0
        for each in itertools.cycle(asked):
            if time.monotonic() > ends_at:
                break
            await ask(*each)
            searches += 1
        print(searches, flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), Mode(sys.argv[3]), float(sys.argv[4])))
