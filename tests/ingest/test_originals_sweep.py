"""Originals that no job names go after a day; all others stay, whoever uploads, stages or sweeps meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from structlog.testing import capture_logs

from embedmill.adapters.blobs.local import LocalOriginals
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import SERVICE_ROLE, Database
from embedmill.errors import StorageError
from embedmill.ingest import originals_sweep
from embedmill.ingest.originals_sweep import OriginalsSweep
from embedmill.ingest.upload import Kept, Uploads, Wishes
from embedmill.ports import StoredOriginal, original_key
from tests.support.postgres import TestServer
from tests.support.work import app_on, stand_in_pipeline


async def stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


def age(folder: Path, hours: float) -> None:
    """As if everything in the store had been written so long ago."""
    for file in folder.rglob("*"):
        if file.is_file():
            moment = file.stat().st_mtime - hours * 3600
            os.utime(file, (moment, moment))


def keys_in(folder: Path) -> set[str]:
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    return {key for key in found if not key.startswith("tenants/0/")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "originals"


@pytest.fixture
def originals(folder: Path) -> LocalOriginals:
    return LocalOriginals(folder)


@pytest.fixture
def uploads(app: App, pipeline: Pipeline, originals: LocalOriginals) -> Uploads:
    return Uploads(app.database, originals, pipeline.tenant_id)


@pytest.fixture
def sweep(app: App, originals: LocalOriginals) -> OriginalsSweep:
    return OriginalsSweep(app.database, originals)


async def keep(uploads: Uploads, text: str) -> Kept:
    kept = await uploads.keep("a.txt", None, stream(text.encode()), max_bytes=1000)
    assert kept.original is not None
    return kept


async def test_what_no_job_names_goes_after_a_day_and_not_before(
    uploads: Uploads, sweep: OriginalsSweep, folder: Path
) -> None:
    await keep(uploads, "nobody's")
    age(folder, 23)
    assert await sweep.sweep() == 0
    assert len(keys_in(folder)) == 1
    age(folder, 2)
    assert await sweep.sweep() == 1
    assert keys_in(folder) == set()


async def test_what_a_job_names_stays_however_old(
    uploads: Uploads, sweep: OriginalsSweep, pipeline: Pipeline, folder: Path
) -> None:
    named = set()
    for number in range(3):
        kept = await keep(uploads, f"text {number}")
        await uploads.stage(pipeline, kept, Wishes())
        assert kept.original is not None
        named.add(kept.original.key)
    await keep(uploads, "nobody's")
    age(folder, 24 * 365)
    assert await sweep.sweep() == 1
    assert keys_in(folder) == named


async def test_the_originals_of_every_tenant_are_seen(
    app: App, uploads: Uploads, sweep: OriginalsSweep, originals: LocalOriginals, folder: Path
) -> None:
    row = await app.database.fetch_one("INSERT INTO embedmill.tenants (slug) VALUES ('other') RETURNING id")
    assert row is not None
    other = App(msgspec.structs.replace(app.settings, tenant="other"), app.database)
    pipeline = await stand_in_pipeline(other, "http://127.0.0.1:9/v1", "theirs", dimensions=16)
    assert pipeline.tenant_id == row[0]
    theirs = Uploads(app.database, originals, pipeline.tenant_id)
    kept = await keep(theirs, "theirs")
    await theirs.stage(pipeline, kept, Wishes())
    await keep(theirs, "nobody's")
    await keep(uploads, "nobody's either")
    age(folder, 48)
    assert await sweep.sweep() == 2
    assert kept.original is not None
    assert keys_in(folder) == {kept.original.key}


async def test_the_remains_of_a_write_that_was_killed_go_too_and_foreign_files_stay(
    uploads: Uploads, sweep: OriginalsSweep, folder: Path
) -> None:
    kept = await keep(uploads, "whole")
    assert kept.original is not None
    (folder / f"{kept.original.key}.part-0a1b2c3d").write_bytes(b"half")
    (folder / "tenants" / "notes.txt").write_bytes(b"somebody's own")
    age(folder, 48)
    assert await sweep.sweep() == 2
    assert keys_in(folder) == {"tenants/notes.txt"}


async def test_a_job_that_is_being_staged_keeps_its_original(
    app: App, uploads: Uploads, sweep: OriginalsSweep, pipeline: Pipeline, folder: Path
) -> None:
    """Its row is not committed yet when the sweep looks; the bytes are as old as bytes that get a job can be."""
    kept = await keep(uploads, "on its way")
    age(folder, 13)
    async with app.database.transaction() as locked:
        await locked.execute(
            "INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, name) "
            "VALUES (%s, %s, 'upload', 'mine', 'mine')",
            (pipeline.tenant_id, pipeline.id),
        )
        staging = asyncio.create_task(uploads.stage(pipeline, kept, Wishes(source_id="mine")))
        await until_waiting(app)
        assert await sweep.sweep() == 0
        await locked.execute("DELETE FROM embedmill.knowledge_documents WHERE source_id = 'mine'")
    staged = await staging
    assert await sweep.sweep() == 0
    rows = await app.database.fetch("SELECT id, original_key FROM embedmill.ingestion_jobs")
    assert [row[0] for row in rows] == [staged.job_id]
    assert keys_in(folder) == {rows[0][1]}


async def until_waiting(app: App) -> None:
    """Until a session waits for a lock."""
    async with asyncio.timeout(20):
        while not await app.database.fetch(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.02)


async def test_bytes_that_a_sweep_might_be_about_to_remove_get_no_job(
    app: App, uploads: Uploads, pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await keep(uploads, "slow")
    monkeypatch.setattr("embedmill.ingest.upload.LONGEST_KEPT_SECONDS", -1.0)
    staged = await uploads.stage(pipeline, kept, Wishes())
    assert staged.status == "failed"
    assert "twelve hours" in (staged.error_message or "")
    assert keys_in(folder) == set()
    rows = await app.database.fetch(
        "SELECT status::text, error_stage, original_key FROM embedmill.ingestion_jobs"
    )
    assert rows == [("failed", "staging", None)]


async def test_an_age_at_which_uploads_are_under_way_is_refused(app: App, originals: LocalOriginals) -> None:
    with pytest.raises(ValueError, match="less than a day"):
        OriginalsSweep(app.database, originals, older_than=timedelta(hours=23))


async def test_several_services_sweep_side_by_side(
    app: App, uploads: Uploads, pipeline: Pipeline, originals: LocalOriginals, folder: Path
) -> None:
    chance = random.Random(3)
    named = set()
    for number in range(60):
        kept = await keep(uploads, f"text {number}")
        assert kept.original is not None
        if chance.random() < 0.5:
            await uploads.stage(pipeline, kept, Wishes())
            named.add(kept.original.key)
    age(folder, 48)
    fresh = [keep(uploads, f"fresh {number}") for number in range(10)]
    sweeps = [OriginalsSweep(app.database, originals).sweep() for _ in range(4)]
    *kept_now, _, _, _, _ = await asyncio.gather(*fresh, *sweeps)
    younger = {one.original.key for one in kept_now if isinstance(one, Kept) and one.original is not None}
    assert keys_in(folder) == named | younger


async def test_more_originals_than_fit_into_one_question(
    app: App, sweep: OriginalsSweep, folder: Path, originals: LocalOriginals
) -> None:
    place = folder / "tenants" / "7"
    place.mkdir(parents=True)
    for _ in range(2 * originals_sweep._KEYS_AT_ONCE + 1):
        (place / str(uuid4())).write_bytes(b"x")
    age(folder, 48)
    assert await sweep.sweep() == 2 * originals_sweep._KEYS_AT_ONCE + 1
    assert keys_in(folder) == set()


async def test_a_store_that_two_databases_share_is_swept_by_neither(
    app: App, uploads: Uploads, sweep: OriginalsSweep, test_server: TestServer, folder: Path, tmp_path: Path
) -> None:
    """To each the other's originals would seem to be nobody's."""
    await keep(uploads, "nobody's")
    age(folder, 48)
    url = test_server.create(migrated=True)
    try:
        async with app_on(url, tmp_path) as neighbour:
            theirs = OriginalsSweep(neighbour.database, LocalOriginals(folder))
            await sweep._is_ours_alone()
            with capture_logs() as logs:
                assert await theirs.sweep() == 0
                assert await sweep.sweep() == 0
            assert len([line for line in logs if "another database" in line["event"]]) == 2
    finally:
        test_server.drop(url)
    assert len(keys_in(folder)) == 1


async def test_an_account_that_does_not_see_every_tenant_removes_nothing(
    app: App, uploads: Uploads, originals: LocalOriginals, pipeline: Pipeline, folder: Path
) -> None:
    kept = await keep(uploads, "a job's")
    await uploads.stage(pipeline, kept, Wishes())
    age(folder, 48)
    async with Database(app.database.url, role=SERVICE_ROLE) as narrow:
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):  # it may not even ask
            assert await OriginalsSweep(narrow, originals).sweep() == 0
    assert len(keys_in(folder)) == 1


async def test_as_a_chore_it_sweeps_again_and_again_and_lives_through_a_store_that_fails(
    app: App, folder: Path, uploads: Uploads
) -> None:
    store = Failing(folder)
    chore = OriginalsSweep(app.database, store, first_seconds=0.01, every_seconds=0.01)
    await keep(uploads, "nobody's")
    age(folder, 48)
    running = asyncio.create_task(chore.run())
    async with asyncio.timeout(20):
        await store.was_asked_twice.wait()
        while keys_in(folder):
            await asyncio.sleep(0.01)
    chore.stop()
    await asyncio.wait_for(running, 10)


class Failing(LocalOriginals):
    """A store that fails at first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.was_asked_twice = asyncio.Event()
        self._asked = 0

    async def put(self, key: str, chunks: AsyncIterator[bytes], *, max_bytes: int) -> StoredOriginal:
        assert key.startswith(original_key(0, UUID(int=0))[:10])
        self._asked += 1
        if self._asked == 1:
            raise StorageError("unreachable", "it does not answer")
        self.was_asked_twice.set()
        return await super().put(key, chunks, max_bytes=max_bytes)
