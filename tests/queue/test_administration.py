"""What a person does with many items: cancelled, retried, paused, and what the audit log says of it."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from embedmill.app import App
from embedmill.core.jobs import ItemStatus
from embedmill.database.pipelines import Pipeline
from embedmill.queue.administration import (
    cancel_items,
    count_cancellable,
    count_retryable,
    pause,
    read_audit_log,
    resume,
    retry_items,
)
from embedmill.queue.items import Return, Waiting, hold_items, return_items
from embedmill.queue.selection import Scope, Selection, open_scope
from tests.support import audit
from tests.support.queue_rows import claim, enqueue
from tests.support.work import add_document

DEAD = Return(Waiting.PENDING, 100, 0, "provider_unavailable", "answered 503")


async def scope(app: App, **chosen: object) -> Scope:
    return await open_scope(app.database, await app.tenant_id(), Selection(**chosen))  # type: ignore[arg-type]


async def fail_all(app: App, pipeline: Pipeline) -> None:
    items = await claim(app.database, pipeline.generation.id)
    assert await return_items(app.database, items, DEAD) == {item.id for item in items}


async def cancelled_by_hand(app: App, **chosen: object) -> dict[str, int]:
    return dict(await cancel_items(app.database, await scope(app, **chosen), actor="ann@mill"))


async def retried_by_hand(app: App, **chosen: object) -> dict[str, int]:
    done = await retry_items(app.database, await scope(app, **chosen), actor="ann@mill")
    return {name: number for name, number in done.items() if number}


async def test_a_cancelled_item_is_lost_to_its_worker_and_its_job_is_cancelled(
    app: App, pipeline: Pipeline
) -> None:
    await add_document(app, pipeline, "doc", ["one", "two"])
    (held,) = await claim(app.database, pipeline.generation.id)
    assert await cancelled_by_hand(app, ids=(held.id,)) == {"processing": 1}
    async with app.database.transaction() as connection:
        assert await hold_items(connection, [held]) == set()
    assert [(job[1], job[6]) for job in await audit.newest_jobs(app)] == [("cancelled", 0)]
    assert [row[0] for row in await audit.ended_items(app)] == ["cancelled"]


async def test_thousands_are_cancelled_in_steps_and_are_one_act_in_the_audit_log(
    app: App, pipeline: Pipeline
) -> None:
    await enqueue(app.database, pipeline.generation.id, 2500)
    await enqueue(app.database, pipeline.generation.id, 3, priority="low")
    seen: list[int] = []
    chosen = await scope(app, priority="medium")
    assert (await count_cancellable(app.database, chosen)).counts == {"pending": 2500}
    done = await cancel_items(app.database, chosen, actor="ann@mill", on_progress=seen.append)
    assert (dict(done), seen) == ({"pending": 2500}, [1000, 2000, 2500])
    assert len(await audit.live_items(app)) == 3
    (record,) = await read_audit_log(app.database, await app.tenant_id(), limit=10)
    assert (record.actor, record.action) == ("ann@mill", "queue.cancel")
    assert record.new_value == {"selection": {"priority": "medium"}, "done": {"pending": 2500}}


async def test_what_is_enqueued_while_somebody_cancels_was_not_meant(app: App, pipeline: Pipeline) -> None:
    await enqueue(app.database, pipeline.generation.id, 1500)
    loop = asyncio.get_running_loop()
    arrived: list[asyncio.Task[list[int]]] = []

    def another_arrives(done: int) -> None:
        if done == 1000:
            arrived.append(loop.create_task(enqueue(app.database, pipeline.generation.id, 1)))

    await cancel_items(app.database, await scope(app), actor="ann", on_progress=another_arrives)
    (newcomer,) = await arrived[0]
    assert [item[0] for item in await audit.live_items(app)] == [newcomer]


async def test_nothing_done_is_nothing_in_the_audit_log(app: App, pipeline: Pipeline) -> None:
    await enqueue(app.database, pipeline.generation.id, 1)
    assert await cancelled_by_hand(app, statuses=(ItemStatus.FAILED,)) == {}
    assert await cancelled_by_hand(app, error="never said") == {}
    assert await read_audit_log(app.database, await app.tenant_id(), limit=10) == []


async def test_a_failed_item_is_retried_once_and_its_dead_letter_is_resolved(
    app: App, pipeline: Pipeline
) -> None:
    batch = uuid4()
    for name in ("a", "b"):
        await add_document(app, pipeline, name, ["one", "two"], batch)
    await fail_all(app, pipeline)
    assert (await count_retryable(app.database, await scope(app))).counts == {"failed": 2}
    assert await retried_by_hand(app) == {"items": 2, "documents": 2, "enqueued": 2}
    assert [item[1:3] for item in await audit.live_items(app)] == [("pending", 0)] * 2
    assert {job[1] for job in await audit.newest_jobs(app)} == {"embedding_in_progress"}
    assert await retried_by_hand(app) == {}, "what waits again is not enqueued again"
    await fail_all(app, pipeline)
    assert (await count_retryable(app.database, await scope(app))).items == 2, "the new ones, not the old"


async def test_backoff_ends_now_and_a_rate_limit_goes_on(app: App, pipeline: Pipeline) -> None:
    for name in ("fails", "limited", "waits"):
        await add_document(app, pipeline, name, [name])
    first, second = await claim(app.database, pipeline.generation.id, items=2)
    again = Return(Waiting.PENDING, 1, 3_600_000, "provider_unavailable", "answered 503")
    limited = Return(Waiting.RATE_LIMITED, 0, 3_600_000, "rate_limited", "answered 429")
    await return_items(app.database, [first], again)
    await return_items(app.database, [second], limited)
    assert await retried_by_hand(app) == {"made_due": 1}
    ready = {item.id for item in await claim(app.database, pipeline.generation.id)}
    assert first.id in ready
    assert second.id not in ready
    assert [item[2] for item in await audit.live_items(app) if item[0] == first.id] == [1], (
        "attempts are kept"
    )


async def test_cancelled_items_are_retried_only_where_they_are_asked_for(
    app: App, pipeline: Pipeline
) -> None:
    batch = uuid4()
    await add_document(app, pipeline, "doc", ["one"], batch)
    await cancelled_by_hand(app)
    assert await retried_by_hand(app) == {}
    assert await retried_by_hand(app, statuses=(ItemStatus.FAILED,)) == {}
    assert await retried_by_hand(app, batch_id=batch) == {"items": 1, "documents": 1, "enqueued": 1}
    assert await retried_by_hand(app, batch_id=batch) == {}
    await cancelled_by_hand(app)
    assert (await retried_by_hand(app, statuses=(ItemStatus.CANCELLED,)))["enqueued"] == 1


async def test_a_deletion_that_was_called_off_is_never_retried(app: App, pipeline: Pipeline) -> None:
    launched = await add_document(app, pipeline, "doc", ["one"])
    await app.database.fetch(
        "SELECT embedmill.enqueue_deletion(%s, NULL, 'medium', '{}', NULL)", (launched.document_id,)
    )
    await cancelled_by_hand(app)
    (deletion,) = await app.database.fetch(
        "SELECT id FROM embedmill.embedding_queue_history WHERE operation = 'DELETE'"
    )
    assert await retried_by_hand(app, ids=(deletion[0],)) == {}
    assert await audit.live_items(app) == []


async def test_a_failed_deletion_is_a_deletion_again_unless_the_document_came_back(
    app: App, pipeline: Pipeline
) -> None:
    launched = await add_document(app, pipeline, "doc", ["one"])
    ask = "SELECT embedmill.enqueue_deletion(%s, NULL, 'medium', '{}', NULL)"
    await app.database.fetch(ask, (launched.document_id,))
    await fail_all(app, pipeline)
    assert (await retried_by_hand(app))["enqueued"] == 1
    rows = await app.database.fetch("SELECT operation::text FROM embedmill.embedding_queue")
    assert rows == [("DELETE",)]
    await fail_all(app, pipeline)
    await app.database.fetch("UPDATE embedmill.knowledge_documents SET updated_at = clock_timestamp()")
    assert await retried_by_hand(app) == {"items": 1, "documents": 1, "back": 1}
    assert await audit.live_items(app) == []


async def test_documents_that_are_gone_or_unreadable_are_told_and_not_touched(
    app: App, pipeline: Pipeline
) -> None:
    for name in ("gone", "unreadable"):
        await add_document(app, pipeline, name, [name])
    await fail_all(app, pipeline)
    await app.database.fetch("DELETE FROM embedmill.knowledge_documents WHERE source_id = 'gone'")
    await app.database.fetch("UPDATE embedmill.knowledge_documents SET error_reason = 'corrupt'")
    assert await retried_by_hand(app) == {"items": 2, "documents": 2, "gone": 1, "unreadable": 1}
    assert {job[1] for job in await audit.newest_jobs(app)} == {"failed"}


async def test_a_paused_pipeline_gives_nothing_until_it_is_resumed(app: App, pipeline: Pipeline) -> None:
    await enqueue(app.database, pipeline.generation.id, 2)
    (held,) = await claim(app.database, pipeline.generation.id, items=1)
    tenant = await app.tenant_id()
    changed = await pause(app.database, tenant, pipeline.name, actor="ann")
    assert (changed.pipelines, changed.items_in_work) == ([pipeline.name], 1)
    assert await claim(app.database, pipeline.generation.id) == []
    async with app.database.transaction() as connection:
        assert await hold_items(connection, [held]) == {held.id}, "what is held goes on"
    assert (await pause(app.database, tenant, None, actor="ann")).pipelines == ["default"]
    assert (await resume(app.database, tenant, None, actor="ann")).pipelines == ["default", pipeline.name]
    assert len(await claim(app.database, pipeline.generation.id)) == 1
    acts = await read_audit_log(app.database, tenant, limit=10)
    assert sorted(f"{act.action} {act.subject}" for act in acts) == sorted(
        f"queue.{verb} {name}" for verb in ("pause", "resume") for name in ("default", pipeline.name)
    )


async def test_another_tenants_items_are_out_of_reach(app: App, pipeline: Pipeline) -> None:
    ids = await enqueue(app.database, pipeline.generation.id, 2)
    (other,) = await app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('other') RETURNING id")
    theirs = await open_scope(app.database, other[0], Selection(ids=tuple(ids)))
    assert (await count_cancellable(app.database, theirs)).items == 0
    assert not await cancel_items(app.database, theirs, actor="eve")
    assert not await retry_items(app.database, theirs, actor="eve")
    assert len(await audit.live_items(app)) == 2


async def test_cancelling_and_working_at_once_ends_every_item_once(app: App, pipeline: Pipeline) -> None:
    await enqueue(app.database, pipeline.generation.id, 1200)
    stopping = asyncio.Event()

    async def work() -> None:
        while not stopping.is_set():
            held = await claim(app.database, pipeline.generation.id, items=50)
            await return_items(app.database, held, DEAD)
            await asyncio.sleep(0)

    working = [asyncio.create_task(work()) for _ in range(2)]
    done = await cancel_items(app.database, await scope(app), actor="ann")
    stopping.set()
    await asyncio.gather(*working)
    ended = [row[0] for row in await audit.ended_items(app)]
    assert (len(ended), await audit.live_items(app)) == (1200, [])
    assert ended.count("cancelled") == done.total()
