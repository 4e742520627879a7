"""An audit beside writers and workers, of what was spoilt at random, and killed in the middle of its repair."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import vectors_table
from tests.sources.auditing import TABLE, audit, behind_our_back, counts, delete_vectors, embedded_table
from tests.support.audit import assert_books_balance
from tests.support.commands import CommandLine
from tests.support.provider import RunningProvider
from tests.support.records import reading_worker, work_until_quiet
from tests.support.work import add_document, stored_vectors

ROWS = 120
_WRITES = (
    "INSERT INTO public.jobs SELECT n, 'New', 'Row ' || n FROM generate_series(%(n)s * 10, %(n)s * 10 + 5) n"
    " ON CONFLICT DO NOTHING",
    "UPDATE public.jobs SET body = 'Edit ' || %(n)s || ' of ' || id WHERE id %% 17 = %(n)s %% 17",
    "UPDATE public.jobs SET is_active = NOT is_active WHERE id %% 29 = %(n)s %% 29",
    "DELETE FROM public.jobs WHERE id %% 13 = %(n)s %% 13",
    "TRUNCATE public.jobs",
)


@contextmanager
def writing(url: str) -> Iterator[None]:
    """Somebody writes without a pause, now and then rolls back, once truncates."""
    ending = threading.Event()

    def write() -> None:
        chance = random.Random(5)
        with psycopg.connect(url) as connection:
            for n in range(1, 100_000):
                if ending.is_set():
                    return
                statement = _WRITES[4] if n == 60 else chance.choice(_WRITES[:4])
                connection.execute(statement.encode(), {"n": n % 60})
                if chance.random() < 0.1:
                    connection.rollback()
                else:
                    connection.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        ending.set()
        writer.join()


async def assert_embedded(app: App, pipeline: Pipeline) -> None:
    """Every row that counts has its present text and its vector, and nothing stands besides."""
    wanted = {
        f"{title}\n\n{body}"
        for title, body in await app.database.fetch("SELECT title, body FROM public.jobs WHERE is_active")
    }
    rows = await app.database.fetch("SELECT count(*) FROM public.jobs WHERE is_active")
    embedded = [text for _, text, _ in await stored_vectors(app, pipeline) if not text.startswith("Passage")]
    assert (set(embedded), len(embedded)) == (wanted, rows[0][0])
    await assert_books_balance(app)
    assert await app.database.fetch("SELECT rows, documents FROM embedmill.record_sources") == [rows[0] * 2]


async def test_a_busy_system_has_no_fault(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    await embedded_table(app, pipeline, ROWS)
    worker = reading_worker(app)
    audits = []
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        with writing(app.database.url):
            for n in range(12):
                await add_document(app, pipeline, f"doc{n}", [f"Passage {c} of {n}." for c in range(40)])
                audits.append(counts(await audit(app, mends="all" if n % 3 == 0 else "nothing")))
        worker.stop()
    assert audits == [{}] * 12
    await work_until_quiet(app)
    assert counts(await audit(app)) == {}
    await assert_embedded(app, pipeline)


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_was_spoilt_is_mended(
    app: App, pipeline: Pipeline, provider: RunningProvider, seed: int
) -> None:
    await embedded_table(app, pipeline, ROWS)
    chance = random.Random(seed)

    def some(most: int) -> str:
        return ", ".join(str(n) for n in chance.sample(range(1, ROWS + 1), chance.randint(1, most)))

    vectors = vectors_table(pipeline.generation.id).as_string()
    chunks = (
        "SELECT c.id FROM embedmill.knowledge_chunks c JOIN embedmill.knowledge_documents d ON d.id = c.document_id"
        " WHERE d.source_id::bigint IN ({})"
    )
    sabotages = [
        lambda: f"DELETE FROM {vectors} WHERE chunk_id IN ({chunks.format(some(20))})",
        lambda: f"UPDATE {vectors} SET input_hash = '\\x01' WHERE chunk_id IN ({chunks.format(some(9))})",
        lambda: (
            f"INSERT INTO {vectors} SELECT chunk_id + 900000, input_hash, embedding FROM {vectors} LIMIT 3"
            " ON CONFLICT DO NOTHING"
        ),
        lambda: f"UPDATE public.jobs SET body = 'Spoilt ' || id WHERE id IN ({some(20)})",
        lambda: f"UPDATE public.jobs SET is_active = false WHERE id IN ({some(9)})",
        lambda: f"DELETE FROM public.jobs WHERE id IN ({some(9)})",
        lambda: (
            f"INSERT INTO public.jobs SELECT n + 1000, 'Late', 'Row ' || n FROM unnest(ARRAY[{some(9)}]) n"
            " ON CONFLICT DO NOTHING"
        ),
        lambda: f"DELETE FROM embedmill.embedding_queue_history WHERE source_id::bigint IN ({some(60)})",
        lambda: "UPDATE embedmill.embedding_queue_history SET status = 'completed'",
        lambda: f"UPDATE embedmill.coverage_counters SET embedded = embedded + {chance.randint(-50, 50)}",
        lambda: f"UPDATE embedmill.record_sources SET rows = {chance.randint(0, 500)}, documents = 7",
    ]
    for _ in range(25):
        await behind_our_back(app, chance.choice(sabotages)())
    # Documents that somebody deletes take their chunks and vectors along.
    await app.database.fetch(
        f"DELETE FROM embedmill.knowledge_documents WHERE source_id::bigint IN ({some(15)})"
    )
    assert counts(await audit(app)) != {}
    await audit(app, mends="all")
    await work_until_quiet(app)
    assert counts(await audit(app)) == {}
    await assert_embedded(app, pipeline)


async def test_a_repair_that_is_killed_goes_on_with_the_next_call(
    app: App, pipeline: Pipeline, provider: RunningProvider, tmp_path: Path
) -> None:
    await embedded_table(app, pipeline, 900)
    deleted = await delete_vectors(app, pipeline, [str(n) for n in range(1, 901, 2)])
    provider.forget_counts()
    command = CommandLine(tmp_path / "data", app.database.url)
    # Killed within the second batch: the first one is mended, the transaction of this one is open.
    with psycopg.connect(app.database.url) as blocker:
        blocker.execute("SELECT FROM embedmill.knowledge_documents WHERE source_id = '899' FOR UPDATE")
        running = command.start("audit", "--repair")
        async with asyncio.timeout(60):
            while not await app.database.fetch(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%mend_pieces%'"
            ):
                assert running.poll() is None, running.communicate()
                await asyncio.sleep(0.02)
        running.send_signal(signal.SIGKILL)
        running.communicate()
    assert await app.database.fetch(
        "SELECT (findings -> 0 ->> 'mended')::integer BETWEEN 1 AND 449 FROM embedmill.audits"
    ) == [(True,)]
    # Nobody takes it up before it is plain that whoever had it is dead.
    await app.database.fetch(
        'UPDATE embedmill.audits SET progress = progress || \'{"until": "2020-01-01T00:00:00Z"}\''
    )
    done = command.json("audit", "--repair")
    found = {one["kind"]: (one["count"], one["mended"]) for one in done["findings"]}
    assert found["done_but_no_vector"] == (deleted, deleted), "each was counted, and mended, once"
    await work_until_quiet(app)
    assert provider.stats()["inputs_paid"] == deleted
    assert counts(await audit(app, source=TABLE)) == {}
    await assert_embedded(app, pipeline)
