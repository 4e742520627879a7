"""The heartbeat: on its own thread and connection, through the loss of either."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pool import connect
from embedmill.errors import DatabaseError, DatabaseUnreachableError
from embedmill.worker.heartbeat import Heartbeat, Pulse
from embedmill.worker.identity import current_identity
from embedmill.worker.loop import Worker, WorkerOptions

STATE = """SELECT extract(epoch FROM now() - heartbeat_at), status::text, chunks_embedded
           FROM embedmill.embedding_queue_workers"""


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_it_beats_while_the_event_loop_is_busy(app: App) -> None:
    pulse = Pulse(current_work="pipeline")
    heartbeat = Heartbeat(app.database.url, current_identity(), pulse, interval_seconds=0.05)
    heartbeat.start()
    with psycopg.connect(app.database.url, autocommit=True) as observer:
        first = observer.execute("SELECT heartbeat_at FROM embedmill.embedding_queue_workers").fetchone()
        pulse.chunks_embedded = 42
        until(lambda: observer.execute(STATE).fetchone()[2] == 42)  # type: ignore[index]
        assert (
            observer.execute("SELECT heartbeat_at FROM embedmill.embedding_queue_workers").fetchone() > first
        )
        assert observer.execute(STATE).fetchone()[1] == "active"  # type: ignore[index]
        pulse.current_work = None
        until(lambda: observer.execute(STATE).fetchone()[1] == "idle")  # type: ignore[index]
        heartbeat.stop()
        assert observer.execute(STATE).fetchone()[1] == "stopped"  # type: ignore[index]


async def test_it_survives_the_loss_of_its_connection_and_a_worker_given_up_comes_back(app: App) -> None:
    heartbeat = Heartbeat(app.database.url, current_identity(), Pulse(), interval_seconds=0.05)
    heartbeat.start()
    with psycopg.connect(app.database.url, autocommit=True) as observer:
        observer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            " WHERE application_name = 'embedmill heartbeat' AND datname = current_database()"
        )
        observer.execute("UPDATE embedmill.embedding_queue_workers SET status = 'error', stopped_at = now()")
        until(lambda: observer.execute(STATE).fetchone()[1] == "idle")  # type: ignore[index]
        row = observer.execute("SELECT stopped_at FROM embedmill.embedding_queue_workers").fetchone()
        assert row == (None,)
        heartbeat.stop()
        assert observer.execute(STATE).fetchone()[1] == "stopped"  # type: ignore[index]


def test_a_database_that_is_not_there_is_said_at_once() -> None:
    heartbeat = Heartbeat("postgresql://127.0.0.1:1/none", current_identity(), Pulse(), interval_seconds=1)
    with pytest.raises(DatabaseError):
        heartbeat.start()


async def test_a_database_that_is_away_while_a_worker_begins_is_waited_for(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def connect_at_the_second_try(url: str, *, application_name: str) -> psycopg.Connection[tuple[Any, ...]]:
        tried.append(url)
        if len(tried) == 1:
            raise DatabaseUnreachableError("it restarts")
        return connect(url, application_name=application_name)

    monkeypatch.setattr("embedmill.worker.heartbeat.connect", connect_at_the_second_try)
    worker = Worker(app.database, app.provider, WorkerOptions())
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        while await app.database.fetch_one("SELECT worker_id FROM embedmill.embedding_queue_workers") is None:
            await asyncio.sleep(0.01)
        worker.stop()
    assert len(tried) == 2


async def test_a_worker_whose_registration_was_not_answered_registers_again(app: App) -> None:
    identity = current_identity()
    for _ in range(2):
        heartbeat = Heartbeat(app.database.url, identity, Pulse(), interval_seconds=1)
        heartbeat.start()
        heartbeat.stop()
    assert len(await app.database.fetch("SELECT worker_id FROM embedmill.embedding_queue_workers")) == 1
