"""A pipeline goes from one generation to the next: built from what is stored, within its budget, taken up where it
stopped, cancelled, switched, pruned."""

from __future__ import annotations

import random
from decimal import Decimal
from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.embed.comparison import compare_generations
from embedmill.embed.generation_states import Stage
from embedmill.embed.next_spec import Changes
from embedmill.errors import ConfigurationError, ConflictError
from tests.embed.generation_work import assert_current, begin, until, until_quiet, working
from tests.support.provider import RunningProvider
from tests.support.work import DIMENSIONS, add_document, run_worker_until_settled, stand_in_pipeline

ANOTHER = Changes(model="another", dimensions=DIMENSIONS)
HALVES = Changes(model="another", dimensions=DIMENSIONS, storage="halfvec")
TABLES = "SELECT relname FROM pg_class WHERE relname ~ '^vectors_[0-9]+$' ORDER BY 1"


@pytest.fixture
async def pipeline(app: App, provider: RunningProvider) -> Pipeline:
    """Thirty documents of three chunks each, embedded; a million tokens cost a thousand dollars."""
    provider.configure(salt_by_model=True)
    made = await stand_in_pipeline(
        app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=10, price_per_million_tokens=1000
    )
    batch = uuid4()
    for number in range(30):
        await add_document(app, made, f"d{number}", [f"text {part} of {number}" for part in range(3)], batch)
    await run_worker_until_settled(app, batch)
    provider.forget_counts()
    return made


async def test_the_next_generation_is_built_from_the_stored_chunks_and_each_text_is_paid_once(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    generation = await begin(app, pipeline, ANOTHER, price=Decimal(2000))
    async with working(app):
        state = await until(app, pipeline, generation, Stage.BUILT)
    assert (state.coverage, state.embedded, state.failed) == (1.0, 90, 0)
    assert provider.stats()["inputs_paid"] == 90
    # Each call is priced by its own model.
    assert state.cost_usd == Decimal(state.tokens) * 2000 / 1_000_000 > 0
    await assert_current(app, pipeline)
    assert (await app.pipeline("standin")).generation.id == pipeline.generation.id


async def test_a_switch_takes_view_plan_and_price_with_it_and_a_rollback_brings_them_back(
    app: App, pipeline: Pipeline
) -> None:
    migrations = app.migrations(pipeline)
    generation = await begin(app, pipeline, HALVES, price=Decimal(7))
    with pytest.raises(ConflictError, match=r"is not finished: 0\.0% of it stand"):
        await migrations.switch()
    async with working(app):
        await until(app, pipeline, generation, Stage.BUILT)
    live = await migrations.switch()
    assert (live.number, live.stage) == (2, Stage.LIVE)
    switched = await app.pipeline("standin")
    assert (switched.generation.id, switched.price_per_million_tokens) == (generation, 7)
    seen = "SELECT count(embedding), min(pg_typeof(embedding)::text) FROM embedmill.embeddings_standin"
    assert await app.database.fetch(seen) == [(90, "halfvec")]
    back = await migrations.roll_back()
    assert (back.number, (await app.pipeline("standin")).price_per_million_tokens) == (1, 1000)
    assert await app.database.fetch(seen) == [(90, "vector")]
    assert (await migrations.roll_back()).number == 2
    stages = [each.stage for each in await migrations.states()]
    assert stages == [Stage.KEPT, Stage.LIVE]


async def test_a_view_of_ones_own_on_the_view_stays_or_is_told(app: App, pipeline: Pipeline) -> None:
    migrations = app.migrations(pipeline)
    await app.database.fetch(
        "CREATE VIEW public.mine AS SELECT source_id, embedding FROM embedmill.embeddings_standin"
    )
    same = await begin(app, pipeline, ANOTHER)
    async with working(app):
        await until(app, pipeline, same, Stage.BUILT)
    await migrations.switch()  # vectors of the same type: what depends on the view stays
    assert await app.database.fetch("SELECT count(*) FROM public.mine") == [(90,)]
    smaller = await begin(
        app, await app.pipeline("standin"), Changes(model="third", dimensions=DIMENSIONS, storage="halfvec")
    )
    async with working(app):
        await until(app, pipeline, smaller, Stage.BUILT)
    with pytest.raises(ConflictError, match=r"depends on the view: view (public\.)?mine\. Drop what depends"):
        await migrations.switch()
    assert (await app.pipeline("standin")).generation.id == same
    await app.database.fetch("DROP VIEW public.mine")
    assert (await migrations.switch()).id == smaller


async def test_a_build_ends_at_its_budget_and_goes_on_with_a_larger_one(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """A document of three chunks is 18 tokens here by our count, so 0.018 USD; the stand-in counts fewer."""
    generation = await begin(app, pipeline, ANOTHER, price=Decimal(1000), budget=Decimal("0.1"))
    async with working(app):
        state = await until(app, pipeline, generation, Stage.STOPPED)
    assert state.stopped_reason is not None
    assert "budget of 0.1 USD is used up" in state.stopped_reason
    assert 0 < state.embedded < 90
    assert state.cost_usd is not None
    assert state.cost_usd <= Decimal("0.1")
    with pytest.raises(ConflictError, match=r"not finished \(its budget"):
        await app.migrations(pipeline).switch()
    assert await begin(app, pipeline, ANOTHER, price=Decimal(1000), budget=Decimal(1)) == generation
    async with working(app):
        await until(app, pipeline, generation, Stage.BUILT)
    assert provider.stats()["most_paid_for_one_input"] == 1
    await assert_current(app, pipeline)


async def test_a_cancelled_build_leaves_nothing_behind(app: App, pipeline: Pipeline) -> None:
    generation = await begin(app, pipeline, Changes(chunk_tokens=16, chunk_overlap=0))
    builder = app.generation_builder()
    while await builder.advance():
        pass  # cut and enqueued, and no worker to embed it
    await builder._cutter.aclose()
    assert (await app.database.fetch("SELECT count(*) FROM embedmill.embedding_queue"))[0][0] > 0
    dropped = await app.migrations(pipeline).cancel()
    assert dropped.id == generation
    await assert_only(app, pipeline, pipeline.generation.id)
    with pytest.raises(ConflictError, match="nothing is being built"):
        await app.migrations(pipeline).cancel()
    await assert_current(app, pipeline)


async def test_a_prune_leaves_only_the_live_generation_and_what_waits_is_not_lost(
    app: App, pipeline: Pipeline
) -> None:
    migrations = app.migrations(pipeline)
    generation = await begin(app, pipeline, ANOTHER)
    with pytest.raises(ConflictError, match="was never live"):
        await migrations.prune()
    async with working(app):
        await until(app, pipeline, generation, Stage.BUILT)
    batch = uuid4()
    deleted = await add_document(app, pipeline, "d0", ["text 0 of 0", "changed"], batch)
    await app.database.fetch(
        "SELECT embedmill.enqueue_deletion(%s, NULL, 'medium', '{}', NULL)", (deleted.document_id,)
    )
    changed = await add_document(app, pipeline, "d1", ["quite another text"], batch)
    await migrations.switch()
    assert [each.number for each in await migrations.prune()] == [1]
    assert await migrations.prune() == []
    await assert_only(app, pipeline, generation)
    async with working(app):
        await until_quiet(app)
    await assert_current(app, pipeline)
    rows = await app.database.fetch(
        "SELECT d.source_id, j.status::text FROM embedmill.ingestion_jobs j "
        "  JOIN embedmill.knowledge_documents d ON d.id = j.document_id WHERE j.batch_id = %s",
        (batch,),
    )
    assert rows == [("d1", "completed")], changed


async def test_generations_are_compared_by_what_they_find(app: App, pipeline: Pipeline) -> None:
    migrations = app.migrations(pipeline)
    alike = await begin(app, pipeline, Changes(storage="halfvec"))
    async with working(app):
        await until(app, pipeline, alike, Stage.BUILT)
    first, second = await migrations.states()
    found = await compare_generations(app.database, second, first, samples=20, chance=random.Random(1))
    assert found is not None
    assert (found.things, found.with_number) == ("chunks", 1)
    assert found.median >= 0.9  # the same numbers, at half the precision
    assert (await migrations.state(alike)).comparison == found
    await migrations.cancel()
    other = await begin(app, pipeline, ANOTHER)
    async with working(app):
        await until(app, pipeline, other, Stage.BUILT)
    first, second = await migrations.states()
    other_found = await compare_generations(app.database, second, first, samples=20, chance=random.Random(1))
    assert other_found is not None
    assert other_found.median < 0.5  # vectors that have nothing to do with each other


async def test_what_cannot_be_is_told(app: App, pipeline: Pipeline) -> None:
    with pytest.raises(ConfigurationError, match="is that already"):
        await begin(app, pipeline, Changes(model="stand-in"))
    with pytest.raises(ConfigurationError, match="at most 2000 dimensions"):
        await begin(app, pipeline, Changes(model="another", dimensions=3000))
    with pytest.raises(ConfigurationError, match="a budget needs a price"):
        await begin(app, pipeline, ANOTHER, budget=Decimal(1))
    with pytest.raises(ConflictError, match="no next generation"):
        await app.migrations(pipeline).switch()
    with pytest.raises(ConflictError, match="no generation to go back to"):
        await app.migrations(pipeline).roll_back()
    await begin(app, pipeline, ANOTHER)
    with pytest.raises(ConflictError, match="is not done with"):
        await begin(app, pipeline, Changes(model="third", dimensions=DIMENSIONS))


async def assert_only(app: App, pipeline: Pipeline, generation_id: int) -> None:
    """Of this pipeline nothing but this generation is left."""
    tables = [row[0] for row in await app.database.fetch(TABLES)]
    others = await app.database.fetch(
        "SELECT current_generation_id FROM embedmill.pipelines WHERE id <> %s", (pipeline.id,)
    )
    assert sorted(tables) == sorted(
        f"vectors_{each}" for each in (generation_id, *(row[0] for row in others))
    )
    for table in ("coverage_counters", "embedding_queue", "dead_letters", "embedding_minutes"):
        found = await app.database.fetch(
            f"SELECT DISTINCT generation_id FROM embedmill.{table} "
            "WHERE generation_id NOT IN (SELECT current_generation_id FROM embedmill.pipelines)".encode()
        )
        assert found == [], table
    sets = await app.database.fetch(
        "SELECT DISTINCT c.chunk_set FROM embedmill.knowledge_chunks c WHERE c.pipeline_id = %s "
        "EXCEPT SELECT chunk_set FROM embedmill.generations WHERE pipeline_id = %s",
        (pipeline.id, pipeline.id),
    )
    assert sets == []
    assert await app.database.fetch("SELECT * FROM embedmill.stale_cuts") == []
