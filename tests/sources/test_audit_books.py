"""An audit of what is counted and held: coverage, sources, live items, leases of the dead, indexes; audits that are
ordered, due, taken over, cut off."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import NotFoundError
from embedmill.queue.config import set_value
from embedmill.sources.audit import Audit
from embedmill.sources.auditor import Auditor
from embedmill.sources.audits import AuditLostError, Scope, begin_audit, find_scope, list_audits, order_audit
from tests.sources.auditing import TABLE, alter, audit, counts, delete_vectors, embedded_table, mended
from tests.support.provider import RunningProvider
from tests.support.work import add_document

ROWS = 20


async def test_counters_that_lie_are_set_right_beside_those_who_move_them(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await embedded_table(app, pipeline, ROWS)
    await app.database.fetch(
        "UPDATE embedmill.coverage_counters SET chunks = chunks + 5, embedded = embedded - 7, unembeddable = 2"
        " WHERE generation_id = %s AND record_source_id <> 0",
        (pipeline.generation.id,),
    )
    await app.database.fetch("UPDATE embedmill.record_sources SET rows = 3, documents = 99")
    await app.database.fetch(
        "INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items) VALUES (%s, %s, 'live', 12)",
        (pipeline.tenant_id, pipeline.generation.id),
    )
    assert counts(await audit(app)) == {"job_counters_that_lie": 3}
    # Somebody moves the counters in a transaction that is open all through the repair of another source's.
    with psycopg.connect(app.database.url) as writer:
        writer.execute("INSERT INTO public.jobs VALUES (1000, 'In', 'flight')")
        assert mended(await audit(app, mends="books")) == {"job_counters_that_lie": 3}
        writer.commit()
    assert counts(await audit(app)) == {}
    assert await app.database.fetch("SELECT rows, documents FROM embedmill.record_sources") == [(ROWS, ROWS)]
    assert await app.database.fetch(
        "SELECT chunks, embedded, unembeddable FROM embedmill.coverage_counters WHERE record_source_id <> 0"
    ) == [(ROWS, ROWS, 0)]


async def test_what_dead_workers_hold(app: App, pipeline: Pipeline) -> None:
    await add_document(app, pipeline, "held", ["It is held."])
    source = await order_source(app, pipeline)
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue SET status = 'processing', lease_token = 1, worker_id = %s,"
        "       lease_deadline = now() + interval '1 hour'",
        (uuid4(),),
    )
    await app.database.fetch(
        "UPDATE embedmill.record_sources SET reader_id = %s, reader_token = 1, reader_deadline = now() WHERE id = %s",
        (uuid4(), source),
    )
    assert counts(await audit(app)) == {"items_whose_worker_is_gone": 2}
    assert mended(await audit(app, mends="books")) == {"items_whose_worker_is_gone": 2}
    assert counts(await audit(app)) == {}
    assert await app.database.fetch("SELECT status::text FROM embedmill.embedding_queue") == [("pending",)]


async def order_source(app: App, pipeline: Pipeline) -> int:
    rows = await app.database.fetch(
        "INSERT INTO embedmill.record_sources (tenant_id, pipeline_id, kind, name, rows)"
        " VALUES (%s, %s, 'shards', 'articles', 0) RETURNING id",
        (pipeline.tenant_id, pipeline.id),
    )
    return int(rows[0][0])


async def test_a_half_built_index_that_nobody_is_at(app: App, pipeline: Pipeline) -> None:
    number = pipeline.generation.id
    alter(app, f"CREATE INDEX vectors_{number}_hnsw ON embedmill.vectors_{number} USING btree (input_hash)")
    alter(
        app,
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'embedmill.vectors_{number}_hnsw'::regclass",
    )
    with psycopg.connect(app.database.url, autocommit=True) as builder:
        builder.execute("SELECT pg_advisory_lock(hashtext('embedmill index'), %s)", (number,))
        assert counts(await audit(app)) == {}, "somebody builds it"
        builder.execute("SELECT pg_advisory_unlock_all()")  # a session that ends takes a moment
    assert counts(await audit(app)) == {"index_invalid": 1}
    assert mended(await audit(app, mends="all")) == {"index_invalid": 1}
    assert counts(await audit(app)) == {}


async def test_an_ordered_audit_is_carried_out_by_one_worker(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await embedded_table(app, pipeline, ROWS)
    await delete_vectors(app, pipeline, ["2"])
    scope = await find_scope(app.database, pipeline.tenant_id, source=TABLE)
    ordered = await order_audit(app.database, scope, mends="nothing", actor="api")
    assert ordered.ended_at is None
    auditors = [Auditor(app.database, look_seconds=0.02) for _ in range(2)]
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for auditor in auditors:
            tasks.create_task(auditor.run())
        while (await list_audits(app.database, pipeline.tenant_id, limit=1))[0].ended_at is None:
            await asyncio.sleep(0.02)
        for auditor in auditors:
            auditor.stop()
    (done,) = await list_audits(app.database, pipeline.tenant_id, limit=5)
    assert counts(done) == {"done_but_no_vector": 1, "job_counters_that_lie": 1}
    assert (done.source, done.actor, done.is_repair) == (TABLE, "api", False)


async def test_audits_are_due_by_the_configuration(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async def due() -> list[tuple[str, bool]]:
        await app.database.fetch("SELECT embedmill.order_due_audits()")
        return [
            (record.mends, record.is_repair)
            for record in await list_audits(app.database, pipeline.tenant_id, limit=9)
        ]

    await add_document(app, pipeline, "one", ["A document."])
    assert await due() == [], "a fresh tenant has not been there for a day"
    await app.database.fetch("UPDATE embedmill.tenants SET created_at = now() - interval '2 days'")
    await set_value(app.database, "audit_interval_hours", "0", actor="tester")
    assert await due() == [], "never"
    await set_value(app.database, "audit_interval_hours", None, actor="tester")
    assert await due() == [("books", False)]
    assert await due() == [("books", False)], "that one is not through yet"
    await set_value(app.database, "audit_repair", "true", actor="tester")
    await app.database.fetch(
        "UPDATE embedmill.audits SET ended_at = now(), started_at = now() - interval '25 hours'"
    )
    assert await due() == [("all", True), ("books", False)]


async def test_an_audit_that_is_cut_off_goes_on_where_it_was(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await embedded_table(app, pipeline, ROWS)
    await delete_vectors(app, pipeline, ["2", "3"])
    scope = Scope(pipeline.tenant_id)
    first = await begin_audit(app.database, scope, mends="nothing", actor="tester")

    class CutError(Exception):
        pass

    async def cut_in_the_walk(seconds: float) -> None:
        if any(finding.kind == "done_but_no_vector" for finding in first.findings.all()):
            raise CutError

    with pytest.raises(CutError):
        await Audit(app.database, first, rest=cut_in_the_walk).run()
    await first.release()
    second = await begin_audit(app.database, scope, mends="nothing", actor="tester")
    assert second.record.id == first.record.id
    assert second.done_steps, "some steps were through"
    done = await Audit(app.database, second).run()
    assert counts(done) == {"done_but_no_vector": 2, "job_counters_that_lie": 1}, "nothing is counted twice"
    with pytest.raises(AuditLostError):
        await first.save("rows", None)


async def test_names_that_do_not_exist_are_told(app: App, pipeline: Pipeline) -> None:
    with pytest.raises(NotFoundError, match="no source"):
        await find_scope(app.database, pipeline.tenant_id, source="public.nothing")
    with pytest.raises(NotFoundError, match="no pipeline"):
        await find_scope(app.database, pipeline.tenant_id, pipeline="nothing")
