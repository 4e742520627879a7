"""Connections. Owns the pool, how a connection is set up, and short transactions; must not know what is
asked over them. A transaction is opened where a stage begins and never spans a provider, a parser or a disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Self
from uuid import uuid4

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from embedmill.database.asking import AskedConnection
from embedmill.database.server import describe_connection_error
from embedmill.errors import DatabaseUnreachableError, DatabaseUnsuitableError

SERVICE_ROLE = "embedmill_service"
"""Sees the rows of the tenant that its transaction names, and no others (functions/10_tenants.sql)."""

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_SPARE_SECONDS = 0.5
"""To open a connection; what a spare one is for can be done without it."""
_SPARE_LOCKS = "SET LOCAL lock_timeout = '500ms'"

# A process that stops within a transaction must not hold its locks for ever, also where nobody ends its sessions.
_IDLE_TIMEOUT = "SET idle_in_transaction_session_timeout = '60s'"
_GIVE_BACK = "SELECT pg_advisory_unlock_all(); RESET maintenance_work_mem"
# For this transaction only: the next one on the connection is somebody else's.
_ON_BEHALF = """
SELECT set_config('embedmill.tenant_id', %(tenant_id)s, true), set_config('embedmill.actor', %(actor)s, true)
"""
# pgvector may live in any schema (Supabase: extensions); operators must be found without naming it. The plans are
# those that were tested, whatever server it is (decision 0096).
_BEGIN_SESSION = """
SELECT set_config('search_path', 'embedmill, ' || coalesce(
    (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
      WHERE e.extname = 'vector'), 'public') || ', pg_catalog', false),
    (SELECT row_security_active(c.oid) FROM pg_class c WHERE c.oid = to_regclass('embedmill.knowledge_chunks')),
    set_config('jit', 'off', false), set_config('random_page_cost', '1.1', false)
"""
# A statement ends when nobody waits for it any more, where the server can tell.
END_WITH_THE_CLIENT = """
DO $$ BEGIN
    PERFORM set_config('client_connection_check_interval', '2s', false);
EXCEPTION WHEN invalid_parameter_value THEN NULL;
END $$
"""


class Database:
    """A pool of connections to one embedmill database. Use as an async context manager.

    Connections are not tried out before each use, which would double the round trips: one that a restart of the
    server has cut fails at its first use and is replaced, and what may be repeated is (patience.py).
    """

    def __init__(
        self, url: str, *, max_connections: int = 12, role: str | None = None, wait_seconds: float = 30.0
    ) -> None:
        """With a `role` every session begins as that role, and `RESET ROLE` leads back to it. `wait_seconds`: how
        long somebody waits for a connection."""
        self.url = url
        self._wait_seconds = wait_seconds
        self._most = max_connections
        self._taken = 0
        # By this name others find, and end, the sessions of a worker that froze within a transaction.
        self.session_name = f"embedmill {uuid4().hex[:16]}"
        self._pool: AsyncConnectionPool[AskedConnection] = AsyncConnectionPool(
            url,
            connection_class=AskedConnection,
            min_size=0,
            max_size=max_connections,
            kwargs={
                "application_name": self.session_name,
                "autocommit": True,
                "row_factory": tuple_row,
                **({} if role is None else {"options": _options_with_role(url, role)}),
            },
            configure=_configure,
            open=False,
            timeout=wait_seconds,
            reconnect_timeout=30,
        )

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._pool.close()

    def for_tenant(self, tenant_id: int, *, actor: str) -> TenantDatabase:
        """The same connections on behalf of a tenant; `actor` is who the audit log names."""
        return TenantDatabase(self, tenant_id, actor)

    @asynccontextmanager
    async def connection(self, *, wait_seconds: float | None = None) -> AsyncIterator[AskedConnection]:
        """A connection in autocommit mode; each statement is its own transaction."""
        wait_seconds = self._wait_seconds if wait_seconds is None else wait_seconds
        self._taken += 1
        try:
            async with self._pool.connection(timeout=wait_seconds) as connection:
                yield connection
        except PoolTimeout as error:
            raise DatabaseUnreachableError(
                f"the database did not give a connection within {wait_seconds:g} s: is it up, and are its "
                "connections used up?"
            ) from error
        finally:
            self._taken -= 1

    @property
    def has_spare(self) -> bool:
        """Whether so few connections are in use that somebody may well have a second one."""
        return self._taken * 2 <= self._most

    @asynccontextmanager
    async def spare_transaction(self) -> AsyncIterator[Connection | None]:
        """A second transaction for somebody who has one open, so that the server does two things at once; None where
        many are in use or the server gives none: nobody who holds a connection waits for those who hold the others. For
        the same reason it raises LockNotAvailable rather than wait long for a lock, which may be theirs who wait for
        the first."""
        async with AsyncExitStack() as stack:
            connection = None
            if self.has_spare:
                with suppress(DatabaseUnreachableError, psycopg.OperationalError):
                    connection = await stack.enter_async_context(
                        self.transaction(wait_seconds=_SPARE_SECONDS)
                    )
                    await connection.execute(_SPARE_LOCKS)
            yield connection

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AskedConnection]:
        """A connection in autocommit mode for whoever takes advisory locks, or memory for maintenance: it gives them
        back at the end, also of one who was cancelled while a lock was given and does not know that he has it."""
        async with self.connection() as connection:
            try:
                yield connection
            finally:
                await _give_back(connection)

    @asynccontextmanager
    async def transaction(self, *, wait_seconds: float | None = None) -> AsyncIterator[Connection]:
        """A connection with a transaction open: committed at the end, rolled back on an error."""
        async with self.connection(wait_seconds=wait_seconds) as connection, connection.transaction():
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


class TenantDatabase(Database):
    """A Database as one tenant may see it: whatever is asked runs in a transaction that says whose it is, under
    row-level security. Owns no pool; what it was made from must stay open."""

    def __init__(self, base: Database, tenant_id: int, actor: str) -> None:
        self.url = base.url
        self.session_name = base.session_name
        self._base = base
        self._settings = {"tenant_id": str(tenant_id), "actor": actor}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    @property
    def has_spare(self) -> bool:
        return self._base.has_spare

    @asynccontextmanager
    async def connection(self, *, wait_seconds: float | None = None) -> AsyncIterator[AskedConnection]:
        """A connection within a transaction of this tenant."""
        async with self._base.connection(wait_seconds=wait_seconds) as connection, connection.transaction():
            await connection.execute(_ON_BEHALF, self._settings)
            yield connection

    @asynccontextmanager
    async def transaction(self, *, wait_seconds: float | None = None) -> AsyncIterator[Connection]:
        async with self.connection(wait_seconds=wait_seconds) as connection:
            yield connection


async def _give_back(connection: Connection) -> None:
    try:
        await connection.execute(_GIVE_BACK)
    except BaseException as error:
        await connection.close()  # then they go with the session
        if not isinstance(error, psycopg.Error):
            raise


async def assert_service_role(operator: Database, service: Database) -> None:
    """Raises DatabaseUnsuitableError where the service would see more than one tenant's rows, or cannot begin."""
    row = await operator.fetch_one(
        "SELECT pg_has_role(current_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = %s", (SERVICE_ROLE,)
    )
    if row is None or not row[0]:
        raise DatabaseUnsuitableError(
            f"the role {SERVICE_ROLE} is missing, which the service works in. As an administrator of the server: "
            f"CREATE ROLE {SERVICE_ROLE} NOLOGIN; GRANT {SERVICE_ROLE} TO (this account); then `embedmill db migrate`"
        )
    row = await service.fetch_one(
        "SELECT r.rolname, r.rolsuper OR r.rolbypassrls OR pg_has_role(current_user, c.relowner, 'MEMBER') "
        "FROM pg_roles r, pg_class c WHERE r.rolname = current_user AND c.oid = 'embedmill.tenants'::regclass"
    )
    if row is None or row[1]:
        raise DatabaseUnsuitableError(
            f"the service would connect as {row[0] if row else 'nobody'}, who may see the rows of every tenant: "
            f"EMBEDMILL_SERVICE_DATABASE_URL must name a login that is a member of {SERVICE_ROLE} and owns nothing"
        )


def _options_with_role(url: str, role: str) -> str:
    """libpq's `options`, those of the URL kept."""
    given = conninfo_to_dict(url).get("options")
    return f"{given} -c role={role}" if given else f"-c role={role}"


async def _configure(connection: AskedConnection) -> None:
    cursor = await connection.execute(_BEGIN_SESSION)
    row = await cursor.fetchone()
    connection.is_bound_by_policies = row[1] if row else None
    await connection.execute(_IDLE_TIMEOUT)
    await connection.execute(END_WITH_THE_CLIENT)


def connect(url: str, *, application_name: str = "embedmill") -> psycopg.Connection[tuple[Any, ...]]:
    """One synchronous connection, for start-up, heartbeats and short commands. Raises DatabaseError."""
    try:
        connection = psycopg.connect(
            url, autocommit=True, application_name=application_name, connect_timeout=10
        )
        connection.execute(_BEGIN_SESSION)
        connection.execute(END_WITH_THE_CLIENT)
    except psycopg.Error as error:
        raise describe_connection_error(error, url) from error
    return connection
