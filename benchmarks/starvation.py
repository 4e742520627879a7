"""Nobody starves: low priority under a flood of high, a small tenant beside a very large one, weights, caps. First by
the claim alone, then by four worker processes (starvation_workers.py). About eight minutes.

    python -m benchmarks.starvation [--pace 5] [--minutes 4] [--large 1000000] [--only claims|workers]

The flood is fed and served at fixed rates on the database's own clock, `--pace` times as fast as told; the only time
in a claim is priority_aging_seconds, which is divided by as much, and every wait is told multiplied by it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.support.queue_rows import claim, enqueue
from tests.support.work import app_on, stand_in_pipeline

from benchmarks import starvation_workers
from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database
from embedmill.app import App
from embedmill.queue.config import set_value
from embedmill.queue.items import Return, Waiting, return_items
from embedmill.queue.sharing import create_tenant

NOWHERE = "http://127.0.0.1:9/v1"
# Items a second: what is served, and what comes. Nine of ten that come are high.
SERVED, COMING = 10.0, 12.5
AGING_SECONDS = 60
GIVE_BACK = Return(Waiting.PENDING, 0, 0, "stopped", None)

# The same lanes in other orders: what the claim would be without weights, or with nothing but them.
OTHER_CLAIMS = {
    "first come first served": """
UPDATE embedmill.embedding_queue
   SET status = 'processing', worker_id = %(worker_id)s, lease_token = nextval('embedmill.lease_tokens'),
       lease_deadline = now() + interval '1 hour', processing_started_at = now()
 WHERE id = ANY (ARRAY(SELECT id FROM embedmill.embedding_queue
                        WHERE generation_id = %(generation_id)s AND status = 'pending' AND available_at <= now()
                        ORDER BY available_at, id LIMIT %(items)s FOR UPDATE SKIP LOCKED))
RETURNING id""",
    "strict priority": """
UPDATE embedmill.embedding_queue
   SET status = 'processing', worker_id = %(worker_id)s, lease_token = nextval('embedmill.lease_tokens'),
       lease_deadline = now() + interval '1 hour', processing_started_at = now()
 WHERE id = ANY (ARRAY(SELECT id FROM embedmill.embedding_queue
                        WHERE generation_id = %(generation_id)s AND status = 'pending' AND available_at <= now()
                        ORDER BY priority, available_at, id LIMIT %(items)s FOR UPDATE SKIP LOCKED))
RETURNING id""",
}
OURS = "embedmill"

WAITS = """
SELECT priority::text, count(*),
       percentile_disc(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (
           ORDER BY extract(epoch FROM processing_started_at - available_at)::double precision),
       count(*) FILTER (WHERE processing_started_at <= %(flood_ended)s)
  FROM embedmill.embedding_queue
 WHERE generation_id = %(generation_id)s
 GROUP BY priority
"""


class Flood:
    """One queue that gets more than is served, in one order and one size of claims."""

    def __init__(self, app: App, generation_id: int, order: str, size: int, pace: float) -> None:
        self._database = app.database
        self._generation_id = generation_id
        self._order = order
        self._size = size
        self._pace = pace

    async def run(self, seconds: float) -> list[dict[str, Any]]:
        """Fed for so long (as told), then served until nothing waits; a row for each priority."""
        begun = time.monotonic()
        coming = asyncio.create_task(self._feed(begun, seconds))
        calls = 0
        served = -1
        while served or not coming.done():
            # The service ends one claim when it would: what is late is caught up with.
            calls += 1
            await asyncio.sleep(
                max(0.0, begun + calls * self._size / (SERVED * self._pace) - time.monotonic())
            )
            served = await self._claim()
        flood_ended = await coming
        rows = await self._database.fetch(
            WAITS, {"generation_id": self._generation_id, "flood_ended": flood_ended}
        )
        return [
            {
                "order": self._order,
                "items a claim": self._size,
                "priority": priority,
                "items": items,
                "served during the flood %": round(100 * in_time / items, 1),
                "p50 s": round(waits[0] * self._pace, 1),
                "p99 s": round(waits[1] * self._pace, 1),
                "max s": round(waits[2] * self._pace, 1),
            }
            for priority, items, waits, in_time in rows
        ]

    async def _feed(self, begun: float, seconds: float) -> object:
        """Twenty at a time, two of them low; returns the database's time of the end."""
        for turn in range(int(seconds * COMING / 20)):
            await asyncio.sleep(max(0.0, begun + turn * 20 / (COMING * self._pace) - time.monotonic()))
            await enqueue(self._database, self._generation_id, 18, priority="high")
            await enqueue(self._database, self._generation_id, 2, priority="low")
        row = await self._database.fetch_one("SELECT clock_timestamp()")
        return row[0] if row else None

    async def _claim(self) -> int:
        if self._order == OURS:
            return len(await claim(self._database, self._generation_id, items=self._size))
        return len(
            await self._database.fetch(
                OTHER_CLAIMS[self._order],
                {"worker_id": uuid4(), "generation_id": self._generation_id, "items": self._size},
            )
        )


async def priorities(app: App, pace: float, minutes: float) -> list[dict[str, Any]]:
    """All orders side by side on one clock, first in claims of one, then of twenty."""
    await set_value(
        app.database, "priority_aging_seconds", str(round(AGING_SECONDS / pace)), actor="benchmark"
    )
    rows: list[dict[str, Any]] = []
    for size in (1, 20):
        floods = []
        for order in (OURS, *OTHER_CLAIMS):
            pipeline = await stand_in_pipeline(app, NOWHERE, f"{order.split()[0]}-{size}", dimensions=3)
            floods.append(Flood(app, pipeline.generation.id, order, size, pace))
        for some in await asyncio.gather(*(flood.run(minutes * 60) for flood in floods)):
            rows += some
        await app.database.fetch("TRUNCATE embedmill.embedding_queue, embedmill.queue_changes")
    await set_value(app.database, "priority_aging_seconds", str(AGING_SECONDS), actor="benchmark")
    return rows


async def tenant(
    app: App, url: str, folder: Path, slug: str, *, weight: float = 1.0, cap: int | None = None
) -> int:
    """A tenant with a pipeline; returns its generation."""
    await create_tenant(app.database, slug, weight=weight, max_processing_items=cap, actor="benchmark")
    async with app_on(url, folder, tenant=slug) as own:
        return (await stand_in_pipeline(own, NOWHERE, f"of-{slug}", dimensions=3)).generation.id


async def served_by_turns(app: App, stop_after: int, size: int = 10, claimers: int = 4) -> list[Counter[str]]:
    """Tokens of each tenant in each of the public claims, in the order in which they came."""
    claims: list[Counter[str]] = []

    async def serve(worker_id: object) -> None:
        while len(claims) < stop_after:
            rows = await app.database.fetch(
                "SELECT tenant, estimated_tokens FROM embedmill.get_next_embedding_batch(%s, %s)",
                (worker_id, size),
            )
            taken: Counter[str] = Counter()
            for name, tokens in rows:
                taken[name] += tokens
            claims.append(taken)
            if len(claims) % 20 == 0:
                await app.database.fetch("SELECT embedmill.fold_queue_changes()")

    await asyncio.gather(*(serve(uuid4()) for _ in range(claimers)))
    return claims


async def small_beside_large(app: App, url: str, folder: Path, large_items: int) -> list[dict[str, Any]]:
    """Ten items beside very many of the same size, which came first."""
    large = await tenant(app, url, folder, "large")
    small = await tenant(app, url, folder, "small")
    await enqueue(app.database, large, large_items, tokens=500)
    await app.database.fetch("ANALYZE embedmill.embedding_queue")
    rows = []
    for size in (1, 10):
        before = await served_by_turns(app, 40, size)
        await enqueue(app.database, small, 10, tokens=500)
        begun = time.monotonic()
        claims = await served_by_turns(app, 100, size)
        last = max(number for number, taken in enumerate(claims) if taken["small"])
        other = sum(taken["large"] for taken in claims[: last + 1])
        rows.append(
            {
                "items a claim": size,
                "tokens the large one had before": sum(taken["large"] for taken in before),
                "tokens of the small one": sum(taken["small"] for taken in claims),
                "claims until it was served": last + 1,
                "tokens of the large one meanwhile": other,
                "share of the large one's run %": round(100 * other / (large_items * 500), 4),
                "ms a claim": round((time.monotonic() - begun) * 1000 * 4 / len(claims), 1),
            }
        )
    await app.database.fetch("TRUNCATE embedmill.embedding_queue, embedmill.queue_changes")
    return rows


async def weights(app: App, url: str, folder: Path) -> list[dict[str, Any]]:
    """Endless work of two tenants, three to one; the light one's items are larger."""
    tokens_of = {"three": 200, "one": 700}
    for slug, tokens in tokens_of.items():
        generation = await tenant(app, url, folder, slug, weight=3.0 if slug == "three" else 1.0)
        await enqueue(app.database, generation, 20_000, tokens=tokens)
    whole: Counter[str] = Counter()
    for taken in await served_by_turns(app, 1200, 5):
        whole.update(taken)
    await app.database.fetch("TRUNCATE embedmill.embedding_queue, embedmill.queue_changes")
    return [
        {
            "claims": 1200,
            "tokens of weight 3": whole["three"],
            "tokens of weight 1": whole["one"],
            "ratio": round(whole["three"] / whole["one"], 2),
        }
    ]


async def caps(app: App, url: str, folder: Path) -> list[dict[str, Any]]:
    """Eight claimers on a tenant of which seven items may be in work; the most ever seen after a claim."""
    generation = await tenant(app, url, folder, "capped", cap=7)
    await enqueue(app.database, generation, 1000)
    seen: list[int] = []

    async def work() -> None:
        while len(seen) < 800:
            items = await claim(app.database, generation, items=3)
            row = await app.database.fetch_one(
                "SELECT count(*) FROM embedmill.embedding_queue WHERE status = 'processing' AND generation_id = %s",
                (generation,),
            )
            seen.append(int(row[0]) if row else 0)
            await return_items(app.database, items, GIVE_BACK)

    await asyncio.gather(*(work() for _ in range(8)))
    await app.database.fetch("TRUNCATE embedmill.embedding_queue, embedmill.queue_changes")
    return [{"cap": 7, "claims": len(seen), "most in work": max(seen), "claims at the cap": seen.count(7)}]


async def measure(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name, benchmark_database() as url:
        folder = Path(name)
        async with app_on(url, folder) as app:
            if options.only != "workers":
                tables["flood"] = await priorities(app, options.pace, options.minutes)
                show_table("Seconds of waiting under a flood of high over low, 9:1", tables["flood"])
                tables["small tenant"] = await small_beside_large(app, url, folder, options.large)
                show_table(f"Ten items beside {options.large:,}", tables["small tenant"])
                tables["weights"] = await weights(app, url, folder)
                show_table("Two tenants with endless work, weights 3 and 1", tables["weights"])
                tables["cap"] = await caps(app, url, folder)
                show_table("A cap of items in work", tables["cap"])
            if options.only != "claims":
                for what, rows in (await starvation_workers.measure(app, url, folder)).items():
                    tables[what] = rows
                    show_table(what, rows)
    return tables


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pace", type=float, default=5.0)
    parser.add_argument("--minutes", type=float, default=4.0, help="how long the flood lasts, as told")
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("claims", "workers"))
    options = parser.parse_args()
    # So that workers and server are stopped, also where somebody ends the run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load = os.getloadavg()[0]
    tables = asyncio.run(measure(options))
    if options.only is None:
        save_result(
            "starvation",
            [{"what": what, **row} for what, rows in tables.items() for row in rows],
            {"pace": options.pace, "minutes": options.minutes, "large": options.large, "served_a_second": SERVED,
             "coming_a_second": COMING, "load": [round(load, 2), round(os.getloadavg()[0], 2)]},
        )  # fmt: skip


if __name__ == "__main__":
    main()
