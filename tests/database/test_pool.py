"""How a session begins, and what a pool's connection keeps of whoever had it before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio
from psycopg.conninfo import make_conninfo

from embedmill.app import App
from embedmill.database.pool import SERVICE_ROLE, Database, connect

ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
FORBIDS_A_PLAN = """
SELECT oid::regprocedure::text FROM pg_proc
 WHERE pronamespace = 'embedmill'::regnamespace AND proconfig::text ~ 'enable_[a-z]+=off'
"""
HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"


@pytest_asyncio.fixture
async def one(database: str) -> AsyncIterator[Database]:
    """A pool of a single connection."""
    async with Database(database, max_connections=1) as one:
        yield one


async def hold(one: Database, statement: str, began: asyncio.Event) -> None:
    async with one.session() as connection:
        await connection.execute("SET maintenance_work_mem = '77MB'")
        await connection.execute("SELECT pg_advisory_lock(1)")
        began.set()
        await connection.execute(statement.encode())


async def test_whoever_is_cancelled_within_a_session_leaves_no_lock_and_the_connection(
    one: Database, app: App
) -> None:
    ((backend, memory),) = await one.fetch("SELECT pg_backend_pid(), current_setting('maintenance_work_mem')")
    began = asyncio.Event()
    task = asyncio.create_task(hold(one, "SELECT pg_sleep(60)", began))
    await began.wait()
    async with asyncio.timeout(10):
        # A server that has not read the statement yet does not hear that it is cancelled.
        while await app.database.fetch(ASLEEP, (backend,)) != [(1,)]:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await one.fetch(HELD) == [(0,)]
    assert await one.fetch("SELECT pg_backend_pid(), current_setting('maintenance_work_mem')") == [
        (backend, memory)
    ]


async def test_what_was_wrong_within_a_session_is_raised_also_where_the_session_is_gone(
    one: Database,
) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        await hold(one, "SELECT * FROM nowhere", asyncio.Event())
    with pytest.raises(psycopg.errors.AdminShutdown):
        await hold(one, "SELECT pg_terminate_backend(pg_backend_pid())", asyncio.Event())
    assert await one.fetch(HELD) == [(0,)]


async def test_plans_are_those_that_were_tested_whatever_the_server_is_set_to(
    database: str, one: Database
) -> None:
    tested = {"jit": "off", "random_page_cost": "1.1", "client_connection_check_interval": "2s"}
    with psycopg.connect(database, autocommit=True) as owner:
        name = psycopg.sql.Identifier(owner.info.dbname)
        owner.execute(psycopg.sql.SQL("ALTER DATABASE {} SET jit = on").format(name))
        owner.execute(psycopg.sql.SQL("ALTER DATABASE {} SET random_page_cost = 4").format(name))
    with psycopg.connect(database) as somebody, connect(database) as connection:
        for setting, value in tested.items():
            asked = f"SHOW {setting}".encode()
            assert somebody.execute(asked).fetchone() != (value,)
            assert connection.execute(asked).fetchone() == (value,)
            assert await one.fetch(asked) == [(value,)]


async def test_no_function_that_forbids_a_plan_is_compiled(one: Database) -> None:
    """Not in the session of somebody else either: before PostgreSQL 18 such a plan costs so much that any statement is
    compiled, for a second."""
    forbidding = await one.fetch(FORBIDS_A_PLAN)
    assert len(forbidding) > 50
    assert await one.fetch(FORBIDS_A_PLAN + "AND 'jit=off' <> ALL (proconfig)") == []


async def test_a_second_transaction_is_had_only_where_connections_are_spare(
    one: Database, database: str
) -> None:
    async with one.transaction(), one.spare_transaction() as spare:
        assert spare is None
    async with Database(database, max_connections=3) as three, three.transaction() as first:
        async with three.spare_transaction() as spare:
            assert spare is not None
            assert spare is not first
            async with three.spare_transaction() as third:
                assert third is None
        async with three.spare_transaction() as spare:
            assert spare is not None


async def test_a_server_that_gives_no_second_connection_is_no_error(database: str, app: App) -> None:
    role = "of_one_session"
    await app.database.fetch(
        f"CREATE ROLE {role} LOGIN PASSWORD '{role}' CONNECTION LIMIT 1 IN ROLE {SERVICE_ROLE}".encode()
    )
    url = make_conninfo(database, user=role, password=role)
    try:
        async with Database(url, max_connections=4) as pool, pool.transaction() as first:
            async with asyncio.timeout(10), pool.spare_transaction() as spare:
                assert spare is None
            assert await (await first.execute("SELECT 1")).fetchone() == (1,)
    finally:
        await app.database.fetch(f"DROP ROLE {role}".encode())


async def test_a_spare_transaction_leaves_its_connection_as_it_was(database: str) -> None:
    async with Database(database, max_connections=2) as two:
        async with two.transaction(), two.spare_transaction() as spare:
            assert spare is not None
            (limit,) = await (await spare.execute("SHOW lock_timeout")).fetchone() or (None,)
            (backend,) = await (await spare.execute("SELECT pg_backend_pid()")).fetchone() or (None,)
        assert limit == "500ms"
        async with two.connection() as first, two.connection() as second:
            seen = {}
            for connection in (first, second):
                cursor = await connection.execute("SELECT pg_backend_pid(), current_setting('lock_timeout')")
                seen.update([await cursor.fetchone() or (0, "")])
        assert seen[backend] == "0"
