"""The public functions with what nobody should send, and what they do to documents and jobs."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.support import audit
from tests.support.work import add_document, stand_in_pipeline

VECTOR = "[1,2,3]"


@pytest_asyncio.fixture
async def papers(app: App) -> Pipeline:
    return await stand_in_pipeline(app, "http://127.0.0.1:9/v1", "papers", dimensions=3)


async def claim(app: App, worker: UUID, size: int = 10) -> list[tuple[int, int]]:
    rows = await app.database.fetch(
        "SELECT item_id, lease_token FROM embedmill.get_next_embedding_batch(%s, %s, 'papers')",
        (worker, size),
    )
    return [(row[0], row[1]) for row in rows]


async def store(app: App, item: tuple[int, int], vector: str = VECTOR) -> int:
    rows = await app.database.fetch(
        "SELECT embedmill.store_embeddings(%(item)s, %(token)s, i.chunks, i.vectors) "
        "  FROM (SELECT array_agg(chunk_id) AS chunks, array_agg(%(vector)s::text) AS vectors "
        "          FROM embedmill.get_embedding_inputs(%(item)s, %(token)s)) AS i",
        {"item": item[0], "token": item[1], "vector": vector},
    )
    return int(rows[0][0])


async def exchange(app: App, worker: UUID, done: list[tuple[int, int]]) -> list[tuple[int, int]]:
    rows = await app.database.fetch(
        "SELECT item_id, lease_token FROM embedmill.exchange_embedding_batch(%s, %s, %s, 10, 'papers')",
        (worker, [item for item, _ in done], [token for _, token in done]),
    )
    return [(row[0], row[1]) for row in rows]


async def jobs(app: App) -> list[str]:
    return [row[1] for row in await audit.newest_jobs(app)]


async def test_an_exchange_ends_jobs_and_carries_out_deletions(app: App, papers: Pipeline) -> None:
    worker = uuid4()
    await add_document(app, papers, "kept", ["a", "b"])
    await add_document(app, papers, "unfinished", ["c"])
    first, second = await claim(app, worker)
    assert await store(app, first) == 2
    assert await exchange(app, worker, [first, second]) == []
    assert await jobs(app) == ["completed", "embedding_in_progress"]
    assert await audit.live_items(app) == [(second[0], "pending", 1, 0)], (
        "it missed a vector: a failed attempt"
    )
    await app.database.fetch(
        "SELECT embedmill.enqueue_embedding('test', 'kept', 'DELETE', p_pipeline => 'papers')"
    )
    await app.database.fetch("UPDATE embedmill.embedding_queue SET available_at = now()")
    second, deletion = await claim(app, worker)
    await store(app, second)
    assert await exchange(app, worker, [deletion, second]) == []
    names = await app.database.fetch("SELECT source_id FROM embedmill.knowledge_documents")
    assert names == [("unfinished",)]
    await audit.assert_books_balance(app)


async def test_a_job_of_which_a_part_was_cancelled_is_not_completed(app: App, papers: Pipeline) -> None:
    """A thousand chunks are two items: one is cancelled, the other ends well, and 500 chunks have no vector."""
    worker = uuid4()
    await add_document(app, papers, "long", [f"chunk {n}" for n in range(1000)])
    (first,) = await claim(app, worker, 1)
    await app.database.fetch(
        "SELECT embedmill.cancel_items(ARRAY(SELECT id FROM embedmill.embedding_queue WHERE id <> %s), 'no')",
        (first[0],),
    )
    assert await store(app, first) == 500
    await exchange(app, worker, [first])
    rows = await app.database.fetch(
        "SELECT status::text, embedded_chunks, total_chunks FROM embedmill.ingestion_jobs"
    )
    assert rows == [("cancelled", 500, 1000)]
    await app.database.fetch(
        "SELECT embedmill.retry_document(id, NULL, NULL) FROM embedmill.knowledge_documents"
    )
    (second,) = await claim(app, worker)
    await store(app, second)
    await exchange(app, worker, [second])
    rows = await app.database.fetch(
        "SELECT status::text, embedded_chunks, total_chunks FROM embedmill.ingestion_jobs"
    )
    assert rows == [("completed", 1000, 1000)]


@pytest.mark.parametrize(
    ("call", "arguments", "said"),
    [
        ("SELECT embedmill.heartbeat(%s, NULL, 0)", (uuid4(),), "p_interval_ms is 100 at least"),
        ("SELECT embedmill.get_next_embedding_batch(%s, 0)", (uuid4(),), "a batch is of 1 item at least"),
        (
            "SELECT embedmill.enqueue_embedding('test', 'one', p_pipeline => 'papers', p_max_retries => -1)",
            (),
            "from 0 to 100",
        ),
        ("SELECT embedmill.enqueue_embedding('test', 'two', p_pipeline => 'papers')", (), "ingest it first"),
        (
            "SELECT embedmill.store_embeddings(1, 1, ARRAY[1, 2], ARRAY['[1]'])",
            (),
            "each chunk needs its own",
        ),
    ],
)
async def test_what_cannot_be_meant_is_refused_with_what_to_send(
    app: App, papers: Pipeline, call: str, arguments: tuple[Any, ...], said: str
) -> None:
    await add_document(app, papers, "one", ["a"])
    with pytest.raises(psycopg.Error, match=said):
        await app.database.fetch(call, arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("vector", ["[1,2]", "[0,0.0,0]", "[1,2,NaN]", "[1,2,3,4]", "{}", "", "[1,2,1e999]"])
async def test_a_vector_that_is_none_writes_nothing(app: App, papers: Pipeline, vector: str) -> None:
    await add_document(app, papers, "one", ["a", "b"])
    (item,) = await claim(app, uuid4())
    with pytest.raises(psycopg.DataError):
        await store(app, item, vector)
    assert await store(app, item) == 2, "the lease is as it was"


async def test_chunks_of_others_and_chunks_named_twice_are_passed_over(app: App, papers: Pipeline) -> None:
    await add_document(app, papers, "one", ["a", "b"])
    await add_document(app, papers, "two", ["c"])
    first, _second = await claim(app, uuid4())
    written = await app.database.fetch(
        "SELECT embedmill.store_embeddings(%s, %s, array_agg(id) || array_agg(id), "
        "                                  array_fill('[1,2,3]'::text, ARRAY[6])) FROM embedmill.knowledge_chunks",
        first,
    )
    assert written == [(2,)]
    await audit.assert_books_balance(app)


async def test_one_worker_on_two_connections_stops_and_completes_at_once_without_a_deadlock(
    app: App, papers: Pipeline
) -> None:
    worker = uuid4()
    for n in range(20):
        await add_document(app, papers, str(n), ["a"])
    for _ in range(20):
        items = await claim(app, worker, 4)
        await asyncio.gather(
            app.database.fetch("SELECT embedmill.stop_worker(%s)", (worker,)),
            *(
                app.database.fetch(
                    "SELECT embedmill.complete_embedding_queue_item(%s, %s, %s, true)", (item, worker, token)
                )
                for item, token in items
            ),
        )
    assert {row[1] for row in await audit.live_items(app)} <= {"pending"}
