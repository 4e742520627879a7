"""The same text is paid for once: across documents, calls, workers and pipelines of one recipe; a changed
document keeps the vectors of what did not change."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import numpy as np
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.events import CallSucceeded, VectorsReused
from embedmill.ingest.progress import batch_progress, coverage
from embedmill.ingest.storing import Storing
from tests.embed.desk import Desk, Run
from tests.support import audit
from tests.support.provider import RunningProvider, vector_for
from tests.support.work import add_document, missing_chunks, stand_in_pipeline, stored_vectors


async def test_texts_shared_by_documents_in_flight_at_once_are_paid_for_once(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(latency_ms=15, latency_jitter_ms=30)
    for number in range(60):
        texts = [f"shared {number % 7}", f"own {number}", f"shared {number % 11}", f"shared {number % 7}"]
        await add_document(app, pipeline, f"doc {number}", texts)
    await Run(app, pipeline, calls_in_flight=8)()
    assert await missing_chunks(app, pipeline) == 0
    assert provider.stats()["most_paid_for_one_input"] == 1
    for _, text, vector in await stored_vectors(app, pipeline):
        assert np.abs(vector - vector_for(text, 16)).max() < 1e-6
    await audit.assert_books_balance(app)


async def test_two_workers_store_each_vector_once_and_their_books_balance(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """Across processes a text on its way twice may be paid twice, but it is never stored or counted twice."""
    provider.configure(latency_ms=10, latency_jitter_ms=20)
    for number in range(60):
        await add_document(
            app, pipeline, f"doc {number}", [f"shared {number % 5}", f"own {number}", "in all"]
        )
    runs = [Run(app, pipeline) for _ in range(2)]
    await asyncio.gather(*(run() for run in runs))
    assert await missing_chunks(app, pipeline) == 0
    assert {job[1] for job in await audit.newest_jobs(app)} == {"completed"}
    assert max(provider.paid_for([f"own {n}" for n in range(60)])) == 1
    await audit.assert_books_balance(app)


async def test_a_pipeline_of_the_same_recipe_pays_nothing_and_one_of_another_pays(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    texts = [f"text {n}" for n in range(12)]
    await add_document(app, pipeline, "doc", texts)
    await Run(app, pipeline)()
    twin = await stand_in_pipeline(
        app, provider.base_url, "twin", dimensions=16, max_inputs_per_call=10, timeout_seconds=2.0
    )
    other = await stand_in_pipeline(app, provider.base_url, "other", dimensions=32)
    provider.forget_counts()
    for recipe in (twin, other):
        provider.configure(dimensions=recipe.generation.dimensions)
        await add_document(app, recipe, "doc", texts)
        await Run(app, recipe)()
        assert await missing_chunks(app, recipe) == 0
    assert provider.stats()["inputs_paid"] == 12
    for _, text, vector in await stored_vectors(app, twin):
        assert np.abs(vector - vector_for(text, 16)).max() < 1e-6
    await audit.assert_books_balance(app)


async def test_a_changed_document_pays_for_what_is_new_only(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_document(app, pipeline, "doc", [f"text {n}" for n in range(10)])
    await Run(app, pipeline)()
    before = {text: chunk_id for chunk_id, text, _ in await stored_vectors(app, pipeline)}
    provider.forget_counts()
    batch = uuid4()
    changed = ["in front", *(f"text {n}" for n in range(10) if n != 4), "text 4, edited"]
    await add_document(app, pipeline, "doc", changed, batch)
    await Run(app, pipeline)()
    assert provider.stats()["inputs_paid"] == 2
    after = {text: chunk_id for chunk_id, text, _ in await stored_vectors(app, pipeline)}
    assert set(after) == set(changed)
    assert all(after[text] == before[text] for text in changed if text in before)
    progress = await batch_progress(app.database, batch)
    assert (progress.total_chunks, progress.embedded_chunks, progress.live_jobs) == (11, 11, 0)
    await audit.assert_books_balance(app)


async def test_a_document_that_lacks_nothing_is_done_without_a_worker(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_document(app, pipeline, "doc", ["one", "two", "three"])
    await Run(app, pipeline)()
    batch = uuid4()
    await add_document(app, pipeline, "doc", ["three", "one"], batch)
    progress = await batch_progress(app.database, batch)
    assert (progress.live_jobs, progress.embedded_chunks, progress.total_chunks) == (0, 2, 2)
    assert await audit.live_items(app) == []
    await audit.assert_books_balance(app)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_deletion_takes_vectors_and_counts_along(
    app: App, pipeline: Pipeline, provider: RunningProvider, moment: str
) -> None:
    gone = await add_document(app, pipeline, "gone", ["one", "shared"])
    await add_document(app, pipeline, "stays", ["two", "shared"])
    storing = Storing(app.database, pipeline, batch_id=uuid4())
    if moment == "before":
        await storing.delete(gone.document_id)
    await Run(app, pipeline)()
    if moment == "after":
        await storing.delete(gone.document_id)
    covered = await coverage(app.database, pipeline.generation.id)
    assert (covered.chunks, covered.embedded, covered.percent) == (2, 2, 100.0)
    assert {text for _, text, _ in await stored_vectors(app, pipeline)} == {"two", "shared"}
    await audit.assert_books_balance(app)


async def test_a_donor_that_goes_between_the_question_and_the_copy_is_missed_by_nobody(
    app: App, pipeline: Pipeline
) -> None:
    """The copy finds nothing: the text is embedded after all."""
    donor = await add_document(app, pipeline, "donor", ["the text"])
    giver = Desk(app, pipeline)
    await giver.load()
    await giver.write(giver.packer.take())
    await add_document(app, pipeline, "heir", ["the text", "its own"])
    heir = Desk(app, pipeline)
    find_donors = heir.loader._find_donors

    async def find_then_lose(chunks):  # type: ignore[no-untyped-def]
        found = await find_donors(chunks)
        assert len(found) == 1
        await Storing(app.database, pipeline, batch_id=uuid4()).delete(donor.document_id)
        return found

    heir.loader._find_donors = find_then_lose  # type: ignore[method-assign]
    await heir.load()
    units = heir.packer.take()
    assert {unit.text for unit in units} == {"the text", "its own"}
    assert len((await heir.write(units)).completed) == 1
    await audit.assert_books_balance(app)


async def test_a_text_that_stands_in_a_whole_backlog_is_written_as_it_comes_and_paid_for_once(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """No call ever fills up with it: the backlog must not be claimed to its end before the first is made."""
    parameters = {"pipeline_id": pipeline.id, "generation_id": pipeline.generation.id}
    for statement in BACKLOG_OF_ONE_TEXT:
        await app.database.fetch(statement, parameters)
    provider.configure(latency_ms=30)
    run = await Run(app, pipeline)(seconds=60)
    assert await missing_chunks(app, pipeline) == 0
    assert provider.stats()["inputs_paid"] == 1
    (first,) = run.of(CallSucceeded)
    assert first.vectors < 1500, "of 2000"
    assert await audit.live_items(app) == []
    await audit.assert_books_balance(app)


BACKLOG_OF_ONE_TEXT = (
    "INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, name) "
    "SELECT 1, %(pipeline_id)s, 'test', n::text, n::text FROM generate_series(1, 2000) AS n",
    "INSERT INTO embedmill.knowledge_chunks (tenant_id, pipeline_id, document_id, ordinal, start_offset, end_offset, "
    "       token_count, text_config, content_hash, text) "
    "SELECT 1, %(pipeline_id)s, id, 0, 0, 4, 5, 'simple', "
    "       substring(sha256(convert_to('same', 'UTF8')) FROM 1 FOR 16), 'same' FROM embedmill.knowledge_documents",
    "INSERT INTO embedmill.embedding_queue (tenant_id, generation_id, document_id, first_ordinal, last_ordinal, "
    "       source_type, source_id) "
    "SELECT 1, %(generation_id)s, id, 0, 0, 'document', id::text FROM embedmill.knowledge_documents",
)


async def test_reuse_alone_completes_items_and_jobs(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    texts = [f"text {n}" for n in range(25)]
    await add_document(app, pipeline, "first", texts)
    await Run(app, pipeline)()
    provider.forget_counts()
    batch = uuid4()
    for number in range(5):
        await add_document(app, pipeline, f"copy {number}", texts, batch)
    run = await Run(app, pipeline)()
    assert provider.stats()["calls"] == 0
    assert sum(event.vectors for event in run.of(VectorsReused)) == 125
    progress = await batch_progress(app.database, batch)
    assert (progress.live_jobs, progress.embedded_chunks, progress.reused_chunks) == (0, 125, 125)
    await audit.assert_books_balance(app)
