"""The first page in a real browser: empty, filling while one looks, usable by everybody, small."""

from __future__ import annotations

from playwright.async_api import Page, expect

from embedmill.database.pipelines import Pipeline
from tests.dashboard.looks import MOST_BYTES, assert_accessible, assert_fits, transferred_bytes
from tests.support.serving import Serving


async def test_an_empty_installation_says_how_to_begin(idle_service: Serving, page: Page) -> None:
    await page.goto(idle_service.address)
    await expect(page.get_by_text("Nothing is embedded yet.")).to_be_visible()
    await expect(page.get_by_role("link", name="Upload documents")).to_be_visible()
    await assert_accessible(page)
    await assert_fits(page)


async def test_it_follows_what_happens_without_a_reload(
    service: Serving, pipeline: Pipeline, page: Page
) -> None:
    assert await transferred_bytes(page, service.address) < MOST_BYTES
    await page.evaluate("window.isTheSamePage = true")
    job = await service.upload(
        "a.txt", b"The mill grinds wheat.\n\n" * 40, pipeline=pipeline.name, autoLaunch="true"
    )
    assert (await service.until(job["jobId"]))["status"] == "completed"
    await expect(page.get_by_role("progressbar", name="coverage of uploads").first).to_have_attribute(
        "value", "100.0"
    )
    await expect(page.get_by_text("Nothing is embedded yet.")).to_have_count(0)
    await expect(page.get_by_text("everything is embedded")).to_be_visible()
    assert await page.evaluate("window.isTheSamePage"), "the page was loaded again"
    await page.get_by_text("As a table").click()
    await assert_accessible(page)
    await assert_fits(page)


async def test_what_needs_a_person_is_on_the_page(
    idle_service: Serving, pipeline: Pipeline, page: Page
) -> None:
    operator = idle_service.service.operator
    await operator.fetch(
        "UPDATE embedmill.embedding_queue_config SET value = 'false' WHERE key = 'queue_enabled'"
    )
    await operator.fetch("UPDATE embedmill.pipelines SET paused_at = now()")
    await operator.fetch(
        "INSERT INTO embedmill.dead_letters (tenant_id, generation_id, reason, error_message) "
        "SELECT tenant_id, current_generation_id, 'too_large', '<b>too long</b>' FROM embedmill.pipelines"
    )
    await page.goto(idle_service.address)
    await expect(page.get_by_role("heading", name="The queue is off")).to_be_visible()
    await expect(page.get_by_text(f"{pipeline.name}: nothing of it is embedded")).to_be_visible()
    await expect(page.get_by_text("wait for you")).to_be_visible()
    await expect(page.get_by_text("<b>too long</b>").first).to_be_visible()
    await assert_accessible(page)


async def test_by_keyboard_alone_one_comes_to_every_page(idle_service: Serving, page: Page) -> None:
    await page.goto(idle_service.address)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#main")).to_be_focused()
    await page.set_viewport_size({"width": 360, "height": 780})
    menu = page.get_by_role("button", name="Menu")
    await menu.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name="Overview", exact=True)).to_be_visible()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Overview", exact=True)).to_be_focused()


async def test_the_theme_that_was_chosen_stays(idle_service: Serving, page: Page) -> None:
    await page.emulate_media(color_scheme="light")
    await page.goto(idle_service.address)
    light = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.get_by_role("button", name="Switch between light and dark").click()
    dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.reload()
    assert dark == await page.evaluate("getComputedStyle(document.body).backgroundColor") != light
