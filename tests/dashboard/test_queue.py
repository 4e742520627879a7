"""The queue in a real browser: what holds it up, jobs by filters, one job with its history, moved and retried."""

from __future__ import annotations

import re

from playwright.async_api import Page, expect

from embedmill.access.keys import Role
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.administration import read_audit_log
from tests.dashboard.conftest import Watch
from tests.dashboard.looks import MOST_BYTES, assert_accessible, assert_fits, transferred_bytes
from tests.dashboard.queue_scenes import fail_documents, item_of, other_tenant, refuse_chunk
from tests.dashboard.visiting import key_of, log_in, token_in
from tests.support.queue_rows import claim, enqueue, register_worker
from tests.support.serving import Serving
from tests.support.work import add_document


async def test_an_empty_queue_fills_while_one_looks_and_says_what_holds_it_up(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page
) -> None:
    assert await transferred_bytes(page, idle_service.address + "/queue") < MOST_BYTES
    await expect(page.get_by_text("No job yet.")).to_be_visible()
    await assert_accessible(page)
    await page.evaluate("window.isTheSamePage = true")
    await add_document(app, pipeline, "wheat.txt", ["one", "two"])
    await expect(page.locator("#jobs tbody tr")).to_have_count(1)
    await expect(page.get_by_role("heading", name="No worker is at work")).to_be_visible()
    await page.locator("#pipeline-standin").get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("heading", name="Paused: standin")).to_be_visible()
    await page.locator("#pipeline-standin").get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("heading", name="Paused: standin")).to_have_count(0)
    await expect(page.get_by_role("progressbar", name="batch")).to_be_visible()
    await fail_documents(app, pipeline, "a", "b")
    await expect(page.get_by_text("wait for you")).to_be_visible()
    await app.database.fetch("SELECT embedmill.set_config_value('queue_enabled', 'false')")
    await expect(page.get_by_role("heading", name="The queue is off")).to_be_visible()
    await app.database.fetch(
        "UPDATE embedmill.tenants SET max_processing_items = 1; "
        "SELECT embedmill.set_config_value('queue_enabled', 'true')"
    )
    await claim(app.database, pipeline.generation.id, worker_id=await register_worker(app.database))
    await enqueue(app.database, pipeline.generation.id, 1)
    await expect(page.get_by_role("heading", name="The tenant's share is used up")).to_be_visible()
    await assert_accessible(page)
    await assert_fits(page)


async def test_jobs_are_filtered_and_what_cannot_be_is_marked(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page, watch: Watch
) -> None:
    watch.excused.append("Failed to load resource: the server responded with a status of 422")
    await fail_documents(app, pipeline, "a", "b")
    await add_document(app, pipeline, "c", ["c"])
    await enqueue(app.database, pipeline.generation.id, 60)
    rows = page.locator("#jobs tbody tr")
    await page.goto(idle_service.address + "/queue")
    await expect(rows).to_have_count(50)
    await page.get_by_role("link", name="Older").click()
    await expect(rows).to_have_count(13)
    await page.get_by_role("link", name="Back to the newest").click()
    await expect(rows).to_have_count(50)
    await page.get_by_label("State").select_option("failed")
    await page.get_by_label("Pipeline", exact=True).select_option("standin")
    await page.get_by_role("button", name="Filter").click()
    await expect(rows).to_have_count(2)
    await expect(page.get_by_role("heading", name="status failed, pipeline standin")).to_be_visible()
    ((document_id, batch_id),) = await app.database.fetch(
        "SELECT document_id, batch_id FROM embedmill.embedding_queue WHERE source_id = 'c'"
    )
    for query in (f"document={document_id}", f"batch={batch_id}", "type=test&source=c"):
        await page.goto(f"{idle_service.address}/queue?{query}")
        await expect(rows).to_have_count(1)
        await expect(rows).to_contain_text("c")
    for query in ("pipeline=default", "pipeline=nobody", "document=99999", "type=%F0%9F%8C%BE"):
        await page.goto(f"{idle_service.address}/queue?{query}")
        await expect(page.get_by_text("No job is like this.")).to_be_visible()
    for query, said in (
        ("batch=zzz", "this is no id"),
        ("source=c", "say its type as well"),
        ("document=twelve", "a whole number"),
        ("status=eaten", "choose one of"),
        ("type=%00", "NUL"),
    ):
        await page.goto(f"{idle_service.address}/queue?{query}")
        await expect(page.get_by_role("alert")).to_contain_text(said)
    await assert_accessible(page)


async def test_a_job_tells_why_it_waits_what_was_tried_and_is_moved_cancelled_and_retried(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page
) -> None:
    await fail_documents(app, pipeline, "a")
    first = await item_of(app, "a")
    await page.goto(f"{idle_service.address}/queue/jobs/{first}")
    await expect(page.get_by_role("heading", name="What became of it")).to_be_visible()
    await expect(page.get_by_text("the provider answered 503 <busy>").first).to_be_visible()
    await expect(page.get_by_role("link", name="Provider unavailable")).to_be_visible()
    await assert_accessible(page)
    await assert_fits(page)
    await page.get_by_role("button", name="Retry now").click()
    await expect(page.get_by_role("status").first).to_contain_text("1 new item")
    second = await item_of(app, "a")
    await page.get_by_role("link", name=str(second), exact=True).click()
    await expect(page.get_by_role("heading", name="Why it waits")).to_be_visible()
    await expect(page.get_by_text("No worker is alive")).to_be_visible()
    await expect(page.locator("#attempt-" + str(first))).to_contain_text("failed")
    await page.get_by_label("Move it to").select_option("high")
    await page.get_by_role("button", name="Set priority").click()
    await expect(page.get_by_role("status").first).to_contain_text("Its priority is high now; it was medium.")
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue SET retry_count = 1, available_at = now() + interval '1 hour'"
    )
    await expect(page.get_by_text("1 of 4 attempts failed")).to_be_visible()
    await page.get_by_role("button", name="Retry now").click()
    await expect(page.get_by_role("status").first).to_contain_text("may be taken now")
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("button", name="Go on").click()
    await expect(page.get_by_role("status").first).to_contain_text("Cancelled")
    await expect(page.get_by_role("heading", name="What became of it")).to_be_visible()
    await expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    records = await read_audit_log(app.database, 1, limit=9)
    assert [(record.action, record.actor) for record in records] == [
        ("queue.cancel", "local user"),
        ("queue.retry", "local user"),
        ("queue.priority", "local user"),
        ("queue.retry", "local user"),
    ]


async def test_a_finished_job_tells_its_vectors_tokens_and_worker(
    service: Serving, app: App, pipeline: Pipeline, page: Page
) -> None:
    job = await service.upload("a.txt", b"The mill grinds wheat.", pipeline=pipeline.name, autoLaunch="true")
    await service.until(job["jobId"])
    await page.goto(f"{service.address}/queue?job={job['jobId']}")
    await page.locator("#jobs tbody a").click()
    await expect(page.get_by_text("Every vector that it was to make stands.")).to_be_visible()
    await expect(page.get_by_text("stand-in")).to_be_visible()
    cells = page.locator("tr[id^=attempt] td")
    assert re.fullmatch(r"\d+", await cells.nth(6).inner_text())
    assert await cells.nth(7).inner_text() == "1"
    await page.get_by_role("link", name="its upload").click()
    await expect(page).to_have_url(re.compile(f"/documents/jobs/{job['jobId']}"))


async def test_a_reader_looks_and_another_tenants_jobs_are_not_there(
    idle_service: Serving, app: App, pipeline: Pipeline
) -> None:
    await fail_documents(app, pipeline, "private-name")
    await refuse_chunk(app, pipeline, "c")
    item = await item_of(app, "private-name")
    await other_tenant(app)
    reader, _ = await key_of(idle_service, Role.READER)
    writer, _ = await key_of(idle_service, Role.WRITER)
    stranger, _ = await key_of(idle_service, Role.ADMIN, "acme")
    acts = {f"/queue/jobs/{item}/{act}": 403 for act in ("retry", "cancel", "priority")}
    acts |= {"/queue/bulk": 403, f"/queue/pipelines/{pipeline.name}/pause": 403}
    async with log_in(idle_service, reader) as client:
        shown = await client.get("/queue")
        assert "private-name" in shown.text
        item_page = await client.get(f"/queue/jobs/{item}")
        for text in (shown.text, item_page.text):
            assert not re.search("Pause|Retry (these|now)|Cancel these|Set priority", text)
        sent = {"form_token": token_in(shown.text), "act": "retry", "priority": "high"}
        assert {path: (await client.post(path, data=sent)).status_code for path in acts} == acts
    async with log_in(idle_service, writer) as client:
        shown = await client.get("/queue")
        assert "Pause" not in shown.text
        assert "Retry these" in shown.text
        sent = {"form_token": token_in(shown.text)}
        assert (await client.post(f"/queue/pipelines/{pipeline.name}/pause", data=sent)).status_code == 403
    async with log_in(idle_service, stranger) as client:
        shown = await client.get("/queue")
        assert "private-name" not in shown.text
        assert pipeline.name not in shown.text
        assert (await client.get(f"/queue/jobs/{item}")).status_code == 404
        sent = {"form_token": token_in(shown.text), "act": "retry", "priority": "high"}
        for act in ("retry", "cancel", "priority"):
            assert (await client.post(f"/queue/jobs/{item}/{act}", data=sent)).status_code == 404
        await client.post(f"/queue/pipelines/{pipeline.name}/pause", data=sent)
    paused = await app.database.fetch("SELECT name FROM embedmill.pipelines WHERE paused_at IS NOT NULL")
    assert paused == []
