"""Originals go when their time is over, and whoever asks for one that has gone is told what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from embedmill.adapters.blobs.local import LocalOriginals
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ConflictError
from embedmill.ingest.jobs import Jobs
from embedmill.ingest.originals_sweep import OriginalsSweep
from embedmill.ingest.upload import Uploads, Wishes
from tests.ingest.test_originals_sweep import keys_in
from tests.support.alerts import configure


async def stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


WAY = ["staged", "parsing", "chunk_preview_ready", "embedding_in_progress", "completed"]


class Store:
    """A store, its sweep, and jobs whose originals stand in it."""

    def __init__(self, app: App, pipeline: Pipeline, folder: Path) -> None:
        self.originals = LocalOriginals(folder)
        self.sweep = OriginalsSweep(app.database, self.originals)
        self.jobs = Jobs(app.database, pipeline.tenant_id)
        self.folder = folder
        self._app = app
        self._pipeline = pipeline

    async def job(self, name: str, status: str = "completed", days: float = 40, chunks: int = 3) -> UUID:
        """One that ended so long ago."""
        uploads = Uploads(self._app.database, self.originals, self._pipeline.tenant_id)
        kept = await uploads.keep(name, None, stream(name.encode()), max_bytes=1000)
        staged = await uploads.stage(self._pipeline, kept, Wishes())
        has_ended = status in {"completed", "failed", "cancelled"}
        ended = datetime.now(UTC) - timedelta(days=days) if has_ended else None
        for next_status in WAY[: WAY.index(status) + 1] if status in WAY else [status]:
            await self._app.database.fetch(
                "UPDATE embedmill.ingestion_jobs SET status = %s, total_chunks = %s, completed_at = %s WHERE id = %s",
                (next_status, chunks, ended, staged.job_id),
            )
        await self._app.database.fetch(
            "DELETE FROM embedmill.parse_queue WHERE job_id = %s", (staged.job_id,)
        )
        return staged.job_id

    async def with_original(self) -> set[UUID]:
        rows = await self._app.database.fetch(
            "SELECT id FROM embedmill.ingestion_jobs WHERE original_key IS NOT NULL"
        )
        return {row[0] for row in rows}


@pytest.fixture
def store(app: App, pipeline: Pipeline, tmp_path: Path) -> Store:
    return Store(app, pipeline, tmp_path / "originals")


async def test_without_a_retention_an_original_stays_as_long_as_its_document(store: Store) -> None:
    job = await store.job("a", days=3_600)
    assert await store.sweep.sweep() == 0
    assert await store.with_original() == {job}


async def test_what_ended_long_ago_goes_and_what_lives_or_is_young_stays(app: App, store: Store) -> None:
    await configure(app, originals_retention_days=30)
    for status in ("completed", "failed", "cancelled"):
        await store.job(status, status)
    young = await store.job("young", days=29)
    living = {
        await store.job(s, s) for s in ("staged", "parsing", "chunk_preview_ready", "embedding_in_progress")
    }
    assert await store.sweep.sweep() == 3
    assert await store.with_original() == {young} | living
    assert len(keys_in(store.folder)) == 5
    assert await store.sweep.sweep() == 0


async def test_more_than_one_step_s_worth_goes_in_one_sweep(app: App, store: Store) -> None:
    await configure(app, originals_retention_days=30)
    await store.job("one")
    await app.database.fetch(
        "WITH d AS (INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, name) "
        "           SELECT tenant_id, pipeline_id, 'upload', n::text, 'x' FROM embedmill.ingestion_jobs, "
        "                  generate_series(1, 1200) AS n RETURNING id, tenant_id, pipeline_id) "
        "INSERT INTO embedmill.ingestion_jobs "
        "    (tenant_id, pipeline_id, document_id, status, original_key, completed_at) "
        "SELECT tenant_id, pipeline_id, id, 'completed', 'tenants/1/' || gen_random_uuid(), '2020-01-01' FROM d"
    )
    assert await store.sweep.sweep() == 1201
    assert await store.with_original() == set()
    assert keys_in(store.folder) == set()


async def test_a_document_that_somebody_works_on_is_passed_over(app: App, store: Store) -> None:
    await configure(app, originals_retention_days=30)
    job = await store.job("held")
    with psycopg.connect(app.database.url) as other:
        other.execute("SELECT FROM embedmill.knowledge_documents FOR UPDATE")
        assert await store.sweep.sweep() == 0
    assert await store.with_original() == {job}
    assert await store.sweep.sweep() == 1


async def test_who_wants_to_go_on_with_a_job_whose_original_is_gone_is_told_what_to_do(
    app: App, store: Store
) -> None:
    await configure(app, originals_retention_days=30)
    job = await store.job("never read", "cancelled", chunks=0)
    assert (await store.jobs.find(job)).is_resumable
    await store.sweep.sweep()
    assert not (await store.jobs.find(job)).is_resumable
    for act in (store.jobs.resume, store.jobs.retry):
        with pytest.raises(
            ConflictError, match=r"dropped on 20.*originals_retention_days.*upload the document again"
        ):
            await act(job)
    again = await store.job("never read", "completed")
    assert again != job, "the same bytes, uploaded again, are a new job"


async def test_what_was_cut_already_goes_on_without_its_original(app: App, store: Store) -> None:
    await configure(app, originals_retention_days=30)
    job = await store.job("was read", "cancelled")
    await app.database.fetch("UPDATE embedmill.ingestion_jobs SET error_stage = 'cancellation'")
    await store.sweep.sweep()
    assert (await store.jobs.find(job)).is_resumable
    await store.jobs.resume(job)
    assert (await store.jobs.find(job)).status == "completed"
