"""The three stories of the issue, over HTTP, against the provider that counts what it is paid for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from embedmill.core.documents import ChunkPlan
from embedmill.database.pipelines import Pipeline
from embedmill.queue.config import set_value
from tests.support.prose import paragraphs
from tests.support.provider import RunningProvider
from tests.support.serving import Serving
from tests.support.work import DIMENSIONS, missing_chunks, stand_in_pipeline

CHUNKS = 1000
TRIALS = 5
"""The harmless text by which a provider that let calls hang is asked whether it is back is paid for, too: so often at
the most."""
TRIAL_TOKENS = 20


@pytest.fixture
async def pipeline(service: Serving, provider: RunningProvider) -> Pipeline:
    """Ten chunks a call, a dollar for a million tokens; one paragraph is one chunk."""
    return await stand_in_pipeline(
        service.app,
        provider.base_url,
        dimensions=DIMENSIONS,
        max_inputs_per_call=10,
        timeout_seconds=2.0,
        price_per_million_tokens=1,
        chunk_plan=ChunkPlan(140, 0),
    )


async def previewed(service: Serving) -> dict[str, Any]:
    """A job of a thousand chunks at its preview."""
    taken = await service.upload("book.txt", paragraphs(CHUNKS).encode(), pipeline="standin")
    job = await service.until(taken["jobId"], "chunk_preview_ready", seconds=120)
    assert job["totalChunks"] == CHUNKS, job
    return job


async def act(service: Serving, job: dict[str, Any], what: str) -> None:
    response = await service.client.post(f"/ingestion-jobs/{job['jobId']}/{what}")
    assert response.status_code == 202, response.text


async def test_a_thousand_chunks_go_straight_to_completed_at_the_right_cost(
    service: Serving, pipeline: Pipeline, provider: RunningProvider
) -> None:
    job = await previewed(service)
    preview = (await service.client.get(f"/ingestion-jobs/{job['jobId']}/chunks?limit=1")).json()
    await act(service, job, "launch")
    done = await service.until(job["jobId"], seconds=120)
    assert (done["status"], done["progress"], done["embeddedChunks"]) == ("completed", 100, CHUNKS)
    counted = provider.stats()
    assert counted["inputs_paid"] == CHUNKS
    assert done["cost"]["paidTokens"] == counted["tokens_paid"]
    assert done["cost"]["spentUsd"] == pytest.approx(counted["tokens_paid"] / 1e6, rel=1e-12)
    assert preview["estimate"]["chunks"] == CHUNKS
    assert await missing_chunks(service.app, pipeline) == 0


async def test_cancelled_at_sixty_percent_it_keeps_six_hundred_and_resume_pays_for_four_hundred(
    service: Serving, pipeline: Pipeline, provider: RunningProvider
) -> None:
    job = await previewed(service)
    # The provider answers sixty calls of ten and then holds its breath, so that sixty percent is a moment.
    provider.configure(answers_before_hang=60)
    await act(service, job, "launch")
    async with asyncio.timeout(180):
        while (await service.job(job["jobId"]))["embeddedChunks"] < CHUNKS * 60 // 100:
            await asyncio.sleep(0.05)
    await act(service, job, "cancel")
    cancelled = await service.job(job["jobId"])
    assert (cancelled["status"], cancelled["progress"], cancelled["embeddedChunks"]) == ("cancelled", 60, 600)
    assert cancelled["isResumable"] is True
    provider.configure(answers_before_hang=None)
    paid = provider.stats()["inputs_paid"]
    await act(service, job, "resume")
    done = await service.until(job["jobId"], "completed", seconds=120)
    assert (done["status"], done["progress"], done["embeddedChunks"]) == ("completed", 100, CHUNKS)
    assert paid == 600
    counted = provider.stats()
    trials = counted["inputs_paid"] - CHUNKS
    assert 0 <= trials <= TRIALS
    assert 0 <= counted["tokens_paid"] - done["cost"]["paidTokens"] <= trials * TRIAL_TOKENS


async def test_a_provider_that_times_out_in_the_middle_fails_the_job_and_resume_pays_for_the_rest(
    service: Serving, pipeline: Pipeline, provider: RunningProvider
) -> None:
    job = await previewed(service)
    await set_value(service.app.database, "outage_patience_seconds", "1", actor="test")
    provider.configure(answers_before_hang=45)
    await act(service, job, "launch")
    failed = await service.until(job["jobId"], seconds=120)
    assert (failed["status"], failed["errorStage"]) == ("failed", "embedding")
    assert "within 2 s" in failed["errorMessage"]
    assert failed["isResumable"] is True
    kept = failed["embeddedChunks"]
    assert kept == provider.stats()["inputs_paid"]
    assert 0 < kept <= 450
    provider.configure(answers_before_hang=None)
    await act(service, job, "resume")
    done = await service.until(job["jobId"], "completed", seconds=120)
    assert (done["status"], done["embeddedChunks"]) == ("completed", CHUNKS)
    assert CHUNKS <= provider.stats()["inputs_paid"] <= CHUNKS + TRIALS
