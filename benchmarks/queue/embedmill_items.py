"""embedmill's own queue, through the functions that its workers call."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import cast
from uuid import uuid4

from psycopg.types.json import Jsonb
from tests.support.work import app_on, stand_in_pipeline

from benchmarks.queue.systems import Statements, payload
from embedmill.database.pool import Database
from embedmill.queue.items import claim_items

# As embedmill.enqueue_document enqueues, less the document: the items, and their count.
_ENQUEUE = """
WITH enqueued AS (
    INSERT INTO embedmill.embedding_queue (tenant_id, generation_id, first_ordinal, last_ordinal, source_type,
                                           source_id, priority, operation, estimated_tokens, metadata)
    SELECT s.tenant_id, s.generation_id, 0, 0, s.source_type, s.source_id, s.priority, s.operation, s.tokens, s.metadata
      FROM unnest({}::integer[], {}::integer[], {}::text[], {}::text[], {}::embedmill.queue_priority[],
                  {}::embedmill.queue_operation[], {}::integer[], {}::jsonb[])
           AS s (tenant_id, generation_id, source_type, source_id, priority, operation, tokens, metadata)
    RETURNING tenant_id, generation_id
)
INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items)
SELECT tenant_id, generation_id, 'live', count(*) FROM enqueued GROUP BY tenant_id, generation_id
"""
# The same for one.
_ENQUEUE_ONE = """
WITH enqueued AS (
    INSERT INTO embedmill.embedding_queue (tenant_id, generation_id, first_ordinal, last_ordinal, source_type,
                                           source_id, priority, operation, estimated_tokens, metadata)
    VALUES ({}, {}, 0, 0, {}, {}, {}, {}, {}, {}) RETURNING tenant_id, generation_id
)
INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items)
SELECT tenant_id, generation_id, 'live', 1 FROM enqueued
"""
_COLUMNS = 8
_NAMES = tuple(f"c{n}" for n in range(_COLUMNS))
_ENQUEUE_NAMED = _ENQUEUE.format(*(f"%({name})s" for name in _NAMES))
_ENQUEUE_ONE_NAMED = _ENQUEUE_ONE.format(*(f"%({name})s" for name in _NAMES))
_FINISH = "SELECT embedmill.finish_items({}::bigint[], {}::bigint[])"
_FINISH_NAMED = _FINISH.format("%(ids)s", "%(tokens)s")
_EXCHANGE = (
    "SELECT item_id, lease_token FROM embedmill.exchange_embedding_batch("
    "%(worker_id)s, %(ids)s, %(tokens)s, %(items)s, 'bench')"
)
_UNBOUND = {"max_chunks": 1_000_000, "max_tokens": 1_000_000_000, "lease_seconds": 600.0}


class EmbedmillItems:
    """Items with no document behind them, so that nothing but the queue works; one connection held for each client."""

    version = version("embedmill")
    driver = "psycopg"
    tables = ("embedmill.embedding_queue", "embedmill.embedding_queue_history")
    fill = (
        # What waits is of documents, one each, as a backlog is; nobody looks at them.
        "INSERT INTO embedmill.embedding_queue (tenant_id, generation_id, document_id, first_ordinal, last_ordinal, "
        "priority, estimated_tokens, available_at, source_type, source_id) SELECT g.tenant_id, g.id, n, 0, 0, "
        "(ARRAY['high', 'medium', 'low']::embedmill.queue_priority[])[n %% 3 + 1], 10, "
        "now() - interval '1 hour' + n * interval '1 microsecond', 'bench', 'fill/' || n "
        "FROM embedmill.generations g, generate_series(1, %(count)s) AS n "
        "WHERE g.id = (SELECT max(id) FROM embedmill.generations)",
    )
    fill_history = (
        "INSERT INTO embedmill.embedding_queue_history (id, tenant_id, generation_id, part, status, priority, "
        "operation, retry_count, max_retries, crash_count, estimated_tokens, actual_tokens, vector_count, created_at, "
        "processing_started_at, processing_completed_at, source_type, source_id, metadata) "
        "SELECT -n, g.tenant_id, g.id, 0, 'completed', 'medium', 'INSERT', 0, 3, 0, 10, 10, 1, now(), now(), now(), "
        "'bench', 'fill/' || n, '{}' FROM embedmill.generations g, generate_series(1, %(count)s) AS n "
        "WHERE g.id = (SELECT max(id) FROM embedmill.generations)",
    )

    def __init__(self) -> None:
        self._number = self._calls = 0
        self._worker_id = uuid4()

    async def open(self, url: str, clients: int) -> None:
        self._stack = AsyncExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        app = await self._stack.enter_async_context(app_on(url, Path(folder)))
        # No provider is ever called: the address leads nowhere.
        pipeline = await stand_in_pipeline(app, "http://127.0.0.1:9/v1", "bench")
        self._generation_id = pipeline.generation.id
        # Kept as a worker in a loop keeps one, and asked as Database is asked.
        self._connections = [
            await self._stack.enter_async_context(app.database.connection()) for _ in range(clients)
        ]

    async def close(self) -> None:
        await self._stack.aclose()

    async def enqueue(self, client: int, count: int) -> None:
        jobs = [payload(f"bench/{self._number + n}") for n in range(count)]
        self._number += count
        columns = [
            [job["tenant_id"] for job in jobs],
            [self._generation_id] * count,
            [job["source_type"] for job in jobs],
            [job["source_id"] for job in jobs],
            [job["priority"] for job in jobs],
            [job["operation"] for job in jobs],
            [job["estimated_tokens"] for job in jobs],
            [Jsonb(job["metadata"]) for job in jobs],
        ]
        text, values = (
            (_ENQUEUE_NAMED, columns) if count > 1 else (_ENQUEUE_ONE_NAMED, [c[0] for c in columns])
        )
        await self._connections[client].ask(text, dict(zip(_NAMES, values, strict=True)))

    async def claim(self, client: int, count: int) -> Sequence[tuple[int, int]]:
        connection = cast("Database", self._connections[client])
        items = await claim_items(
            connection, self._worker_id, self._generation_id, max_items=count, **_UNBOUND  # type: ignore[arg-type]
        )  # fmt: skip
        return [(item.id, item.lease_token) for item in items]

    async def complete(self, client: int, claimed: Sequence[tuple[int, int]]) -> None:
        ids, tokens = _transpose(claimed)
        done = await self._connections[client].ask(_FINISH_NAMED, {"ids": ids, "tokens": tokens})
        assert len(done[0][0]) == len(claimed)
        # What a worker's sweep does every few seconds: its share of the cost belongs to the job.
        self._calls += 1
        if self._calls % 200 == 0:
            await self._connections[client].ask("SELECT embedmill.fold_queue_changes()", {})

    async def hand_over(
        self, client: int, claimed: Sequence[tuple[int, int]], count: int
    ) -> Sequence[tuple[int, int]]:
        ids, tokens = _transpose(claimed)
        rows = await self._connections[client].ask(
            _EXCHANGE, {"worker_id": self._worker_id, "ids": ids, "tokens": tokens, "items": count}
        )
        return [(row[0], row[1]) for row in rows]

    def statements(self) -> Statements:
        generation = b"%d" % self._generation_id
        return Statements(
            enqueue=_ENQUEUE_ONE.format(*(f"${n}" for n in range(1, _COLUMNS + 1))),
            enqueue_values=lambda n: [
                b"1",
                generation,
                b"bench",
                b"raw/%d" % n,
                b"medium",
                b"INSERT",
                b"10",
                b"{}",
            ],
            claim="SELECT id, lease_token, tenant_id, document_id, job_id, usage_type, retry_count, "
            "estimated_tokens FROM embedmill.claim_items($1, $2, 1, 1000000, 1000000000, 600)",
            claim_values=[str(self._worker_id).encode(), generation],
            complete=_FINISH.format("$1", "$2"),
            complete_values=lambda row: [b"{%s}" % row[0], b"{%s}" % row[1]],
            claimed_columns=2,
        )


def _transpose(claimed: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Ids and lease tokens."""
    return [item_id for item_id, _ in claimed], [token for _, token in claimed]
