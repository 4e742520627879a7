"""kill -9 of the service and its workers in the middle of uploads, and PostgreSQL restarted under them: whatever was
answered ends completed, what was not exists whole or not at all, and nothing is paid twice but what was in flight."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from embedmill.adapters.blobs.local import LocalOriginals
from embedmill.app import App
from embedmill.core.documents import ChunkPlan
from embedmill.database.patience import patiently
from embedmill.database.pipelines import Pipeline
from embedmill.ingest.originals_sweep import OriginalsSweep
from embedmill.queue.config import set_value
from tests.journeys.service_process import ServiceProcess, Upload, free_keys, make_old
from tests.support import audit
from tests.support.faults.postgres import FragileServer, ShutdownMode
from tests.support.postgres import servers_folder
from tests.support.prose import paragraphs
from tests.support.provider import RunningProvider, vector_for
from tests.support.work import DIMENSIONS, app_on, missing_chunks, stand_in_pipeline, stored_vectors

WORKERS = 2
CALLS_IN_FLIGHT = 2
INPUTS_PER_CALL = 10
UPLOADS = 14
IN_FLIGHT_CALLS = WORKERS * CALLS_IN_FLIGHT


@pytest.fixture
def provider(provider_process: RunningProvider) -> RunningProvider:
    provider_process.reset(dimensions=DIMENSIONS, latency_ms=100)
    return provider_process


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("EMBEDMILL_TEST_SEED", str(time.time_ns())))
    print("EMBEDMILL_TEST_SEED", seed)
    return random.Random(seed)


class Scene:
    """A service on a database, its pipeline, and uploads."""

    def __init__(self, app: App, pipeline: Pipeline, service: ServiceProcess, chance: random.Random) -> None:
        self.app = app
        self.pipeline = pipeline
        self.service = service
        self.chance = chance
        self.originals = app.settings.data_dir / "originals"
        self.uploads = [
            Upload(f"{number}.txt", paragraphs(chance.randint(1, 60), seed=chance.getrandbits(32)).encode())
            for number in range(UPLOADS)
        ]

    async def send_all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for upload in self.uploads:
                tasks.create_task(upload.send(self.service, self.pipeline.name, self.chance))
                await asyncio.sleep(self.chance.uniform(0.0, 0.4))

    async def settled(self, *, seconds: float = 120) -> dict[str, str]:
        """Status by job, when all have ended. Raises AssertionError with what the service said where they do not."""
        query = "SELECT id::text, status::text FROM embedmill.ingestion_jobs"
        deadline = time.monotonic() + seconds
        while True:
            jobs = dict(await patiently(partial(self.app.database.fetch, query)))
            if all(status in {"completed", "failed", "cancelled"} for status in jobs.values()):
                return jobs
            assert time.monotonic() < deadline, (jobs, self.service.said[-5000:])
            await asyncio.sleep(0.1)


@asynccontextmanager
async def scene(
    url: str, folder: Path, provider: RunningProvider, chance: random.Random
) -> AsyncIterator[Scene]:
    data_dir = folder / "data"
    async with app_on(url, data_dir) as app:
        pipeline = await stand_in_pipeline(
            app,
            provider.base_url,
            dimensions=DIMENSIONS,
            max_inputs_per_call=INPUTS_PER_CALL,
            price_per_million_tokens=1,
            chunk_plan=ChunkPlan(140, 0),
        )
        await set_value(app.database, "worker_heartbeat_interval_ms", "1000", actor="the test")
        service = ServiceProcess(
            url, data_dir, "--processes", str(WORKERS),
            EMBEDMILL_CALLS_IN_FLIGHT=str(CALLS_IN_FLIGHT), EMBEDMILL_PARSER_PROCESSES="1",
        )  # fmt: skip
        await service.start()
        try:
            yield Scene(app, pipeline, service, chance)
        finally:
            if service.lives:
                service.kill(service=True, workers=True)


async def assert_all_is_well(scene: Scene, provider: RunningProvider, *, kills: int) -> None:
    jobs = await scene.settled()
    answered = [job for upload in scene.uploads for job in upload.jobs]
    assert len(set(answered)) == UPLOADS, "an upload that was sent again is another job"
    assert jobs.keys() == set(answered), "there are jobs of which nobody was told"
    assert set(jobs.values()) == {"completed"}, (jobs, scene.service.said[-5000:])
    await _assert_originals(scene)
    texts = await _assert_vectors(scene)
    paid = provider.paid_for(texts)
    assert min(paid) == 1
    paid_again = sum(count - 1 for count in paid)
    assert paid_again <= kills * IN_FLIGHT_CALLS * INPUTS_PER_CALL, (paid_again, kills)
    await _assert_ledger(scene, provider, kills)
    await audit.assert_books_balance(scene.app)


async def _assert_originals(scene: Scene) -> None:
    """Each job has its original, byte for byte; after the sweep there are no others."""
    rows = await scene.app.database.fetch("SELECT id::text, original_key FROM embedmill.ingestion_jobs")
    keys = dict(rows)
    for upload in scene.uploads:
        assert (scene.originals / keys[upload.jobs[0]]).read_bytes() == upload.content
    make_old(scene.originals, days=2)
    await OriginalsSweep(scene.app.database, LocalOriginals(scene.originals)).sweep()
    kept = {
        file.relative_to(scene.originals).as_posix() for file in scene.originals.rglob("*") if file.is_file()
    }
    assert {key for key in kept if not key.startswith("tenants/0/")} == set(keys.values())


async def _assert_vectors(scene: Scene) -> list[str]:
    assert await missing_chunks(scene.app, scene.pipeline) == 0
    rows = await stored_vectors(scene.app, scene.pipeline)
    assert len(rows) > UPLOADS
    for _, text, vector in rows:
        assert np.abs(vector - vector_for(text, DIMENSIONS)).max() < 1e-6
    return [text for _, text, _ in rows]


async def _assert_ledger(scene: Scene, provider: RunningProvider, kills: int) -> None:
    """A call that was paid has a row, but for those whose worker was killed over it; each job's share is that of the
    rows."""
    (row,) = await scene.app.database.fetch(
        "SELECT count(*), sum(input_tokens), (SELECT sum(paid_tokens) FROM embedmill.ingestion_jobs) "
        "  FROM embedmill.llm_usage_log WHERE error IS NULL"
    )
    calls, tokens, shared = row
    counted = provider.stats()
    assert calls <= counted["calls_paid"] <= calls + kills * IN_FLIGHT_CALLS
    assert tokens <= counted["tokens_paid"]
    assert shared == tokens


async def moment(provider: RunningProvider, chance: random.Random) -> None:
    """Some time from now; as often as not, one at which calls are in flight."""
    await asyncio.sleep(chance.uniform(0.2, 3.0))
    if chance.random() < 0.5:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                while not (await asyncio.to_thread(provider.stats))["in_flight"]:
                    await asyncio.sleep(0.01)


KILLS = (
    pytest.param([(True, True)] * 3, id="service and workers"),
    pytest.param([(True, False)] * 3, id="service"),
    pytest.param([(False, True)] * 3, id="workers"),
    pytest.param([(True, False), (False, True), (True, True)], id="in turn"),
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", KILLS)
async def test_killed_in_the_middle_of_uploads_all_end_completed_and_paid_once(
    database: str,
    tmp_path: Path,
    provider: RunningProvider,
    chance: random.Random,
    kills: Sequence[tuple[bool, bool]],
) -> None:
    async with scene(database, tmp_path, provider, chance) as here, asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(here.send_all())
        for service, workers in kills:
            await moment(provider, chance)
            here.service.kill(service=service, workers=workers)
            await free_keys(here.app)
            if service:
                await here.service.start()
        await free_keys(here.app)
        await sending
        await assert_all_is_well(here, provider, kills=len(kills))
        assert here.service.stop() == 0


@pytest.fixture
def fragile_server() -> Iterator[FragileServer]:
    with tempfile.TemporaryDirectory(
        prefix="embedmill-kills-", dir=servers_folder(), ignore_cleanup_errors=True
    ) as folder:
        server = FragileServer(Path(folder) / "data")
        yield server
        server.stop()


@pytest.mark.timeout(600)
async def test_postgresql_restarted_in_the_middle_costs_nobody_more_than_a_retry(
    fragile_server: FragileServer, tmp_path: Path, provider: RunningProvider, chance: random.Random
) -> None:
    url = fragile_server.databases.create(migrated=True)
    modes: tuple[ShutdownMode, ...] = ("fast", "immediate")
    async with scene(url, tmp_path, provider, chance) as here, asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(here.send_all())
        for mode in modes:
            await asyncio.sleep(chance.uniform(0.5, 2.0))
            await asyncio.to_thread(fragile_server.restart, mode, away_seconds=chance.uniform(0.0, 10.0))
        while not sending.done():
            await patiently(partial(free_keys, here.app))
            await asyncio.wait({sending}, timeout=1.0)
        await sending
        assert here.service.lives
        # No worker died: nothing was in flight that was not written when the database came back.
        await assert_all_is_well(here, provider, kills=0)
        assert not any(upload.broken for upload in here.uploads), "a request ended without an answer"
        assert here.service.stop() == 0
