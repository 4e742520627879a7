"""Two queues after pgmq's published algorithm, in own SQL: a visibility time, reads in order of id, an archive.
PgmqMessages sends plain statements, without pgmq's dynamic SQL, which makes it faster than the extension;
PgmqFunctions calls functions that build and execute their statements at each call, as the extension's do."""

from __future__ import annotations

import json
from collections.abc import Sequence

import psycopg
from psycopg.types.json import Jsonb

from benchmarks.queue.systems import PAYLOAD_SQL, Statements, payload

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
_FUNCTIONS = r"""
CREATE FUNCTION bench_table(queue_name text, prefix text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF queue_name ~ '[$;'']|--' THEN
        RAISE EXCEPTION 'a queue cannot be called %', queue_name;
    END IF;
    RETURN lower(prefix || '_' || queue_name);
END $$;
CREATE FUNCTION bench_send_batch(queue_name text, messages jsonb[], delay integer) RETURNS SETOF bigint
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'INSERT INTO %I (vt, message) SELECT clock_timestamp() + %L, unnest($1) RETURNING msg_id',
        bench_table(queue_name, 'q'), make_interval(secs => delay)) USING messages;
END $$;
CREATE FUNCTION bench_read(queue_name text, seconds integer, quantity integer) RETURNS TABLE (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, last_read_at timestamptz, vt timestamptz, message jsonb,
    headers jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    v_table text := bench_table(queue_name, 'q');
BEGIN
    RETURN QUERY EXECUTE format(
        'WITH ready AS ('
        ' SELECT msg_id FROM %I WHERE vt <= clock_timestamp() ORDER BY msg_id LIMIT $1 FOR UPDATE SKIP LOCKED)'
        'UPDATE %I q SET vt = clock_timestamp() + %L, read_ct = read_ct + 1, last_read_at = clock_timestamp()'
        '  FROM ready r WHERE q.msg_id = r.msg_id'
        ' RETURNING q.msg_id, q.read_ct, q.enqueued_at, q.last_read_at, q.vt, q.message, q.headers',
        v_table, v_table, make_interval(secs => seconds)) USING quantity;
END $$;
CREATE FUNCTION bench_archive(queue_name text, ids bigint[]) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'WITH archived AS ('
        ' DELETE FROM %I WHERE msg_id = ANY ($1)'
        ' RETURNING msg_id, vt, read_ct, enqueued_at, last_read_at, message, headers)'
        'INSERT INTO %I (msg_id, vt, read_ct, enqueued_at, last_read_at, message, headers)'
        ' SELECT msg_id, vt, read_ct, enqueued_at, last_read_at, message, headers FROM archived RETURNING msg_id',
        bench_table(queue_name, 'q'), bench_table(queue_name, 'a')) USING ids;
END $$;
"""


class PgmqMessages:
    """Plain psycopg connections, one for each client, no pool."""

    version = "own SQL after pgmq 1.11"
    schema, send, read, archive = _SCHEMA, _SEND, _READ, _ARCHIVE
    driver = "psycopg"
    tables = ("q_jobs", "a_jobs")
    fill = (
        "INSERT INTO q_jobs (vt, message) SELECT now() - interval '1 hour', "
        f"{PAYLOAD_SQL} FROM generate_series(1, %(count)s) AS n",
    )
    fill_history = (
        "INSERT INTO a_jobs (msg_id, vt, read_ct, message) SELECT -n, now(), 1, "
        f"{PAYLOAD_SQL} FROM generate_series(1, %(count)s) AS n",
    )

    def __init__(self) -> None:
        self._connections: list[psycopg.AsyncConnection[tuple[object, ...]]] = []
        self._number = 0

    async def open(self, url: str, clients: int) -> None:
        for _ in range(clients):
            self._connections.append(await psycopg.AsyncConnection.connect(url, autocommit=True))
        await self._connections[0].execute(self.schema)

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    async def enqueue(self, client: int, count: int) -> None:
        messages = []
        for _ in range(count):
            self._number += 1
            messages.append(Jsonb(payload(f"bench/{self._number}")))
        cursor = await self._connections[client].execute(self.send.format("%s"), (messages,))
        await cursor.fetchall()

    async def claim(self, client: int, count: int) -> Sequence[int]:
        cursor = await self._connections[client].execute(self.read.format("%s"), (count,))
        return [row[0] for row in await cursor.fetchall()]  # type: ignore[misc]

    async def complete(self, client: int, claimed: Sequence[int]) -> None:
        cursor = await self._connections[client].execute(self.archive.format("%s"), (list(claimed),))
        assert len(await cursor.fetchall()) == len(claimed)

    async def hand_over(self, client: int, claimed: Sequence[int], count: int) -> Sequence[int]:
        await self.complete(client, claimed)
        return await self.claim(client, count)

    def statements(self) -> Statements:
        return Statements(
            enqueue=self.send.format("$1"),
            enqueue_values=lambda n: [
                b"{%s}" % json.dumps(json.dumps(payload(f"raw/{n}"))).encode(),
            ],
            claim=self.read.format("$1::integer"),
            claim_values=[b"1"],
            complete=self.archive.format("$1"),
            complete_values=lambda row: [b"{%s}" % row[0]],
        )


class PgmqFunctions(PgmqMessages):
    """The same through functions of dynamic SQL."""

    version = "own SQL after pgmq 1.4"
    schema = _SCHEMA + _FUNCTIONS
    send = "SELECT bench_send_batch('jobs', {}::jsonb[], 0)"
    read = "SELECT * FROM bench_read('jobs', 600, {})"
    archive = "SELECT bench_archive('jobs', {}::bigint[])"
