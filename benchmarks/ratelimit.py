"""Four worker processes on a provider of 600 calls and 200,000 tokens a minute: what of it is used, and how often they
hear 429, with the governor and without it. About 9 minutes (`--quick`: 2; its figures are not saved).

    python -m benchmarks.ratelimit [--minutes 3.15] [--shapes calls tokens] [--quick]

The provider's own books are what counts: it runs in this process, and every call that arrives is noted with its time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from tests.support.provider.options import Options
from tests.support.work import add_document, app_on, stand_in_pipeline

from benchmarks.fleet import WORKERS, Arrival, Arrivals, drained, provider, texts_of, workers
from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database
from embedmill.app import App
from embedmill.database.pipelines import Pipeline

CALLS_PER_MINUTE = 600
TOKENS_PER_MINUTE = 200_000
MINUTE = 60.0
STORM_SECONDS, STORM_CALLS, STORM_INPUTS = 40.0, 6, 20
RETRY_AFTER_SECONDS = 2.0


class Shape(NamedTuple):
    """Which limit binds: inputs of a call, words of a chunk, and the chunks that use up one minute of it."""

    inputs_per_call: int
    words: tuple[int, int]
    chunks_a_minute: int


SHAPES = {
    "calls": Shape(4, (20, 40), CALLS_PER_MINUTE * 4),
    "tokens": Shape(100, (30, 90), TOKENS_PER_MINUTE // 63),
}


async def enqueue(app: App, pipeline: Pipeline, chunks: int, words: tuple[int, int]) -> None:
    """Documents of 20 chunks."""
    chance = random.Random(7)
    for number in range(max(1, chunks // 20)):
        await add_document(app, pipeline, f"document {number}", texts_of(20, words, chance))


async def scenario(
    app: App, url: str, folder: Path, name: str, minutes: float, *, governed: bool
) -> dict[str, Any]:
    """One shape of work, drained once."""
    shape = SHAPES[name]
    options = Options(
        dimensions=64,
        latency_ms=50,
        latency_jitter_ms=100,
        calls_per_minute=CALLS_PER_MINUTE,
        tokens_per_minute=TOKENS_PER_MINUTE,
    )
    async with provider(options) as (base_url, _, books):
        pipeline = await stand_in_pipeline(
            app, base_url, f"{name}-{'governed' if governed else 'free'}",
            max_inputs_per_call=shape.inputs_per_call,
            calls_per_minute=CALLS_PER_MINUTE if governed else None,
            tokens_per_minute=TOKENS_PER_MINUTE if governed else None,
        )  # fmt: skip
        await enqueue(app, pipeline, int(shape.chunks_a_minute * minutes), shape.words)
        asked_before = await quota_writes(app)
        load = os.getloadavg()[0]
        begun = time.monotonic()
        async with workers(url, folder):
            await drained(app, pipeline)
            seconds = time.monotonic() - begun
        return {
            "limit that binds": name,
            "governor": "on" if governed else "off",
            **shares(books.calls_seen, name, MINUTE),
            "429s": books.calls_by_status.get("429", 0),
            **await fates(app, pipeline),
            "paid most for one input": max(books.paid.values()),
            "asks of the governor a call": round(
                (await quota_writes(app) - asked_before) / max(1, books.calls_paid), 1
            ),
            "seconds to drain": round(seconds, 1),
            "seconds at the limit": round(least_seconds(books, name, MINUTE), 1),
            "load": f"{load:.1f}-{os.getloadavg()[0]:.1f}",
        }


async def quota_writes(app: App) -> int:
    """How often a quota was asked so far, as the server's statistics count its row's versions."""
    row = await app.database.fetch_one(
        "SELECT coalesce(sum(n_tup_upd), 0) FROM pg_stat_user_tables WHERE relname = 'quotas'"
    )
    return int(row[0]) if row else 0


async def fates(app: App, pipeline: Pipeline) -> dict[str, Any]:
    """What became of the items. `in work` is from an item's claim to its end: the wait for a grant, the call, the
    write of all its chunks."""
    row = await app.database.fetch_one(
        "SELECT count(*) FILTER (WHERE status <> 'completed'), count(*) FILTER (WHERE retry_count > 0), "
        "       max(extract(epoch FROM processing_completed_at - processing_started_at)), "
        "       max(extract(epoch FROM processing_completed_at - created_at)) "
        "  FROM embedmill.embedding_queue_history WHERE generation_id = %s",
        (pipeline.generation.id,),
    )
    assert row is not None
    return {
        "items not completed": row[0],
        "items that lost an attempt": row[1],
        "longest in work s": round(float(row[2]), 1),
        "longest item s": round(float(row[3]), 1),
    }


def shares(calls: Sequence[Arrival], name: str, minute: float) -> dict[str, Any]:
    """Percent of the limit that binds, by what the provider served: of the whole minutes there was work for, of the
    best and of the worst sliding minute; and the most that arrived in any, refused calls included."""
    served = [call for call in calls if call.is_admitted]
    limit = CALLS_PER_MINUTE if name == "calls" else TOKENS_PER_MINUTE
    begun, ended = served[0].second, served[-1].second
    whole = int((ended - begun) // minute)
    within = [call for call in served if call.second < begun + whole * minute]
    spent = _spent(within, name)
    starts = [call.second for call in served if call.second <= ended - minute]
    sums = [_window(served, start, minute, name) for start in starts]
    # The worst one begins just after a call.
    worst = [_window(served, start + 1e-9, minute, name) for start in starts]
    arrived_calls = max(_window(calls, call.second, minute, "calls") for call in calls)
    arrived_tokens = max(_window(calls, call.second, minute, "tokens") for call in calls)
    return {
        "whole minutes": whole,
        "used %": round(100 * spent / (limit * whole), 1) if whole else None,
        "worst sliding %": round(100 * min(worst) / limit, 1) if worst else None,
        "best sliding %": round(100 * max(sums) / limit, 1) if sums else None,
        "most calls in a minute": arrived_calls,
        "most tokens in a minute": arrived_tokens,
        "longest silence s": round(max(b.second - a.second for a, b in pairwise(served)), 2),
    }


def _spent(calls: Sequence[Arrival], name: str) -> int:
    return len(calls) if name == "calls" else sum(call.tokens for call in calls)


def _window(calls: Sequence[Arrival], start: float, minute: float, name: str) -> int:
    first = bisect_left(calls, start, key=lambda call: call.second)
    return _spent(calls[first : bisect_left(calls, start + minute, key=lambda call: call.second)], name)


def least_seconds(books: Arrivals, name: str, minute: float) -> float:
    """What the work takes at exactly the limit, from a full minute's stand."""
    spent, limit = (
        (books.calls_paid, CALLS_PER_MINUTE) if name == "calls" else (books.tokens_paid, TOKENS_PER_MINUTE)
    )
    return spent / limit * minute


async def storm(app: App, url: str, folder: Path) -> dict[str, Any]:
    """A provider that for a while takes 6 calls in 2 s and answers all others 429 with Retry-After 2."""
    options = Options(
        dimensions=64,
        latency_ms=50,
        calls_per_minute=STORM_CALLS,
        window_seconds=RETRY_AFTER_SECONDS,
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
    async with provider(options) as (base_url, service, books):
        pipeline = await stand_in_pipeline(app, base_url, "storm", max_inputs_per_call=STORM_INPUTS)
        waves = STORM_SECONDS / RETRY_AFTER_SECONDS
        await enqueue(app, pipeline, int(STORM_INPUTS * STORM_CALLS * waves * 1.5), (10, 20))
        async with workers(url, folder):
            while not books.calls_seen:  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.05)
            await asyncio.sleep(STORM_SECONDS)
            served, inputs, refused = (
                books.calls_paid,
                books.inputs_paid,
                books.calls_by_status.get("429", 0),
            )
            service.options = msgspec.structs.replace(options, calls_per_minute=None)
            cleared = time.monotonic()
            await drained(app, pipeline)
            after = time.monotonic() - cleared
        return {
            "storm s": STORM_SECONDS,
            "calls served": served,
            "calls that fit": int(STORM_CALLS * (waves + 1)),
            "inputs a call": round(inputs / served, 1),
            "of at most": STORM_INPUTS,
            "429s": refused,
            "429s every 2 s": round(refused / waves, 1),
            **await fates(app, pipeline),
            "paid most for one input": max(books.paid.values()),
            "s to drain the rest afterwards": round(after, 1),
        }


async def measure(shapes: list[str], minutes: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The storm, then the shapes at the same time, each on a server and with workers of its own."""
    with tempfile.TemporaryDirectory() as folder, benchmark_database() as url:
        async with app_on(url, Path(folder)) as app:
            storms = [await storm(app, url, Path(folder))]
    show_table("A storm of 429 with Retry-After 2", storms)
    rows = await asyncio.gather(*(one_shape(name, minutes) for name in shapes))
    return [row for some in rows for row in some], storms


async def one_shape(name: str, minutes: float) -> list[dict[str, Any]]:
    """With the governor, then without."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, benchmark_database() as url:
        async with app_on(url, Path(folder)) as app:
            for governed in (True, False):
                rows.append(await scenario(app, url, Path(folder), name, minutes, governed=governed))
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=3.15, help="of work at the full limit, each run")
    parser.add_argument("--shapes", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--quick", action="store_true", help="half a minute of work; nothing is saved")
    options = parser.parse_args()
    # So that workers and server are stopped, also where somebody ends the run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    minutes = 0.5 if options.quick else options.minutes
    rows, storms = asyncio.run(measure(options.shapes, minutes))
    show_table("Use of 600 calls and 200,000 tokens a minute by four workers", rows)
    if not options.quick:
        save_result(
            "ratelimit",
            [*({"what": "steady", **row} for row in rows), *({"what": "storm", **row} for row in storms)],
            {"calls_per_minute": CALLS_PER_MINUTE, "tokens_per_minute": TOKENS_PER_MINUTE, "workers": WORKERS,
             "minutes_of_work": minutes, "shapes": "at the same time, each with a server and workers of its own"},
        )  # fmt: skip


if __name__ == "__main__":
    main()
