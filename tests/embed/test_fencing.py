"""One transaction for each response: written once, by whoever holds the items, and ended only when complete."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from psycopg import sql

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import vectors_table
from embedmill.ingest.progress import batch_progress
from embedmill.ingest.storing import Storing
from tests.embed.desk import Desk, free_all, ledger
from tests.support import audit
from tests.support.provider import vector_for
from tests.support.work import add_document, missing_chunks, stored_vectors

TEXTS = ["alpha one", "beta two", "gamma three", "delta four"]


async def test_a_stale_token_writes_nothing_but_what_was_paid(app: App, pipeline: Pipeline) -> None:
    batch = uuid4()
    await add_document(app, pipeline, "doc", TEXTS, batch)
    zombie = Desk(app, pipeline)
    await zombie.load()
    await free_all(app)
    outcome = await zombie.write(zombie.packer.take())
    assert (outcome.vectors, outcome.completed, len(outcome.lost)) == (0, [], 1)
    assert await stored_vectors(app, pipeline) == []
    assert (await batch_progress(app.database, batch)).embedded_chunks == 0
    assert await ledger(app) == [(4, 16)]
    await audit.assert_books_balance(app)


async def test_a_zombie_that_wakes_beside_its_successor_changes_nothing(app: App, pipeline: Pipeline) -> None:
    await add_document(app, pipeline, "doc", TEXTS)
    zombie, successor = Desk(app, pipeline), Desk(app, pipeline)
    await zombie.load()
    await free_all(app)
    await successor.load()
    late, timely = zombie.packer.take(), successor.packer.take()
    outcomes = await asyncio.gather(zombie.write(late), successor.write(timely))
    assert outcomes[0].vectors == 0
    assert (outcomes[1].vectors, len(outcomes[1].completed)) == (4, 1)
    assert (await zombie.write(late)).vectors == 0
    assert len(await stored_vectors(app, pipeline)) == 4
    assert len(await ledger(app)) == 3
    await audit.assert_books_balance(app)


async def test_a_response_of_lost_and_held_items_is_written_for_the_held_ones(
    app: App, pipeline: Pipeline
) -> None:
    launched = [await add_document(app, pipeline, f"doc {n}", [f"text {n}", "in both"]) for n in range(2)]
    desk = Desk(app, pipeline)
    await desk.load()
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue SET lease_token = nextval('embedmill.lease_tokens') WHERE document_id = %s",
        (launched[0].document_id,),
    )
    outcome = await desk.write(desk.packer.take())
    assert outcome.vectors == 2
    texts = [text for _, text, _ in await stored_vectors(app, pipeline)]
    assert texts == ["text 1", "in both"]
    assert len(outcome.completed) == len(outcome.lost) == 1
    await audit.assert_books_balance(app)


async def test_the_same_call_written_twice_counts_once(app: App, pipeline: Pipeline) -> None:
    """COMMIT was done, its answer lost: the write is made again."""
    batch, call_id = uuid4(), uuid4()
    await add_document(app, pipeline, "doc", TEXTS, batch)
    desk = Desk(app, pipeline, inputs_per_call=2)
    await desk.load()
    first, second = desk.packer.take(), desk.packer.take()
    await desk.write(first, call_id=call_id)
    for held in desk.holdings.all():
        held.waiting += 2  # as the write that raised has put it back
    again = await desk.write(first, call_id=call_id)
    assert (again.vectors, again.lost, again.incomplete) == (0, [], [])
    await audit.assert_books_balance(app)
    assert (await batch_progress(app.database, batch)).embedded_chunks == 2
    last = uuid4()
    assert len((await desk.write(second, call_id=last)).completed) == 1
    assert len((await desk.write(second, call_id=last)).completed) == 1  # ended: nothing is left to do
    assert (await batch_progress(app.database, batch)).live_jobs == 0
    assert await ledger(app) == [(2, 8), (2, 8)]
    await audit.assert_books_balance(app)


async def test_a_vector_that_somebody_else_wrote_first_stands_and_the_rest_is_written(
    app: App, pipeline: Pipeline
) -> None:
    await add_document(app, pipeline, "doc", TEXTS)
    desk = Desk(app, pipeline)
    await desk.load()
    units = desk.packer.take()
    await put_vector(app, pipeline, units[1].targets[0].chunk_id)
    outcome = await desk.write(units)
    assert (outcome.vectors, len(outcome.completed)) == (3, 1)
    stored = {text: vector for _, text, vector in await stored_vectors(app, pipeline)}
    assert set(stored) == set(TEXTS)
    assert stored["beta two"][0] == 7.0
    assert np.abs(stored["delta four"] - vector_for("delta four", 16)).max() < 1e-6
    assert await ledger(app) == [(4, 16)]
    assert [job[1] for job in await audit.newest_jobs(app)] == ["completed"]


async def test_calls_of_one_item_in_flight_together_end_it_exactly_once(app: App, pipeline: Pipeline) -> None:
    batch = uuid4()
    await add_document(app, pipeline, "doc", [f"text {n}" for n in range(40)], batch)
    desk = Desk(app, pipeline, inputs_per_call=5)
    while not desk.packer.is_full:
        await desk.load()
    calls = []
    while units := desk.packer.take():
        calls.append(units)
    assert len(calls) == 8
    outcomes = await asyncio.gather(*(desk.write(units) for units in calls))
    assert sum(len(outcome.completed) for outcome in outcomes) == 1
    assert sum(outcome.vectors for outcome in outcomes) == 40
    assert not any(outcome.incomplete or outcome.lost for outcome in outcomes)
    assert await audit.ended_items(app) == [("completed", 0, 0, None)]
    progress = await batch_progress(app.database, batch)
    assert (progress.live_jobs, progress.embedded_chunks) == (0, 40)
    await audit.assert_books_balance(app)


async def test_neither_item_nor_job_ends_while_a_vector_is_missing(app: App, pipeline: Pipeline) -> None:
    batch = uuid4()
    await add_document(app, pipeline, "doc", TEXTS, batch)
    desk = Desk(app, pipeline, inputs_per_call=2)
    await desk.load()
    first, second = desk.packer.take(), desk.packer.take()
    await desk.write(first)
    await take_vector_away(app, pipeline, first[0].targets[0].chunk_id)
    outcome = await desk.write(second)
    assert (outcome.completed, len(outcome.incomplete)) == ([], 1)
    assert await missing_chunks(app, pipeline) == 1
    assert [job[1] for job in await audit.newest_jobs(app)] == ["embedding_in_progress"]
    await free_all(app)
    mender = Desk(app, pipeline)
    await mender.load()
    units = mender.packer.take()
    assert [unit.text for unit in units] == ["alpha one"]
    assert len((await mender.write(units)).completed) == 1
    assert await missing_chunks(app, pipeline) == 0
    await audit.assert_books_balance(app)


async def test_a_buried_chunk_written_twice_counts_once(app: App, pipeline: Pipeline) -> None:
    """The same lost answer to COMMIT, at the burial of a poison chunk."""
    batch = uuid4()
    await add_document(app, pipeline, "doc", TEXTS, batch)
    desk = Desk(app, pipeline)
    await desk.load()
    poison, *rest = desk.packer.take()
    for _ in range(2):
        await desk.persistence.bury_chunks(poison, "input_rejected", "no", desk.holdings)
        for held in desk.holdings.all():
            held.waiting = 3
    assert len(await audit.dead_letters(app)) == 1
    assert (await batch_progress(app.database, batch)).failed_chunks == 1
    await audit.assert_books_balance(app)
    assert len((await desk.write(rest)).completed) == 1
    assert [job[1] for job in await audit.newest_jobs(app)] == ["completed"]
    await audit.assert_books_balance(app)


async def test_a_write_for_a_document_that_is_deleted_meanwhile_leaves_no_orphan(
    app: App, pipeline: Pipeline
) -> None:
    """Deletion and write race for the item's row; whoever is second sees it."""
    documents = [await add_document(app, pipeline, f"doc {n}", [f"text {n}", f"more {n}"]) for n in range(12)]
    desk = Desk(app, pipeline, inputs_per_call=4)
    while not desk.packer.is_full:
        await desk.load()
    storing = Storing(app.database, pipeline, batch_id=uuid4())
    calls = []
    while True:
        units = desk.packer.take()
        if not units and not await desk.load() and not len(desk.packer):
            break
        if units:
            calls.append(units)
    await asyncio.gather(
        *(desk.write(units) for units in calls), *(storing.delete(doc.document_id) for doc in documents[::2])
    )
    await audit.assert_books_balance(app)
    assert len(await stored_vectors(app, pipeline)) == 12
    ended = [status for status, *_ in await audit.ended_items(app)]
    assert len(ended) == 12
    assert set(ended) <= {"completed", "cancelled"}


async def test_a_write_that_fails_for_another_reason_leaves_the_counts_as_they_were(
    app: App, pipeline: Pipeline
) -> None:
    await add_document(app, pipeline, "doc", TEXTS)
    desk = Desk(app, pipeline)
    await desk.load()
    units = desk.packer.take()
    (held,) = desk.holdings.all()
    await app.database.fetch(
        sql.SQL("ALTER TABLE {} RENAME TO away").format(vectors_table(pipeline.generation.id))
    )
    with pytest.raises(psycopg.errors.UndefinedTable):
        await desk.write(units)
    assert held.waiting == 4
    assert await ledger(app) == []
    await app.database.fetch(
        sql.SQL("ALTER TABLE embedmill.away RENAME TO {}").format(
            sql.Identifier(f"vectors_{pipeline.generation.id}")
        )
    )
    assert len((await desk.write(units)).completed) == 1
    await audit.assert_books_balance(app)


async def put_vector(app: App, pipeline: Pipeline, chunk_id: int) -> None:
    """As another worker would, coverage and all."""
    await app.database.fetch(
        sql.SQL(
            "INSERT INTO {} SELECT id, content_hash, array_fill(7, ARRAY[16])::vector, document_id "
            "FROM embedmill.knowledge_chunks WHERE id = %s"
        ).format(vectors_table(pipeline.generation.id)),
        (chunk_id,),
    )
    await app.database.fetch(
        "UPDATE embedmill.coverage_counters SET embedded = embedded + 1 WHERE generation_id = %s",
        (pipeline.generation.id,),
    )


async def take_vector_away(app: App, pipeline: Pipeline, chunk_id: int) -> None:
    """As an audit would that finds it wrong."""
    await app.database.fetch(
        sql.SQL("DELETE FROM {} WHERE chunk_id = %s").format(vectors_table(pipeline.generation.id)),
        (chunk_id,),
    )
    await app.database.fetch(
        "UPDATE embedmill.coverage_counters SET embedded = embedded - 1 WHERE generation_id = %s",
        (pipeline.generation.id,),
    )
