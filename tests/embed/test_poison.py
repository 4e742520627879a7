"""Texts that a provider refuses: found by halving, buried alone with the reason. A provider that refuses us, or
everything, is no poison: nothing is buried for its sake."""

from __future__ import annotations

from uuid import uuid4

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.events import CallFailed, ChunkRefused
from embedmill.ingest.progress import batch_progress, coverage
from tests.embed.desk import Run, ledger
from tests.support import audit
from tests.support.provider import RunningProvider
from tests.support.queue_rows import grow_older
from tests.support.work import add_document, missing_chunks, stored_vectors


async def test_a_poison_text_is_found_and_costs_its_neighbours_nothing(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    batch = uuid4()
    provider.configure(poison="POISON")
    texts = [f"text {n}" for n in range(25)]
    texts[17] = "a POISON text"
    await add_document(app, pipeline, "doc", texts, batch)
    await add_document(app, pipeline, "neighbour", ["one", "two"], batch)
    run = await Run(app, pipeline)()
    assert len(run.of(ChunkRefused)) == 1
    assert len(await stored_vectors(app, pipeline)) == 26
    progress = await batch_progress(app.database, batch)
    assert (progress.live_jobs, progress.embedded_chunks, progress.failed_chunks) == (0, 26, 1)
    assert {job[1] for job in await audit.newest_jobs(app)} == {"completed"}
    covered = await coverage(app.database, pipeline.generation.id)
    assert (covered.chunks, covered.embedded, covered.unembeddable, covered.percent) == (27, 26, 1, 100.0)
    ((reason, chunk, message),) = await audit.dead_letters(app)
    (row,) = await app.database.fetch(
        "SELECT text, error_reason FROM embedmill.knowledge_chunks WHERE id = %s", (chunk,)
    )
    assert (reason, row) == ("input_rejected", ("a POISON text", "input_rejected"))
    assert "content filter" in message
    assert provider.stats()["most_paid_for_one_input"] == 1
    assert {row[:3] for row in await audit.ended_items(app)} == {("completed", 0, 0)}
    await audit.assert_books_balance(app)


async def test_a_call_of_nothing_but_poison_ends_too(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(poison="POISON")
    await add_document(app, pipeline, "doc", [f"POISON {n}" for n in range(12)])
    await Run(app, pipeline)()
    assert await audit.live_items(app) == []
    assert len(await audit.dead_letters(app)) == 12
    assert [(job[1], job[6]) for job in await audit.newest_jobs(app)] == [("completed", 12)]
    await audit.assert_books_balance(app)


async def test_the_same_poison_in_many_documents_is_buried_in_each(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(poison="POISON", latency_ms=20)
    for number in range(12):
        await add_document(app, pipeline, f"doc {number}", [f"own {number}", "the POISON", f"more {number}"])
    await Run(app, pipeline)()
    assert await audit.live_items(app) == []
    assert len(await audit.dead_letters(app)) == 12
    assert len(await stored_vectors(app, pipeline)) == 24
    assert {job[1] for job in await audit.newest_jobs(app)} == {"completed"}
    assert provider.stats()["most_paid_for_one_input"] == 1
    await audit.assert_books_balance(app)


async def test_a_buried_text_is_not_sent_again_when_its_document_changes(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(poison="POISON")
    await add_document(app, pipeline, "doc", ["good", "the POISON"])
    await Run(app, pipeline)()
    provider.forget_counts()
    await add_document(app, pipeline, "doc", ["good", "the POISON", "new"])
    await Run(app, pipeline)()
    assert provider.stats()["calls_by_status"] == {"200": 1}
    assert [(job[1], job[5], job[6]) for job in await audit.newest_jobs(app)] == [("completed", 2, 1)]
    await audit.assert_books_balance(app)
    await add_document(app, pipeline, "doc", ["good"])
    covered = await coverage(app.database, pipeline.generation.id)
    assert (covered.chunks, covered.embedded, covered.unembeddable) == (1, 1, 0)
    assert await audit.dead_letters(app) == []
    await audit.assert_books_balance(app)


async def test_a_refused_key_stops_the_generation_and_buries_nothing(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(api_key="the right one")
    for number in range(30):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(10)])
    run = await Run(app, pipeline, calls_in_flight=2)()
    assert run.embedder.fatal is not None
    assert run.of(CallFailed)[-1].fatal
    assert provider.stats()["calls"] <= 2
    live = await audit.live_items(app)
    assert [row[1:] for row in live] == [("pending", 0, 0)] * 30
    assert await audit.dead_letters(app) == []
    provider.configure(api_key=None)
    await grow_older(app.database, 100)
    await Run(app, pipeline)()
    assert await missing_chunks(app, pipeline) == 0
    await audit.assert_books_balance(app)


async def test_a_provider_that_refuses_every_input_is_refused_itself(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(poison="")
    await add_document(app, pipeline, "doc", [f"text {n}" for n in range(30)])
    run = await Run(app, pipeline)()
    assert run.embedder.fatal is not None
    assert "every input" in str(run.embedder.fatal)
    assert [row[1:] for row in await audit.live_items(app)] == [("pending", 0, 0)]
    assert await audit.dead_letters(app) == []
    provider.configure(poison=None)
    await grow_older(app.database, 100)
    await Run(app, pipeline)()
    assert await missing_chunks(app, pipeline) == 0
    await audit.assert_books_balance(app)


async def test_what_is_asked_to_tell_poison_from_a_wrong_setting_is_on_the_books(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(poison="POISON")
    await add_document(app, pipeline, "doc", ["the POISON"])
    await Run(app, pipeline)()
    paid = provider.stats()
    assert paid["inputs_paid"] == 1
    assert sum(inputs for inputs, tokens in await ledger(app) if tokens) == paid["inputs_paid"]


async def test_poison_and_an_outage_together_bury_only_the_poison(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(poison="POISON", fail_rate_500=0.3, seed=5)
    texts = [f"text {n}" for n in range(30)]
    texts[3] = texts[29] = "a POISON text"
    await add_document(app, pipeline, "doc", texts)
    for _ in range(6):
        await Run(app, pipeline)()
        await grow_older(app.database, 1000)
    assert len(await stored_vectors(app, pipeline)) == 28
    assert [letter[0] for letter in await audit.dead_letters(app)] == ["input_rejected"] * 2
    await audit.assert_books_balance(app)
