"""Statements asked on a connection without a cursor: what comes back, what goes wrong, and what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio

from embedmill.database.asking import AskedConnection

ECHO = "SELECT %(word)s::text, %(number)s::bigint, %(id)s::uuid, %(many)s::bigint[], %(none)s::text, 100 %% 7"


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator[AskedConnection]:
    connection = await AskedConnection.connect(database, autocommit=True)
    yield connection
    await connection.close()


async def test_values_go_and_come_as_they_are(connection: AskedConnection) -> None:
    identity = UUID(int=7)
    for number in (0, -1, 2**62):
        values = {
            "word": "it's ünï %s $1 \\",
            "number": number,
            "id": identity,
            "many": [1, 2**40],
            "none": None,
        }
        assert await connection.ask(ECHO, values) == [
            ("it's ünï %s $1 \\", number, identity, [1, 2**40], None, 2)
        ]


async def test_a_parameter_may_stand_twice_and_no_row_is_an_answer(connection: AskedConnection) -> None:
    assert await connection.ask("SELECT %(a)s::int, %(b)s::int, %(a)s::int", {"a": 1, "b": 2}) == [(1, 2, 1)]
    assert await connection.ask("SELECT 1 WHERE %(a)s::int > 1", {"a": 1}) == []
    assert await connection.ask("SET work_mem = '5MB'", {}) == []
    with pytest.raises(KeyError):
        await connection.ask("SELECT %(a)s::int", {})


async def test_it_is_prepared_once_for_each_connection(connection: AskedConnection) -> None:
    for number in range(3):
        await connection.ask("SELECT %(n)s::int + 1", {"n": number})
    rows = await connection.ask(
        "SELECT count(*) FROM pg_prepared_statements WHERE statement ~ '^SELECT .1::int'", {}
    )
    assert rows == [(1,)]


async def test_an_error_is_psycopgs_and_the_connection_goes_on(connection: AskedConnection) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable, match="nowhere"):
        await connection.ask("SELECT * FROM nowhere", {})
    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.ask("SELECT 1 / %(n)s::int", {"n": 0})
    assert await connection.ask("SELECT 1 / %(n)s::int", {"n": 1}) == [(1,)]


async def test_after_its_schema_changed_it_is_prepared_anew(connection: AskedConnection) -> None:
    await connection.execute("CREATE TABLE things AS SELECT 1 AS id")
    assert await connection.ask("SELECT * FROM things", {}) == [(1,)]
    await connection.execute("ALTER TABLE things ALTER COLUMN id TYPE text")
    assert await connection.ask("SELECT * FROM things", {}) == [("1",)]
    await connection.execute("DEALLOCATE ALL")
    assert await connection.ask("SELECT * FROM things", {}) == [("1",)]
    await connection.execute("DEALLOCATE ALL")
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        async with connection.transaction():  # which is lost: whoever began it must begin anew
            await connection.ask("SELECT * FROM things", {})
    assert await connection.ask("SELECT * FROM things", {}) == [("1",)]


async def test_after_psycopg_has_dropped_all_statements_it_is_prepared_anew(
    connection: AskedConnection,
) -> None:
    for _ in range(7):  # from the sixth time on psycopg has a statement of its own
        await connection.execute("SELECT 1")
    assert await connection.ask("SELECT %(n)s::int", {"n": 1}) == [(1,)]
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with connection.transaction():
            await connection.execute("SELECT 1 / 0")
    await connection.execute("SELECT 2")
    assert await connection.ask("SELECT %(n)s::int", {"n": 2}) == [(2,)]


async def test_what_is_larger_than_the_socket_takes_goes_whole(connection: AskedConnection) -> None:
    word = "x" * 30_000_000
    assert await connection.ask("SELECT length(%(word)s::text)", {"word": word}) == [(len(word),)]
    assert await connection.ask("SELECT repeat('y', %(n)s::int)", {"n": 5_000_000}) == [("y" * 5_000_000,)]


async def test_many_at_once_each_get_their_own_answer(connection: AskedConnection) -> None:
    answers = await asyncio.gather(
        *(connection.ask("SELECT %(n)s::int FROM pg_sleep(0.001)", {"n": n}) for n in range(50))
    )
    assert answers == [[(n,)] for n in range(50)]


async def test_cancelled_it_answers_the_next_question_and_not_the_last(
    connection: AskedConnection, database: str
) -> None:
    """The late answer would be taken for that to the next question."""
    for is_begun in (False, False, True):  # first to prepare it, then to run it
        task = asyncio.create_task(connection.ask("SELECT 'late' FROM pg_sleep(60)", {}))
        await (until_asleep(database, connection) if is_begun else asyncio.sleep(0))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await connection.ask("SELECT 'next'", {}) == [("next",)]


async def test_a_server_that_has_not_heard_the_cancel_is_told_again(
    connection: AskedConnection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose backend had not read the statement yet when it was told the first time."""
    cancel, told = connection.cancel_safe, 0

    async def overheard_once(*, timeout: float) -> None:  # noqa: ASYNC109 - as psycopg has it
        nonlocal told
        told += 1
        if told > 1:
            await cancel(timeout=timeout)

    monkeypatch.setattr(connection, "cancel_safe", overheard_once)
    task = asyncio.create_task(connection.ask("SELECT 'late' FROM pg_sleep(60)", {}))
    await until_asleep(database, connection)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told > 1
    assert await connection.ask("SELECT 'next'", {}) == [("next",)]


async def test_cancelled_within_a_transaction_it_leaves_none_open(
    connection: AskedConnection, database: str
) -> None:
    await connection.execute("CREATE TEMP TABLE notes (id int)")

    async def write() -> None:
        async with connection.transaction():
            await connection.ask("INSERT INTO notes VALUES (%(id)s)", {"id": 1})
            await connection.ask("SELECT pg_sleep(60)", {})

    task = asyncio.create_task(write())
    await until_asleep(database, connection)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await connection.ask("SELECT count(*) FROM notes", {}) == [(0,)]


async def test_cancelled_where_the_server_is_deaf_it_ends_the_connection(
    connection: AskedConnection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unheard(*, timeout: float) -> None:  # noqa: ASYNC109 - as psycopg has it
        raise psycopg.errors.CancellationTimeout("nobody hears")

    monkeypatch.setattr(connection, "cancel_safe", unheard)
    task = asyncio.create_task(connection.ask("SELECT 'late' FROM pg_sleep(60)", {}))
    await until_asleep(database, connection)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert connection.closed
    with pytest.raises(psycopg.OperationalError):
        await connection.ask("SELECT 1", {})


async def test_a_session_that_is_cut_says_so(connection: AskedConnection, database: str) -> None:
    asked = asyncio.create_task(connection.ask("SELECT %(id)s::uuid FROM pg_sleep(60)", {"id": uuid4()}))
    await until_asleep(database, connection)
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
    with pytest.raises(psycopg.OperationalError):
        await asked
    assert connection.closed


async def until_asleep(database: str, connection: AskedConnection) -> None:
    """Until the server is within the `pg_sleep` that the connection asked for."""
    asked = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    with psycopg.connect(database, autocommit=True) as other:
        while not other.execute(asked, (connection.info.backend_pid,)).fetchall():
            await asyncio.sleep(0.01)
