"""A person cancels a job: what is under way is written, nothing more is begun, and resuming pays for the rest only."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.events import CallSucceeded, Event
from embedmill.queue.config import set_value
from embedmill.queue.quotas import cool_down
from embedmill.worker.loop import Worker, WorkerOptions
from tests.embed.desk import Desk, Run, free_all
from tests.support import audit
from tests.support.provider import RunningProvider
from tests.support.work import add_document, missing_chunks, stored_vectors


async def job(app: App, job_id: UUID) -> tuple[Any, ...]:
    """(status, total, embedded, message)"""
    (row,) = await app.database.fetch(
        "SELECT status::text, total_chunks, embedded_chunks, error_message FROM embedmill.ingestion_jobs WHERE id = %s",
        (job_id,),
    )
    return row


async def cancel(app: App, job_id: UUID, message: str = "enough") -> str | None:
    row = await app.database.fetch_one("SELECT embedmill.cancel_job(%s, %s)::text", (job_id, message))
    return None if row is None else row[0]


async def resume(app: App, job_id: UUID, function: str = "resume_job") -> tuple[Any, ...]:
    (row,) = await app.database.fetch(f"SELECT status::text, reason FROM embedmill.{function}(%s)", (job_id,))
    return row


async def held_items(app: App) -> list[int]:
    rows = await app.database.fetch(
        "SELECT id FROM embedmill.embedding_queue WHERE status = 'processing' ORDER BY id"
    )
    return [row[0] for row in rows]


async def is_flying(provider: RunningProvider, calls: int = 1) -> None:
    while (await asyncio.to_thread(provider.stats))["in_flight"] < calls:
        await asyncio.sleep(0.01)


async def test_what_is_under_way_is_written_and_counted_and_nothing_more_is_begun(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(latency_ms=300)
    launched = await add_document(app, pipeline, "doc", [f"text {n}" for n in range(200)])
    run = Run(app, pipeline, calls_in_flight=3)
    working = asyncio.create_task(run())
    await is_flying(provider, 3)
    assert await cancel(app, launched.job_id) == "cancelled"
    await run.embedder.heed(await held_items(app), has_budget=False)
    await working
    stats = provider.stats()
    assert stats["calls"] == 3
    assert len(await stored_vectors(app, pipeline)) == stats["inputs_paid"] == 30
    assert await job(app, launched.job_id) == ("cancelled", 200, 30, "enough")
    assert await audit.live_items(app) == []
    assert [status for status, *_ in await audit.ended_items(app)] == ["cancelled"]
    await audit.assert_books_balance(app)

    assert await resume(app, launched.job_id) == ("embedding_in_progress", None)
    await Run(app, pipeline)()
    assert await job(app, launched.job_id) == ("completed", 200, 200, None)
    stats = provider.stats()
    assert (stats["inputs_paid"], stats["most_paid_for_one_input"]) == (200, 1)
    await audit.assert_books_balance(app)


async def test_another_job_in_the_same_calls_goes_on(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(latency_ms=200)
    ours, theirs = [
        await add_document(app, pipeline, name, [f"{name} {n}" for n in range(5 if n else 105)])
        for n, name in enumerate(["ours", "theirs"])
    ]
    working = asyncio.create_task(Run(app, pipeline, calls_in_flight=1)())
    await is_flying(provider)
    await cancel(app, ours.job_id)
    await working
    assert (await job(app, theirs.job_id))[:3] == ("completed", 5, 5)
    status, total, embedded, _ = await job(app, ours.job_id)
    assert (status, total) == ("cancelled", 105)
    assert 0 < embedded <= 20
    assert len(await stored_vectors(app, pipeline)) == embedded + 5 == provider.stats()["inputs_paid"]
    await audit.assert_books_balance(app)


async def test_the_last_response_completes_its_item_and_the_job_stays_cancelled(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    launched = await add_document(app, pipeline, "doc", ["one", "two"])
    desk = Desk(app, pipeline)
    await desk.load()
    await cancel(app, launched.job_id)
    outcome = await desk.write(desk.packer.take())
    assert (outcome.vectors, len(outcome.completed), outcome.cancelled) == (2, 1, [])
    assert await job(app, launched.job_id) == ("cancelled", 2, 2, "enough")
    assert await resume(app, launched.job_id) == ("completed", None)
    await audit.assert_books_balance(app)


async def test_an_item_that_waits_for_the_quota_is_let_go_while_its_call_waits(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    launched = await add_document(app, pipeline, "doc", [f"text {n}" for n in range(12)])
    await cool_down(app.database, pipeline.quota_key, 25)
    run = Run(app, pipeline)
    working = asyncio.create_task(run())
    while not (held := await held_items(app)):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    await cancel(app, launched.job_id)
    await run.embedder.heed(held, has_budget=False)
    assert [status for status, *_ in await audit.ended_items(app)] == ["cancelled"]
    assert not working.done()
    run.embedder.stop()
    await working
    assert provider.stats()["calls"] == 0
    assert await audit.live_items(app) == []


async def test_a_worker_sees_by_its_look_that_something_idle_was_cancelled(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    launched = await add_document(app, pipeline, "doc", [f"text {n}" for n in range(12)])
    await cool_down(app.database, pipeline.quota_key, 25)
    worker = Worker(app.database, app.provider, WorkerOptions(look_seconds=0.05))
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        while not await held_items(app):
            await asyncio.sleep(0.02)
        await cancel(app, launched.job_id)
        while await audit.live_items(app):
            await asyncio.sleep(0.02)
        worker.stop()
    assert [status for status, *_ in await audit.ended_items(app)] == ["cancelled"]
    assert provider.stats()["calls"] == 0


async def test_what_waits_ends_at_once_and_what_is_held_keeps_its_lease(app: App, pipeline: Pipeline) -> None:
    launched = await add_document(app, pipeline, "doc", [f"text {n}" for n in range(1200)])
    desk = Desk(app, pipeline, inputs_per_call=500)
    await desk.load()
    assert await cancel(app, launched.job_id) == "cancelled"
    assert [(status, retries) for _, status, retries, _ in await audit.live_items(app)] == [("processing", 0)]
    outcome = await desk.write(desk.packer.take()[:10])
    assert (outcome.vectors, len(outcome.cancelled)) == (10, 1)
    assert await cancel(app, launched.job_id, "again") == "cancelled"
    assert await job(app, launched.job_id) == ("cancelled", 1200, 10, "enough")


async def test_a_flagged_item_of_a_dead_worker_is_not_given_out_again(app: App, pipeline: Pipeline) -> None:
    launched = await add_document(app, pipeline, "doc", ["one", "two"])
    await Desk(app, pipeline).load()
    await cancel(app, launched.job_id)
    await free_all(app)
    assert await audit.live_items(app) == []
    assert [(status, crashes) for status, _, crashes, _ in await audit.ended_items(app)] == [("cancelled", 0)]


async def test_resuming_takes_the_flag_from_an_item_that_is_still_held(app: App, pipeline: Pipeline) -> None:
    launched = await add_document(app, pipeline, "doc", ["one", "two"])
    desk = Desk(app, pipeline, inputs_per_call=1)
    await desk.load()
    await cancel(app, launched.job_id)
    assert await resume(app, launched.job_id) == ("embedding_in_progress", None)
    outcomes = [await desk.write(desk.packer.take()) for _ in range(2)]
    assert [(len(outcome.completed), outcome.cancelled) for outcome in outcomes] == [(0, []), (1, [])]
    assert await job(app, launched.job_id) == ("completed", 2, 2, None)
    await audit.assert_books_balance(app)


async def test_a_worker_in_sql_is_told_that_it_was_cancelled(app: App, pipeline: Pipeline) -> None:
    worker = uuid4()
    endings = {
        "cancelled": "complete_embedding_queue_item(%(item)s, %(worker)s, %(token)s, true)",
        "failing": "complete_embedding_queue_item(%(item)s, %(worker)s, %(token)s, false, 3, 'no')",
        "limited": "handle_rate_limit(%(item)s, %(worker)s, %(token)s, 5)",
    }
    for name, call in endings.items():
        launched = await add_document(app, pipeline, name, [f"{name} one", f"{name} two"])
        ((item, token),) = await app.database.fetch(
            "SELECT item_id, lease_token FROM embedmill.get_next_embedding_batch(%s, 1, 'standin')", (worker,)
        )
        await cancel(app, launched.job_id)
        given = {"item": item, "worker": worker, "token": token}
        assert (
            await app.database.fetch("SELECT FROM embedmill.get_embedding_inputs(%s, %s)", (item, token))
            == []
        )
        assert await app.database.fetch(f"SELECT embedmill.{call}", given) == [("cancelled",)]
    assert {status for status, *_ in await audit.ended_items(app)} == {"cancelled"}
    assert await audit.live_items(app) == []
    assert await audit.dead_letters(app) == []


async def test_a_failed_job_keeps_what_stands_and_resuming_pays_for_the_rest(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    launched = await add_document(app, pipeline, "doc", [f"text {n}" for n in range(30)])
    await app.database.fetch("UPDATE embedmill.embedding_queue SET max_retries = 0")

    def fail_from_now_on(event: Event) -> None:
        if isinstance(event, CallSucceeded):
            provider.configure(faults=["short"])

    await Run(app, pipeline, calls_in_flight=1, on_event=fail_from_now_on)()
    status, _, embedded, message = await job(app, launched.job_id)
    assert status == "failed"
    assert message
    assert embedded == len(await stored_vectors(app, pipeline)) == 10
    before = provider.stats()["inputs_paid"]
    provider.configure(faults=[])
    assert await resume(app, launched.job_id) == ("embedding_in_progress", None)
    await Run(app, pipeline)()
    assert await job(app, launched.job_id) == ("completed", 30, 30, None)
    assert provider.stats()["inputs_paid"] - before == 20


async def test_a_retry_embeds_what_was_refused_and_settles_its_dead_letters(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(poison="POISON")
    launched = await add_document(app, pipeline, "doc", ["one", "POISON"])
    await Run(app, pipeline)()
    assert await job(app, launched.job_id) == ("completed", 2, 1, None)
    assert await resume(app, launched.job_id) == ("completed", None)
    provider.configure(poison=None)
    assert await resume(app, launched.job_id, "retry_job") == ("embedding_in_progress", None)
    await Run(app, pipeline)()
    assert await job(app, launched.job_id) == ("completed", 2, 2, None)
    open_letters = await app.database.fetch("SELECT FROM embedmill.dead_letters WHERE resolved_at IS NULL")
    assert open_letters == []
    assert provider.stats()["most_paid_for_one_input"] == 1
    await audit.assert_books_balance(app)


async def test_a_job_that_was_never_parsed_goes_back_to_the_parsers_and_never_completes_empty(
    app: App, pipeline: Pipeline
) -> None:
    ended = [("cancelled", "parsing", 0), ("failed", "parsing", 0), ("failed", "dispatch", 7)]
    for number, (status, stage, chunks) in enumerate(ended):
        ((job_id,),) = await app.database.fetch(
            "WITH d AS (INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, "
            "                name) VALUES (%(tenant)s, %(pipeline)s, 'upload', %(source)s, 'a') RETURNING *) "
            "INSERT INTO embedmill.ingestion_jobs (tenant_id, pipeline_id, document_id, original_key, status, "
            "    error_stage, total_chunks) "
            "SELECT tenant_id, pipeline_id, id, 'key', %(status)s, %(stage)s, %(chunks)s FROM d RETURNING id",
            {
                "tenant": pipeline.tenant_id,
                "pipeline": pipeline.id,
                "source": str(number),
                "status": status,
                "stage": stage,
                "chunks": chunks,
            },
        )
        for function in ("resume_job", "retry_job"):
            assert await resume(app, job_id, function) == ("staged", None)
        assert await app.database.fetch(
            "SELECT attempts FROM embedmill.parse_queue WHERE job_id = %s", (job_id,)
        ) == [(0,)]
        assert await cancel(app, job_id) == "cancelled"
        assert await app.database.fetch("SELECT FROM embedmill.parse_queue") == []


async def test_only_the_newest_job_of_a_document_can_go_on(app: App, pipeline: Pipeline) -> None:
    older = await add_document(app, pipeline, "doc", ["one"])
    newer = await add_document(app, pipeline, "doc", ["two"])
    for function in ("resume_job", "retry_job"):
        with pytest.raises(psycopg.Error) as caught:
            await resume(app, older.job_id, function)
        assert caught.value.sqlstate == "EM409"
        with pytest.raises(psycopg.Error) as caught:
            await resume(app, uuid4(), function)
        assert caught.value.sqlstate == "EM404"
    assert await resume(app, newer.job_id) == ("embedding_in_progress", None)
    assert await cancel(app, uuid4()) is None


async def test_where_the_queue_is_off_resuming_says_why_and_hands_the_job_to_a_worker(
    app: App, pipeline: Pipeline
) -> None:
    launched = await add_document(app, pipeline, "doc", ["one"])
    await cancel(app, launched.job_id)
    await set_value(app.database, "queue_enabled", "false", actor="test")
    status, reason = await resume(app, launched.job_id)
    assert status == "embedding_in_progress"
    assert "queue_enabled" in reason
    assert await app.database.fetch("SELECT job_id FROM embedmill.parse_queue") == [(launched.job_id,)]
    assert await missing_chunks(app, pipeline) == 1
