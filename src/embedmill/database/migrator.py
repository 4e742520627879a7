"""Brings the schema `embedmill` to the version that this embedmill needs.

Owns the order, the lock and the records of migrations (numbered, frozen) and functions (current truth,
applied again whenever one changed). Must not hold schema SQL of its own beside its two record tables, and
must not decide which server is good enough (server.py).

A migration runs in one transaction with its record. Its first line may be `-- embedmill: no-transaction`
(for CREATE INDEX CONCURRENTLY): then its statements run one by one, and since a kill may come between them
each must bear being run again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

import psycopg
from psycopg import sql

from embedmill import __version__
from embedmill.database.migration_files import (
    Functions,
    Migration,
    read_functions,
    read_migrations,
    split_statements,
)
from embedmill.database.server import check_server
from embedmill.errors import DatabaseError, DatabaseUnsuitableError, SchemaVersionError

# "embedmill" in ASCII, cut to 8 bytes: an advisory lock of this database, known to all versions for good.
_LOCK_KEY = 0x656D6265646D696C
_POLL_SECONDS = 0.1
_RECORDS = """
CREATE SCHEMA IF NOT EXISTS embedmill;
CREATE TABLE IF NOT EXISTS embedmill.schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    embedmill_version text NOT NULL
);
CREATE TABLE IF NOT EXISTS embedmill.schema_functions (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    embedmill_version text NOT NULL
);
"""


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
    connection: psycopg.Connection[tuple[object, ...]],
    migrations: Traversable | None = None,
    functions: Traversable | None = None,
    *,
    lock_timeout_seconds: float = 1800.0,
) -> MigrationReport:
    """Apply what is missing, one process at a time; the others wait and then find nothing to do.

    The connection must not be inside a transaction; its autocommit setting is kept. Killed at any moment,
    it leaves no lock, and the next run goes on from the last whole migration. Raises SchemaVersionError
    when the schema is newer or an applied migration was edited, DatabaseError when another run does not
    end within the timeout or a statement fails, DatabaseUnsuitableError when rights are missing.
    """
    known = read_migrations(migrations or shipped_migrations())
    wanted = read_functions(functions or shipped_functions())
    with _own_session(connection), _lock(connection, lock_timeout_seconds):
        check_server(connection)
        before = schema_version(connection)
        _prepare(connection)
        recorded = _recorded_migrations(connection)
        _assert_not_newer(recorded, known)
        _assert_frozen(recorded, known)
        _assert_functions_not_newer(connection, wanted)
        pending = [migration for migration in known if migration.version not in recorded]
        for migration in pending:
            _apply(connection, migration)
        applied_functions = _apply_functions(connection, wanted, again=bool(pending))
        return MigrationReport(
            from_version=before,
            to_version=known[-1].version if known else 0,
            applied=tuple(migration.file_name for migration in pending),
            functions_applied=applied_functions,
        )


def schema_version(connection: psycopg.Connection[tuple[object, ...]]) -> int | None:
    """The number of the last applied migration; None where there is no embedmill schema."""
    if not _table_exists(connection, "schema_migrations"):
        return None
    version = connection.execute("SELECT max(version) FROM embedmill.schema_migrations").fetchone()
    return version[0] if version and isinstance(version[0], int) else None


def assert_current(
    connection: psycopg.Connection[tuple[object, ...]],
    migrations: Traversable | None = None,
    functions: Traversable | None = None,
) -> None:
    """Raise SchemaVersionError unless migrations and functions are exactly those of this embedmill."""
    known = read_migrations(migrations or shipped_migrations())
    wanted = read_functions(functions or shipped_functions())
    version = schema_version(connection)
    if version is None:
        raise SchemaVersionError("The database holds no embedmill schema yet: run `embedmill db migrate`.")
    recorded = _recorded_migrations(connection)
    _assert_not_newer(recorded, known)
    _assert_frozen(recorded, known)
    missing = [migration.version for migration in known if migration.version not in recorded]
    if missing:
        raise SchemaVersionError(
            f"The schema is at {version}, this embedmill needs {known[-1].version}: "
            "run `embedmill db migrate`."
        )
    _assert_functions_not_newer(connection, wanted)
    found = _recorded_functions(connection)
    if found is None or found[0] != wanted.sha256:
        raise SchemaVersionError(
            "The functions in the database are not those of this embedmill: run `embedmill db migrate`."
        )


@contextmanager
def _own_session(connection: psycopg.Connection[tuple[object, ...]]) -> Iterator[None]:
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
        # A killed migrator's long statement ends with it and gives up the lock.
        "client_connection_check_interval": "2s",
    }
    try:
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseUnsuitableError(
            f"The role {connection.info.user} may not change the schema ({_first_line(error)}): ask an "
            f"administrator to run: GRANT CREATE ON DATABASE {connection.info.dbname} TO "
            f"{connection.info.user}; or to run `embedmill db migrate`."
        ) from error
    finally:
        if not connection.closed:
            for name in settings:
                connection.execute(sql.SQL("RESET {}").format(sql.Identifier(name)))
            connection.autocommit = autocommit


def _search_path(connection: psycopg.Connection[tuple[object, ...]]) -> str:
    """Unqualified names are made in our schema; pgvector's types are found wherever it was installed."""
    found = connection.execute(
        "SELECT quote_ident(extnamespace::regnamespace::text) FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    home = str(found[0]) if found else "public"
    return "embedmill, public" if home == "public" else f"embedmill, public, {home}"


@contextmanager
def _lock(connection: psycopg.Connection[tuple[object, ...]], timeout_seconds: float) -> Iterator[None]:
    """Hold the migration lock. Tried in a loop, never waited for in the server: a session that waits holds
    a snapshot, and another's CREATE INDEX CONCURRENTLY would wait for that snapshot for ever."""
    deadline = time.monotonic() + timeout_seconds
    while not _single(connection, "SELECT pg_try_advisory_lock(%s)", _LOCK_KEY):
        if time.monotonic() > deadline:
            holder = _single(
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


def _prepare(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    # Only where they are missing: IF NOT EXISTS asks for the right to create even when nothing is created.
    if not _single(connection, "SELECT count(*) FROM pg_extension WHERE extname = %s", "vector"):
        # By name: else it would land in our schema, the first of the search path, and go when that goes.
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    if not _table_exists(connection, "schema_functions"):
        with connection.transaction():
            connection.execute(_RECORDS)


def _apply(connection: psycopg.Connection[tuple[object, ...]], migration: Migration) -> None:
    try:
        if migration.transactional:
            with connection.transaction():
                connection.execute(migration.text.encode())
                _record(connection, migration)
        else:
            for statement in split_statements(migration.text):
                connection.execute(statement.encode())
            _record(connection, migration)
    except psycopg.errors.InsufficientPrivilege:
        raise
    except psycopg.Error as error:
        raise DatabaseError(
            f"The migration {migration.file_name} failed: {_first_line(error)}. The schema stays at the one "
            "before it; `embedmill db migrate` tries again."
        ) from error


def _record(connection: psycopg.Connection[tuple[object, ...]], migration: Migration) -> None:
    connection.execute(
        "INSERT INTO embedmill.schema_migrations (version, name, sha256, embedmill_version) "
        "VALUES (%s, %s, %s, %s)",
        (migration.version, migration.name, migration.sha256, __version__),
    )


def _apply_functions(
    connection: psycopg.Connection[tuple[object, ...]], wanted: Functions, *, again: bool
) -> bool:
    """All of them in one transaction, whenever any changed or a migration may have dropped some."""
    recorded = _recorded_functions(connection)
    if recorded is not None and recorded[0] == wanted.sha256 and not again:
        return False
    with connection.transaction():
        for file_name, text in wanted.texts:
            try:
                connection.execute(text.encode())
            except psycopg.errors.InsufficientPrivilege:
                raise
            except psycopg.Error as error:
                raise DatabaseError(f"The functions in {file_name} failed: {_first_line(error)}.") from error
        connection.execute(
            "INSERT INTO embedmill.schema_functions (sha256, embedmill_version) VALUES (%s, %s) "
            "ON CONFLICT (only_row) DO UPDATE SET sha256 = excluded.sha256, applied_at = now(), "
            "embedmill_version = excluded.embedmill_version",
            (wanted.sha256, __version__),
        )
    return True


def _assert_not_newer(recorded: dict[int, tuple[str, str]], known: list[Migration]) -> None:
    newest, ours = max(recorded, default=0), known[-1].version if known else 0
    if newest > ours:
        raise SchemaVersionError(
            f"The schema is newer ({newest}) than this embedmill ({ours}): upgrade embedmill."
        )


def _assert_frozen(recorded: dict[int, tuple[str, str]], known: list[Migration]) -> None:
    for migration in known:
        name, sha256 = recorded.get(migration.version, (migration.name, migration.sha256))
        if (name, sha256) != (migration.name, migration.sha256):
            raise SchemaVersionError(
                f"The migration {migration.file_name} is not the one that was applied to this database as "
                f"{migration.version:04}_{name}: an applied migration is frozen. Install the embedmill that "
                "applied it, or put the change into a new migration."
            )


def _assert_functions_not_newer(
    connection: psycopg.Connection[tuple[object, ...]], wanted: Functions
) -> None:
    found = _recorded_functions(connection)
    if found and found[0] != wanted.sha256 and _version_key(found[1]) > _version_key(__version__):
        raise SchemaVersionError(
            f"The functions in the database are of a newer embedmill ({found[1]}) than this one "
            f"({__version__}): upgrade embedmill."
        )


def _recorded_migrations(connection: psycopg.Connection[tuple[object, ...]]) -> dict[int, tuple[str, str]]:
    rows = connection.execute("SELECT version, name, sha256 FROM embedmill.schema_migrations").fetchall()
    return {int(str(version)): (str(name), str(sha256)) for version, name, sha256 in rows}


def _recorded_functions(connection: psycopg.Connection[tuple[object, ...]]) -> tuple[str, str] | None:
    row = connection.execute("SELECT sha256, embedmill_version FROM embedmill.schema_functions").fetchone()
    return (str(row[0]), str(row[1])) if row else None


def _table_exists(connection: psycopg.Connection[tuple[object, ...]], table: str) -> bool:
    # From the catalog: to_regclass() raises where the schema may not be used.
    return bool(
        _single(
            connection,
            "SELECT true FROM pg_class WHERE relname = %s AND relnamespace = "
            "(SELECT oid FROM pg_namespace WHERE nspname = 'embedmill')",
            table,
        )
    )


def _single(connection: psycopg.Connection[tuple[object, ...]], query: str, parameter: object) -> object:
    row = connection.execute(query.encode(), (parameter,)).fetchone()
    return row[0] if row else None


def _version_key(version: str) -> tuple[int, ...]:
    """0.10.2.dev1 -> (0, 10, 2): enough to tell an older release from a newer one."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
