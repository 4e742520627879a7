"""Pages read by index and from counters, however much there is: beside tables of tens of thousands of rows, what each
page reads of each of them is what the server's own statistics count, and it is never the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from fastapi import APIRouter

from embedmill.database.asking import AskedConnection
from embedmill.database.pool import Database
from tests.dashboard.crowd import DIMENSIONS, LARGE, SMALL, Sizes, make_crowd
from tests.dashboard.every_page import addresses, later_page, routers, unlisted
from tests.support.provider import RunningProvider
from tests.support.serving import Serving, client_at, serving

# What is counted is counted up to 10,000: the large tables have more.
SIZES = Sizes(
    ended=40_000,
    live=40_000,
    sources=30,
    uploads=12_000,
    records=12_000,
    chunks=2,
    calls=20_000,
    letters=30_000,
    deliveries=15_000,
    events_of_a_job=2,
    large_pipelines=2,
    others=1,
)
LARGE_ROWS = 12_000
WHOLE = 0.8
"""This part of a large table is as good as all of it."""
EXCUSED = {
    "/queue/bulk": "whoever is about to act on many jobs is told how many exactly",
    "/queue/dead-letters/bulk": "as above",
    "/search": "a few thousand vectors have no index: all are compared, and that is exact",
}
# One type of source alone has no index among live items: another on the hottest table would cost each of them.
EXCUSED_ADDRESSES = {"/queue?type=upload as small"}
SUMS = {"embedmill.usage_half_hours"}  # as many as there are half hours, whatever was called

READ_BY_TABLE = """
SELECT coalesce(pg_partition_root(t.relid), t.relid)::regclass::text,
       sum(t.seq_tup_read + coalesce(i.entries, 0))::bigint
  FROM pg_stat_user_tables t
  LEFT JOIN LATERAL (
        SELECT sum(x.idx_tup_read) AS entries FROM pg_stat_user_indexes x WHERE x.relid = t.relid) i ON true
 WHERE t.schemaname = 'embedmill'
 GROUP BY 1
"""
LARGE_TABLES = """
SELECT coalesce(pg_partition_root(oid), oid)::regclass::text, sum(reltuples)::bigint FROM pg_class
 WHERE relkind = 'r' AND relnamespace = 'embedmill'::regnamespace
 GROUP BY 1 HAVING sum(reltuples) >= %(rows)s
"""


@pytest.fixture
async def crowded(
    database: str, provider: RunningProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Serving]:
    """A service without workers on a crowded database, whose sessions tell at once what they have read."""
    provider.reset(dimensions=DIMENSIONS)
    await make_crowd(database, tmp_path, SIZES, provider.base_url)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        # Some tens of thousands of rows are soonest read one after the other; a million are not.
        connection.execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database()); END $$"
        )
    lent = Database.connection

    @asynccontextmanager
    async def telling(self: Database, *, wait_seconds: float | None = None) -> AsyncIterator[AskedConnection]:
        async with lent(self, wait_seconds=wait_seconds) as connection:
            yield connection
            await connection.execute("SELECT pg_stat_force_next_flush()")

    monkeypatch.setattr(Database, "connection", telling)
    async with serving(database, tmp_path, works=False, requests_per_minute=1_000_000) as one:
        yield one


async def test_no_page_reads_the_whole_of_a_large_table(crowded: Serving) -> None:
    owner = crowded.app.database
    with psycopg.connect(owner.url, autocommit=True) as connection:
        large = dict(connection.execute(LARGE_TABLES, {"rows": LARGE_ROWS}).fetchall())
        large = {table: rows for table, rows in large.items() if table not in SUMS}
        assert {
            "embedmill.embedding_queue",
            "embedmill.embedding_queue_history",
            "embedmill.knowledge_chunks",
        } <= large.keys()

        def faults_since(before: Counter[str]) -> dict[str, int]:
            now = Counter(dict(connection.execute(READ_BY_TABLE).fetchall()))
            return {
                table: read
                for table, read in (now - before).items()
                if read >= WHOLE * large.get(table, 1e12)
            }

        def count() -> Counter[str]:
            return Counter(dict(connection.execute(READ_BY_TABLE).fetchall()))

        # What finds faults finds those that are there.
        before = count()
        await owner.fetch("SELECT count(*) FROM embedmill.embedding_queue_history")
        assert "embedmill.embedding_queue_history" in faults_since(before)

        faults, visited = {}, 0
        for tenant in (LARGE, SMALL):
            row = await owner.fetch_one("SELECT id FROM embedmill.tenants WHERE slug = %s", (tenant,))
            assert row is not None
            async with client_at(crowded.address) as client:
                client.cookies.set("embedmill_tenant", tenant)
                for route, listed in (await addresses(owner, row[0])).items():
                    assert listed or tenant == SMALL, f"the large tenant has nothing for {route}"
                    waiting = list(listed)
                    for address in waiting:
                        before = count()
                        answer = await client.get(address)
                        assert answer.status_code == 200, f"{address}: {answer.text}"
                        visited += 1
                        where = f"{address} as {tenant}"
                        is_excused = route in EXCUSED or where in EXCUSED_ADDRESSES
                        if (found := faults_since(before)) and not is_excused:
                            faults[where] = found
                        later = later_page(answer.text)
                        if later is not None and len(waiting) == len(listed) and "/jobs/" not in address:
                            waiting.append(later)
    assert visited > 100
    assert faults == {}, "\n".join(f"{where}: {read}" for where, read in faults.items())


def test_a_page_that_is_not_looked_at_here_is_noticed() -> None:
    assert unlisted(routers()) == set()
    planted = APIRouter()

    @planted.get("/queue/everything")
    async def everything() -> None: ...

    @planted.post("/queue/everything")
    async def act() -> None: ...

    assert unlisted([*routers(), planted]) == {"/queue/everything"}
