"""Fleets for tests: a supervisor in this process with real worker processes, a backlog, and waiting for what
happens. Must not assert."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psutil
import psycopg
from psycopg import sql

from embedmill.app import App
from embedmill.database.patience import patiently
from embedmill.database.pipelines import Pipeline
from embedmill.fleet.events import FleetEvent, FleetResized
from embedmill.fleet.seat import SeatOptions
from embedmill.fleet.supervisor import Supervisor, SupervisorOptions
from tests.support.postgres import TestServer
from tests.support.work import add_document

WORKER = (sys.executable, "-P", "-m", "embedmill", "worker", "--supervised")
QUICK = SeatOptions(stop_seconds=20, first_delay_seconds=0.2)


class Fleet:
    """A supervisor that runs, and what happened to it so far."""

    def __init__(
        self,
        app: App,
        processes: int | None,
        command: Sequence[str] = WORKER,
        *,
        seat: SeatOptions = QUICK,
        local_maximum: int = 2,
    ) -> None:
        self.events: list[FleetEvent] = []
        options = SupervisorOptions(processes, local_maximum=local_maximum, poll_seconds=0.1, seat=seat)
        self.supervisor = Supervisor(
            app.database, command, options, on_event=self.events.append, chance=random.Random(1)
        )

    @property
    def sizes(self) -> list[int]:
        return [event.processes for event in self.events if isinstance(event, FleetResized)]

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, FleetResized)]

    @property
    def pids(self) -> list[int]:
        return self.supervisor.pids


@asynccontextmanager
async def running(fleet: Fleet, *, seconds: float = 60.0) -> AsyncIterator[Fleet]:
    """The fleet at work within the block, and stopped in order at its end."""
    async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
        tasks.create_task(fleet.supervisor.run())
        try:
            yield fleet
        finally:
            fleet.supervisor.stop()


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], *, seconds: float = 30.0
) -> None:
    """Until something is so; TimeoutError where it does not come."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)


async def configure(app: App, **values: int | bool) -> None:
    """Settings of the queue, in an order in which each is allowed."""
    for key, value in values.items():
        await app.database.fetch("SELECT embedmill.set_config_value(%s, %s::jsonb)", (key, json.dumps(value)))


async def add_backlog(
    app: App, pipeline: Pipeline, documents: int, *, chunks: int = 2, mark: str = "doc"
) -> UUID:
    """Documents of so many chunks, each an item of its own."""
    batch = uuid4()
    for number in range(documents):
        await add_document(
            app, pipeline, f"{mark} {number}", [f"{mark} {number} {n}" for n in range(chunks)], batch
        )
    return batch


async def live_workers(app: App) -> int:
    """Workers that say they live."""
    row = await app.database.fetch_one(
        "SELECT count(*) FROM embedmill.embedding_queue_workers WHERE status IN ('active', 'idle')"
    )
    return int(row[0]) if row else 0


async def worker_statuses(app: App) -> list[str]:
    rows = await app.database.fetch(
        "SELECT status::text FROM embedmill.embedding_queue_workers ORDER BY started_at"
    )
    return [row[0] for row in rows]


async def processing(app: App) -> int:
    row = await app.database.fetch_one(
        "SELECT count(*) FROM embedmill.embedding_queue WHERE status = 'processing'"
    )
    return int(row[0]) if row else -1


async def is_empty(app: App) -> bool:
    query = partial(app.database.fetch, "SELECT 1 FROM embedmill.embedding_queue LIMIT 1")
    return not await patiently(query)  # a connection that was cut is noticed at its next use


def alive(pids: Sequence[int]) -> list[int]:
    """Those of these processes that still run."""
    return [
        pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


@contextmanager
def shut(server: TestServer, database: str) -> Iterator[None]:
    """Within the block nobody is connected to the database, and nobody can be."""
    name = sql.Identifier(urlsplit(database).path.lstrip("/"))
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (name.as_string()[1:-1],),
        )
        try:
            yield
        finally:
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
