"""Four worker processes on a provider of 600 calls and 200,000 tokens a minute: what of it is used, and how often they
hear 429, with the governor and without it. About 15 minutes (`--quick`: 2; its figures are not saved).

    python -m benchmarks.ratelimit [--minutes 3.3] [--shapes calls tokens] [--quick]

The provider's own books are what counts: it runs in this process, and every call that arrives is noted with its time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any, NamedTuple

import msgspec
from tests.support.commands import CommandLine
from tests.support.provider.http import Connection
from tests.support.provider.ledger import Ledger
from tests.support.provider.options import Options
from tests.support.provider.service import Service
from tests.support.work import add_document, app_on, stand_in_pipeline

from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database
from embedmill.app import App
from embedmill.database.pipelines import Pipeline

CALLS_PER_MINUTE = 600
TOKENS_PER_MINUTE = 200_000
WORKERS = 4
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


class Arrival(NamedTuple):
    """A call as the provider saw it come in."""

    second: float
    tokens: int
    is_admitted: bool


class Arrivals(Ledger):
    """The stand-in's books, and every call with its time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_seen: list[Arrival] = []

    def admit(
        self,
        now: float,
        tokens: int,
        calls_limit: int | None,
        tokens_limit: int | None,
        window_seconds: float,
    ) -> float:
        wait = super().admit(now, tokens, calls_limit, tokens_limit, window_seconds)
        self.calls_seen.append(Arrival(now, tokens, wait == 0))
        return wait


@asynccontextmanager
async def provider(options: Options) -> AsyncIterator[tuple[str, Service, Arrivals]]:
    """The stand-in within this process, which has nothing else to do: (base URL, service, books)."""
    service = Service(options, time.monotonic, time.time)
    service.ledger = books = Arrivals()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=1024)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", service, books
    finally:
        server.close()


@asynccontextmanager
async def workers(url: str, folder: Path) -> AsyncIterator[None]:
    """Four `embedmill worker` processes, stopped in order."""
    command = CommandLine(folder, url)
    running = [command.start("worker") for _ in range(WORKERS)]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        await asyncio.gather(*(asyncio.to_thread(_reap, process) for process in running))


def _reap(process: Popen[str]) -> None:
    with suppress(TimeoutExpired):
        process.communicate(timeout=60)
        return
    process.kill()
    process.communicate()


def texts_of(count: int, words: tuple[int, int], chance: random.Random) -> list[str]:
    """Distinct texts. The provider counts the spaces between the words, and some documents are loosely set: what
    it counts differs from our estimate by -3% to +9%, as tokenizers do."""
    bias = chance.uniform(0.0, 0.12)
    texts = []
    for _ in range(count):
        length = chance.randint(*words)
        plain = [f"w{chance.randrange(10**9)}" for _ in range(length)]
        texts.append("".join(word + ("  " if chance.random() < bias else " ") for word in plain).strip())
    return texts


async def enqueue(app: App, pipeline: Pipeline, chunks: int, words: tuple[int, int]) -> None:
    """Documents of 20 chunks."""
    chance = random.Random(7)
    for number in range(max(1, chunks // 20)):
        await add_document(app, pipeline, f"document {number}", texts_of(20, words, chance))


async def drained(app: App, pipeline: Pipeline) -> None:
    """Wait until nothing of the pipeline lives in the queue."""
    query = "SELECT count(*) FROM embedmill.embedding_queue WHERE generation_id = %s"
    while (row := await app.database.fetch_one(query, (pipeline.generation.id,))) and row[0]:
        await asyncio.sleep(0.25)


async def scenario(
    app: App, url: str, folder: Path, name: str, minutes: float, minute_seconds: float, *, governed: bool
) -> dict[str, Any]:
    """One shape of work, drained once."""
    shape = SHAPES[name]
    options = Options(
        dimensions=64,
        latency_ms=50,
        latency_jitter_ms=100,
        calls_per_minute=CALLS_PER_MINUTE,
        tokens_per_minute=TOKENS_PER_MINUTE,
        window_seconds=minute_seconds,
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
        row = {
            "limit that binds": name,
            "governor": "on" if governed else "off",
            **shares(books.calls_seen, name, minute_seconds),
            "429s": books.calls_by_status.get("429", 0),
            **await fates(app, pipeline),
            "paid most for one input": max(books.paid.values()),
            "asks of the governor a call": round(
                (await quota_writes(app) - asked_before) / max(1, books.calls_paid), 1
            ),
            "seconds to drain": round(seconds, 1),
            "seconds at the limit": round(least_seconds(books, name, minute_seconds), 1),
            "load": f"{load:.1f}-{os.getloadavg()[0]:.1f}",
        }
    return row


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
        "longest silence s": round(
            max(b.second - a.second for a, b in zip(served, served[1:], strict=False)), 2
        ),
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
            while not books.calls_seen:
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
    rows = []
    with tempfile.TemporaryDirectory() as folder, benchmark_database() as url:
        async with app_on(url, Path(folder)) as app:
            storms = [await storm(app, url, Path(folder))]
            show_table("A storm of 429 with Retry-After 2", storms)
            for name in shapes:
                for governed in (True, False):
                    rows.append(
                        await scenario(app, url, Path(folder), name, minutes, 60.0, governed=governed)
                    )
                    print(rows[-1], flush=True)
    return rows, storms


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=3.3, help="of work at the full limit, each run")
    parser.add_argument("--shapes", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--quick", action="store_true", help="half a minute of work; nothing is saved")
    options = parser.parse_args()
    minutes = 0.5 if options.quick else options.minutes
    rows, storms = asyncio.run(measure(options.shapes, minutes))
    show_table("Use of 600 calls and 200,000 tokens a minute by four workers", rows)
    if not options.quick:
        save_result(
            "ratelimit",
            [*({"what": "steady", **row} for row in rows), *({"what": "storm", **row} for row in storms)],
            {"calls_per_minute": CALLS_PER_MINUTE, "tokens_per_minute": TOKENS_PER_MINUTE, "workers": WORKERS,
             "minutes_of_work": minutes},
        )  # fmt: skip


if __name__ == "__main__":
    main()
