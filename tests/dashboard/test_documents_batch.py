"""A batch: its sums, and acts on all of its jobs that are in a state for them."""

from __future__ import annotations

from playwright.async_api import Page, expect

from tests.dashboard.looks import MOST_BYTES, assert_accessible, assert_fits, transferred_bytes
from tests.dashboard.uploads import WORKED_MS, priced_pipeline
from tests.support.prose import paragraphs
from tests.support.provider import RunningProvider
from tests.support.serving import Serving


async def test_a_batch_is_launched_cancelled_resumed_and_retried_as_one(
    service: Serving, provider: RunningProvider, page: Page
) -> None:
    await priced_pipeline(service, provider)
    texts = [f"{paragraphs(40, seed=seed)}\n\nThe plague came to mill {seed}." for seed in range(3)]
    files = [("file", (f"{seed}.txt", text.encode())) for seed, text in enumerate(texts)]
    files.append(("file", ("bad.pdf", b"%PDF-1.7 no PDF at all")))
    taken = (await service.client.post("/ingestion-jobs", files=files, data={"pipeline": "standin"})).json()
    for job in taken["jobs"]:
        await service.until(job["jobId"], "chunk_preview_ready")
    assert (
        await transferred_bytes(page, f"{service.address}/documents/batches/{taken['batchId']}") < MOST_BYTES
    )

    async def act(name: str, told: str) -> None:
        await page.locator(".page-head").get_by_role("button", name=name).click()
        await page.get_by_role("button", name="Go on").click()
        await expect(page.get_by_role("status").filter(has_text=told)).to_be_visible()

    async def assert_figure(name: str, value: str) -> None:
        figure = page.locator(".figure", has=page.get_by_text(name, exact=True))
        await expect(figure.locator(".figure-value")).to_have_text(value, timeout=WORKED_MS)

    await assert_figure("At the preview", "3")
    await assert_figure("Failed", "1")
    await assert_figure("Cost so far", "$0.00")  # the file that could not be read has cost nothing
    await assert_accessible(page)
    await assert_fits(page)
    await page.set_viewport_size({"width": 1440, "height": 900})
    provider.configure(latency_ms=3000, poison="plague")
    await act("Launch 3", "3 jobs are launched.")
    await assert_figure("Embedding", "3")
    await act("Cancel", "3 jobs are cancelled.")
    await assert_figure("Cancelled", "3")
    provider.configure(latency_ms=0)
    await act("Resume", "4 jobs are resumed.")
    await assert_figure("Completed", "3")
    await assert_figure("Failed", "1")
    provider.configure(poison=None)
    await act("Retry what failed", "4 jobs are tried again.")
    await expect(page.locator(".figure").filter(has_text="chunks refused")).to_have_count(
        0, timeout=WORKED_MS
    )
    await assert_figure("Completed", "3")
    await page.get_by_role("link", name="failed", exact=True).click()
    await expect(page.locator("table.jobs tbody tr")).to_have_count(1)
