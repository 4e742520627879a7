"""Upload, preview, launch, wait, search: through both clients, against a real service."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest

from embedmill import AsyncClient, Client
from embedmill.client import JobFailedError, WaitTimeoutError
from embedmill.client.records.jobs import IngestionJob
from embedmill.database.pipelines import Pipeline
from tests.support.prose import paragraphs
from tests.support.provider import RunningProvider


async def test_the_blocking_client_takes_a_document_from_its_upload_to_its_passages(
    blocking: Client, pipeline: Pipeline, provider: RunningProvider, tmp_path: Path
) -> None:
    path = tmp_path / "handbook.md"
    path.write_text(paragraphs(20))

    def story() -> None:
        job = blocking.upload(path, pipeline="standin", metadata={"team": "ops"}, priority="high")
        assert (job.name, job.metadata, job.priority) == ("handbook.md", {"team": "ops"}, "high")
        assert job.wait(until="preview", timeout=60).status == "chunk_preview_ready"
        chunks = list(job.chunks(page_size=3))
        assert len(chunks) == job.total_chunks > 6
        assert [chunk.ordinal for chunk in chunks] == list(range(job.total_chunks))
        text = job.text()
        assert all(text[chunk.start_offset : chunk.end_offset] == chunk.text for chunk in chunks)
        assert job.text(start=10, length=25) == text[10:35]
        fine = job.set_plan(chunk_tokens=64).wait(until="preview", timeout=60)
        assert (fine.chunk_tokens, fine.total_chunks > len(chunks)) == (64, True)
        chunks = list(job.chunks())
        estimate = job.estimate()
        assert (estimate.chunks, estimate.tokens) == (len(chunks), sum(chunk.tokens for chunk in chunks))
        assert provider.stats()["calls"] == 0
        done = job.launch().wait(progress=True, timeout=60, raise_on_failure=True)
        assert done is job
        assert (job.status, job.progress, job.embedded_chunks) == ("completed", 100, len(chunks))
        assert job.cost.paid_tokens == provider.stats()["tokens_paid"]
        assert job.completed_at is not None
        assert job.completed_at.tzinfo is not None
        first = chunks[0].text.split(".")[0]
        found = blocking.search(first, pipeline="standin", mode="text", metadata={"team": "ops"})
        assert found[0].document_id == job.document_id

    await asyncio.to_thread(story)


async def test_the_asynchronous_client_takes_several_files_as_one_batch(
    client: AsyncClient, pipeline: Pipeline, tmp_path: Path
) -> None:
    path = tmp_path / "first.txt"
    path.write_text(paragraphs(3, seed=1))
    files = [
        path,
        ('second "quoted\\ name.txt', paragraphs(3, seed=2).encode()),
        ("bad.pdf", b"%PDF-1.7 this is no PDF at all"),
        ("third.txt", io.BytesIO(paragraphs(3, seed=3).encode())),
    ]
    jobs = await client.upload_files(files, pipeline="standin", auto_launch=True)
    assert [job.name for job in jobs][2:] == ["bad.pdf", "third.txt"]
    assert jobs[0].batch_id is not None
    batch = await client.wait_for_batch(jobs[0].batch_id, timeout=60)
    assert (batch.jobs, batch.completed, batch.failed) == (4, 3, 1)
    with pytest.raises(JobFailedError, match=r"bad\.pdf.*parsing") as failure:
        await jobs[2].wait(timeout=10, raise_on_failure=True)
    assert failure.value.job.job_id == jobs[2].job_id
    assert (await jobs[2].wait(timeout=10)).status == "failed"
    listed = [job.job_id async for job in client.jobs(batch_id=jobs[0].batch_id, page_size=1)]
    assert listed == [job.job_id for job in reversed(jobs)]
    assert [job.job_id async for job in client.jobs(status="failed")] == [jobs[2].job_id]
    items = [item async for item in client.embedding_jobs(batch_id=jobs[0].batch_id, page_size=1)]
    assert {item.job_id for item in items} == {job.job_id for job in jobs if job.status != "failed"}
    history = await client.embedding_job(items[0].id)
    assert history.attempts[0].id == items[0].id


async def test_cancelled_it_keeps_its_vectors_and_resumed_it_completes(
    client: AsyncClient, pipeline: Pipeline, provider: RunningProvider
) -> None:
    job = await client.upload(
        paragraphs(120).encode(), name="book.txt", pipeline="standin", chunk_tokens=140, chunk_overlap=0
    )
    await job.wait(until="preview", timeout=60)
    provider.configure(answers_before_hang=2)
    await job.launch()
    async for event in job.events():
        if event.type == "progress" and event.decode(IngestionJob).embedded_chunks >= 20:
            break
    with pytest.raises(WaitTimeoutError, match="goes on"):
        await job.wait(timeout=0.5)
    await job.cancel()
    assert (job.status, job.embedded_chunks, job.is_resumable) == ("cancelled", 20, True)
    assert (await job.wait(timeout=10)).status == "cancelled"
    provider.configure(answers_before_hang=None)
    await job.resume()
    await job.wait(timeout=60)
    assert (job.status, job.embedded_chunks) == ("completed", job.total_chunks)
    assert job.launched_at is not None  # what is paid for is tests/api/test_scenarios.py's


async def test_events_tell_the_whole_story_and_can_be_taken_up_again(
    client: AsyncClient, pipeline: Pipeline
) -> None:
    job = await client.upload(paragraphs(3).encode(), name="a.txt", pipeline="standin")
    await job.wait(until="preview", timeout=60)
    await job.launch()
    kinds: list[str] = []
    async with asyncio.timeout(60):
        # Somebody's open transaction may hold back events, and not the picture of a completed job, with which it ends.
        while "job.completed" not in kinds:
            seen = [event async for event in job.events(last_event_id="0-0")]
            kinds = [event.type for event in seen if event.type.startswith("job.")]
    assert kinds[:3] == ["job.staged", "job.parsing", "job.chunk_preview_ready"]
    assert seen[-1].type == "progress"
    assert job.status == "completed"
    third = [event for event in seen if event.type.startswith("job.")][2]
    async for event in client.events(last_event_id=third.id):
        assert event.type == "job.embedding_in_progress"
        assert event.payload["jobId"] == str(job.job_id)
        break


async def test_the_same_bytes_are_known_and_a_deleted_job_is_gone(
    client: AsyncClient, pipeline: Pipeline
) -> None:
    first = await client.upload(b"a few words", name="a.txt", pipeline="standin", auto_launch=True)
    again = await client.upload(b"a few words", name="b.txt", pipeline="standin")
    assert (first.is_known, again.is_known, again.job_id) == (False, True, first.job_id)
    await first.wait(timeout=60)
    await first.set_priority("low")
    await first.set_budget(2.5)
    assert (first.priority, first.cost.budget_usd) == ("low", 2.5)
    await first.set_budget(None)
    assert first.cost.budget_usd is None
    await first.delete()
    assert [job async for job in client.jobs()] == []
