"""PgQueuer by its own queries, as its queue manager calls them, on asyncpg, its fastest driver."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import asyncpg
from pgqueuer.db import AsyncpgDriver
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.queries import Queries

from benchmarks.queue.systems import PAYLOAD_SQL, Statements, payload

_HEARTBEAT = timedelta(seconds=30)


class PgQueuerJobs:
    """One asyncpg connection for each client, uvloop as its command does, its own autovacuum settings."""

    version = version("pgqueuer")
    driver = "asyncpg"
    tables = ("pgqueuer", "pgqueuer_log", "pgqueuer_statistics")
    fill = (
        "ALTER TABLE pgqueuer DISABLE TRIGGER USER",
        "INSERT INTO pgqueuer (priority, status, entrypoint, payload, execute_after) SELECT n %% 3, 'queued', "
        f"'bench', convert_to({PAYLOAD_SQL}::text, 'UTF8'), now() - interval '1 hour' "
        "FROM generate_series(1, %(count)s) AS n",
        "INSERT INTO pgqueuer_log (job_id, status, entrypoint, priority) SELECT id, 'queued', entrypoint, priority "
        "FROM pgqueuer",
        "ALTER TABLE pgqueuer ENABLE TRIGGER USER",
    )
    fill_history = (
        "INSERT INTO pgqueuer_log (job_id, status, entrypoint, priority) SELECT n, t::pgqueuer_status, 'bench', 0 "
        "FROM generate_series(1, %(count)s) AS n, unnest(ARRAY['queued', 'successful']) AS t",
    )

    def __init__(self) -> None:
        self._number = 0
        self._queries: list[Queries] = []
        self._connections: list[Any] = []
        self._manager = uuid4()
        self._entrypoints: dict[Any, EntrypointExecutionParameter] = {
            "bench": EntrypointExecutionParameter(concurrency_limit=0)
        }

    async def open(self, url: str, clients: int) -> None:
        for _ in range(clients):
            connection = await asyncpg.connect(url)
            self._connections.append(connection)
            self._queries.append(Queries(AsyncpgDriver(connection)))
        await self._queries[0].install()
        await self._queries[0].optimize_autovacuum()

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    async def enqueue(self, client: int, count: int) -> None:
        payloads: list[bytes | None] = []
        for _ in range(count):
            self._number += 1
            payloads.append(json.dumps(payload(f"bench/{self._number}")).encode())
        await self._queries[client].enqueue(["bench"] * count, payloads, [0] * count)

    async def claim(self, client: int, count: int) -> Sequence[Any]:
        return await self._queries[client].dequeue(count, self._entrypoints, self._manager, None, _HEARTBEAT)

    async def complete(self, client: int, claimed: Sequence[Any]) -> None:
        await self._queries[client].log_jobs([(job, "successful", None) for job in claimed])

    async def hand_over(self, client: int, claimed: Sequence[Any], count: int) -> Sequence[Any]:
        await self.complete(client, claimed)
        return await self.claim(client, count)

    def statements(self) -> Statements:
        builder = self._queries[0].qbq
        claim = builder.build_dequeue_query(
            batch_size=1,
            entrypoints=["bench"],
            concurrency_limits=[0],
            queue_manager_id=self._manager,
            global_concurrency_limit=None,
            heartbeat_timeout=_HEARTBEAT,
        )
        return Statements(
            enqueue=builder.build_enqueue_query(),
            enqueue_values=lambda n: [
                b"{0}",
                b"{bench}",
                b"{%s}" % json.dumps("\\x" + json.dumps(payload(f"raw/{n}")).encode().hex()).encode(),
                b"{00:00:00}",
                b"{NULL}",
                b'{"null"}',
            ],
            claim=claim.sql,
            claim_values=[b"1", b"{bench}", str(self._manager).encode(), b"30 seconds"],
            complete=builder.build_log_job_query(),
            complete_values=lambda row: [b"{%s}" % row[0], b"{successful}", b"{NULL}"],
        )
