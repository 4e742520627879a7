"""A table's life in a real browser: added with a preview of its first row, backfilled while one looks, stopped, gone on
with."""

from __future__ import annotations

from playwright.async_api import Page, expect

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.dashboard.conftest import Watch
from tests.dashboard.looks import MOST_BYTES, assert_accessible, assert_fits, transferred_bytes
from tests.dashboard.source_tables import REFUSED, make_jobs
from tests.support.serving import Serving

ROWS, BATCH = 300, 50


async def test_a_table_is_added_and_backfilled_while_one_looks(
    service: Serving, app: App, pipeline: Pipeline, page: Page, watch: Watch
) -> None:
    watch.excused = [REFUSED]
    await make_jobs(app, ROWS)
    await _look_at_nothing(service, page)
    await _add(page)
    await _backfill_until_stopped(page)
    await _go_on(page)
    await expect(page.get_by_text("to the last row")).to_be_visible()
    await assert_accessible(page)
    await assert_fits(page)
    vectors = f"SELECT count(*) FROM embedmill.vectors_{pipeline.generation.id}"
    assert await app.database.fetch(vectors) == [(ROWS,)]
    await page.goto(f"{service.address}/sources")
    row = page.get_by_role("row", name="public.jobs")
    await expect(row.get_by_text("complete")).to_be_visible()
    await expect(row.get_by_text(f"{ROWS}", exact=True)).to_be_visible()
    await assert_accessible(page)
    await assert_fits(page)


async def _look_at_nothing(service: Serving, page: Page) -> None:
    """Both doors are told before there is any source."""
    assert await transferred_bytes(page, f"{service.address}/sources") < MOST_BYTES
    await expect(page.get_by_text("embedmill table add public.jobs")).to_be_visible()
    await expect(page.get_by_text(f"curl -X PUT {service.address}/api/v1/shards/articles/42")).to_be_visible()
    await assert_accessible(page)
    await assert_fits(page)


async def _add(page: Page) -> None:
    await page.get_by_role("link", name="Add a table").first.click()
    await page.get_by_role("link", name="public.jobs").click()
    preview = page.locator("#preview")
    await expect(preview).to_contain_text("<b>Miller</b> 1")
    await page.get_by_label("Pipeline", exact=True).select_option("standin")
    template = page.get_by_label("What is embedded of a row")
    await template.fill("Wanted: $title\n\n$body")
    await expect(preview).to_contain_text("Wanted: <b>Miller</b> 1")
    await assert_accessible(page)
    await assert_fits(page)
    await page.get_by_label("Only rows where").fill("is_actve")
    await page.get_by_label("Leave the rows that stand there").check()
    await page.get_by_role("button", name="Add the table").click()
    await expect(page.locator("#condition-error")).to_contain_text('column "is_actve" does not exist')
    await expect(template).to_have_value("Wanted: $title\n\n$body")
    await page.get_by_label("Only rows where").fill("is_active")
    await page.get_by_role("button", name="Add the table").click()
    await expect(page.get_by_text(f"public.jobs is added; {ROWS} rows are to be embedded.")).to_be_visible()
    await expect(page.get_by_text("nobody sees to the rest").first).to_be_visible()
    await expect(page.get_by_text("4 of 4 switched on")).to_be_visible()


async def _backfill_until_stopped(page: Page) -> None:
    """One batch, and then nothing for a minute: time to stop it."""
    await page.evaluate("window.isTheSamePage = true")
    await page.get_by_label("Rows of a batch").first.fill(str(BATCH))
    await page.get_by_label("Seconds between two batches").first.fill("60")
    await page.get_by_label("Budget in US dollars").fill("plenty")
    await page.get_by_role("button", name="Start the backfill").click()
    await expect(page.locator("#budget_usd-error")).to_contain_text("a number from 0")
    await expect(page.get_by_label("Rows of a batch").first).to_have_value(str(BATCH))
    await page.get_by_label("Budget in US dollars").fill("")
    await page.get_by_role("button", name="Start the backfill").click()
    bar = page.get_by_role("progressbar", name="coverage of public.jobs")
    await expect(bar).to_have_attribute("value", "16.66")
    await expect(page.get_by_text(f"60 s between batches of {BATCH}")).to_be_visible()
    await page.get_by_role("button", name="Stop the backfill").click()
    await expect(page.get_by_text("The backfill has ended")).to_be_visible()
    await expect(page.get_by_text("nobody sees to the rest").first).to_be_visible()


async def _go_on(page: Page) -> None:
    """It goes on where it was, and the bar moves without a reload."""
    await page.get_by_role("button", name="Start the backfill").click()
    await expect(page.get_by_text("The backfill goes on where it was")).to_be_visible()
    await page.evaluate("window.isTheSamePage = true")
    bar = page.get_by_role("progressbar", name="coverage of public.jobs")
    await expect(bar).to_have_attribute("value", "100.0", timeout=30_000)
    assert await page.evaluate("window.isTheSamePage"), "the page was loaded again"
