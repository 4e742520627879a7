"""A whole mill for the crash suite: a database with its observer, pipelines, documents, workers on proxies, and a note
of every fault. Owns putting work in and letting things go wrong; the verdict is verdict.py's."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import msgspec

from embedmill.app import App
from embedmill.database.embedded_settings import SOCKET_NAME
from embedmill.database.patience import patiently
from embedmill.database.pipelines import Pipeline
from embedmill.queue.config import set_value
from tests.support.faults.accounts import Window
from tests.support.faults.observer import Observer
from tests.support.faults.postgres import FragileServer, ShutdownMode
from tests.support.faults.processes import WorkerProcess, worker_environment
from tests.support.faults.proxy import Proxies, Proxy
from tests.support.provider import RunningProvider
from tests.support.work import DIMENSIONS, add_document, app_on, stand_in_pipeline

INPUTS_PER_CALL = 8
CALLS_IN_FLIGHT = 2
HEARTBEAT_SECONDS = 1.0
LEASE_SECONDS = 30
# Two missed beats and a sweep: until then a worker may not know that it was given up.
AFTERMATH_SECONDS = 2 * HEARTBEAT_SECONDS + 1.0
WORKER_SETTINGS = {
    "calls_in_flight": CALLS_IN_FLIGHT,
    "log_level": "info",
}


_PICTURE = (
    b"SELECT id, status, worker_id, lease_token, lease_deadline - now(), available_at - now(), crash_count, "
    b"retry_count FROM embedmill.embedding_queue ORDER BY id LIMIT 20",
    b"SELECT worker_id, pid, status, now() - heartbeat_at FROM embedmill.embedding_queue_workers",
    b"SELECT pid, application_name, state, wait_event, now() - xact_start, query FROM pg_stat_activity "
    b"WHERE datname = current_database()",
    b"SELECT pid, relation::regclass, mode, granted FROM pg_locks WHERE NOT granted",
)


class StuckError(AssertionError):
    """The queue did not empty in time."""


class Paper(msgspec.Struct):
    """A document as the test knows it: what its chunks must be in the end."""

    pipeline: Pipeline
    source_id: str
    texts: list[str]
    document_id: int
    job_id: UUID


class Hand(msgspec.Struct):
    """A worker, and its way to the database."""

    process: WorkerProcess
    proxy: Proxy


class Mill:
    """Use `open_mill`. Times are of the monotonic clock."""

    def __init__(self, app: App, server: FragileServer, provider: RunningProvider, folder: Path) -> None:
        self.app = app
        self.server = server
        self.provider = provider
        self.observer = Observer(app.database)
        self.windows: list[Window] = []
        self.papers: dict[str, Paper] = {}
        self.pipelines: list[Pipeline] = []
        self.hands: list[Hand] = []
        self.texts: set[str] = set()
        self._folder = folder
        self._proxies = Proxies()
        self._socket = _socket_path(server.url)

    async def prepare(self) -> None:
        await self.observer.install()
        heartbeat_ms = str(int(HEARTBEAT_SECONDS * 1000))
        await set_value(
            self.app.database, "worker_heartbeat_interval_ms", heartbeat_ms, actor="the crash suite"
        )
        await set_value(self.app.database, "lease_seconds", str(LEASE_SECONDS), actor="the crash suite")

    async def add_pipeline(self, name: str, **options: object) -> Pipeline:
        pipeline = await stand_in_pipeline(
            self.app,
            self.provider.base_url,
            name,
            dimensions=DIMENSIONS,
            max_inputs_per_call=INPUTS_PER_CALL,
            timeout_seconds=5.0,
            **options,  # type: ignore[arg-type]
        )
        await self.observer.watch_generation(pipeline.generation.id)
        self.pipelines.append(pipeline)
        return pipeline

    async def add_paper(self, pipeline: Pipeline, source_id: str, texts: list[str]) -> Paper:
        """Save a document whose chunks are these texts (again, with other texts), however long the database is
        away; it is launched with it."""
        self.texts.update(texts)
        saved = await patiently(partial(add_document, self.app, pipeline, source_id, texts, uuid4()))
        paper = Paper(pipeline, source_id, texts, saved.document_id, saved.job_id)
        self.papers[source_id] = paper
        return paper

    async def cancel(self, paper: Paper) -> None:
        """As a person cancels a document: everything of it that lives ends."""
        self.note("cancel", None)
        await patiently(partial(self._cancel, paper))

    async def _cancel(self, paper: Paper) -> None:
        async with self.app.database.transaction() as connection:
            await connection.execute(
                "SELECT FROM embedmill.knowledge_documents WHERE id = %s FOR UPDATE", (paper.document_id,)
            )
            await connection.execute(
                "SELECT embedmill.cancel_document_items(%s, 'cancelled by the test')", (paper.document_id,)
            )

    async def change(self, paper: Paper, texts: list[str]) -> None:
        """Save other content of a document while its old one may be on its way."""
        self.note("change", None)
        await self.add_paper(paper.pipeline, paper.source_id, texts)

    def start_worker(
        self, name: str, *, fault_at: str = "", fault: str = "", clock_skew_seconds: float = 0.0
    ) -> Hand:
        """Start a worker; it meets its fault (see wrappers.py) when it comes to it."""
        proxy = self._proxies.open(self._socket)
        environment = worker_environment(
            self.app.settings.database_url or "", self._folder, WORKER_SETTINGS, port=proxy.port, name=name
        )
        environment |= {"FAULT_AT": fault_at, "FAULT": fault}
        environment["CLOCK_SKEW_SECONDS"] = str(clock_skew_seconds)
        hand = Hand(WorkerProcess(name, self._folder, environment), proxy)
        self.hands.append(hand)
        return hand

    def note(self, kind: str, worker: str | None, start: float | None = None) -> Window:
        """Write down a fault of this moment (or since `start`)."""
        now = time.monotonic()
        window = Window(kind, worker, now if start is None else start, now)
        self.windows.append(window)
        return window

    @contextmanager
    def lasting(self, kind: str, worker: str | None) -> Iterator[None]:
        """Write down a fault that lasts as long as the block."""
        window = self.note(kind, worker)
        window.end = float("inf")
        try:
            yield
        finally:
            window.end = time.monotonic()

    def kill(self, hand: Hand) -> None:
        self.note("kill", hand.process.name)
        hand.process.kill()

    async def restart_postgres(self, mode: ShutdownMode, away_seconds: float = 0.0) -> None:
        with self.lasting(f"restart {mode}", None):
            await asyncio.to_thread(self.server.restart, mode, away_seconds=away_seconds)

    async def end_sessions_of(self, hand: Hand) -> int:
        """Every session of a worker, its heartbeat's too, ended by the server; returns how many there were."""
        self.note("backends ended", hand.process.name)
        rows = await patiently(
            partial(
                self.app.database.fetch,
                "SELECT pid FROM unnest(%s::integer[]) AS pid WHERE pg_terminate_backend(pid)",
                (hand.proxy.backends(),),
            )
        )
        return len(rows)

    async def live_items(self) -> int:
        row = await patiently(
            partial(self.app.database.fetch_one, "SELECT count(*) FROM embedmill.embedding_queue")
        )
        return int(row[0]) if row else 0

    async def settle(self, seconds: float = 30.0) -> None:
        """Wait until nothing lives in the queue, and no worker that lives has a call open. Raises StuckError, which
        tells what holds it up."""
        deadline = time.monotonic() + seconds
        while await self.live_items() or any(map(_is_busy, self.hands)):
            if time.monotonic() > deadline:
                raise StuckError(await self._picture())
            await asyncio.sleep(0.05)

    async def _picture(self) -> str:
        parts = []
        for query in _PICTURE:
            rows = await patiently(partial(self.app.database.fetch, query))
            parts += [query.decode(), *(f"    {row}" for row in rows)]
        parts += [f"{h.process.name}: {h.process.status}" for h in self.hands]
        return "\n".join(["the queue does not empty", *parts])

    def close(self) -> None:
        for hand in self.hands:
            if hand.process.status is None:
                hand.process.kill()
        self._proxies.close()


@asynccontextmanager
async def open_mill(server: FragileServer, provider: RunningProvider, folder: Path) -> AsyncIterator[Mill]:
    """A mill on a fresh database of this server."""
    url = server.databases.create(migrated=True)
    try:
        async with app_on(url, folder) as app:
            mill = Mill(app, server, provider, folder)
            try:
                await mill.prepare()
                yield mill
            finally:
                mill.close()
    finally:
        server.databases.drop(url)


def _is_busy(hand: Hand) -> bool:
    """Whether a call of this worker is under way, from its begin to its commit, and will go on: the dead and the
    frozen are not waited for."""
    if hand.process.status is not None or hand.process.is_frozen:
        return False
    return any(c.refused is None and c.written_at is None for c in hand.process.journal().calls)


def texts_of(source_id: str, count: int, chance: random.Random) -> list[str]:
    """Texts that stand nowhere else."""
    return [f"{source_id} {number} {chance.getrandbits(64):x}" for number in range(count)]


def _socket_path(url: str) -> str:
    folder = parse_qs(urlsplit(url).query)["host"][0]
    return f"{folder}/{SOCKET_NAME}"
