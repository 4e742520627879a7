"""Embedding jobs as the API shows them: pages that skip and double nothing, filters, one job with its attempts, and
none of another tenant's. By index, whatever the statistics say, also under row-level security."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.errors import ConfigurationError, NotFoundError
from embedmill.queue import embedding_job_pages as pages
from embedmill.queue.embedding_jobs import (
    JobFilter,
    JobPage,
    JobState,
    count_embedding_jobs,
    find_embedding_job,
    list_embedding_jobs,
)
from embedmill.queue.items import Return, Waiting, complete_items, hold_items, return_items
from tests.support.queue_rows import claim, enqueue
from tests.support.work import add_document

FAILED = Return(Waiting.PENDING, 4, 0, "test", "a reason")
LIMITED = Return(Waiting.RATE_LIMITED, 0, 60_000, "429", "slow down")


async def complete(app: App, generation: int, most: int) -> list[int]:
    items = await claim(app.database, generation, items=most)
    async with app.database.transaction() as connection:
        await hold_items(connection, items)
        return sorted(await complete_items(connection, generation, [item.id for item in items]))


async def walk(database: Database, which: JobFilter, limit: int, meanwhile: Callable[[], Any]) -> list[int]:
    """The ids of all pages; something happens between each and the next."""
    found: list[int] = []
    cursor: str | None = None
    while True:
        page = await list_embedding_jobs(database, 1, which, cursor=cursor, limit=limit)
        found += [job.id for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            return found
        await meanwhile()


async def test_pages_skip_and_double_nothing_while_items_end(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    ids = await enqueue(app.database, generation, 60)

    async def work() -> None:
        await complete(app, generation, 4)
        await return_items(app.database, await claim(app.database, generation, items=2), FAILED)
        await enqueue(app.database, generation, 3)

    assert await walk(app.database, JobFilter(), 7, work) == sorted(ids, reverse=True)


async def test_ended_jobs_of_many_days_come_in_one_order(app: App, pipeline: Pipeline) -> None:
    """A job that was made long ago and ended today stands where it was made."""
    ids = await enqueue(app.database, pipeline.generation.id, 90)
    await complete(app, pipeline.generation.id, 90)
    await app.database.fetch("SELECT embedmill.fold_queue_changes()")
    # Each was made a day before the next; every seventh ended today, the others at once.
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue_history SET created_at = now() - make_interval(days => (%s - id)::integer), "
        "       processing_completed_at = CASE WHEN id %% 7 = 0 THEN now() "
        "                                 ELSE now() - make_interval(days => (%s - id)::integer) END",
        (ids[-1], ids[-1]),
    )
    await app.database.fetch("DELETE FROM embedmill.queue_counts")
    await app.database.fetch(
        "INSERT INTO embedmill.queue_counts (generation_id, status, day, tenant_id, items) "
        "SELECT generation_id, status::text, (processing_completed_at AT TIME ZONE 'UTC')::date, tenant_id, count(*) "
        "  FROM embedmill.embedding_queue_history GROUP BY 1, 2, 3, 4"
    )
    for status in (None, JobState.COMPLETED):
        for limit in (1, 4, 50, 1000):
            found = await walk(app.database, JobFilter(status=status), limit, lambda: asyncio.sleep(0))
            assert found == sorted(ids, reverse=True), (status, limit)


@pytest.mark.parametrize("status", [None, JobState.PENDING])
async def test_a_rare_kind_among_the_live_is_looked_for_in_stretches_that_leave_nothing_out(
    app: App, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, status: JobState | None
) -> None:
    monkeypatch.setattr(pages, "_FEW", 0)
    monkeypatch.setattr(pages, "LIVE_LOOKED_THROUGH", 6)
    ended = await complete_rare(app, pipeline.generation.id)
    ids = await enqueue(app.database, pipeline.generation.id, 60)
    live = [each for each in ids if each % 11 == 0]
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue SET source_type = 'rare' WHERE id = ANY (%s)", (live,)
    )
    wanted = live if status else ended + live
    for limit in (1, 2, 50):
        found = await walk(
            app.database, JobFilter(status=status, source_type="rare"), limit, lambda: asyncio.sleep(0)
        )
        assert found == sorted(wanted, reverse=True), limit


async def complete_rare(app: App, generation: int) -> list[int]:
    """Ended items of a rare kind, older than what lives."""
    await enqueue(app.database, generation, 9)
    await app.database.fetch("UPDATE embedmill.embedding_queue SET source_type = 'rare'")
    return await complete(app, generation, 9)


async def test_a_kind_of_source_that_much_has_ended_of_is_looked_for_a_stretch_at_a_time(
    app: App, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await enqueue(app.database, pipeline.generation.id, 40)
    await complete(app, pipeline.generation.id, 40)
    old, new = ids[:12], ids[34:36]
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue_history SET source_type = 'ticket' WHERE id = ANY (%s)",
        (old + new,),
    )
    monkeypatch.setattr(pages, "_FEW", 5)
    monkeypatch.setattr(pages, "LOOKED_THROUGH", 10)
    wanted = JobFilter(source_type="ticket")
    page = await list_embedding_jobs(app.database, 1, wanted, limit=50)
    assert [job.id for job in page.jobs] == new[::-1]
    assert page.next_cursor is not None, "older ones may be there"
    found = await walk(app.database, wanted, 50, lambda: asyncio.sleep(0))
    assert found == (old + new)[::-1]


async def test_each_status_has_its_jobs_and_the_stats_count_them(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    await enqueue(app.database, generation, 20)
    completed = await complete(app, generation, 5)
    failed = sorted(await return_items(app.database, await claim(app.database, generation, items=4), FAILED))
    limited = [item.id for item in await claim(app.database, generation, items=3)]
    await return_items(app.database, await held(app, generation, limited), LIMITED)
    working = [item.id for item in await claim(app.database, generation, items=2)]
    (cancelled,) = await app.database.fetch(
        "SELECT unnest(embedmill.cancel_items(ARRAY(SELECT id FROM embedmill.embedding_queue "
        "                                            WHERE status = 'pending' LIMIT 1), 'no'))"
    )

    async def ids(status: JobState) -> list[int]:
        page = await list_embedding_jobs(app.database, 1, JobFilter(status=status))
        assert {job.status for job in page.jobs} == {status}
        return [job.id for job in page.jobs]

    assert await ids(JobState.COMPLETED) == completed[::-1]
    assert await ids(JobState.FAILED) == failed[::-1]
    assert await ids(JobState.PROCESSING) == sorted(working, reverse=True)
    assert await ids(JobState.CANCELLED) == [cancelled[0]]
    pending = await ids(JobState.PENDING)
    assert len(pending) == 8
    assert set(limited) < set(pending)
    assert await count_embedding_jobs(app.database, 1) == {
        "pending": 8, "processing": 2, "completed": 5, "failed": 4,
    }  # fmt: skip


async def held(app: App, generation: int, ids: list[int]) -> list[Any]:
    """The claimed items again, with their tokens."""
    rows = await app.database.fetch(
        "SELECT id, lease_token FROM embedmill.embedding_queue WHERE id = ANY (%s)", (ids,)
    )
    (sample,) = await claim(app.database, generation, items=1)
    await return_items(app.database, [sample], Return(Waiting.PENDING, 0, 0, "stop", None))
    return [msgspec.structs.replace(sample, id=row[0], lease_token=row[1]) for row in rows]


async def test_a_job_is_found_by_its_source_its_batch_and_its_ingestion_job(
    app: App, pipeline: Pipeline
) -> None:
    batch = uuid4()
    first = await add_document(app, pipeline, "a/first", ["one", "two"], batch)
    second = await add_document(app, pipeline, "a/second", ["three"])
    await enqueue(app.database, pipeline.generation.id, 3)

    async def check() -> None:
        for which, sources in (
            (JobFilter(source_type="test", source_id="a/first"), ["a/first"]),
            (JobFilter(source_type="test", source_id="a/second", status=JobState.FAILED), []),
            (JobFilter(source_type="other", source_id="a/first"), []),
            (JobFilter(source_type="other"), []),
            (JobFilter(batch_id=batch), ["a/first"]),
            (JobFilter(batch_id=uuid4()), []),
            (JobFilter(job_id=second.job_id), ["a/second"]),
            (JobFilter(job_id=second.job_id, batch_id=batch), []),
            (JobFilter(job_id=second.job_id, source_type="test", source_id="a/first"), []),
            (JobFilter(job_id=uuid4()), []),
            (JobFilter(source_type="test", source_id="a/first", batch_id=batch), ["a/first"]),
            (JobFilter(source_type="test", source_id="\x00"), []),
            (JobFilter(source_type="\ud800"), []),
        ):
            page = await list_embedding_jobs(app.database, 1, which)
            assert [job.shard_id for job in page.jobs] == sources, which
        assert len((await list_embedding_jobs(app.database, 1, JobFilter(source_type="test"))).jobs) == 5

    await check()
    await app.database.fetch(
        "SELECT embedmill.end_items(ARRAY(SELECT id FROM embedmill.embedding_queue), 'completed', NULL, NULL)"
    )
    await check()
    assert first.document_id != second.document_id


async def test_a_record_says_all_that_the_interface_promises(app: App, pipeline: Pipeline) -> None:
    (item_id,) = await enqueue(app.database, pipeline.generation.id, 1)
    await complete(app, pipeline.generation.id, 1)
    (job,) = (await list_embedding_jobs(app.database, 1)).jobs
    record = msgspec.to_builtins(job)
    assert set(record) == {
        "id", "tenantId", "shardId", "shardTypeId", "status", "retryCount", "error", "createdAt", "updatedAt",
        "completedAt", "metadata", "jobId", "batchId", "documentId", "priority", "operation",
    }  # fmt: skip
    assert (record["id"], record["tenantId"], record["shardTypeId"], record["status"]) == (
        item_id,
        1,
        "test",
        "completed",
    )
    assert set(record["metadata"]) == {"embeddingModel", "vectorCount", "processingTimeMs"}
    assert record["metadata"]["embeddingModel"] == "stand-in"
    assert record["metadata"]["processingTimeMs"] >= 0
    assert record["createdAt"] <= record["updatedAt"] == record["completedAt"]


async def test_a_job_tells_what_was_tried_about_its_piece(app: App, pipeline: Pipeline) -> None:
    launched = await add_document(app, pipeline, "a", ["one"])
    for _ in range(2):
        await return_items(app.database, await claim(app.database, pipeline.generation.id, items=1), FAILED)
        await app.database.fetch(
            "SELECT embedmill.retry_document(%s, NULL, 'medium')", (launched.document_id,)
        )
    jobs = (await list_embedding_jobs(app.database, 1)).jobs
    assert [job.status for job in jobs] == ["pending", "failed", "failed"]
    for job in jobs:
        history = await find_embedding_job(app.database, 1, job.id)
        assert history.job == job
        assert [attempt.id for attempt in history.attempts] == [one.id for one in jobs]
        assert [attempt.error for attempt in history.attempts] == [None, "a reason", "a reason"]
        assert history.attempts[1].worker_id is None or history.attempts[1].started_at is not None
        assert {letter.item_id for letter in history.dead_letters} == {jobs[1].id, jobs[2].id}


async def test_of_another_tenant_nothing_is_seen(app: App, pipeline: Pipeline) -> None:
    (item_id, *_) = await enqueue(app.database, pipeline.generation.id, 4)
    await complete(app, pipeline.generation.id, 2)
    await app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('other')")
    async with Database(app.database.url, role="embedmill_service") as service:
        for asking, database in (
            (2, app.database),
            (2, service.for_tenant(2, actor="t")),
            (1, service.for_tenant(2, actor="t")),
        ):
            assert await list_embedding_jobs(database, asking) == JobPage([], None)
            assert set((await count_embedding_jobs(database, asking)).values()) == {0}
            with pytest.raises(NotFoundError):
                await find_embedding_job(database, asking, item_id)
        own = service.for_tenant(1, actor="t")
        assert len((await list_embedding_jobs(own, 1)).jobs) == 4
        assert (await find_embedding_job(own, 1, item_id)).job.id == item_id


async def test_what_makes_no_sense_is_refused_with_a_reason(app: App) -> None:
    for cursor in (
        "",
        "x",
        "!!",
        "W10",
        "WzEsIngiXQ",
        "ä",
        "A" * 5000,
        "WzFlOTksMV0",
        "WzEsOTk5OTk5OTk5OTk5OTk5OTk5OTldw",
    ):
        with pytest.raises(ConfigurationError, match="cursor"):
            await list_embedding_jobs(app.database, 1, cursor=cursor)
    for limit in (0, -1, 1001):
        with pytest.raises(ConfigurationError, match="limit"):
            await list_embedding_jobs(app.database, 1, limit=limit)
    with pytest.raises(ConfigurationError, match="type"):
        await list_embedding_jobs(app.database, 1, JobFilter(source_id="a"))
    for item_id in (0, -1, 2**63, 10**30, 12345):
        with pytest.raises(NotFoundError):
            await find_embedding_job(app.database, 1, item_id)
