"""The parts of `benchmarks.starvation` that four `embedmill worker` processes play, on the stand-in and one quota
key that binds. Owns their work and what is read afterwards; prints and saves nothing."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.support.provider.options import Options
from tests.support.work import add_document, app_on

from benchmarks.fleet import drained, provider, texts_of, workers
from embedmill.app import App
from embedmill.core.documents import ChunkPlan
from embedmill.database.pipelines import Pipeline
from embedmill.ingest.storing import Storing
from embedmill.ports import ProviderSpec
from embedmill.queue.sharing import create_tenant

WORDS = (20, 40)
ANSWERS = Options(latency_ms=50, latency_jitter_ms=100, dimensions=64)

WAITS = """
SELECT priority::text, count(*),
       percentile_disc(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (
           ORDER BY extract(epoch FROM processing_completed_at - created_at)::double precision),
       count(*) FILTER (WHERE processing_completed_at <= %(flood_ended)s),
       count(*) FILTER (WHERE status <> 'completed' OR retry_count > 0)
  FROM embedmill.embedding_queue_history
 WHERE generation_id = %(generation_id)s
 GROUP BY priority
"""
TOKENS = """
SELECT coalesce(sum(actual_tokens), 0)
  FROM embedmill.embedding_queue_history
 WHERE generation_id = %s AND processing_completed_at > %s AND processing_completed_at <= %s
"""


async def pipeline_on(
    app: App, base_url: str, name: str, *, inputs: int, quota_key: str | None = None, calls: int | None = None
) -> Pipeline:
    """One that shares the key where it is given, else one with `calls` a minute on a key of its own."""
    spec = ProviderSpec(
        provider="openai", model="stand-in", dimensions=64, base_url=base_url, timeout_seconds=10.0,
        max_inputs_per_call=inputs, max_tokens_per_call=300_000, max_tokens_per_input=8_000,
    )  # fmt: skip
    return await app.create_pipeline(
        name, spec, explicit=frozenset(), storage="vector", chunk_plan=ChunkPlan(256, 32),
        text_search_config="simple", price_per_million_tokens=None, calls_per_minute=calls,
        tokens_per_minute=None, quota_key=quota_key,
    )  # fmt: skip


async def database_time(app: App) -> datetime:
    row = await app.database.fetch_one("SELECT clock_timestamp()")
    assert row is not None
    moment: datetime = row[0]
    return moment


async def flood(app: App, url: str, folder: Path, seconds: float = 90.0) -> list[dict[str, Any]]:
    """Documents of one chunk, nine of ten high, 25 a second where 20 are served (60 calls of 20 a minute)."""
    chance = random.Random(3)
    async with provider(ANSWERS) as (base_url, _, _books):
        pipeline = await pipeline_on(app, base_url, "flooded", inputs=20, calls=60)
        batch = uuid4()
        stores = {p: Storing(app.database, pipeline, batch_id=batch, priority=p) for p in ("high", "low")}
        launched = []
        for number in range(int(seconds * 25)):
            # Stored beforehand; what is launched below is what floods.
            done = await add_document(app, pipeline, f"flood {number}", texts_of(1, WORDS, chance), batch)
            launched.append(done)
        await app.database.fetch("DELETE FROM embedmill.embedding_queue")
        await app.database.fetch("TRUNCATE embedmill.queue_changes")
        await app.database.fetch("UPDATE embedmill.queue_counts SET items = 0 WHERE status = 'live'")
        async with workers(url, folder):
            await asyncio.sleep(3)
            begun = time.monotonic()
            for number, document in enumerate(launched):
                await asyncio.sleep(max(0.0, begun + number / 25 - time.monotonic()))
                store = stores["low" if number % 10 == 9 else "high"]
                await store.relaunch(document.document_id, document.job_id)
            ended = await database_time(app)
            fed = time.monotonic() - begun
            await drained(app, pipeline)
    rows = await app.database.fetch(WAITS, {"generation_id": pipeline.generation.id, "flood_ended": ended})
    return [
        {
            "priority": priority,
            "items": items,
            "flood s": round(fed, 1),
            "done during the flood %": round(100 * in_time / items, 1),
            "p50 s": round(waits[0], 1),
            "p99 s": round(waits[1], 1),
            "max s": round(waits[2], 1),
            "failed or tried again": hurt,
        }
        for priority, items, waits, in_time, hurt in rows
    ]


async def small_beside_large(app: App, url: str, folder: Path, chunks: int = 20_000) -> list[dict[str, Any]]:
    """A tenant of ten chunks that comes five seconds after one of 20,000, on the same key of 600 calls."""
    chance = random.Random(4)
    async with AsyncExitStack() as stack:
        base_url, _, _books = await stack.enter_async_context(provider(ANSWERS))
        for slug in ("library", "visitor"):
            await create_tenant(app.database, slug, weight=1.0, max_processing_items=None, actor="benchmark")
        library = await stack.enter_async_context(app_on(url, folder, tenant="library"))
        visitor = await stack.enter_async_context(app_on(url, folder, tenant="visitor"))
        large = await pipeline_on(library, base_url, "large", inputs=25, calls=600)
        small = await pipeline_on(visitor, base_url, "small", inputs=25, quota_key=large.quota_key)
        for number in range(chunks // 50):
            await add_document(library, large, f"book {number}", texts_of(50, WORDS, chance))
        begun = await database_time(app)
        async with workers(url, folder):
            await asyncio.sleep(10)
            came = await database_time(app)
            for number in range(10):
                await add_document(visitor, small, f"note {number}", texts_of(1, WORDS, chance))
            await drained(app, small)
            done = await _last_end(app, small)
            await drained(app, large)
        ended = await _last_end(app, large)
        meanwhile = await _tokens(app, large, came, done)
        whole = await _tokens(app, large, begun, ended)
    return [
        {
            "chunks of the large one": chunks,
            "chunks of the small one": 10,
            "s until the small one was done": round((done - came).total_seconds(), 1),
            "s until the large one was": round((ended - begun).total_seconds(), 1),
            "tokens of the large one meanwhile": meanwhile,
            "share of the large one's run %": round(100 * meanwhile / whole, 2),
        }
    ]


async def weights(app: App, url: str, folder: Path, seconds: float = 45.0) -> list[dict[str, Any]]:
    """Two tenants with more work than is served, weights 3 and 1, on one key of 300 calls a minute."""
    chance = random.Random(5)
    async with AsyncExitStack() as stack:
        base_url, _, _books = await stack.enter_async_context(provider(ANSWERS))
        pipelines: dict[str, Pipeline] = {}
        for slug, weight in (("heavy", 3.0), ("light", 1.0)):
            await create_tenant(
                app.database, slug, weight=weight, max_processing_items=None, actor="benchmark"
            )
            own = await stack.enter_async_context(app_on(url, folder, tenant=slug))
            shared = pipelines["heavy"].quota_key if pipelines else None
            pipelines[slug] = await pipeline_on(
                own, base_url, f"endless-{slug}", inputs=10, quota_key=shared, calls=None if shared else 300
            )
            for number in range(500):
                await add_document(own, pipelines[slug], f"page {number}", texts_of(10, WORDS, chance))
        async with workers(url, folder):
            await asyncio.sleep(10)
            begun = await database_time(app)
            await asyncio.sleep(seconds)
            ended = await database_time(app)
        heavy, light = [await _tokens(app, pipelines[slug], begun, ended) for slug in ("heavy", "light")]
        for pipeline in pipelines.values():
            await app.database.fetch(
                "DELETE FROM embedmill.embedding_queue WHERE generation_id = %s", (pipeline.generation.id,)
            )
    return [
        {
            "seconds": seconds,
            "tokens of weight 3": heavy,
            "tokens of weight 1": light,
            "ratio": round(heavy / max(light, 1), 2),
        }
    ]


async def _tokens(app: App, pipeline: Pipeline, since: datetime, until: datetime) -> int:
    row = await app.database.fetch_one(TOKENS, (pipeline.generation.id, since, until))
    return int(row[0]) if row else 0


async def _last_end(app: App, pipeline: Pipeline) -> datetime:
    row = await app.database.fetch_one(
        "SELECT max(processing_completed_at) FROM embedmill.embedding_queue_history WHERE generation_id = %s",
        (pipeline.generation.id,),
    )
    assert row is not None
    moment: datetime = row[0]
    return moment


async def measure(app: App, url: str, folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        "flood, workers": await flood(app, url, folder),
        "small tenant, workers": await small_beside_large(app, url, folder),
        "weights, workers": await weights(app, url, folder),
    }
