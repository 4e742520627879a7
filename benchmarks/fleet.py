"""The stand-in provider within a benchmark's own process, with every call that arrives noted, and worker processes
that call it. Shared by the benchmarks of limits and fairness; prints and saves nothing."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import NamedTuple

from tests.support.commands import CommandLine
from tests.support.provider.http import Connection
from tests.support.provider.ledger import Ledger
from tests.support.provider.options import Options
from tests.support.provider.service import Service

from embedmill.app import App
from embedmill.database.pipelines import Pipeline

WORKERS = 4


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


async def drained(app: App, pipeline: Pipeline) -> None:
    """Wait until nothing of the pipeline lives in the queue."""
    query = "SELECT count(*) FROM embedmill.embedding_queue WHERE generation_id = %s"
    while (row := await app.database.fetch_one(query, (pipeline.generation.id,))) and row[0]:  # noqa: ASYNC110 - other processes
        await asyncio.sleep(0.25)
