"""A job's page where something is wrong: chunks that were refused, files that cannot be read, newer content, what came
too late."""

from __future__ import annotations

from playwright.async_api import Page, expect

from tests.dashboard.looks import assert_accessible
from tests.dashboard.uploads import priced_pipeline
from tests.dashboard.visiting import token_in
from tests.support.prose import paragraphs
from tests.support.provider import RunningProvider
from tests.support.serving import Serving, client_at


async def test_refused_chunks_are_shown_with_their_reason_and_tried_again(
    service: Serving, provider: RunningProvider, page: Page
) -> None:
    await priced_pipeline(service, provider)
    provider.configure(poison="plague")
    text = f"{paragraphs(20)}\n\nThe plague came to the mill.\n\n{paragraphs(20, seed=2)}"
    job = await service.upload("sick.txt", text.encode(), pipeline="standin", autoLaunch="true")
    done = await service.until(job["jobId"])
    assert (done["status"], done["failedChunks"]) == ("completed", 1)
    await page.goto(f"{service.address}/documents/jobs/{job['jobId']}")
    letters = page.locator("tr[id^=letter-]")
    await expect(letters).to_have_count(1)
    await assert_accessible(page)
    await letters.get_by_role("link").click()
    await expect(page.locator(".preview-text mark")).to_contain_text("plague")
    await expect(page.locator(".preview-chunk[aria-current]")).to_contain_text("refused")
    provider.configure(poison=None)
    await page.locator("#acts").get_by_role("button", name="Retry").click()
    await expect(letters).to_have_count(0)
    await expect(page.locator("#acts").get_by_role("button", name="Retry")).to_have_count(0)
    assert (await service.job(job["jobId"]))["failedChunks"] == 0


async def test_a_file_that_cannot_be_read_says_why_and_what_to_do(
    service: Serving, provider: RunningProvider
) -> None:
    await priced_pipeline(service, provider)
    job = await service.upload("<b>bad</b>.pdf", b"%PDF-1.7 no PDF at all", pipeline="standin")
    await service.until(job["jobId"])
    async with client_at(service.address) as client:
        shown = (await client.get(f"/documents/jobs/{job['jobId']}")).text
        assert "It failed at parsing" in shown
        assert "The PDF is damaged or cut off" in shown
        assert "<b>bad" not in shown
        assert f"/documents/jobs/{job['jobId']}/retry" in shown
        assert 'id="preview"' not in shown
        again = await client.post(
            f"/documents/jobs/{job['jobId']}/retry", data={"form_token": token_in(shown)}
        )
        assert again.status_code == 303
    assert (await service.until(job["jobId"]))["status"] == "failed"


async def test_an_older_job_points_at_the_newest_and_cannot_change_the_document(
    service: Serving, provider: RunningProvider
) -> None:
    await priced_pipeline(service, provider)
    jobs = []
    for seed in (1, 2):
        text = paragraphs(3, seed=seed).encode()
        job = await service.upload("guide.txt", text, pipeline="standin", sourceId="guide")
        await service.until(job["jobId"], "chunk_preview_ready")
        jobs.append(job["jobId"])
    old, new = jobs
    async with client_at(service.address) as client:
        shown = (await client.get(f"/documents/jobs/{old}")).text
        assert f'href="/documents/jobs/{new}">its newest job' in shown
        assert 'id="preview"' not in shown
        assert "Delete this job? Its document stays" in shown
        token = token_in(shown)
        for act in ("launch", "plan"):
            assert f"/documents/jobs/{old}/{act}" not in shown
        late = await client.post(f"/documents/jobs/{old}/launch", data={"form_token": token})
        assert late.status_code == 303
        assert "newer content of this document" in (await client.get(late.headers["location"])).text
        plan = {"form_token": token, "chunk_tokens": "32", "chunk_overlap": ""}
        cut = await client.post(f"/documents/jobs/{old}/plan", data=plan)
        assert cut.status_code == 409
        assert "newer content of this document" in cut.text
        assert (
            await client.post(f"/documents/jobs/{old}/delete", data={"form_token": token})
        ).status_code == 303
        assert (await client.get(f"/documents/jobs/{new}")).status_code == 200


async def test_addresses_that_lead_nowhere_are_answered_and_never_fail(
    service: Serving, provider: RunningProvider
) -> None:
    await priced_pipeline(service, provider)
    job = await service.upload("a.txt", paragraphs(30).encode(), pipeline="standin")
    done = await service.until(job["jobId"], "chunk_preview_ready")
    address = f"/documents/jobs/{job['jobId']}"
    async with client_at(service.address) as client:
        for query in (
            "chunk=-5",
            "chunk=99999999999999999999",
            "first=-1",
            "first=3000000000",
            "at=-1",
            "at=9999999999",
        ):
            for path in (address, f"{address}/preview"):
                assert (await client.get(f"{path}?{query}")).status_code in {200, 422}, query
        last = done["totalChunks"] - 1
        assert f'id="chunk-{last}"' in (await client.get(f"{address}/preview?chunk={last}")).text
        assert (await client.get("/documents?after=nonsense")).status_code == 422
        assert (await client.get("/documents?status=none&pipeline=%00")).status_code in {200, 422}
        assert (await client.get("/documents/jobs/none")).status_code == 404
        assert (await client.get(f"/documents/{job['jobId']}")).headers["location"] == address
        assert (await client.post(f"{address}/launch")).status_code == 403
