"""Two releases at work on one schema, under load: the new one migrates, starts beside the old one, takes over, and is
taken back. Real processes; nothing is lost, nothing paid twice, no request fails, nothing is complained of."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import numpy as np
import psycopg
import pytest

from embedmill.app import App
from embedmill.core.documents import ChunkPlan
from embedmill.database.pipelines import Pipeline
from tests.journeys.next_release import ENDED_BY_NEW_FUNCTIONS, Balancer, NextRelease, Release
from tests.journeys.service_process import ServiceProcess, Upload
from tests.support import audit
from tests.support.commands import CommandLine
from tests.support.prose import paragraphs
from tests.support.provider import RunningProvider, vector_for
from tests.support.work import DIMENSIONS, app_on, missing_chunks, stand_in_pipeline, stored_vectors

_COMPLAINT = re.compile(r"\[(warning|error|critical) *\]|Traceback|Warning:|\bdied\b")
# Whoever stops leaves a question to the database without its answer, and with it the connection (database/asking.py).
_HARMLESS = "discarding closed connection"
_STATUSES = "SELECT status::text, count(*) FROM embedmill.ingestion_jobs GROUP BY 1"


@pytest.fixture
def provider(provider_process: RunningProvider) -> RunningProvider:
    provider_process.reset(dimensions=DIMENSIONS, latency_ms=50)
    return provider_process


class Users:
    """They upload and search without a pause, wherever the balancer leads, until they are told to leave."""

    def __init__(self, balancer: Balancer, pipeline: Pipeline) -> None:
        self.balancer = balancer
        self.uploads: list[Upload] = []
        self.searches: list[int] = []
        self._pipeline = pipeline
        self._chance = random.Random(7)
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(3):
                tasks.create_task(self._upload(number))
            tasks.create_task(self._search())

    def leave(self) -> None:
        self._leaving.set()

    async def _upload(self, user: int) -> None:
        while not self._leaving.is_set():
            seed = self._chance.getrandbits(32)
            text = paragraphs(self._chance.randint(2, 30), seed=seed)
            upload = Upload(f"{user}-{seed}.txt", text.encode())
            self.uploads.append(upload)
            await upload.send(self.balancer, self._pipeline.name, self._chance)  # type: ignore[arg-type]

    async def _search(self) -> None:
        while not self._leaving.is_set():
            async with httpx2.AsyncClient(timeout=60, trust_env=False) as client:
                answer = await client.post(
                    f"{self.balancer.address}/api/v1/search",
                    json={"query": "tides", "pipeline": self._pipeline.name},
                )
            self.searches.append(answer.status_code)
            await asyncio.sleep(0.05)


class Scene:
    def __init__(self, app: App, pipeline: Pipeline, old: Release, new: Release, users: Users) -> None:
        self.app = app
        self.pipeline = pipeline
        self.old = old
        self.new = new
        self.users = users

    async def count(self, query: str) -> int:
        row = await self.app.database.fetch_one(query)
        assert row is not None
        return int(row[0])

    async def until_ended(self, more: int, query: str) -> None:
        """Until so many more items than now have ended, as `query` counts them."""
        target = await self.count(query) + more
        async with asyncio.timeout(60):
            while await self.count(query) < target:
                for release in (self.old, self.new):
                    assert release.address is None or release.lives, release.said
                await asyncio.sleep(0.05)

    async def until_idle(self) -> None:
        async with asyncio.timeout(60):
            while True:
                statuses = await self.app.database.fetch(_STATUSES)
                if {status for status, _ in statuses} == {"completed"}:
                    return
                assert not {status for status, _ in statuses} & {"failed", "cancelled"}, statuses
                await asyncio.sleep(0.1)


ENDED = "SELECT count(*) FROM embedmill.embedding_queue_history"


@asynccontextmanager
async def scene(
    url: str, folder: Path, provider: RunningProvider, following: NextRelease
) -> AsyncIterator[Scene]:
    data_dir = folder / "data"
    settings = {"EMBEDMILL_CALLS_IN_FLIGHT": "2", "EMBEDMILL_PARSER_PROCESSES": "1"}
    old = Release("old", url, data_dir, "--processes", "2", **settings)
    new = Release("new", url, data_dir, "--processes", "2", **settings, **following.environment)
    async with app_on(url, data_dir) as app:
        pipeline = await stand_in_pipeline(
            app,
            provider.base_url,
            dimensions=DIMENSIONS,
            max_inputs_per_call=10,
            chunk_plan=ChunkPlan(140, 0),
        )
        await old.start()
        users = Users(Balancer(old), pipeline)
        try:
            yield Scene(app, pipeline, old, new, users)
        finally:
            for release in (old, new):
                if release.address is not None and release.lives:
                    release.kill(service=True, workers=True)


async def take_over(users: Users, to: ServiceProcess, leaving: ServiceProcess) -> None:
    """As a rollout does it: requests go to the other one, then this one is told to end."""
    users.balancer.target = to
    await asyncio.sleep(0.2)  # as a balancer needs a moment to know; requests under way are finished anyway
    assert await asyncio.to_thread(leaving.stop) == 0, leaving.said
    leaving.address = None


@pytest.mark.timeout(300)
async def test_upgraded_and_taken_back_under_load_nothing_is_lost_paid_twice_or_refused(
    database: str, tmp_path: Path, provider: RunningProvider
) -> None:
    following = NextRelease(tmp_path / "next")
    older = CommandLine(tmp_path / "data", database)
    newer = CommandLine(tmp_path / "data", database, is_fresh=True, **following.environment)
    async with scene(database, tmp_path, provider, following) as here, asyncio.TaskGroup() as tasks:
        working = tasks.create_task(here.users.run())
        await here.until_ended(5, ENDED)

        refused = await asyncio.to_thread(newer.run, "status", status=1)
        assert f"needs {following.number}: run `embedmill db migrate`" in refused.stderr
        migrated = await asyncio.to_thread(newer.run, "db", "migrate")
        assert migrated.stdout == f"schema brought to version {following.number}\n"
        # The old ones go on, and the new functions serve them.
        await here.until_ended(10, ENDED_BY_NEW_FUNCTIONS)

        await here.new.start()
        await here.until_ended(10, ENDED)
        await take_over(here.users, here.new, here.old)
        await here.until_ended(10, ENDED_BY_NEW_FUNCTIONS)

        # And back: the old release starts on the newer schema, and leaves it as it is.
        said = (await asyncio.to_thread(older.run, "db", "migrate")).stdout
        assert said == f"schema is up to date at version {following.number}\n"
        await here.old.start()
        await take_over(here.users, here.old, here.new)
        await here.until_ended(10, ENDED_BY_NEW_FUNCTIONS)

        here.users.leave()
        await working
        await here.until_idle()
        await assert_all_is_well(here, provider)
        assert here.old.stop() == 0


async def assert_all_is_well(here: Scene, provider: RunningProvider) -> None:
    uploads = here.users.uploads
    assert {tuple(upload.statuses) for upload in uploads} == {(202,)}, "a request failed"
    assert not any(upload.broken for upload in uploads), "a request ended without an answer"
    assert set(here.users.searches) == {200}
    jobs = await here.count("SELECT count(*) FROM embedmill.ingestion_jobs WHERE status = 'completed'")
    assert jobs == len({job for upload in uploads for job in upload.jobs}) == len(uploads)
    assert await missing_chunks(here.app, here.pipeline) == 0
    rows = await stored_vectors(here.app, here.pipeline)
    for _, text, vector in rows:
        assert np.abs(vector - vector_for(text, DIMENSIONS)).max() < 1e-6
    assert set(provider.paid_for([text for _, text, _ in rows])) == {1}
    await audit.assert_books_balance(here.app)
    assert await here.count("SELECT count(*) FROM embedmill.dead_letters") == 0
    for release in (here.old, here.new):
        lines = release.said.splitlines()
        complaints = [line for line in lines if _COMPLAINT.search(line) and _HARMLESS not in line]
        assert complaints == [], release.said


@pytest.mark.timeout(120)
async def test_ready_until_a_migration_that_does_not_bear_with_this_release(
    database: str, tmp_path: Path
) -> None:
    service = Release("alone", database, tmp_path / "data", "--no-workers")
    await service.start()
    async with httpx2.AsyncClient(base_url=str(service.address), timeout=60, trust_env=False) as client:

        async def readiness() -> tuple[int, str]:
            answer = await client.get("/readyz")
            return answer.status_code, answer.json()["migrations"]

        def migrated(version: int, since: int) -> None:
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute(
                    "INSERT INTO embedmill.schema_migrations (version, name, sha256, embedmill_version, "
                    "compatible_since) VALUES (%s, 'later', '', '999', %s)",
                    (version, since),
                )

        assert await readiness() == (200, "ok")
        migrated(9001, 1)
        assert await readiness() == (200, "ok")
        migrated(9002, 9001)
        assert await readiness() == (503, "newer than this embedmill bears: upgrade it")
        assert (await client.get("/healthz")).status_code == 200, "to start it again would help nobody"
    assert service.stop() == 0
