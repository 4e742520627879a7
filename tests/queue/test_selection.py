"""Which items a person means: every filter, pages in order, and statements that go by an index."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from embedmill.app import App
from embedmill.core.jobs import ItemStatus
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import load_queries
from embedmill.errors import NotFoundError
from embedmill.queue.items import Return, Waiting, return_items
from embedmill.queue.selection import MATCHING, Selection, list_items, open_scope
from tests.support.queue_rows import claim, enqueue
from tests.support.work import add_document

DEAD = Return(Waiting.PENDING, 100, 0, "provider_unavailable", "Answered 503: Bad Gateway")


async def found(app: App, limit: int = 1000, after: int | None = None, **chosen: object) -> list[int]:
    selection = Selection(**chosen)  # type: ignore[arg-type]
    scope = await open_scope(app.database, await app.tenant_id(), selection)
    return [item.id for item in await list_items(app.database, scope, limit=limit, after=after)]


async def test_every_filter_leaves_out_what_does_not_match(app: App, pipeline: Pipeline) -> None:
    batch, worker = uuid4(), uuid4()
    await add_document(app, pipeline, "/srv/a_b/one.txt", ["one"], batch)
    await add_document(app, pipeline, "/srv/aXb/two.txt", ["two"])
    (high,) = await enqueue(app.database, pipeline.generation.id, 1, priority="high")
    one, two = await found(app, priority="medium")
    (held,) = await claim(app.database, pipeline.generation.id, items=1, worker_id=worker)
    assert held.id == high
    (job,) = await app.database.fetch("SELECT job_id FROM embedmill.embedding_queue WHERE id = %s", (two,))
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue SET created_at = now() - interval '1 hour' WHERE id = %s", (one,)
    )
    assert await found(app) == [one, two, high]
    assert await found(app, ids=(two, 10**12)) == [two]
    assert await found(app, statuses=(ItemStatus.PROCESSING,)) == [high]
    assert await found(app, pipeline="default") == []
    assert await found(app, pipeline=pipeline.name, priority="high") == [high]
    assert await found(app, batch_id=batch) == [one]
    assert await found(app, source="/srv/aXb/two.txt") == [two]
    assert await found(app, source="/srv/aXb/*", source_type="test") == [two]
    assert await found(app, source="/srv/a_b/*") == [one], "a beginning is no pattern"
    assert await found(app, source_type="file") == []
    assert await found(app, job_id=job[0]) == [two]
    assert await found(app, worker_id=worker) == [high]
    assert await found(app, older_than_seconds=600) == [one]
    assert await found(app, error="503") == []
    await return_items(app.database, await claim(app.database, pipeline.generation.id, items=1), DEAD)
    failed = (ItemStatus.FAILED,)
    assert await found(app, statuses=failed, error="bad gateway") == [one]
    assert await found(app, statuses=failed, error="bad_gateway") == []
    assert await found(app, statuses=(*failed, ItemStatus.PENDING)) == [two, one], "newest first"
    with pytest.raises(NotFoundError, match="there are: default, standin"):
        await found(app, pipeline="nobody")
    with pytest.raises(NotFoundError, match="no ingestion job"):
        await found(app, job_id=UUID(int=1))


async def test_pages_follow_one_another_without_gaps_in_both_directions(app: App, pipeline: Pipeline) -> None:
    ids = await enqueue(app.database, pipeline.generation.id, 7)
    pages = [await found(app, limit=3, after=after) for after in (None, ids[2], ids[5], ids[6])]
    assert pages == [ids[:3], ids[3:6], ids[6:], []]
    for _ in range(3):
        await return_items(app.database, await claim(app.database, pipeline.generation.id, items=1), DEAD)
    asked = {"statuses": (ItemStatus.FAILED, ItemStatus.COMPLETED, ItemStatus.PENDING)}
    newest = ids[::-1]
    assert await found(app, limit=4, **asked) == newest[:4]
    assert await found(app, limit=4, after=newest[3], **asked) == newest[4:]


ROWS = """
INSERT INTO embedmill.embedding_queue
    (tenant_id, generation_id, document_id, batch_id, job_id, source_type, source_id)
SELECT 1, %(generation_id)s, n, md5((n / 50)::text)::uuid, md5(n::text)::uuid, 'test', 'file-' || n
  FROM generate_series(1, 50000) AS n
"""
PLANS = [
    ("live_oldest", {}, "embedding_queue_pkey"),
    ("live_oldest", {"after": 49_000}, "embedding_queue_pkey"),
    ("live_newest", {}, "embedding_queue_pkey"),
    ("live_oldest", {"batch_id": UUID(int=7)}, "embedding_queue_batch"),
    ("live_oldest", {"ids": [5, 40_000]}, "embedding_queue_pkey"),
    ("live_oldest", {"worker_id": UUID(int=7)}, "embedding_queue_leased"),
    ("live_oldest", {"statuses": ["processing"]}, "embedding_queue_leased"),
    ("live_oldest", {"job_id": UUID(int=7), "job_document_id": 7}, "embedding_queue_document"),
    ("unfinished_newest", {"statuses": ["failed"]}, "_id_idx"),
    ("ended_newest", {"statuses": ["completed"], "ids": [7]}, "_tenant_id_id_idx"),
]


async def test_listings_go_by_an_index(app: App, pipeline: Pipeline) -> None:
    queries = load_queries("embedmill.queue", "selection.sql")
    scope = await open_scope(app.database, await app.tenant_id(), Selection())
    with psycopg.connect(app.database.url, autocommit=True) as connection:
        connection.execute(ROWS, {"generation_id": pipeline.generation.id})
        connection.execute("ANALYZE embedmill.embedding_queue")
        for name, chosen, index in PLANS:
            after = 0 if name == "live_oldest" else 2**63 - 1
            statement = sql.SQL("EXPLAIN ") + queries[name].format(matching=MATCHING)
            given = {**scope.given, "limit": 50, "after": after, **chosen}
            rows = connection.execute(statement, given, prepare=False).fetchall()
            plan = "\n".join(row[0] for row in rows)
            assert index in plan, (name, chosen, plan)
            assert "Seq Scan on embedding_queue q" not in plan, (name, chosen, plan)
