"""Brings the schema `embedmill` to the version that this embedmill needs.

Owns the order, the lock and the records of migrations (numbered, frozen) and functions (current truth,
applied again whenever one changed). Must not hold schema SQL of its own, and must not decide which server is
good enough (server.py).

A migration runs in one transaction with its record. At its head may stand `-- embedmill: no-transaction`
(for CREATE INDEX CONCURRENTLY): then its statements run one by one, and since a kill may come between them
each must bear being run again. `-- embedmill: compatible-since 0007` says that releases which know 0007 go on working
on the schema: it comes in one transaction with the functions, so that they never find one without the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

import psycopg
from psycopg import sql

from embedmill.database.applying import apply_functions, apply_migration, first_line
from embedmill.database.migration_files import Migration, read_functions, read_migrations
from embedmill.database.pool import END_WITH_THE_CLIENT
from embedmill.database.schema_records import (
    RECORD_TABLES,
    Connection,
    are_functions_of_newer,
    assert_compatible,
    assert_frozen,
    recorded_functions,
    recorded_migrations,
    single,
    table_exists,
)
from embedmill.database.server import check_server
from embedmill.errors import DatabaseError, DatabaseUnsuitableError, SchemaVersionError

# "embedmill" in ASCII, cut to 8 bytes: an advisory lock of this database, known to all versions for good.
_LOCK_KEY = 0x656D6265646D696C
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class MigrationReport:
    """What one run of `migrate` did. Versions are migration numbers; None: there was no schema."""

    from_version: int | None
    to_version: int
    applied: tuple[str, ...]
    functions_applied: bool

    @property
    def changed(self) -> bool:
        return bool(self.applied) or self.functions_applied


def shipped_migrations() -> Traversable:
    """The folder of numbered migrations that this embedmill brings."""
    return files("embedmill.database") / "migrations"


def shipped_functions() -> Traversable:
    """The folder of functions (and triggers) that this embedmill brings."""
    return files("embedmill.database") / "functions"


def migrate(
    connection: Connection,
    migrations: Traversable | None = None,
    functions: Traversable | None = None,
    *,
    lock_timeout_seconds: float = 1800.0,
) -> MigrationReport:
    """Apply what is missing, one process at a time; the others wait and then find nothing to do. On the schema of a
    newer embedmill that bears with this one there is nothing to do either.

    The connection must not be inside a transaction; its autocommit setting is kept. Killed at any moment,
    it leaves no lock, and the next run goes on from the last whole migration. Raises SchemaVersionError
    when the schema is too new or an applied migration was edited, DatabaseError when another run does not
    end within the timeout or a statement fails, DatabaseUnsuitableError when rights are missing.
    """
    known = read_migrations(migrations or shipped_migrations())
    wanted = read_functions(functions or shipped_functions())
    with _rights_explained(connection), _own_session(connection), _lock(connection, lock_timeout_seconds):
        check_server(connection)
        before = schema_version(connection)
        _prepare(connection)
        recorded = recorded_migrations(connection)
        assert_compatible(recorded, known)
        assert_frozen(recorded, known)
        if are_functions_of_newer(recorded, known, recorded_functions(connection), wanted):
            return MigrationReport(before, max(recorded), (), functions_applied=False)
        pending = [migration for migration in known if migration.version not in recorded]
        deadline = time.monotonic() + lock_timeout_seconds
        alone, together = _with_the_functions(pending)
        for migration in alone:
            apply_migration(connection, migration, deadline)
        applied_functions = apply_functions(
            connection, wanted, together, again=bool(pending), deadline=deadline
        )
        return MigrationReport(
            from_version=before,
            to_version=known[-1].version if known else 0,
            applied=tuple(migration.file_name for migration in pending),
            functions_applied=applied_functions,
        )


def newest_migration() -> int:
    """The number of the newest migration that this embedmill brings."""
    return max(int(file.name[:4]) for file in shipped_migrations().iterdir() if file.name.endswith(".sql"))


def schema_version(connection: Connection) -> int | None:
    """The number of the last applied migration; None where there is no embedmill schema.

    Raises DatabaseUnsuitableError where the role may not read it.
    """
    with _rights_explained(connection):
        if not table_exists(connection, "schema_migrations"):
            return None
        return max(recorded_migrations(connection), default=None)


def assert_current(
    connection: Connection,
    migrations: Traversable | None = None,
    functions: Traversable | None = None,
) -> None:
    """Raise SchemaVersionError unless this embedmill may work: migrations and functions are exactly its own, or those
    of a newer one that bears with it."""
    known = read_migrations(migrations or shipped_migrations())
    wanted = read_functions(functions or shipped_functions())
    version = schema_version(connection)
    if version is None:
        raise SchemaVersionError("The database holds no embedmill schema yet: run `embedmill db migrate`.")
    with _rights_explained(connection):
        recorded, found = recorded_migrations(connection), recorded_functions(connection)
    assert_compatible(recorded, known)
    assert_frozen(recorded, known)
    if any(migration.version not in recorded for migration in known):
        raise SchemaVersionError(
            f"The schema is at {version}, this embedmill needs {known[-1].version}: "
            "run `embedmill db migrate`."
        )
    if are_functions_of_newer(recorded, known, found, wanted):
        return
    if found is None or found[0] != wanted.sha256:
        raise SchemaVersionError(
            "The functions in the database are not those of this embedmill: run `embedmill db migrate`."
        )


@contextmanager
def _own_session(connection: Connection) -> Iterator[None]:
    """Settings under which a migration means the same on every server, whatever its role's defaults are."""
    if connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
        raise DatabaseError("A migration needs a connection outside any transaction.")
    autocommit = connection.autocommit
    connection.autocommit = True
    settings = {
        "search_path": _search_path(connection),
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "client_min_messages": "warning",
    }
    try:
        # (A killed migrator's long statement ends with it and gives up the lock.)
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        connection.execute(END_WITH_THE_CLIENT)
        yield
    finally:
        if not connection.closed:
            for name in (*settings, "client_connection_check_interval"):
                connection.execute(sql.SQL("RESET {}").format(sql.Identifier(name)))
            connection.autocommit = autocommit


@contextmanager
def _rights_explained(connection: Connection) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseUnsuitableError(
            f"This role may not do that with the schema embedmill ({first_line(error)}): connect as the role "
            "that made the schema, or ask an administrator to run `embedmill db migrate`."
        ) from error


def _search_path(connection: Connection) -> str:
    """Unqualified names are made in our schema; pgvector's types are found wherever it was installed."""
    found = connection.execute(
        "SELECT quote_ident(extnamespace::regnamespace::text) FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    home = str(found[0]) if found else "public"
    return "embedmill, public" if home == "public" else f"embedmill, public, {home}"


@contextmanager
def _lock(connection: Connection, timeout_seconds: float) -> Iterator[None]:
    """Hold the migration lock. Tried in a loop, never waited for in the server: a session that waits holds
    a snapshot, and another's CREATE INDEX CONCURRENTLY would wait for that snapshot for ever."""
    deadline = time.monotonic() + timeout_seconds
    while not single(connection, "SELECT pg_try_advisory_lock(%s)", _LOCK_KEY):
        if time.monotonic() > deadline:
            holder = single(
                connection,
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND "
                "database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND "
                "(classid::bigint << 32) | objid::bigint = %s",
                _LOCK_KEY,
            )
            raise DatabaseError(
                f"Another migration has been running for over {timeout_seconds:.0f} s (server process "
                f"{holder}): wait for it, or end it with SELECT pg_terminate_backend({holder})."
            )
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK_KEY,))


def _prepare(connection: Connection) -> None:
    # Only where they are missing: IF NOT EXISTS asks for the right to create even when nothing is created.
    if not single(connection, "SELECT count(*) FROM pg_extension WHERE extname = %s", "vector"):
        # By name: else it would land in our schema, the first of the search path, and go when that goes.
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    if not single(
        connection,
        "SELECT count(*) FROM pg_attribute WHERE attname = %s AND attrelid = "
        "to_regclass('embedmill.schema_migrations')",
        "compatible_since",
    ):
        with connection.transaction():
            connection.execute(RECORD_TABLES)


def _with_the_functions(pending: Sequence[Migration]) -> tuple[Sequence[Migration], Sequence[Migration]]:
    """Those that are applied by themselves, and the last ones that come together with the functions."""
    number = len(pending)
    while number and pending[number - 1].transactional and pending[number - 1].is_compatible:
        number -= 1
    return pending[:number], pending[number:]
