"""What the API asks of embedding jobs, beside a million that have ended and 100,000 that live: pages by status, by
source and by batch, one job, the counts; for the tenant who has nearly all of them and for one who has ten. As the
service asks: with its role, under row-level security. At most 10 ms for a page and 5 ms for the counts.

    python -m benchmarks.embedding_jobs [--ended 1000000] [--live 100000] [--days 90] [--rounds 30]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from tests.support.work import app_on, stand_in_pipeline

from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database
from embedmill.database.pool import Database
from embedmill.queue.embedding_jobs import (
    JobFilter,
    JobState,
    count_embedding_jobs,
    find_embedding_job,
    list_embedding_jobs,
)

BATCH = UUID(int=7)
PARTITIONS = """
DO $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    FOR n IN 1..{days} LOOP
        EXECUTE format('CREATE TABLE IF NOT EXISTS embedmill.%I PARTITION OF embedmill.embedding_queue_history '
                       'FOR VALUES FROM (%L) TO (%L)',
                       'embedding_queue_history_' || to_char(today - n, 'YYYYMMDD'),
                       today - n || ' 00:00:00+00', today - n + 1 || ' 00:00:00+00');
    END LOOP;
END $$
"""
# Of a hundred items one failed and one was cancelled; each source was embedded ten times; one in 20,000 is the small
# tenant's. The newest hundredth was cancelled at once: pages of others must step over it.
ENDED = """
INSERT INTO embedmill.embedding_queue_history
    (id, tenant_id, generation_id, part, status, priority, operation, retry_count, max_retries, crash_count,
     estimated_tokens, actual_tokens, vector_count, created_at, processing_started_at, processing_completed_at,
     job_id, batch_id, source_type, source_id, error_message, metadata)
SELECT n, CASE WHEN n %% (%(ended)s / 10) = 0 THEN %(small)s ELSE %(large)s END,
       CASE WHEN n %% (%(ended)s / 10) = 0 THEN %(small_generation)s ELSE %(large_generation)s END, 0,
       CASE WHEN n > %(ended)s * 0.99 OR n %% 100 = 2 THEN 'cancelled' WHEN n %% 100 = 1 THEN 'failed'
            ELSE 'completed' END::embedmill.queue_status,
       'medium', 'INSERT', 0, 3, 0, 10, 10, 1, at - interval '2 s', at - interval '1 s', at,
       NULL, CASE WHEN n / 1000 = 7 THEN %(batch)s END, CASE WHEN n %% 50000 = 0 THEN 'rare' ELSE 'shard' END,
       'source/' || md5((n %% (%(ended)s / 10))::text), NULL, '{}'
  FROM (SELECT n, now() - (%(ended)s - n) * make_interval(days => %(days)s) / %(ended)s AS at
          FROM generate_series(1, %(ended)s) AS n) s
"""
LIVE = """
INSERT INTO embedmill.embedding_queue
    (id, tenant_id, generation_id, first_ordinal, last_ordinal, status, lease_token, worker_id, available_at, batch_id,
     source_type, source_id)
OVERRIDING SYSTEM VALUE
SELECT %(ended)s + n, CASE WHEN n <= 10 THEN %(small)s ELSE %(large)s END,
       CASE WHEN n <= 10 THEN %(small_generation)s ELSE %(large_generation)s END, 0, 0,
       CASE WHEN n %% 1000 = 5 THEN 'processing' ELSE 'pending' END::embedmill.queue_status,
       CASE WHEN n %% 1000 = 5 THEN n END, CASE WHEN n %% 1000 = 5 THEN gen_random_uuid() END, now(),
       CASE WHEN n / 100 = 7 THEN %(batch)s END, 'shard', 'live/' || n
  FROM generate_series(1, %(live)s) AS n
"""
COUNTS = """
INSERT INTO embedmill.queue_counts (generation_id, status, day, tenant_id, items)
SELECT generation_id, 'live', '-infinity'::date, tenant_id, count(*) FROM embedmill.embedding_queue GROUP BY 1, 4
UNION ALL
SELECT generation_id, status::text, (processing_completed_at AT TIME ZONE 'UTC')::date, tenant_id, count(*)
  FROM embedmill.embedding_queue_history GROUP BY 1, 2, 3, 4
"""


def fill(url: str, parameters: dict[str, Any]) -> None:
    """Rows as a service of so many days would have them; nobody has analysed the tables yet."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(PARTITIONS.format(days=parameters["days"]).encode())
        for statement in (ENDED, LIVE, COUNTS):
            connection.execute(statement.encode(), parameters)


def questions(tenant_id: int, source_id: str) -> dict[str, Callable[[Database], Awaitable[Any]]]:
    """What is asked, by name."""

    def page(**which: Any) -> Callable[[Database], Awaitable[Any]]:
        return lambda database: list_embedding_jobs(database, tenant_id, JobFilter(**which))

    async def deep(database: Database) -> Any:
        first = await list_embedding_jobs(database, tenant_id, limit=1000)
        return await list_embedding_jobs(database, tenant_id, cursor=first.next_cursor)

    asked = {f"page: {state}": page(status=state) for state in JobState}
    return {
        "page: all": page(),
        **asked,
        "page: source": page(source_type="shard", source_id=source_id),
        "page: source, failed": page(source_type="shard", source_id=source_id, status=JobState.FAILED),
        "page: rare type": page(source_type="rare"),
        "page: batch": page(batch_id=BATCH),
        "1000 and the page after": deep,
        "stats": lambda database: count_embedding_jobs(database, tenant_id),
    }


def backend_ms(pid: int) -> float:
    """The time that the server's process has worked, other work of the machine aside (Linux)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0]) / 1e6


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, benchmark_database() as url:
        async with app_on(url, Path(folder)) as app:
            large = await stand_in_pipeline(app, "http://127.0.0.1:9/v1", "large")
            await app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('small')")
        async with app_on(url, Path(folder), tenant="small") as app:
            small = await stand_in_pipeline(app, "http://127.0.0.1:9/v1", "small")
            parameters = {
                "ended": options.ended,
                "live": options.live,
                "days": options.days,
                "batch": BATCH,
                "large": large.tenant_id,
                "small": small.tenant_id,
                "large_generation": large.generation.id,
                "small_generation": small.generation.id,
            }
            started = time.perf_counter()
            fill(url, parameters)
            print(f"filled in {time.perf_counter() - started:.0f} s", flush=True)
            async with Database(url, role="embedmill_service", max_connections=1) as service:
                ((pid,),) = await service.fetch("SELECT pg_backend_pid()")
                for statistics_are in ("never analysed", "fresh"):
                    if statistics_are == "fresh":
                        await app.database.fetch("ANALYZE")
                    for tenant, tenant_id in (("large", large.tenant_id), ("small", small.tenant_id)):
                        row = await app.database.fetch_one(
                            "SELECT id, source_id FROM embedmill.embedding_queue_history WHERE tenant_id = %s LIMIT 1",
                            (tenant_id,),
                        )
                        assert row is not None
                        asked = questions(tenant_id, row[1])
                        asked["one job"] = lambda database, tenant_id=tenant_id, item_id=row[0]: (
                            find_embedding_job(  # type: ignore[misc]
                                database, tenant_id, item_id
                            )
                        )
                        database = service.for_tenant(tenant_id, actor="benchmark")
                        for name, question in asked.items():
                            seconds, server = [], []
                            for _ in range(options.rounds):
                                begun, worked = time.perf_counter(), backend_ms(pid)
                                await question(database)
                                seconds.append((time.perf_counter() - begun) * 1000)
                                server.append(backend_ms(pid) - worked)
                            rows.append(
                                {
                                    "statistics": statistics_are,
                                    "tenant": tenant,
                                    "question": name,
                                    "in_database_ms": round(statistics.median(server), 1),
                                    "median_ms": round(statistics.median(seconds), 1),
                                    "p95_ms": round(sorted(seconds)[int(len(seconds) * 0.95)], 1),
                                    "first_ms": round(seconds[0], 1),
                                }
                            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ended", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    rows = asyncio.run(measure(options))
    show_table("Embedding jobs: at most 10 ms for a page, 5 ms for the counts, in the database", rows)
    save_result("embedding_jobs", rows, vars(options))


if __name__ == "__main__":
    main()
