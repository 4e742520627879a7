"""Dead letters in a real browser: told by reason, looked at, retried until they are embedded, discarded with a note."""

from __future__ import annotations

import re

from playwright.async_api import Page, expect

from embedmill.access.keys import Role
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.dashboard.conftest import Watch
from tests.dashboard.looks import MOST_BYTES, assert_accessible, assert_fits, transferred_bytes
from tests.dashboard.queue_scenes import fail_documents, letter_of, other_tenant, refuse_chunk
from tests.dashboard.visiting import key_of, log_in, token_in
from tests.support.serving import Serving
from tests.support.work import missing_chunks

LETTERS = "/queue/dead-letters"


async def test_dead_letters_are_retried_until_everything_is_embedded(
    service: Serving, app: App, pipeline: Pipeline, page: Page
) -> None:
    await app.database.fetch("UPDATE embedmill.pipelines SET paused_at = now()")
    await fail_documents(app, pipeline, "a", "b", "c")
    await page.goto(service.address + LETTERS)
    await expect(page.get_by_role("heading", name="3 open dead letters")).to_be_visible()
    await expect(page.get_by_text("The provider did not answer")).to_be_visible()
    await expect(page.get_by_text("answered 503 <busy>").first).to_be_visible()
    await assert_accessible(page)
    await page.get_by_role("link", name="Retry all…").click()
    await expect(page.get_by_role("heading", name="This would retry 3 dead letters")).to_be_visible()
    assert await missing_chunks(app, pipeline) == 6
    await assert_accessible(page)
    await assert_fits(page)
    await page.get_by_role("button", name="Retry 3").click()
    await expect(page).to_have_url(re.compile("/queue/acts/"))
    await expect(page.get_by_text("3 ended items of 3 documents retried: 3 new items.")).to_be_visible()
    await assert_accessible(page)
    await assert_fits(page)
    await page.get_by_role("link", name="Dead letters").click()
    await expect(page.get_by_text("Nothing failed for good, or all of it is dealt with.")).to_be_visible()
    await page.goto(service.address + "/queue")
    await expect(page.get_by_role("heading", name="Paused: default, standin")).to_be_visible()
    await page.locator("#pipeline-standin").get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("status").first).to_contain_text("standin goes on")
    await page.goto(service.address + "/queue?status=completed")
    await expect(page.locator("#jobs tbody tr")).to_have_count(3)
    assert await missing_chunks(app, pipeline) == 0


async def test_one_letter_is_looked_at_retried_or_discarded_with_a_note(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page, watch: Watch
) -> None:
    watch.excused.append("Failed to load resource: the server responded with a status of 422")
    await fail_documents(app, pipeline, "a")
    await refuse_chunk(app, pipeline, "c")
    assert await transferred_bytes(page, idle_service.address + LETTERS) < MOST_BYTES
    await assert_fits(page)
    await page.get_by_label("Reason").select_option("input_rejected")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.locator("#letters tbody tr")).to_have_count(1)
    await page.locator("#letters tbody a").click()
    await expect(page.get_by_role("heading", name="Input rejected")).to_be_visible()
    await expect(page.get_by_role("region", name="The text of the chunk")).to_have_text("c secret words")
    await assert_accessible(page)
    await assert_fits(page)
    await page.get_by_label("Note").fill("x" * 1001)
    await page.get_by_role("button", name="Discard").click()
    await expect(page.get_by_role("alert")).to_contain_text("at most 1,000 characters")
    await expect(page.get_by_label("Note")).to_have_value("x" * 1001)
    await page.get_by_label("Note").fill("it is <fine>")
    await page.get_by_role("button", name="Discard").click()
    await expect(page.get_by_role("status").first).to_contain_text("Discarded")
    await expect(page.get_by_text("by local user. Note: it is <fine>")).to_be_visible()
    await expect(page.get_by_role("button", name="Retry")).to_have_count(0)
    await page.goto(f"{idle_service.address}{LETTERS}?resolved=1&source=uploads")
    await expect(page.locator("#letters tbody tr")).to_have_count(2)
    await expect(page.get_by_text("Note: it is <fine>")).to_be_visible()
    await page.goto(f"{idle_service.address}{LETTERS}/{await letter_of(app, 'provider_unavailable')}")
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_role("status").first).to_contain_text("1 new item")
    await expect(page.get_by_text(re.compile("^Retried "))).to_be_visible()


async def test_letters_of_a_reason_come_and_go_while_one_looks(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page
) -> None:
    await page.goto(idle_service.address + LETTERS)
    await expect(page.get_by_text("Nothing failed for good")).to_be_visible()
    await assert_accessible(page)
    await fail_documents(app, pipeline, "a")
    await refuse_chunk(app, pipeline, "c")
    await expect(page.get_by_role("heading", name="2 open dead letters")).to_be_visible()
    await page.get_by_role("link", name="Discard… all input rejected").click()
    await page.get_by_label("Note").fill("never mind")
    await page.get_by_role("button", name="Discard 1").click()
    await expect(page.get_by_text("1 dead letter discarded.")).to_be_visible()
    notes = await app.database.fetch(
        "SELECT reason, note, resolved_by FROM embedmill.dead_letters ORDER BY reason"
    )
    assert notes == [("input_rejected", "never mind", "local user"), ("provider_unavailable", None, None)]


async def test_a_reader_looks_and_another_tenants_letters_are_not_there(
    idle_service: Serving, app: App, pipeline: Pipeline
) -> None:
    await fail_documents(app, pipeline, "a")
    await refuse_chunk(app, pipeline, "c")
    letter_id = await letter_of(app, "input_rejected")
    await other_tenant(app)
    reader, _ = await key_of(idle_service, Role.READER)
    stranger, _ = await key_of(idle_service, Role.ADMIN, "acme")
    operator, _ = await key_of(idle_service, Role.OPERATOR, "acme")
    acts = (f"{LETTERS}/{letter_id}/retry", f"{LETTERS}/{letter_id}/discard", f"{LETTERS}/bulk")
    async with log_in(idle_service, reader) as client:
        shown = await client.get(f"{LETTERS}/{letter_id}")
        assert "secret words" in shown.text
        assert "Discard" not in shown.text
        assert "Retry" not in (await client.get(LETTERS)).text
        token = {"form_token": token_in(shown.text), "act": "retry"}
        assert [(await client.post(path, data=token)).status_code for path in acts] == [403] * 3
        assert (await client.get(f"{LETTERS}/bulk?act=retry")).status_code == 403
    async with log_in(idle_service, stranger) as client:
        assert (await client.get(f"{LETTERS}/{letter_id}")).status_code == 404
        listed = await client.get(f"{LETTERS}?resolved=1")
        assert "Nothing failed for good" in listed.text
        token = {"form_token": token_in(listed.text), "act": "retry"}
        assert [(await client.post(path, data=token)).status_code for path in acts] == [404, 404, 303]
    async with log_in(idle_service, operator) as client:
        client.cookies.set("embedmill_tenant", "default")
        shown = await client.get(f"{LETTERS}/{letter_id}")
        assert shown.status_code == 200
        assert "secret words" not in shown.text
        assert "shown to its own tenant only" in shown.text
    open_letters = await app.database.fetch("SELECT id FROM embedmill.dead_letters WHERE resolved_at IS NULL")
    assert len(open_letters) == 2


async def test_nonsense_in_an_address_is_answered_in_words(
    idle_service: Serving, app: App, pipeline: Pipeline
) -> None:
    await fail_documents(app, pipeline, "a")
    key, _ = await key_of(idle_service, Role.WRITER)
    async with log_in(idle_service, key) as client:
        for query in (
            "?reason=%00",
            "?pipeline=nobody",
            "?source=99999999999999999999",
            "?source=x&reason='",
        ):
            assert (await client.get(LETTERS + query)).status_code == 200, query
        for path, status in (
            (f"{LETTERS}?after=zzz", 422),
            (f"{LETTERS}/0", 404),
            (f"{LETTERS}/99999999999999999999999", 404),
            (f"{LETTERS}/12345", 404),
            (f"{LETTERS}/bulk?act=eat", 422),
            (f"{LETTERS}/bulk?act=retry&pipeline=nobody", 404),
        ):
            assert (await client.get(path)).status_code == status, path
