"""A queue after pgmq's published algorithm, in own SQL: a visibility time, reads in order of id, an archive. Without
pgmq's dynamic SQL, which makes it faster than the extension."""

from __future__ import annotations

import json
from collections.abc import Sequence

import psycopg
from psycopg.types.json import Jsonb

from benchmarks.queue.systems import Statements

_SCHEMA = """
CREATE TABLE q_jobs (
    msg_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    read_ct integer NOT NULL DEFAULT 0,
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    last_read_at timestamptz,
    vt timestamptz NOT NULL,
    message jsonb,
    headers jsonb);
CREATE INDEX q_jobs_vt ON q_jobs (vt);
CREATE TABLE a_jobs (
    msg_id bigint PRIMARY KEY,
    read_ct integer NOT NULL DEFAULT 0,
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    last_read_at timestamptz,
    archived_at timestamptz NOT NULL DEFAULT now(),
    vt timestamptz NOT NULL,
    message jsonb,
    headers jsonb);
CREATE INDEX a_jobs_archived_at ON a_jobs (archived_at);
"""
_SEND = "INSERT INTO q_jobs (vt, message) SELECT clock_timestamp(), unnest({}::jsonb[]) RETURNING msg_id"
_READ = """
WITH ready AS (
    SELECT msg_id FROM q_jobs WHERE vt <= clock_timestamp() ORDER BY msg_id LIMIT {} FOR UPDATE SKIP LOCKED
)
UPDATE q_jobs q
   SET vt = clock_timestamp() + interval '600 seconds', read_ct = read_ct + 1, last_read_at = clock_timestamp()
  FROM ready r WHERE q.msg_id = r.msg_id
RETURNING q.msg_id, q.read_ct, q.enqueued_at, q.last_read_at, q.vt, q.message, q.headers
"""
_ARCHIVE = """
WITH archived AS (
    DELETE FROM q_jobs WHERE msg_id = ANY ({}::bigint[])
    RETURNING msg_id, vt, read_ct, enqueued_at, last_read_at, message, headers
)
INSERT INTO a_jobs (msg_id, vt, read_ct, enqueued_at, last_read_at, message, headers)
SELECT msg_id, vt, read_ct, enqueued_at, last_read_at, message, headers FROM archived
RETURNING msg_id
"""


class PgmqMessages:
    """Plain psycopg connections, one for each client, no pool."""

    version = "after 1.11"
    driver = "psycopg"
    tables = ("q_jobs", "a_jobs")
    fill = (
        "INSERT INTO q_jobs (vt, message) SELECT now() - interval '1 hour', "
        "jsonb_build_object('source', 'fill/' || n) FROM generate_series(1, %(count)s) AS n",
    )
    fill_history = (
        "INSERT INTO a_jobs (msg_id, vt, read_ct, message) SELECT -n, now(), 1, "
        "jsonb_build_object('source', 'fill/' || n) FROM generate_series(1, %(count)s) AS n",
    )

    def __init__(self) -> None:
        self._connections: list[psycopg.AsyncConnection[tuple[object, ...]]] = []
        self._number = 0

    async def open(self, url: str, clients: int) -> None:
        for _ in range(clients):
            self._connections.append(await psycopg.AsyncConnection.connect(url, autocommit=True))
        await self._connections[0].execute(_SCHEMA)

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    async def enqueue(self, client: int, count: int) -> None:
        messages = []
        for _ in range(count):
            self._number += 1
            messages.append(Jsonb({"source": f"bench/{self._number}"}))
        cursor = await self._connections[client].execute(_SEND.format("%s"), (messages,))
        await cursor.fetchall()

    async def claim(self, client: int, count: int) -> Sequence[int]:
        cursor = await self._connections[client].execute(_READ.format("%s"), (count,))
        return [row[0] for row in await cursor.fetchall()]  # type: ignore[misc]

    async def complete(self, client: int, claimed: Sequence[int]) -> None:
        cursor = await self._connections[client].execute(_ARCHIVE.format("%s"), (list(claimed),))
        assert len(await cursor.fetchall()) == len(claimed)

    async def hand_over(self, client: int, claimed: Sequence[int], count: int) -> Sequence[int]:
        await self.complete(client, claimed)
        return await self.claim(client, count)

    def statements(self) -> Statements:
        return Statements(
            enqueue=_SEND.format("$1"),
            enqueue_values=lambda n: [
                b"{%s}" % json.dumps(json.dumps({"source": f"raw/{n}"})).encode(),
            ],
            claim=_READ.format("$1::integer"),
            claim_values=[b"1"],
            complete=_ARCHIVE.format("$1"),
            complete_values=lambda row: [b"{%s}" % row[0]],
        )
