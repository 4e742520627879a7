"""Pages of embedding jobs are read by index beside a long history and a long backlog, whatever the statistics say,
by the service's role under row-level security; also for a tenant that has ten jobs beside one that has them all."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from benchmarks.embedding_jobs import fill, questions

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database

ENDED, LIVE, DAYS = 60_000, 20_000, 4
# A page of all statuses steps over the newest hundredth, which was cancelled at once.
MOST_READ = 3000
READ = """
SELECT coalesce(sum(seq_tup_read), 0)::bigint, coalesce(sum(coalesce(idx_tup_fetch, 0)), 0)::bigint
  FROM pg_stat_xact_user_tables WHERE relname ~ '^embedding_queue(_history.*)?$'
"""


@pytest.mark.parametrize("statistics", ["never analysed", "of one source", "fresh"])
async def test_no_question_reads_more_than_it_shows(app: App, pipeline: Pipeline, statistics: str) -> None:
    (small,) = (
        await app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('small') RETURNING id")
    )[0]
    parameters = {
        "ended": ENDED, "live": LIVE, "days": DAYS, "batch": UUID(int=7), "large": 1, "small": small,
        "large_generation": pipeline.generation.id, "small_generation": await generation_of(app, small),
    }  # fmt: skip
    with psycopg.connect(app.database.url, autocommit=True) as connection:
        keep_unanalysed(connection)
        fill(app.database.url, parameters)
        keep_unanalysed(connection)
        if statistics == "of one source":
            # As the tables were once: one source, one batch, one tenant, nothing failed.
            with connection.transaction():
                connection.execute(
                    "CREATE TEMP TABLE kept AS SELECT id, tenant_id, status, batch_id, source_type, source_id "
                    "FROM embedmill.embedding_queue_history"
                )
                connection.execute(
                    "UPDATE embedmill.embedding_queue_history SET tenant_id = 1, status = 'completed', batch_id = %s, "
                    "source_type = 'shard', source_id = 'one'", (UUID(int=7),)
                )  # fmt: skip
            connection.execute("ANALYZE")
            connection.execute(
                "UPDATE embedmill.embedding_queue_history h SET tenant_id = k.tenant_id, status = k.status, "
                "batch_id = k.batch_id, source_type = k.source_type, source_id = k.source_id "
                "FROM kept k WHERE k.id = h.id"
            )
        if statistics == "fresh":
            connection.execute("ANALYZE")
        async with Database(app.database.url, role="embedmill_service", max_connections=1) as service:
            for tenant_id in (1, small):
                row = connection.execute(
                    "SELECT source_id FROM embedmill.embedding_queue_history WHERE tenant_id = %s "
                    "AND source_type = 'shard' LIMIT 1", (tenant_id,)
                ).fetchone()  # fmt: skip
                assert row is not None
                for name, question in questions(tenant_id, row[0]).items():
                    if name == "page: rare type" and tenant_id == 1:
                        continue  # what lives of a rare kind among much is looked for in all of it
                    counting = Counting(service, tenant_id)
                    await question(counting)
                    scanned, fetched = counting.read
                    assert scanned <= 100, f"{name} of tenant {tenant_id} scans {scanned} rows ({statistics})"
                    assert fetched <= MOST_READ, (
                        f"{name} of tenant {tenant_id} reads {fetched} rows ({statistics})"
                    )


class Counting(Database):
    """A tenant's database that knows how many rows of queue and history each of its transactions has read."""

    def __init__(self, service: Database, tenant_id: int) -> None:
        self._tenant = service.for_tenant(tenant_id, actor="test")
        self.read = (0, 0)

    def connection(self) -> Any:
        return self._counted()

    def transaction(self) -> Any:
        return self._counted()

    def _counted(self) -> Any:
        @asynccontextmanager
        async def counted() -> Any:
            async with self._tenant.transaction() as connection:
                before = await (await connection.execute(READ)).fetchone()
                yield connection
                after = await (await connection.execute(READ)).fetchone()
                assert before is not None
                assert after is not None
                self.read = (self.read[0] + after[0] - before[0], self.read[1] + after[1] - before[1])

        return counted()


def keep_unanalysed(connection: psycopg.Connection[Any]) -> None:
    for (table,) in connection.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relname ~ '^embedding_queue' AND relkind = 'r'"
    ).fetchall():
        connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())


async def generation_of(app: App, tenant_id: int) -> int:
    """A generation for a tenant that has none."""
    row = await app.database.fetch_one(
        "SELECT g.id FROM embedmill.create_pipeline(%s, 'p', "
        '\'{"provider": "openai", "model": "stand-in", "dimensions": 16}\', 16, \'vector\', 256, 32, \'simple\', '
        "NULL, NULL, NULL, NULL, false) AS p (id) JOIN embedmill.generations g ON g.pipeline_id = p.id",
        (tenant_id,),
    )
    if row is None:  # the statement's own snapshot is older than what it made
        row = await app.database.fetch_one(
            "SELECT id FROM embedmill.generations WHERE tenant_id = %s", (tenant_id,)
        )
    assert row is not None
    return int(row[0])
