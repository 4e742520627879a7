"""Lists of jobs are read by index, whatever is asked for, also by the role that sees one tenant only, and also once the
statement is prepared."""

from __future__ import annotations

from itertools import product

from embedmill.database.pipelines import Pipeline
from embedmill.ingest.jobs import JobFilter, Jobs
from tests.dashboard.uploads import insert_jobs, priced_pipeline
from tests.support.provider import RunningProvider
from tests.support.serving import Serving
from tests.support.work import stand_in_pipeline

JOBS = 20_000
FEW = 3
READS = """
SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint FROM pg_stat_xact_user_tables
 WHERE schemaname = 'embedmill' AND relname = 'ingestion_jobs'
"""


async def test_a_page_reads_hardly_more_jobs_than_it_shows(
    idle_service: Serving, provider: RunningProvider
) -> None:
    many = await priced_pipeline(idle_service, provider)
    few = await stand_in_pipeline(idle_service.app, provider.base_url, name="few")
    await insert_jobs(idle_service, many, JOBS)
    for rare in ("failed", "chunk_preview_ready"):
        await insert_jobs(idle_service, many, FEW, rare)
    await insert_jobs(idle_service, few, FEW, "cancelled")
    await idle_service.service.operator.fetch("ANALYZE embedmill.ingestion_jobs")
    wishes = product((None, "completed", "failed", "cancelled", "staged"), (None, "standin", "few"))
    for status, pipeline in wishes:
        for _ in range(7):  # PostgreSQL may keep one plan for all values from the sixth on
            read, found = await _reads(idle_service, many, JobFilter(status=status, pipeline=pipeline))
            assert read <= 4 * 52 + 4 * FEW, (status, pipeline, read)
        is_large = status in (None, "completed") and pipeline in (None, "standin")
        assert (found == 51) is is_large


async def _reads(service: Serving, pipeline: Pipeline, where: JobFilter) -> tuple[int, int]:
    """How many rows of jobs the first page reads, and how many it has."""
    database = service.service.database.for_tenant(pipeline.tenant_id, actor="test")
    async with database.connection() as connection:
        held = _Held(connection)
        ((before,),) = await held.fetch(
            READS
        )  # counts of earlier transactions may not have been handed on yet
        found = await Jobs(held, pipeline.tenant_id).page(where, after=None, limit=51)  # type: ignore[arg-type]
        ((after,),) = await held.fetch(READS)
    return int(str(after)) - int(str(before)), len(found)


class _Held:
    """One connection within its transaction, asked as a Database is: the counts are of this transaction only."""

    def __init__(self, connection: object) -> None:
        self._connection = connection

    async def fetch(self, query: object, parameters: object = None) -> list[tuple[object, ...]]:
        cursor = await self._connection.execute(query, parameters)  # type: ignore[attr-defined]
        return list(await cursor.fetchall())

    async def fetch_one(self, query: object, parameters: object = None) -> tuple[object, ...] | None:
        rows = await self.fetch(query, parameters)
        return rows[0] if rows else None
