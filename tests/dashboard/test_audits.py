"""The pages of audits: a fault that was planted is found, told in words, and repaired by a click; who may order one."""

from __future__ import annotations

from playwright.async_api import Page, expect

from embedmill.access.keys import Role
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.audits import Scope, order_audit
from tests.dashboard.looks import assert_accessible, assert_fits
from tests.dashboard.source_tables import add_jobs, auditing, make_jobs, reading, send
from tests.dashboard.visiting import key_of, log_in
from tests.sources.auditing import behind_our_back, delete_vectors
from tests.support.records import work_until_quiet
from tests.support.serving import Serving, client_at


async def test_a_planted_fault_is_found_and_repaired_by_a_click(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page
) -> None:
    await make_jobs(app, 20)
    source = await add_jobs(app, pipeline, backfills=True)
    await work_until_quiet(app)
    assert await delete_vectors(app, pipeline, ["3", "4"]) == 2
    await app.database.fetch("UPDATE embedmill.record_sources SET documents = 99")
    await page.goto(f"{idle_service.address}/sources/{source}")
    await page.get_by_role("button", name="Audit it").click()
    await expect(page.get_by_text("No worker is at work: it waits until one is.")).to_be_visible()
    await assert_accessible(page)
    async with auditing(app), reading(app):
        found = page.locator("#kind-done_but_no_vector")
        await expect(found).to_contain_text("2 found")
        await expect(found.get_by_text("3", exact=True)).to_be_visible()
        await expect(found).to_contain_text("says completed, and vectors are missing")
        repair = page.locator("#repair")
        await expect(repair).to_contain_text("2 of the faults lack vectors that have to be paid for: about")
        await expect(repair).to_contain_text("at an unknown price")
        await assert_accessible(page)
        await assert_fits(page)
        await page.get_by_role("button", name="Repair everything").click()
        await expect(page.get_by_role("dialog")).to_contain_text("It may pay for about")
        await page.get_by_role("button", name="Go on").click()
        await expect(page.get_by_text("all set right")).to_be_visible()
        await expect(found).to_contain_text("2 set right")
    await work_until_quiet(app)
    vectors = await app.database.fetch(f"SELECT count(*) FROM embedmill.vectors_{pipeline.generation.id}")
    assert vectors == [(20,)]
    await page.goto(f"{idle_service.address}/sources/audits")
    await expect(page.get_by_role("row", name="Audit 2")).to_contain_text("repairs")
    await page.get_by_label("What to look at").select_option(label="public.jobs in standin")
    await page.get_by_role("button", name="Run the audit").click()
    async with auditing(app):
        await expect(page.get_by_text("Nothing is wrong:")).to_be_visible()


async def test_only_the_books_are_set_right_where_nothing_else_was_wanted(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page
) -> None:
    await make_jobs(app, 5)
    await add_jobs(app, pipeline, backfills=True)
    await work_until_quiet(app)
    await app.database.fetch("UPDATE embedmill.record_sources SET documents = 99")
    await page.goto(f"{idle_service.address}/sources/audits")
    await page.get_by_label("What to look at").select_option(label="Pipeline standin")
    await page.get_by_role("button", name="Run the audit").click()
    async with auditing(app):
        await expect(page.get_by_text("Job counters that lie")).to_be_visible()
        await expect(page.get_by_role("button", name="Repair everything")).to_have_count(0)
        await page.get_by_role("button", name="Repair the books only").click()
        await expect(page.get_by_text("all set right")).to_be_visible()
    assert await app.database.fetch("SELECT documents FROM embedmill.record_sources") == [(5,)]


async def test_who_may_order_an_audit_and_whose_it_is(
    idle_service: Serving, app: App, pipeline: Pipeline
) -> None:
    ordered = await order_audit(app.database, Scope(pipeline.tenant_id), mends="nothing", actor="test")
    await app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('other')")
    mine, _ = await key_of(idle_service, Role.WRITER)
    others, _ = await key_of(idle_service, Role.ADMIN, "other")
    address = f"/sources/audits/{ordered.id}"
    async with log_in(idle_service, mine) as client:
        html = (await client.get("/sources/audits")).text
        assert "Run the audit" not in html
        assert address in html
        assert (await send(client, address, "/sources/audits", mends="nothing")).status_code == 403
        assert (await send(client, address, f"{address}/repair", mends="all")).status_code == 403
    async with log_in(idle_service, others) as client:
        assert address not in (await client.get("/sources/audits")).text
        assert (await client.get(address)).status_code == 404
        assert (await send(client, "/sources", f"{address}/repair", mends="all")).status_code == 404
    assert await app.database.fetch("SELECT count(*) FROM embedmill.audits") == [(1,)]


async def test_what_cannot_be_audited_is_refused_in_words(
    idle_service: Serving, app: App, pipeline: Pipeline
) -> None:
    await make_jobs(app, 2)
    source = await add_jobs(app, pipeline)
    ordered = await order_audit(
        app.database, Scope(pipeline.tenant_id, pipeline.id, source), mends="nothing", actor="test"
    )
    address = f"/sources/audits/{ordered.id}"
    async with client_at(idle_service.address) as client:
        answer = await send(client, "/sources/audits", "/sources/audits", scope="source:standin:gone")
        assert answer.status_code == 422
        assert "there is no source" in answer.text
        answer = await send(client, "/sources/audits", "/sources/audits", mends="everybody")
        assert answer.status_code == 422
        await send(client, address, f"{address}/repair", mends="all")
        assert "is not through yet" in (await client.get(address)).text
        await behind_our_back(app, "UPDATE embedmill.audits SET ended_at = now(), record_source_id = 999999")
        await send(client, address, f"{address}/repair", mends="all")
        assert "audit everything instead" in (await client.get(address)).text
    assert await app.database.fetch("SELECT count(*) FROM embedmill.audits") == [(1,)]
