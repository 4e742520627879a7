"""From staged to the preview, and what may come between: a store that is away, a parser that does not start, a
cancel, a death, a stop. Each job ends, or goes back; none is lost and none is worked on by two."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from embedmill.adapters.blobs.local import LocalOriginals
from embedmill.adapters.outbound.fetcher import GuardedFetcher
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.ingest.jobs import Job, Jobs
from embedmill.ingest.parse_runner import ParseRunner
from embedmill.ingest.parsing import ParserPool
from embedmill.ingest.upload import Staged, Uploads, Wishes
from tests.ingest.gated_parser import GatedParsers
from tests.support.queue_rows import register_worker
from tests.support.work import stand_in_pipeline


async def stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


class Scene:
    """An app, its store of originals, and runners on them."""

    def __init__(self, app: App, pipeline: Pipeline, folder: Path) -> None:
        self.app = app
        self.pipeline = pipeline
        self.folder = folder
        self.originals = LocalOriginals(folder / "originals")
        self.jobs = Jobs(app.database, pipeline.tenant_id)
        self.embedded: list[UUID] = []

    async def stage(self, text: str = "one text", pipeline: Pipeline | None = None, **wishes: Any) -> Staged:
        chosen = pipeline or self.pipeline
        uploads = Uploads(self.app.database, self.originals, chosen.tenant_id)
        kept = await uploads.keep("a.txt", None, stream(text.encode()), max_bytes=100_000)
        return await uploads.stage(chosen, kept, Wishes(**wishes))

    @asynccontextmanager
    async def runner(self, parsers: ParserPool | None = None) -> AsyncIterator[UUID]:
        """A runner at work within the block, in the name of a worker whose id is given."""
        worker_id = await register_worker(self.app.database)

        async def embed_directly(_: Pipeline, __: int, job_id: UUID) -> None:
            self.embedded.append(job_id)

        runner = ParseRunner(
            self.app.database,
            parsers or self.app.parsers(),
            self.originals,
            GuardedFetcher(max_bytes=1000, allowed=[]),
            worker_id=worker_id,
            tokenizer=self.app.tokenizer,
            embed_directly=embed_directly,
            max_file_bytes=1_000_000,
            jobs_at_once=1,
            poll_seconds=0.05,
        )
        running = asyncio.create_task(runner.run())
        try:
            yield worker_id
        finally:
            runner.stop()
            await asyncio.wait_for(running, 30)

    async def job(self, job_id: UUID) -> Job:
        return await self.jobs.find(job_id)

    async def until(self, job_id: UUID, *statuses: str, hurry: bool = False) -> Job:
        """`hurry`: what waits out a failure waits no longer."""
        async with asyncio.timeout(60):
            while (job := await self.job(job_id)).status not in statuses:
                if hurry:
                    await self.app.database.fetch(
                        "UPDATE embedmill.parse_queue SET available_at = now() WHERE lease_token IS NULL"
                    )
                await asyncio.sleep(0.02)
        return job

    async def waiting(self) -> list[tuple[UUID, int, bool, bool]]:
        """(job, attempts, leased, waits out a failure) of all that stands before the parsers."""
        rows = await self.app.database.fetch(
            "SELECT job_id, attempts, lease_token IS NOT NULL, available_at > now() FROM embedmill.parse_queue"
        )
        return [(row[0], row[1], row[2], row[3]) for row in rows]


@pytest.fixture
async def scene(app: App, pipeline: Pipeline, tmp_path: Path) -> Scene:
    return Scene(app, pipeline, tmp_path)


async def test_a_store_that_is_away_is_tried_five_times_and_then_the_job_can_be_resumed(scene: Scene) -> None:
    staged = await scene.stage()
    store = scene.folder / "originals"
    await asyncio.to_thread(store.rename, scene.folder / "away")
    async with scene.runner():
        async with asyncio.timeout(60):
            while not (found := await scene.waiting()) or found[0][1] == 0:
                await asyncio.sleep(0.02)
        assert (await scene.job(staged.job_id)).status == "parsing"
        failed = await scene.until(staged.job_id, "failed", hurry=True)
        assert (failed.error_stage, failed.is_resumable) == ("parsing", True)
        assert "is not in" in (failed.error_message or "")
        assert await scene.waiting() == []
        await asyncio.to_thread((scene.folder / "away").rename, store)
        await scene.jobs.resume(staged.job_id)
        done = await scene.until(staged.job_id, "chunk_preview_ready")
    assert (done.total_chunks, done.error_stage, done.error_message) == (1, None, None)


async def test_each_failure_waits_longer_before_it_is_tried_again(scene: Scene) -> None:
    """The pause is chance below a ceiling that doubles: what is certain is that there is one, and five tries."""
    staged = await scene.stage()
    (await asyncio.to_thread(list, (scene.folder / "originals").rglob("*-*")))[0].unlink()
    seen: dict[int, bool] = {}
    async with scene.runner():
        async with asyncio.timeout(60):
            while (await scene.job(staged.job_id)).status != "failed":
                for _, attempts, is_leased, waits in await scene.waiting():
                    if not is_leased and attempts:
                        seen[attempts] = seen.get(attempts, False) or waits
                await asyncio.sleep(0.005)
    assert set(seen) <= {1, 2, 3, 4}
    assert any(seen.values())


async def test_a_parser_that_does_not_start_is_no_fault_of_the_document(scene: Scene) -> None:
    staged = await scene.stage()
    broken = ParserPool([sys.executable, "-c", "raise SystemExit('no parser here')"], size=1)
    async with scene.runner(broken):
        failed = await scene.until(staged.job_id, "failed", hurry=True)
    assert "does not start" in (failed.error_message or "")
    assert failed.is_resumable
    await scene.jobs.resume(staged.job_id)
    async with scene.runner():
        await scene.until(staged.job_id, "chunk_preview_ready")


async def test_a_document_that_cannot_be_read_fails_at_once_and_disturbs_no_other(scene: Scene) -> None:
    bad = await scene.stage("%PDF-1.7 and then nonsense")
    good = await scene.stage("a good text")
    async with scene.runner():
        failed = await scene.until(bad.job_id, "failed", "chunk_preview_ready")
        await scene.until(good.job_id, "chunk_preview_ready")
    assert (failed.status, failed.error_stage) == ("failed", "parsing")
    assert failed.error_message


async def test_cancelled_while_it_is_read_the_result_is_dropped_and_resume_reads_it_again(
    scene: Scene, tmp_path: Path
) -> None:
    staged = await scene.stage(auto_launch=True)
    gated = GatedParsers(tmp_path / "gate")
    async with scene.runner(gated.pool):
        await gated.until_reading()
        assert await scene.jobs.cancel(staged.job_id, "cancelled by the test") == "cancelled"
        other = await scene.stage("another text")
        gated.open()
        await scene.until(other.job_id, "chunk_preview_ready")
        cancelled = await scene.job(staged.job_id)
        assert (cancelled.status, cancelled.total_chunks) == ("cancelled", 0)
        counts = await scene.app.database.fetch(
            "SELECT (SELECT count(*) FROM embedmill.knowledge_chunks WHERE document_id = %s), "
            "       (SELECT count(*) FROM embedmill.embedding_queue)",
            (staged.document_id,),
        )
        assert counts == [(0, 0)]
        await scene.jobs.resume(staged.job_id)
        await scene.until(staged.job_id, "embedding_in_progress")


async def test_what_a_dead_worker_was_reading_another_takes_over_and_the_dead_one_s_result_is_void(
    scene: Scene, tmp_path: Path
) -> None:
    staged = await scene.stage()
    gated = GatedParsers(tmp_path / "gate")
    async with scene.runner(gated.pool) as dead:
        await gated.until_reading()
        await scene.app.database.fetch(
            "UPDATE embedmill.embedding_queue_workers SET status = 'error' WHERE worker_id = %s", (dead,)
        )
        async with scene.runner():
            await scene.until(staged.job_id, "chunk_preview_ready")
        before = await whole_content(scene.app)
        other = await scene.stage("another text")
        gated.open()
        await scene.until(other.job_id, "chunk_preview_ready")
        after = await whole_content(scene.app)
    assert [row for row in after if row[0] == staged.document_id] == before


async def whole_content(app: App) -> list[tuple[Any, ...]]:
    return await app.database.fetch(
        "SELECT d.id, d.version, c.id, c.text, c.token_count FROM embedmill.knowledge_documents d "
        "JOIN embedmill.knowledge_chunks c ON c.document_id = d.id ORDER BY d.id, c.ordinal"
    )


async def test_begun_five_times_and_never_ended_it_fails_and_says_so(scene: Scene) -> None:
    staged = await scene.stage()
    for crash in range(1, 6):
        worker_id = await register_worker(scene.app.database)
        claimed = await scene.app.database.fetch(
            "SELECT job_id FROM embedmill.claim_parsing(%s, 1, 60)", (worker_id,)
        )
        assert claimed == [(staged.job_id,)]
        await scene.app.database.fetch(
            "UPDATE embedmill.embedding_queue_workers SET status = 'error' WHERE worker_id = %s", (worker_id,)
        )
        assert await scene.app.database.fetch("SELECT embedmill.rescue_parsing()") == [(1,)], crash
    failed = await scene.job(staged.job_id)
    assert (failed.status, failed.is_resumable) == ("failed", True)
    assert "died or hung" in (failed.error_message or "")


async def test_at_a_stop_what_is_being_read_goes_back_and_costs_no_attempt(
    scene: Scene, tmp_path: Path
) -> None:
    staged = await scene.stage()
    gated = GatedParsers(tmp_path / "gate")
    async with scene.runner(gated.pool):
        await gated.until_reading()
    assert await scene.waiting() == [(staged.job_id, 0, False, False)]
    async with scene.runner():
        await scene.until(staged.job_id, "chunk_preview_ready")


async def test_a_job_that_is_deleted_while_it_is_read_leaves_nothing_and_the_runner_goes_on(
    scene: Scene, tmp_path: Path
) -> None:
    staged = await scene.stage()
    gated = GatedParsers(tmp_path / "gate")
    async with scene.runner(gated.pool):
        await gated.until_reading()
        await scene.jobs.delete(staged.job_id)
        other = await scene.stage("another text")
        gated.open()
        await scene.until(other.job_id, "chunk_preview_ready")
    documents = await scene.app.database.fetch("SELECT id FROM embedmill.knowledge_documents")
    assert documents == [(other.document_id,)]


async def test_with_the_queue_off_a_launched_job_is_handed_on_to_be_embedded_directly(scene: Scene) -> None:
    await scene.app.database.fetch("SELECT embedmill.set_config_value('queue_enabled', 'false')")
    staged = await scene.stage(auto_launch=True)
    async with scene.runner():
        async with asyncio.timeout(60):
            while await scene.waiting() or not scene.embedded:
                await asyncio.sleep(0.02)
    assert scene.embedded == [staged.job_id]
    assert await scene.app.database.fetch("SELECT id FROM embedmill.embedding_queue") == []


async def test_tenants_take_turns_at_the_parsers(scene: Scene) -> None:
    await scene.app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('small')")
    theirs = App(msgspec.structs.replace(scene.app.settings, tenant="small"), scene.app.database)
    small = await stand_in_pipeline(theirs, "http://127.0.0.1:9/v1", "theirs", dimensions=16)
    for number in range(20):
        await scene.stage(f"text {number}")
    for number in range(3):
        await scene.stage(f"text {number}", small)
    turns = []
    for _ in range(8):
        worker_id = await register_worker(scene.app.database)
        rows = await scene.app.database.fetch(
            "SELECT pipeline_id FROM embedmill.claim_parsing(%s, 1, 60)", (worker_id,)
        )
        turns += [row[0] for row in rows]
    assert turns[:6].count(small.id) == 3
    assert turns[6:] == [scene.pipeline.id] * 2
