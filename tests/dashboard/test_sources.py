"""The pages of sources: what they list, who may do what, what is told of a source that is held up, how one is
removed."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, expect

from embedmill.access.keys import Role
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.dashboard.conftest import Watch
from tests.dashboard.looks import assert_accessible, assert_fits
from tests.dashboard.source_tables import REFUSED, add_jobs, make_jobs, reading, send
from tests.dashboard.visiting import key_of, log_in
from tests.support.records import add_feed, push_shards, work_until_quiet
from tests.support.serving import Serving, client_at

ACTS = ("backfill", "backfill/stop", "schedule", "unschedule", "pause", "resume", "check", "remove", "change")


async def test_what_cannot_be_embedded_is_told_with_examples(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page
) -> None:
    await make_jobs(app, 12, blank=[3, 7])
    source = await add_jobs(app, pipeline, backfills=True)
    await work_until_quiet(app)
    await page.goto(f"{idle_service.address}/sources/{source}")
    reasons = page.locator("#reason-empty")
    await expect(reasons).to_contain_text("2")
    await expect(reasons.get_by_text("3", exact=True)).to_be_visible()
    await expect(reasons.get_by_text("7", exact=True)).to_be_visible()
    await expect(page.get_by_role("progressbar", name="coverage of public.jobs")).to_have_attribute(
        "value", "100.0"
    )
    await app.database.fetch("INSERT INTO public.jobs VALUES (100, '', '')")
    async with reading(app):
        await expect(reasons).to_contain_text("100")
    await assert_accessible(page)
    await assert_fits(page)


async def test_a_source_is_paused_scheduled_checked_and_removed(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page, watch: Watch
) -> None:
    watch.excused = [REFUSED]
    await make_jobs(app, 5)
    source = await add_jobs(app, pipeline, backfills=True)
    await work_until_quiet(app)
    await page.goto(f"{idle_service.address}/sources/{source}")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_text("Paused: changes are still noted")).to_be_visible()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_text("Resumed.")).to_be_visible()

    await page.get_by_label("When (cron)").fill("every night")
    await page.get_by_role("button", name="Schedule it").click()
    await expect(page.locator("#schedule-error")).to_be_visible()
    await expect(page.get_by_label("When (cron)")).to_have_value("every night")
    await page.get_by_label("When (cron)").fill("0 3 * * *")
    await page.get_by_role("button", name="Schedule it").click()
    await expect(page.get_by_text("It begins by itself at")).to_be_visible()
    await page.get_by_role("button", name="End the schedule").click()
    await expect(page.get_by_text("It is backfilled by itself no longer.")).to_be_visible()

    await app.database.fetch("ALTER TABLE public.jobs DISABLE TRIGGER ALL")
    await page.get_by_role("button", name="Check the table").click()
    await expect(page.get_by_role("alert")).to_contain_text("triggers on jobs are switched off")
    await expect(page.get_by_text("0 of 4 switched on")).to_be_visible()
    await app.database.fetch("ALTER TABLE public.jobs ENABLE TRIGGER ALL")

    await page.get_by_role("link", name="Remove").click()
    await assert_accessible(page)
    await page.get_by_label("Delete the documents and their vectors").check()
    await page.get_by_role("button", name="Remove").click()
    await expect(page.locator("#name-error")).to_contain_text("type public.jobs")
    await page.get_by_label("To delete, type the name").fill("public.jobs")
    await page.get_by_role("button", name="Remove").click()
    await expect(page.get_by_text("public.jobs is removed; 5 documents are deleted.")).to_be_visible()
    assert await app.database.fetch("SELECT count(*) FROM public.jobs") == [(5,)]
    assert await app.database.fetch("SELECT count(*) FROM embedmill.knowledge_documents") == [(0,)]


async def test_a_feed_is_backfilled_paused_and_removed_with_its_documents_kept(
    idle_service: Serving, app: App, pipeline: Pipeline
) -> None:
    feed = await add_feed(app, pipeline, "articles")
    await push_shards(app, feed, {"a": "One.", "b": "Two."})
    await work_until_quiet(app)
    page = f"/sources/{feed}"
    async with client_at(idle_service.address) as client:
        html = (await client.get(page)).text
        assert "A shard feed in the pipeline standin" in html
        assert "Check the table" not in html
        for act in ("pause", "resume", "backfill"):
            assert (await send(client, page, f"{page}/{act}")).status_code == 303
        assert (await send(client, page, f"{page}/check")).status_code == 404
        assert (await send(client, page, f"{page}/remove", vectors="keep")).headers["location"] == "/sources"
        assert (await client.get(page)).status_code == 404
    assert await app.database.fetch("SELECT count(*) FROM embedmill.knowledge_documents") == [(2,)]


async def test_how_a_table_is_read_is_changed_and_texts_that_stay_cost_nothing(
    idle_service: Serving, app: App, pipeline: Pipeline
) -> None:
    await make_jobs(app, 4)
    source = await add_jobs(app, pipeline, backfills=True)
    await work_until_quiet(app)
    page = f"/sources/{source}/change"
    fields = {"act": "save", "template": "$title\r\n\r\n$body", "priority": "medium", "key": '["id"]'}
    async with client_at(idle_service.address) as client:
        answer = await send(client, page, page, **{**fields, "template": "$titel"})
        assert answer.status_code == 422
        assert "no column titel" in answer.text
        assert "$titel" in answer.text
        answer = await send(client, page, page, **{**fields, "key": "{not json"})
        assert answer.status_code == 422
        assert "choose a key" in answer.text
        answer = await send(client, page, page, **{**fields, "condition": "id < 3", "metadata": "is_active"})
        assert answer.headers["location"] == f"/sources/{source}", answer.text
    await work_until_quiet(app)
    assert await app.database.fetch(
        "SELECT s.template, t.condition, t.metadata_columns, t.columns, s.rows FROM embedmill.record_sources s"
        "  JOIN embedmill.table_sources t ON t.record_source_id = s.id"
    ) == [("$title\n\n$body", "(id < 3)", ["is_active"], ["title", "body"], 2)]
    assert await app.database.fetch("SELECT count(*) FROM embedmill.llm_usage_log") == [(1,)]


@pytest.mark.parametrize("role", [Role.READER, Role.WRITER, Role.ADMIN])
async def test_each_role_sees_what_it_may_do_and_is_refused_the_rest(
    idle_service: Serving, app: App, pipeline: Pipeline, role: Role
) -> None:
    await make_jobs(app, 3)
    source = await add_jobs(app, pipeline)
    secret, _ = await key_of(idle_service, role)
    buttons = {
        "Start the backfill": Role.WRITER,
        "Pause": Role.ADMIN,
        "Schedule it": Role.ADMIN,
        "Remove": Role.ADMIN,
        "Audit it": Role.ADMIN,
        "Change": Role.OPERATOR,
    }
    least = {"backfill": Role.WRITER, "backfill/stop": Role.WRITER, "change": Role.OPERATOR}
    async with log_in(idle_service, secret) as client:
        page = f"/sources/{source}"
        html = (await client.get(page)).text
        shown = set(re.findall(r'class="button[^"]*"[^>]*>([^<]+)<', html))
        assert {name for name in buttons if name in shown} == {
            name for name, needed in buttons.items() if role.allows(needed)
        }
        for act in ACTS:
            if not role.allows(least.get(act, Role.ADMIN)):
                assert (await send(client, page, f"{page}/{act}")).status_code == 403, act
        assert (await client.get("/sources/add")).status_code == 403
        assert (await send(client, page, "/sources/add", table="public.jobs")).status_code == 403
    assert await app.database.fetch("SELECT count(*) FROM embedmill.backfills") == [(0,)]


async def test_another_tenants_sources_are_not_there(
    idle_service: Serving, app: App, pipeline: Pipeline
) -> None:
    await make_jobs(app, 3)
    source = await add_jobs(app, pipeline)
    await app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('other')")
    secret, _ = await key_of(idle_service, Role.ADMIN, "other")
    async with log_in(idle_service, secret) as client:
        assert "public.jobs" not in (await client.get("/sources")).text.replace("table add public.jobs", "")
        for path in (
            f"/sources/{source}",
            f"/sources/{source}/remove",
            "/sources/pipelines/standin/migration",
        ):
            assert (await client.get(path)).status_code == 404, path
        for act in (each for each in ACTS if each != "change"):
            assert (await send(client, "/sources", f"/sources/{source}/{act}")).status_code == 404, act
        answer = await send(client, "/sources", "/sources/audits", scope="source:standin:public.jobs")
        assert answer.status_code == 422
        assert "there is no pipeline" in answer.text


async def test_hundreds_of_sources_stand_on_pages_and_are_filtered(
    idle_service: Serving, app: App, pipeline: Pipeline
) -> None:
    await app.database.fetch(
        "INSERT INTO embedmill.record_sources (tenant_id, pipeline_id, kind, name, rows, paused_at)"
        " SELECT %s, %s, 'shards', 'feed-' || lpad(n::text, 3, '0'), 0, CASE WHEN n = 7 THEN now() END"
        "   FROM generate_series(1, 120) AS n",
        (pipeline.tenant_id, pipeline.id),
    )
    async with client_at(idle_service.address) as client:
        seen: list[str] = []
        for page in range(1, 4):
            html = (await client.get(f"/sources?pipeline=standin&page={page}")).text
            seen += re.findall(r">(feed-\d+)</a>", html)
            assert f"page {page} of 3" in html
        assert sorted(seen) == [f"feed-{n:03}" for n in range(1, 121)]
        html = (await client.get("/sources?q=FEED-007")).text
        assert re.findall(r">(feed-\d+)</a>", html) == ["feed-007"]
        assert "paused" in html
        assert "No source is like this." in (await client.get("/sources?q=%3Cb%3E")).text
        for odd in ("page=0", "page=-4", "page=99999999999999999999", "state=x", "pipeline=%00", "q=%00"):
            assert (await client.get(f"/sources?{odd}")).status_code in (200, 422), odd
        assert (await client.get("/sources/add?q=%00")).status_code == 200
        for odd in ("0", "-1", "2147483648", "99999999999999999999"):
            assert (await client.get(f"/sources/{odd}")).status_code == 404, odd
