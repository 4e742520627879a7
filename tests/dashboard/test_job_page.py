"""A job's page in a real browser, from the upload to the last vector: everything changes while one looks."""

from __future__ import annotations

import re

from playwright.async_api import Locator, Page, expect

from tests.dashboard.conftest import Watch
from tests.dashboard.looks import MOST_BYTES, assert_accessible, assert_fits, transferred_bytes
from tests.dashboard.uploads import EXAMPLES, WORKED_MS, priced_pipeline
from tests.support.prose import paragraphs
from tests.support.provider import RunningProvider
from tests.support.serving import Serving

BUTTONS = ("Launch", "Retry", "Resume", "Cancel", "Delete")
HANDBOOK = EXAMPLES / "harbour-mill-employee-handbook.docx"


async def assert_buttons(page: Page, *names: str) -> None:
    """These acts are offered, and no others."""
    for name in BUTTONS:
        button = page.locator("#acts").get_by_role("button", name=name, exact=True)
        await expect(button).to_have_count(1 if name in names else 0)


async def press(page: Page, name: str) -> None:
    await page.locator("#acts").get_by_role("button", name=name, exact=True).click()


async def figure(page: Page, name: str) -> str:
    return (
        await page.locator(".figure", has=page.get_by_text(name, exact=True))
        .locator(".figure-value")
        .inner_text()
    )


async def value_of(bar: Locator) -> float:
    return float(await bar.get_attribute("value") or 0)


async def test_from_upload_to_preview_launch_cancel_resume_and_completed(
    service: Serving, provider: RunningProvider, page: Page
) -> None:
    await priced_pipeline(service, provider)
    text = "\n\n".join(paragraphs(4, seed=seed) for seed in range(240))
    await page.goto(f"{service.address}/documents")
    await page.locator("#upload-pipeline").select_option("standin")
    await page.get_by_label("Choose files").set_input_files(
        {"name": "long.txt", "mimeType": "text/plain", "buffer": text.encode()}
    )
    await page.get_by_role("link", name="Job of long.txt").click()
    await expect(page.get_by_role("listitem").filter(has_text="chunk preview")).to_have_attribute(
        "aria-current", "step", timeout=WORKED_MS
    )
    await assert_buttons(page, "Launch", "Cancel", "Delete")
    chunks = int((await figure(page, "Chunks")).replace(",", ""))
    assert chunks >= 500
    assert float((await figure(page, "Launching costs")).removeprefix("$")) > 0
    assert provider.stats()["calls"] == 0
    await page.evaluate("window.isTheSamePage = true")
    provider.configure(latency_ms=800)
    await press(page, "Launch")
    bar = page.get_by_role("progressbar", name="progress of long.txt")
    await assert_buttons(page, "Cancel", "Delete")
    await page.evaluate("window.isTheSamePage = true")
    await expect(bar).not_to_have_attribute("value", "0", timeout=WORKED_MS)
    first = await value_of(bar)
    await expect(bar).not_to_have_attribute("value", f"{first:g}", timeout=WORKED_MS)
    assert 0 < first < await value_of(bar) < 100
    assert await page.evaluate("window.isTheSamePage"), "the page was loaded again"
    await expect(page.locator(".figure", has_text="Done in")).to_contain_text(re.compile(r"\d+ (s|min)"))
    await press(page, "Cancel")
    await expect(page.get_by_role("heading", name="Cancelled", exact=True)).to_be_visible()
    await assert_buttons(page, "Resume", "Delete")
    await assert_accessible(page)
    kept = await value_of(bar)
    assert 0 < kept < 100
    provider.configure(latency_ms=0)
    await press(page, "Resume")
    await expect(bar).to_have_attribute("value", "100", timeout=WORKED_MS)
    await expect(page.locator("h1")).to_contain_text("completed", timeout=WORKED_MS)
    await assert_buttons(page, "Delete")
    assert int((await figure(page, "Embedded")).replace(",", "")) == chunks
    assert provider.stats()["most_paid_for_one_input"] == 1
    await assert_accessible(page)
    await assert_fits(page)
    await press(page, "Delete")
    await page.get_by_role("button", name="Leave it").click()
    await press(page, "Delete")
    await page.get_by_role("button", name="Go on").click()
    await expect(page.get_by_text("long.txt is deleted.")).to_be_visible()


async def test_chunks_beside_the_text_and_another_plan(
    service: Serving, provider: RunningProvider, page: Page
) -> None:
    await priced_pipeline(service, provider)
    job = await service.upload(HANDBOOK.name, HANDBOOK.read_bytes(), pipeline="standin")
    address = f"{service.address}/documents/jobs/{job['jobId']}"
    # One looks while it is read: chunks come by themselves.
    await page.goto(address)
    chosen = page.locator(".preview-chunk[aria-current]")
    await expect(chosen).to_have_id("chunk-0", timeout=WORKED_MS)
    mark = page.locator(".preview-text mark")
    preview = (await service.client.get(f"/ingestion-jobs/{job['jobId']}/chunks?limit=1000")).json()
    third = preview["chunks"][3]
    await page.locator("#chunk-3").click()
    await expect(chosen).to_have_id("chunk-3")
    assert await mark.evaluate("mark => mark.textContent") == third["text"]
    await expect(chosen).to_contain_text(f"{third['tokens']} tokens")
    await expect(chosen).to_contain_text(" › ".join(third["headingPath"]))
    await expect(page.locator("#chunk-3")).to_be_focused()
    # By keyboard, and further pages.
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(chosen).to_have_id("chunk-4")
    await page.get_by_role("navigation", name="Pages of chunks").get_by_role("link", name="Next").click()
    await expect(chosen).to_have_id("chunk-25")
    assert await mark.evaluate("mark => mark.textContent") == preview["chunks"][25]["text"]
    await assert_accessible(page)
    await assert_fits(page)
    await page.set_viewport_size({"width": 1440, "height": 900})
    # Without a script the same by its address.
    assert await transferred_bytes(page, f"{address}?chunk=25#preview") < MOST_BYTES
    await expect(chosen).to_have_id("chunk-25")


async def test_a_plan_that_cannot_be_is_told_at_its_field_and_a_good_one_gives_a_new_preview(
    service: Serving, provider: RunningProvider, page: Page, watch: Watch
) -> None:
    watch.excused.append("Failed to load resource: the server responded with a status of 422")
    await priced_pipeline(service, provider)
    job = await service.upload(HANDBOOK.name, HANDBOOK.read_bytes(), pipeline="standin")
    await service.until(job["jobId"], "chunk_preview_ready")
    await page.goto(f"{service.address}/documents/jobs/{job['jobId']}")
    before = int(await figure(page, "Chunks"))
    await page.get_by_label("Tokens in a chunk").fill("24")
    await page.get_by_label("of which repeated").fill("20")
    await page.get_by_role("button", name="Cut anew").click()
    await expect(page.get_by_role("alert")).to_contain_text("at most half of a chunk: 12")
    await expect(page.get_by_label("of which repeated")).to_have_value("20")
    await assert_accessible(page)
    await page.get_by_label("of which repeated").fill("4")
    await page.get_by_role("button", name="Cut anew").click()
    await expect(page.get_by_text("It is cut anew")).to_be_visible()
    await expect(page.get_by_role("button", name="Launch")).to_be_visible(timeout=WORKED_MS)
    await assert_buttons(page, "Launch", "Cancel", "Delete")
    await expect(page.get_by_text("24 tokens a chunk, 4 repeated")).to_be_visible()
    assert int(await figure(page, "Chunks")) > 2 * before
    await expect(page.locator(".preview-chunk[aria-current]")).to_have_id("chunk-0")
    await expect(page.get_by_label("Tokens in a chunk")).to_have_value("24")
    # Another priority, and a budget that is no number.
    await page.get_by_label("Priority").select_option("high")
    await page.get_by_label("Budget in US dollars").fill("a lot")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_label("Budget in US dollars")).to_have_value("a lot")
    await expect(page.get_by_role("alert")).to_contain_text("a number")
    await page.get_by_label("Budget in US dollars").fill("0.000001")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("It is changed.")).to_be_visible()
    assert (await service.job(job["jobId"]))["priority"] == "high"
    await press(page, "Launch")
    await expect(page.get_by_role("heading", name="Paused: a budget is used up")).to_be_visible(
        timeout=WORKED_MS
    )
    await expect(page.get_by_text("Raise its budget below")).to_be_visible()
    await assert_accessible(page)
    await page.get_by_label("Budget in US dollars").fill("")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("h1")).to_contain_text("completed", timeout=WORKED_MS)
