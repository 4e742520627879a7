"""Connections. Owns the pool, how a connection is set up, and short transactions; must not know what is
asked over them. A transaction is opened where a stage begins and never spans a provider, a parser or a disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from embedmill.database.asking import AskedConnection
from embedmill.database.server import describe_connection_error
from embedmill.errors import DatabaseUnreachableError

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

# A process that stops within a transaction must not hold its locks for ever, also where nobody ends its sessions.
_IDLE_TIMEOUT = "SET idle_in_transaction_session_timeout = '60s'"
# pgvector may live in any schema (Supabase: extensions); operators must be found without naming it.
_SEARCH_PATH = """
SELECT set_config('search_path', 'embedmill, ' || coalesce(
    (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
      WHERE e.extname = 'vector'), 'public') || ', pg_catalog', false)
"""


class Database:
    """A pool of connections to one embedmill database. Use as an async context manager.

    Connections are not tried out before each use, which would double the round trips: one that a restart of the
    server has cut fails at its first use and is replaced, and what may be repeated is (patience.py).
    """

    def __init__(self, url: str, *, max_connections: int = 12) -> None:
        self.url = url
        # By this name others find, and end, the sessions of a worker that froze within a transaction.
        self.session_name = f"embedmill {uuid4().hex[:16]}"
        self._pool: AsyncConnectionPool[AskedConnection] = AsyncConnectionPool(
            url,
            connection_class=AskedConnection,
            min_size=0,
            max_size=max_connections,
            kwargs={"application_name": self.session_name, "autocommit": True, "row_factory": tuple_row},
            configure=_configure,
            open=False,
            timeout=30,
            reconnect_timeout=30,
        )

    async def __aenter__(self) -> Database:
        await self._pool.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AskedConnection]:
        """A connection in autocommit mode; each statement is its own transaction."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except PoolTimeout as error:
            raise DatabaseUnreachableError(
                "the database did not give a connection within 30 s: is it up, and are its connections used up?"
            ) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection with a transaction open: committed at the end, rolled back on an error."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def fetch(self, query: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        """All rows of one statement."""
        async with self.connection() as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall() if cursor.description else []

    async def ask(self, query: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """As `fetch`, for a statement of every few moments: prepared, and at half of what a cursor costs here."""
        async with self.connection() as connection:
            return await connection.ask(query, parameters)

    async def fetch_one(self, query: Any, parameters: Any = None) -> tuple[Any, ...] | None:
        rows = await self.fetch(query, parameters)
        return rows[0] if rows else None


async def _configure(connection: Connection) -> None:
    await connection.execute(_SEARCH_PATH)
    await connection.execute(_IDLE_TIMEOUT)


def connect(url: str, *, application_name: str = "embedmill") -> psycopg.Connection[tuple[Any, ...]]:
    """One synchronous connection, for start-up, heartbeats and short commands. Raises DatabaseError."""
    try:
        connection = psycopg.connect(
            url, autocommit=True, application_name=application_name, connect_timeout=10
        )
    except psycopg.Error as error:
        raise describe_connection_error(error, url) from error
    connection.execute(_SEARCH_PATH)
    return connection
