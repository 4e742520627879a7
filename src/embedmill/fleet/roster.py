"""Who works in the whole fleet, and asking a worker to stop: what the command line and the dashboard show and do. Owns
the values and these two acts; must not start or end a process. A worker that is drained stops in order within seconds,
and the supervisor of its machine keeps its place empty (seat.py) until somebody asks for another."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, ConflictError, NotFoundError
from embedmill.queue.acting import record_action
from embedmill.queue.config import list_settings, set_value

_SQL = load_queries("embedmill.fleet", "roster.sql")
MOST_WORKERS = 200
RATE_SECONDS = 300.0
"""The rate of a worker is that of so long."""


class RosterEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A worker. `state`: working, idle, draining (asked to stop, and stopping), lost (not heard of for two heartbeats,
    or found dead), drained (stopped because somebody asked for it), stopped. What it holds is named tenant/name."""

    id: UUID
    host: str
    pid: int
    state: str
    version: str
    started_at: datetime
    heartbeat_at: datetime
    stopped_at: datetime | None
    drain_requested_at: datetime | None
    chunks_embedded: int
    items_ended: int
    errors: int
    rate_limits_hit: int
    last_error: str | None
    troubles: list[str]
    items: dict[str, int]
    documents: list[str]
    sources: list[str]
    recent_chunks: int
    leads: bool

    @property
    def is_at_work(self) -> bool:
        return self.state in {"working", "idle", "draining"}

    @property
    def chunks_per_minute(self) -> float:
        """Sent to a provider and embedded, of late."""
        return self.recent_chunks / (RATE_SECONDS / 60)

    @property
    def items_held(self) -> int:
        return sum(self.items.values())


class SweepOutcome(msgspec.Struct, frozen=True):
    """The last run of a periodic task of the leader."""

    task: str
    ran_at: datetime
    outcome: str | None
    worker_id: UUID


class Build(msgspec.Struct, frozen=True):
    """A generation that workers are building, step by step."""

    pipeline: str
    generation_id: int
    started_at: datetime


class Asked(msgspec.Struct, frozen=True):
    """A worker that somebody asked for something. `changed` is false where it was so already."""

    id: UUID
    host: str
    pid: int
    changed: bool


async def list_workers(database: Database, *, limit: int = MOST_WORKERS) -> list[RosterEntry]:
    """Workers of all machines that are at work or were within a day. For whoever sees every tenant."""
    rows = await database.fetch(_SQL["roster"], {"limit": limit, "rate_seconds": RATE_SECONDS})
    return [
        RosterEntry(**dict(zip(RosterEntry.__struct_fields__, row, strict=True)))  # in the order of the query
        for row in rows
    ]


async def list_sweeps(database: Database) -> list[SweepOutcome]:
    return [SweepOutcome(*row) for row in await database.fetch(_SQL["sweeps"])]


async def list_builds(database: Database) -> list[Build]:
    return [Build(*row) for row in await database.fetch(_SQL["builds"])]


async def drain_worker(database: Database, beginning: str, *, actor: str) -> Asked:
    """Ask the worker whose id begins so to stop in order: calls under way are written, the rest goes back to the queue.

    Raises NotFoundError, and ConflictError where it has ended already.
    """
    async with database.transaction() as connection:
        worker_id, host, pid, lives, was_asked = await _find(connection, beginning)
        if not lives:
            raise ConflictError(f"worker {worker_id} ({host}, pid {pid}) has ended already")
        changed = not was_asked and await _change(connection, "drain", worker_id, f"{host} pid {pid}", actor)
        return Asked(worker_id, host, pid, changed)


async def replace_worker(database: Database, beginning: str, *, actor: str) -> Asked:
    """Let the supervisor of a drained worker's machine start another in its place.

    Raises NotFoundError, and ConflictError where the worker was never drained.
    """
    async with database.transaction() as connection:
        worker_id, host, pid, lives, was_asked = await _find(connection, beginning)
        if not was_asked:
            what = "is at work" if lives else "was not drained, or its place was freed before"
            raise ConflictError(
                f"worker {worker_id} ({host}, pid {pid}) {what}: there is no place to be filled"
            )
        changed = await _change(connection, "replace", worker_id, f"{host} pid {pid}", actor)
        return Asked(worker_id, host, pid, changed)


async def set_scale(database: Database, *, least: int, most: int, actor: str) -> None:
    """Between which numbers of processes the supervisors of all machines scale. Raises ConfigurationError."""
    if least > most:
        raise ConfigurationError(
            f"at least {least} and at most {most}: the least cannot be more than the most"
        )
    for setting in await list_settings(database):
        wanted = {"min_concurrent_workers": least, "max_concurrent_workers": most}.get(setting.key)
        if wanted is not None and wanted != setting.value:
            await set_value(database, setting.key, str(wanted), actor=actor)


async def is_place_kept(database: Database, host_id: str, pid: int) -> bool:
    """Whether the place of a process that ended because it was drained is to stay empty."""
    row = await database.fetch_one(_SQL["is_place_kept"], {"host_id": host_id, "pid": pid})
    return row is not None and bool(row[0])


async def _find(connection: Connection, beginning: str) -> tuple[UUID, str, int, bool, bool]:
    wanted = beginning.strip().lower()
    found: list[Any] = []
    if wanted and "\x00" not in wanted:
        found = await (await connection.execute(_SQL["find"], {"beginning": wanted})).fetchall()
    if not found:
        raise NotFoundError(f"there is no worker {beginning!r}: `embedmill fleet list` shows them")
    if len(found) > 1:
        raise ConflictError(f"several workers' ids begin with {beginning!r}: give more of it")
    worker_id, host, pid, lives, was_asked = found[0]
    return worker_id, host, pid, lives, was_asked


async def _change(connection: Connection, act: str, worker_id: UUID, subject: str, actor: str) -> bool:
    if not await (await connection.execute(_SQL[act], {"worker_id": worker_id})).fetchall():
        return False
    await record_action(
        connection,
        None,
        actor=actor,
        action=f"worker.{act}",
        subject=subject,
        old_value=None,
        new_value=msgspec.json.encode({"worker_id": worker_id}).decode(),
    )
    return True
