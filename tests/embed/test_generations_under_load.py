"""A model is migrated while documents are saved and deleted and searches run, in each mode: no search fails or comes
back empty, and at the end every chunk of both generations has the vector of its text."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.embed.generation_states import Stage
from embedmill.embed.next_spec import Changes
from embedmill.ingest.storing import PipelineSwitchedError, Storing
from embedmill.search.searcher import Mode, Searcher
from tests.embed.generation_work import assert_current, begin, until, until_quiet, working
from tests.support.provider import RunningProvider
from tests.support.work import DIMENSIONS, add_document, run_worker_until_settled, stand_in_pipeline

ANCHOR = "the harbour light turns all night"


@pytest.fixture
async def pipeline(app: App, provider: RunningProvider) -> Pipeline:
    provider.configure(salt_by_model=True, latency_ms=5)
    made = await stand_in_pipeline(app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=20)
    batch = uuid4()
    for number in range(40):
        await add_document(app, made, f"d{number}", [f"{ANCHOR} {number} {part}" for part in range(4)], batch)
    await run_worker_until_settled(app, batch)
    return made


class Load:
    """Writers and searchers, until they are told to stop."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.saves = self.deletions = 0
        self.searches = dict.fromkeys(Mode, 0)
        self.hits_of: set[int] = set()
        self.stopping = asyncio.Event()

    async def write(self, seed: int) -> None:
        """Documents of a few that come, change and go; those of the fixture stay."""
        chance = random.Random(seed)
        while not self.stopping.is_set():
            pipeline = await self._app.pipeline("standin")
            source = f"changing {seed} {chance.randrange(12)}"
            if chance.random() < 0.25:
                row = await self._app.database.fetch_one(
                    "SELECT id FROM embedmill.knowledge_documents WHERE source_id = %s", (source,)
                )
                if row is not None:
                    await Storing(self._app.database, pipeline, batch_id=None).delete(row[0])
                    self.deletions += 1
                continue
            texts = [f"{ANCHOR} {seed} {chance.randrange(40)}" for _ in range(chance.randrange(1, 6))]
            try:
                await add_document(self._app, pipeline, source, texts)
            except PipelineSwitchedError:
                continue  # as whoever cuts does: look the pipeline up again
            self.saves += 1

    async def search(self, mode: Mode) -> None:
        """As the API does it: the pipeline is looked up for each search; and as one who holds it for a while."""
        async with AsyncExitStack() as stack:

            def build(spec):  # type: ignore[no-untyped-def]
                provider = self._app.provider(spec)
                stack.push_async_callback(provider.aclose)
                return provider

            while not self.stopping.is_set():
                pipeline = await self._app.pipeline("standin")
                provider = None if mode is Mode.TEXT else build(pipeline.generation.spec)
                searcher = Searcher(self._app.database, pipeline, provider, build_provider=build)
                for _ in range(10):
                    hits = await searcher.search(f"{ANCHOR} {self.searches[mode] % 40} 1", mode=mode, limit=5)
                    assert hits, f"a search by {mode} came back empty"
                    self.searches[mode] += 1
                    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "changes",
    [
        Changes(model="another", dimensions=DIMENSIONS, storage="halfvec"),
        Changes(model="another", dimensions=DIMENSIONS, chunk_tokens=8, chunk_overlap=0),
    ],
    ids=["another model", "another model and other chunks"],
)
async def test_a_migration_under_load_is_felt_by_nobody(
    app: App, pipeline: Pipeline, changes: Changes
) -> None:
    load = Load(app)
    migrations = app.migrations(pipeline)
    async with working(app, window=40), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(load.write(seed)) for seed in range(2)]
        running += [tasks.create_task(load.search(mode)) for mode in Mode]

        async def some_more(searches: int = 6) -> None:
            """Until each mode was searched so often again, and documents were saved and deleted."""
            before = dict(load.searches), load.saves, load.deletions
            async with asyncio.timeout(60):
                while (
                    any(load.searches[mode] < before[0][mode] + searches for mode in Mode)
                    or load.saves < before[1] + 5
                    or load.deletions == before[2]
                ) and not any(task.done() for task in running):
                    await asyncio.sleep(0.02)

        generation = await begin(app, pipeline, changes)
        await until(app, pipeline, generation, Stage.BUILT)
        await some_more()
        assert (await migrations.switch()).id == generation
        await some_more()
        assert (await migrations.roll_back()).id == pipeline.generation.id
        await some_more()
        await migrations.switch()
        await some_more()
        load.stopping.set()
        await asyncio.gather(*running)
        await until_quiet(app)
        await assert_current(app, pipeline)
        # The prune, and what follows it, under load as well.
        load.stopping.clear()
        running = [tasks.create_task(load.write(9)), *(tasks.create_task(load.search(mode)) for mode in Mode)]
        await some_more()
        assert [each.id for each in await migrations.prune()] == [pipeline.generation.id]
        await some_more()
        load.stopping.set()
        await asyncio.gather(*running)
        await until_quiet(app)
    await assert_current(app, pipeline)
    failed = await app.database.fetch("SELECT reason, error_message FROM embedmill.dead_letters")
    assert failed == []
