"""POST /process-embedding-queue: so much work within the request, of the caller's tenant only, beside any others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from embedmill.access.keys import Role
from embedmill.app import App, open_app
from embedmill.database.pipelines import Pipeline
from embedmill.settings import Settings
from embedmill.sources.backfill_orders import BackfillOrder
from tests.support.audit import assert_books_balance
from tests.support.provider import RunningProvider
from tests.support.serving import Serving
from tests.support.walks import add_notes, documents, order, run
from tests.support.work import DIMENSIONS, add_document, missing_chunks, stand_in_pipeline

PATH = "/process-embedding-queue"


@pytest.fixture
async def pipeline(idle_service: Serving, provider: RunningProvider) -> Pipeline:
    return await stand_in_pipeline(
        idle_service.app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=10
    )


async def add_documents(app: App, pipeline: Pipeline, number: int) -> None:
    for n in range(number):
        await add_document(app, pipeline, f"d{n}", [f"text {n} of {pipeline.tenant_id}"])


async def queued(app: App) -> list[tuple[str, int]]:
    rows = await app.database.fetch(
        "SELECT status::text, count(*) FROM embedmill.embedding_queue GROUP BY 1 ORDER BY 1"
    )
    return [(row[0], row[1]) for row in rows]


async def test_it_does_so_much_and_says_what_is_left(idle_service: Serving, pipeline: Pipeline) -> None:
    app = idle_service.app
    await add_documents(app, pipeline, 25)
    first = (await idle_service.client.post(PATH, json={"maxItems": 10})).json()
    assert (first["processed"], first["failed"], first["remaining"]) == (10, 0, 15)
    assert first["coverage"] == 40
    assert await queued(app) == [("pending", 15)]
    second = (await idle_service.client.post(PATH)).json()
    assert (second["processed"], second["remaining"], second["coverage"]) == (15, 0, 100)
    assert (await idle_service.client.post(PATH)).json()["processed"] == 0
    await assert_books_balance(app)


async def test_it_registers_as_a_worker_and_signs_off(idle_service: Serving, pipeline: Pipeline) -> None:
    await add_documents(idle_service.app, pipeline, 1)
    await idle_service.client.post(PATH)
    rows = await idle_service.app.database.fetch(
        "SELECT status::text, tasks_processed FROM embedmill.embedding_queue_workers"
    )
    assert rows == [("stopped", 1)]


async def test_rows_are_read_and_embedded_also_those_of_a_backfill(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    app = idle_service.app
    source = await add_notes(app, pipeline, 30)
    await order(app, source, BackfillOrder(batch_size=500))
    await run(app, "INSERT INTO public.notes VALUES (1000, 'a live change')")
    first = (await idle_service.client.post(PATH, json={"maxItems": 10})).json()
    assert (first["rowsRead"], first["processed"]) == (10, 10)
    assert "1000" in await documents(app), "live changes overtake the walk"
    assert 0 < first["coverage"] < 100
    for _ in range(3):
        last = (await idle_service.client.post(PATH, json={"maxItems": 10})).json()
    assert (last["remaining"], last["coverage"]) == (0, 100)
    assert len(await documents(app)) == 31
    assert await missing_chunks(app, pipeline) == 0


async def test_only_the_caller_s_tenant_is_worked_for(
    idle_service: Serving, pipeline: Pipeline, provider: RunningProvider, tmp_path: Path
) -> None:
    app = idle_service.app
    await app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('acme')")
    theirs = Settings(database_url=app.database.url, data_dir=tmp_path / "theirs", tenant="acme")
    async with open_app(theirs, app.database.url) as acme:
        other = await stand_in_pipeline(acme, provider.base_url, "other", dimensions=DIMENSIONS)
        await add_documents(acme, other, 5)
        source = await add_notes(acme, other, 5)
        await order(acme, source)
    await add_documents(app, pipeline, 5)
    client = await idle_service.client_of(Role.WRITER, "default")
    answer = (await client.post(PATH)).json()
    assert (answer["processed"], answer["rowsRead"], answer["remaining"]) == (5, 0, 0)
    assert await missing_chunks(app, other) == 5
    assert await documents(app) == {}

    their_client = await idle_service.client_of(Role.WRITER, "acme")
    assert (await their_client.post(PATH, json={"pipeline": "standin"})).status_code == 404
    theirs_done = (await their_client.post(PATH)).json()
    assert (theirs_done["processed"], theirs_done["rowsRead"], theirs_done["coverage"]) == (10, 5, 100)


async def test_one_pipeline_alone(
    idle_service: Serving, pipeline: Pipeline, provider: RunningProvider
) -> None:
    other = await stand_in_pipeline(idle_service.app, provider.base_url, "other", dimensions=DIMENSIONS)
    await add_documents(idle_service.app, pipeline, 3)
    await add_documents(idle_service.app, other, 3)
    answer = (await idle_service.client.post(PATH, json={"pipeline": "other"})).json()
    assert (answer["processed"], answer["coverage"]) == (3, 100)
    assert await missing_chunks(idle_service.app, pipeline) == 3


async def test_a_second_call_of_the_tenant_is_refused_while_one_runs_and_a_gone_caller_loses_nothing(
    idle_service: Serving, pipeline: Pipeline, provider: RunningProvider
) -> None:
    app = idle_service.app
    await add_documents(app, pipeline, 10)
    provider.configure(latency_ms=1500)
    gone = asyncio.create_task(idle_service.client.post(PATH))
    async with asyncio.timeout(20):
        while ("processing", 10) not in await queued(app):
            await asyncio.sleep(0.02)
    refused = await idle_service.client.post(PATH)
    assert refused.status_code == 409
    assert refused.headers["retry-after"]
    gone.cancel()
    async with asyncio.timeout(20):
        while await queued(app):
            await asyncio.sleep(0.05)
    assert await missing_chunks(app, pipeline) == 0
    assert provider.stats()["inputs_paid"] == 10


async def test_what_does_not_get_on_goes_back_at_once_and_says_why(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    app = idle_service.app
    await add_documents(app, pipeline, 3)
    await app.database.fetch("UPDATE embedmill.pipelines SET paused_at = now()")
    paused = (await idle_service.client.post(PATH)).json()
    assert (paused["processed"], paused["remaining"]) == (0, 3)
    await app.database.fetch("UPDATE embedmill.pipelines SET paused_at = NULL")
    await app.database.fetch(
        "UPDATE embedmill.quotas SET cooldown_until = now() + interval '1 hour', cooldown_reason = 'said 429'"
    )
    limited = (await idle_service.client.post(PATH, json={"maxSeconds": 3})).json()
    assert limited["processed"] == 0
    assert await queued(app) in ([("pending", 3)], [("rate_limited", 3)])
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue_config SET value = 'false' WHERE key = 'queue_enabled'"
    )
    off = (await idle_service.client.post(PATH)).json()
    assert "queue is off" in off["notes"][0]


async def test_nonsense_is_refused(idle_service: Serving, pipeline: Pipeline) -> None:
    for body in ({"maxItems": 0}, {"maxItems": 1001}, {"maxSeconds": 0}, {"items": 5}, {"maxItems": "x"}):
        assert (await idle_service.client.post(PATH, json=body)).status_code == 422
    assert (await idle_service.client.post(PATH, json={"pipeline": "none"})).status_code == 404
