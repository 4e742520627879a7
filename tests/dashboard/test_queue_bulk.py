"""Retry and cancel by filter: what it would be about first, then the act, which goes on by itself and is stopped."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from playwright.async_api import Page, expect

from embedmill.access.keys import Role
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ConflictError, NotFoundError
from embedmill.queue.acting import Progress
from embedmill.queue.administration import read_audit_log
from embedmill.queue.running_acts import MOST_AT_ONCE, RunningAct, RunningActs
from tests.dashboard.conftest import Watch
from tests.dashboard.looks import assert_accessible, assert_fits
from tests.dashboard.queue_scenes import fail_documents, other_tenant
from tests.dashboard.visiting import key_of, log_in, token_in
from tests.support.queue_rows import enqueue
from tests.support.serving import Serving
from tests.support.work import set_price


async def live(app: App) -> int:
    ((number,),) = await app.database.fetch("SELECT count(*) FROM embedmill.embedding_queue")
    return int(number)


async def test_failed_jobs_are_retried_after_a_dry_run(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page, watch: Watch
) -> None:
    watch.excused.append("Failed to load resource: the server responded with a status of 422")
    await fail_documents(app, pipeline, "a", "b", "c")
    await page.goto(idle_service.address + "/queue?status=failed")
    await page.get_by_role("link", name="Retry these…").click()
    await expect(page.get_by_role("heading", name="This would retry 3 jobs")).to_be_visible()
    await expect(page.get_by_text("unknown: its price is not known")).to_be_visible()
    await set_price(app, 1_000_000)
    await page.get_by_label("Error with").fill("503 <BUSY")
    await page.get_by_role("button", name="Look again").click()
    await expect(page.get_by_text("$24.00 at the most")).to_be_visible()
    await expect(page.locator("#dry-run li")).to_have_count(3)
    assert await live(app) == 0
    await assert_accessible(page)
    await assert_fits(page)
    await page.get_by_label("Older than").fill("soon")
    await page.get_by_role("button", name="Look again").click()
    await expect(page.get_by_role("alert")).to_contain_text("a whole number")
    await expect(page.get_by_label("Older than")).to_have_value("soon")
    await page.get_by_label("Older than").fill("")
    await page.get_by_role("button", name="Look again").click()
    await page.get_by_role("button", name="Retry 3 jobs").click()
    await expect(page).to_have_url(re.compile("/queue/acts/"))
    await expect(page.get_by_text("3 ended items of 3 documents retried: 3 new items.")).to_be_visible()
    await page.get_by_role("link", name="The queue").click()
    await expect(page.get_by_role("link", name="Retry status failed")).to_be_visible()
    assert await live(app) == 3


async def test_thousands_are_cancelled_while_one_watches_or_leaves(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page
) -> None:
    await enqueue(app.database, pipeline.generation.id, 3500)
    await page.goto(idle_service.address + "/queue/bulk?act=cancel&status=pending&pipeline=standin")
    await expect(page.get_by_role("heading", name="This would cancel 3,500 jobs")).to_be_visible()
    # Held where its first step wants to go on: whoever looks at the page is answered all the same.
    with psycopg.connect(app.database.url) as holder:
        holder.execute("SELECT FROM embedmill.embedding_queue ORDER BY id DESC LIMIT 1 FOR UPDATE")
        await page.get_by_role("button", name="Cancel 3,500 jobs").click()
        await expect(page.get_by_text("3,000 of 3,500 done")).to_be_visible()
        await expect(page.get_by_role("progressbar")).to_have_attribute("value", re.compile(r"^85\.7"))
        await assert_accessible(page)
        await page.goto(idle_service.address + "/queue")
        await expect(page.get_by_text("under way")).to_be_visible()
        await page.get_by_role("link", name="Cancel status pending, pipeline standin").click()
    await expect(page.get_by_text("3,500 items cancelled.")).to_be_visible()
    assert await live(app) == 0
    (record,) = await read_audit_log(app.database, 1, limit=5)
    assert (record.action, record.new_value["done"]) == ("queue.cancel", {"pending": 3500})


async def test_a_stopped_act_ends_between_two_steps_and_says_so(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page
) -> None:
    await enqueue(app.database, pipeline.generation.id, 2500)
    with psycopg.connect(app.database.url) as holder:
        holder.execute(
            "SELECT FROM embedmill.embedding_queue "
            " WHERE id = (SELECT id FROM embedmill.embedding_queue ORDER BY id OFFSET 1500 LIMIT 1) FOR UPDATE"
        )
        await page.goto(idle_service.address + "/queue/bulk?act=cancel")
        await page.get_by_role("button", name="Cancel 2,500 jobs").click()
        await expect(page.get_by_text("1,000 of 2,500 done")).to_be_visible()
        await page.get_by_role("button", name="Stop it").click()
        await expect(page.get_by_role("status").first).to_contain_text("what is done stays done")
    await expect(page.get_by_text("It was stopped, or the service ends.")).to_be_visible()
    assert await live(app) == 500


async def test_whom_it_does_not_concern_neither_sees_nor_stops_an_act(
    idle_service: Serving, app: App, pipeline: Pipeline
) -> None:
    await enqueue(app.database, pipeline.generation.id, 3)
    await other_tenant(app)
    writer, _ = await key_of(idle_service, Role.WRITER)
    reader, _ = await key_of(idle_service, Role.READER)
    stranger, _ = await key_of(idle_service, Role.ADMIN, "acme")
    async with log_in(idle_service, stranger) as client:
        asked = await client.get("/queue/bulk?act=cancel")
        assert "Nothing to cancel" in asked.text
        sent = {"form_token": token_in(asked.text), "act": "cancel"}
        assert (await client.post("/queue/bulk", data=sent)).status_code == 200
        assert await live(app) == 3
    async with log_in(idle_service, writer) as client:
        asked = await client.get("/queue/bulk?act=cancel&pipeline=nobody")
        assert asked.status_code == 422
        for query in ("act=eat", "act=retry&status=completed", "act=cancel&status=failed&batch=zzz"):
            assert (await client.get(f"/queue/bulk?{query}")).status_code == 422, query
        sent = {"form_token": token_in(asked.text), "act": "cancel"}
        begun = await client.post("/queue/bulk", data=sent)
        assert begun.status_code == 303
        assert (await client.get(begun.headers["location"])).status_code == 200
        gone = await client.get(f"/queue/acts/{uuid4()}")
        assert gone.status_code == 404
        assert "a service that was started anew" in gone.text
    async with log_in(idle_service, stranger) as client:
        assert (await client.get(begun.headers["location"])).status_code == 404
        token = {"form_token": token_in((await client.get("/queue")).text)}
        assert (await client.post(begun.headers["location"] + "/stop", data=token)).status_code == 404
    async with log_in(idle_service, reader) as client:
        shown = await client.get(begun.headers["location"])
        token = {"form_token": token_in(shown.text)}
        assert (await client.post(begun.headers["location"] + "/stop", data=token)).status_code == 403


async def test_only_who_has_begun_an_act_goes_on_with_its_row_of_the_audit_log(app: App) -> None:
    await other_tenant(app)
    rows = await app.database.fetch(
        "INSERT INTO embedmill.audit_log (tenant_id, actor, action, subject, new_value) "
        "SELECT id, 'ann', 'queue.cancel', 'items', '1' FROM embedmill.tenants ORDER BY id RETURNING id"
    )
    with psycopg.connect(app.database.url) as connection:
        connection.execute("SET ROLE embedmill_service")
        for actor in ("ann", "bob"):
            connection.execute(
                "SELECT set_config('embedmill.tenant_id', '1', true), set_config('embedmill.actor', %s, true)",
                (actor,),
            )
            for (record_id,) in rows:
                connection.execute("SELECT embedmill.advance_record(%s, %s)", (record_id, f'"{actor}"'))
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute("UPDATE embedmill.audit_log SET new_value = '2'")
    found = await app.database.fetch("SELECT new_value FROM embedmill.audit_log ORDER BY id")
    assert found == [("ann",), (1,)]


async def test_acts_end_with_their_service_between_two_steps_and_are_not_begun_after() -> None:
    acts = RunningActs()
    stepped, goes_on = asyncio.Event(), asyncio.Event()

    async def work(on_progress: Progress) -> Counter[str]:
        for done in range(1, 100):
            stepped.set()
            await goes_on.wait()
            on_progress(done)
        return Counter(pending=99)

    running = [acts.begin(1, "Cancel", 99, work, actor="ann") for _ in range(MOST_AT_ONCE)]
    with pytest.raises(ConflictError):
        acts.begin(1, "Cancel", 99, work, actor="ann")
    elsewhere = acts.begin(2, "Cancel", 99, work, actor="ann")
    await stepped.wait()
    ending = asyncio.create_task(acts.settle())
    await asyncio.sleep(0)
    goes_on.set()
    await ending
    assert {(act.state, act.done) for act in (*running, elsewhere)} == {("stopped", 1)}
    with pytest.raises(ConflictError):
        acts.begin(1, "Cancel", 99, work, actor="ann")
    with pytest.raises(NotFoundError):
        acts.find(2, running[0].id)


async def test_an_act_that_fails_says_why() -> None:
    acts = RunningActs()

    async def refused(on_progress: Progress) -> Counter[str]:
        on_progress(3)
        raise ConflictError("the pipeline is gone")

    act = acts.begin(1, "Retry", 9, refused, actor="ann")
    while act.state == "running":
        await asyncio.sleep(0)
    assert (act.state, act.error, act.done) == ("failed", "the pipeline is gone", 3)


def test_an_act_is_complete_only_when_it_has_ended() -> None:
    act = RunningAct("Retry", 2, "ann", datetime.now(UTC))
    act.note(5)
    assert act.percent == 99.9
    act.state = "done"
    assert act.percent == 100.0
