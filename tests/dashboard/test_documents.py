"""The page of documents in a real browser: files chosen and dropped, what becomes of each, jobs that fill while one
looks, filters, pages."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Page, expect

from embedmill.access.keys import Role
from tests.dashboard.conftest import Watch
from tests.dashboard.looks import MOST_BYTES, assert_accessible, assert_fits, transferred_bytes
from tests.dashboard.uploads import EXAMPLES, WORKED_MS, drop, insert_jobs, priced_pipeline
from tests.dashboard.visiting import key_of
from tests.support.provider import RunningProvider
from tests.support.serving import Serving

HANDBOOK = EXAMPLES / "harbour-mill-employee-handbook.docx"


async def test_files_that_are_chosen_appear_with_their_jobs_and_what_is_wrong_with_one_harms_no_other(
    service: Serving, provider: RunningProvider, page: Page, tmp_path: Path
) -> None:
    await priced_pipeline(service, provider)
    await page.goto(f"{service.address}/documents")
    await expect(page.get_by_text("Nothing was uploaded yet")).to_be_visible()
    await assert_accessible(page)
    await page.evaluate("window.isTheSamePage = true")
    await page.locator("#upload-pipeline").select_option("standin")
    await page.get_by_text("From a URL, metadata, a budget").click()
    await page.get_by_label("Metadata").fill("team=mill\nyear=2026")
    (tmp_path / "hostile.pdf").write_bytes(b"%PDF-1.7 this is no PDF at all")
    (tmp_path / "empty.txt").write_bytes(b"")
    names = ["gettysburg-address.txt", "harbour-mill-price-list.xlsx"]
    chosen = [*(EXAMPLES / name for name in names), tmp_path / "hostile.pdf", tmp_path / "empty.txt"]
    await page.get_by_label("Choose files").set_input_files(chosen)
    await expect(page.locator("[data-upload-summary]")).to_have_text("4 of 4 uploaded", timeout=WORKED_MS)
    await expect(page.get_by_role("progressbar", name="upload of hostile.pdf")).to_have_attribute(
        "value", "100"
    )
    jobs = page.locator("table.jobs tbody")
    for name in names:
        await expect(jobs.get_by_role("row", name=name)).to_contain_text("preview ready", timeout=WORKED_MS)
    await expect(jobs.get_by_role("row", name="hostile.pdf")).to_contain_text(
        "The PDF is damaged or cut off", timeout=WORKED_MS
    )
    await expect(jobs.get_by_role("row", name="empty.txt")).to_contain_text("failed", timeout=WORKED_MS)
    assert await page.evaluate("window.isTheSamePage"), "the page was loaded again"
    await assert_accessible(page)
    await assert_fits(page)
    await page.set_viewport_size({"width": 1440, "height": 900})
    await jobs.get_by_role("link", name="batch").first.click()
    await expect(page.get_by_role("heading", name="Batch of 4 documents")).to_be_visible()
    await page.get_by_role("link", name=names[0]).click()
    await expect(page.get_by_text("team=mill")).to_be_visible()
    # The same bytes once more: the job that they have.
    await page.goto(f"{service.address}/documents")
    await page.locator("#upload-pipeline").select_option("standin")
    await page.get_by_label("Choose files").set_input_files(EXAMPLES / names[0])
    await expect(page.locator(".upload-state")).to_have_text("was uploaded before")
    await page.get_by_role("link", name=f"Job of {names[0]}").click()
    await expect(page.get_by_role("heading", name=names[0])).to_be_visible()


async def test_a_file_dropped_on_the_page_is_embedded_at_once_where_that_is_chosen(
    service: Serving, provider: RunningProvider, page: Page
) -> None:
    await priced_pipeline(service, provider)
    await page.goto(f"{service.address}/documents")
    await page.locator("#upload-pipeline").select_option("standin")
    await page.get_by_label("embed it at once").check()
    await drop(page, HANDBOOK.name, HANDBOOK.read_bytes())
    row = page.locator("table.jobs tbody").get_by_role("row", name="harbour-mill-employee-handbook.docx")
    await expect(row).to_contain_text("completed", timeout=WORKED_MS)
    await expect(row.get_by_role("progressbar")).to_have_attribute("value", "100")
    assert page.url == f"{service.address}/documents"


async def test_a_service_that_is_busy_is_asked_again_and_what_cannot_be_is_told(
    idle_service: Serving, provider: RunningProvider, page: Page, watch: Watch
) -> None:
    watch.excused.append("Failed to load resource: the server responded with a status of 4")
    await priced_pipeline(idle_service, provider)
    secret, _ = await key_of(idle_service, Role.WRITER)
    await page.clock.install()
    await page.goto(f"{idle_service.address}/documents")
    await page.get_by_label("API key").fill(secret)
    await page.keyboard.press("Enter")
    choose, state = page.get_by_label("Choose files"), page.locator(".upload-state")
    operator = idle_service.service.operator
    await operator.fetch("UPDATE embedmill.tenants SET max_file_bytes = 100")
    await choose.set_input_files(EXAMPLES / "gettysburg-address.txt")
    await expect(page.locator(".upload.bad .upload-state")).to_contain_text("larger than")
    await expect(page.locator("[data-upload-summary]")).to_have_text("0 of 1 uploaded, 1 refused")
    await page.get_by_role("button", name="Clear the list").click()
    await expect(page.locator(".upload")).to_have_count(0)
    await operator.fetch("UPDATE embedmill.tenants SET max_file_bytes = NULL, max_staged_jobs = 1")
    await choose.set_input_files(EXAMPLES / "leap-seconds.txt")
    await expect(state).to_have_text("taken in")
    await choose.set_input_files(EXAMPLES / "xz-history.txt")
    await expect(state.last).to_contain_text("goes on within 30 s")
    await operator.fetch("UPDATE embedmill.tenants SET max_staged_jobs = 5")
    await page.clock.fast_forward(31_000)
    await expect(page.locator("[data-upload-summary]")).to_have_text("2 of 2 uploaded")
    await page.context.clear_cookies()
    await choose.set_input_files(EXAMPLES / "nodejs-governance.md")
    await expect(state.last).to_contain_text("not let in any more")


async def test_one_finds_jobs_by_status_and_goes_from_page_to_page(
    idle_service: Serving, provider: RunningProvider, page: Page
) -> None:
    pipeline = await priced_pipeline(idle_service, provider)
    await insert_jobs(idle_service, pipeline, 120)
    await insert_jobs(idle_service, pipeline, 1, "failed")
    assert await transferred_bytes(page, f"{idle_service.address}/documents") < MOST_BYTES
    await expect(page.get_by_role("heading", name="No worker is running")).to_be_visible()
    seen = []
    while True:
        seen += await page.locator("table.jobs tbody tr").evaluate_all("rows => rows.map((row) => row.id)")
        older = page.get_by_role("link", name="Older")
        if await older.count() == 0:
            break
        await older.click()
    assert len(seen) == len(set(seen)) == 121
    await page.get_by_role("link", name="Back to the newest").click()
    await page.get_by_label("State").select_option("failed")
    await expect(page.locator("table.jobs tbody tr")).to_have_count(1)
    assert "status=failed" in page.url
    await page.get_by_label("State").select_option("cancelled")
    await expect(page.get_by_text("No job is like this.")).to_be_visible()
    await assert_accessible(page)
    await page.get_by_role("link", name="Show all").click()
    await expect(page.locator("table.jobs tbody tr")).to_have_count(50)
    await assert_fits(page)
