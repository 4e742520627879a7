"""Which questions of a search go over a second connection: what is found is the same, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Connection, Database
from embedmill.embed.generations import keep_index
from embedmill.search import candidates
from embedmill.search.candidates import Asked, Lists, find_candidates
from tests.support.provider import start_provider
from tests.support.work import add_document, app_on, run_worker_until_settled, stand_in_pipeline

DOCUMENTS = 120
WAITS = "SELECT count(*) FROM pg_locks WHERE relation = 'public.things'::regclass AND NOT granted"
ANY = {"document_id": None, "source": None, "metadata": None}
EVEN = {**ANY, "metadata": '{"even": true}'}


@pytest.fixture
async def filled(database: str, tmp_path: Path) -> AsyncIterator[tuple[App, Pipeline]]:
    """Ten passages of each document, and an index."""
    batch = uuid4()
    with start_provider(dimensions=64) as provider:
        async with app_on(database, tmp_path) as app:
            pipeline = await stand_in_pipeline(app, provider.base_url, storage="halfvec")
            for n in range(DOCUMENTS):
                texts = [f"volume{n} tells of tide{n % 7} and page{i}" for i in range(10)]
                await add_document(app, pipeline, f"/shelf/{n}", texts, batch)
            await app.database.fetch(
                "UPDATE embedmill.knowledge_documents SET metadata = jsonb_build_object("
                "'even', split_part(source_id, '/', 3)::integer % 2 = 0)"
            )
            await run_worker_until_settled(app, batch)
            await keep_index(app.database, pipeline)
            yield app, pipeline


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Of the sessions that were asked."""
    seen: set[int] = set()
    ask = candidates._ask

    async def noted(name: str, values: Mapping[str, Any], connection: Connection) -> candidates._Answer:
        seen.add(connection.info.backend_pid)
        return await ask(name, values, connection)

    monkeypatch.setattr(candidates, "_ask", noted)
    return seen


async def found_over(
    connections: int, filled: tuple[App, Pipeline], words: str | None, where: Mapping[str, Any]
) -> Lists:
    app, pipeline = filled
    ((vector,),) = await app.database.fetch(
        f"SELECT embedding::text FROM embedmill.vectors_{pipeline.generation.id} ORDER BY chunk_id LIMIT 1".encode()
    )
    asked = Asked(pipeline.generation.id, vector, words, 25, where)
    async with Database(app.database.url, max_connections=connections) as pool, pool.transaction() as first:
        return await find_candidates(pool, first, asked)


@pytest.mark.parametrize("words", [None, "volume3 or tide3"])
@pytest.mark.parametrize("where", [ANY, EVEN, {**ANY, "source": "/shelf/1%"}, {**ANY, "source": "/nowhere"}])
async def test_two_sessions_find_what_one_finds(
    filled: tuple[App, Pipeline],
    monkeypatch: pytest.MonkeyPatch,
    backends: set[int],
    words: str | None,
    where: Mapping[str, Any],
) -> None:
    monkeypatch.setattr(candidates, "_MANY_DOCUMENTS", 10)
    alone = await found_over(1, filled, words, where)
    assert len(backends) == 1
    backends.clear()
    both = await found_over(4, filled, words, where)
    assert len(backends) == (1 if words is None and where in (ANY, {**ANY, "source": "/nowhere"}) else 2)
    # Of passages at the same distance either may come first.
    assert [score for _, score in both.by_vector] == pytest.approx([score for _, score in alone.by_vector])
    assert both.by_text == alone.by_text
    assert both.chance == pytest.approx(alone.chance)
    assert len(both.by_vector) == (0 if where["source"] == "/nowhere" else 25)


async def test_few_documents_are_not_halved(filled: tuple[App, Pipeline], backends: set[int]) -> None:
    await found_over(4, filled, None, EVEN)
    assert len(backends) == 1


async def test_what_fails_in_either_session_is_raised_and_both_are_given_back(
    filled: tuple[App, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, pipeline = filled
    ask = candidates._ask
    for failing in ("by_vector", "by_text"):

        async def fails(
            name: str, values: Mapping[str, Any], connection: Connection, failing: str = failing
        ) -> candidates._Answer:
            if name == failing:
                await connection.execute("SELECT 1 / 0")
            return await ask(name, values, connection)

        monkeypatch.setattr(candidates, "_ask", fails)
        asked = Asked(pipeline.generation.id, str([0.1] * 64), "volume3", 25, EVEN)
        async with Database(app.database.url, max_connections=2) as pool:
            with pytest.raises(psycopg.errors.DivisionByZero):
                async with pool.transaction() as first:
                    await find_candidates(pool, first, asked)
            async with asyncio.timeout(10), pool.transaction(), pool.transaction() as second:
                assert await (await second.execute("SELECT 1")).fetchone() == (1,)


async def read(connection: Connection) -> candidates._Answer:
    return candidates._Answer(await (await connection.execute("TABLE public.things")).fetchall(), 0.0)


async def drop_once_it_is_read(app: App) -> None:
    await app.database.fetch("DROP TABLE public.things")


@pytest.mark.parametrize("reads_first", ["own", "other"])
async def test_who_waits_to_drop_a_table_between_both_stops_neither(app: App, reads_first: str) -> None:
    """Whoever holds the table waits, beyond the server's sight, for the other, who comes after the drop."""
    await app.database.fetch("CREATE TABLE public.things (id integer)")
    has_read = asyncio.Event()
    dropping: list[asyncio.Task[None]] = []

    async def first(connection: Connection) -> candidates._Answer:
        answer = await read(connection)
        has_read.set()
        return answer

    async def after_the_drop_waits(connection: Connection) -> candidates._Answer:
        await has_read.wait()
        dropping.append(asyncio.create_task(drop_once_it_is_read(app)))
        while not dropping[0].done() and await app.database.fetch(WAITS) == [(0,)]:
            await asyncio.sleep(0.01)
        return await read(connection)

    questions = [first, after_the_drop_waits] if reads_first == "own" else [after_the_drop_waits, first]
    async with Database(app.database.url, max_connections=4) as pool, asyncio.timeout(20):
        try:
            async with pool.transaction() as connection:
                answers = await candidates._at_once(pool, connection, questions)
            assert [answer.rows for answer in answers] == [[], []]
        except psycopg.errors.UndefinedTable:
            assert reads_first == "other"  # it was let go, and the table went: the search is asked anew
        await dropping[0]


async def test_an_answer_that_is_not_waited_for_leaves_both_connections(
    filled: tuple[App, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = filled
    began = asyncio.Event()

    async def sleeps(connection: Connection) -> candidates._Answer:
        began.set()
        await connection.execute("SELECT pg_sleep(60)")
        return candidates._Answer([], 60.0)

    async with Database(app.database.url, max_connections=2) as pool:

        async def search() -> None:
            async with pool.transaction() as connection:
                await candidates._at_once(pool, connection, [partial(sleeps), partial(sleeps)])

        task = asyncio.create_task(search())
        await began.wait()
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10), pool.transaction(), pool.transaction() as second:
            assert await (await second.execute("SELECT 1")).fetchone() == (1,)
