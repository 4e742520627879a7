"""Puts migrations and functions into a database in which processes are at work. Owns transactions, locks and what is
said of a failure; must not decide what is applied, nor in which order (migrator.py).

All locks are taken at the beginning, and waited for only briefly; then everything is let go and tried again. Whoever
waits for a table keeps all others from it, and one who waits while he holds another makes a deadlock of it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql

from embedmill.database.migration_files import Functions, Migration, split_statements
from embedmill.database.schema_records import (
    Connection,
    record_functions,
    record_migration,
    recorded_functions,
)
from embedmill.errors import DatabaseError

# For all locks together, and shorter than the server waits before it looks for deadlocks (1 s): then it is we who give
# way, not a worker.
_LOCK_WAIT = "400ms"
_GIVE_WAY_SECONDS = 0.6
_ALTERED = re.compile(
    r"\b(?:ALTER|DROP)\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?(?:embedmill\.)?(\w+)", re.IGNORECASE
)
_OUR_TABLES = """
SELECT relname FROM pg_class
 WHERE relnamespace = to_regnamespace('embedmill') AND relkind IN ('r', 'p') AND NOT relispartition
   AND relname !~ '^vectors_\\d+$'
 ORDER BY relname
"""
_IN_THE_WAY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


def apply_migration(connection: Connection, migration: Migration, deadline: float) -> None:
    """One migration and its record. Raises DatabaseError where it fails, or where others hold what it needs until the
    deadline, on the clock of time.monotonic()."""
    if migration.transactional:
        _giving_way(connection, lambda: _execute_migration(connection, migration), [migration], deadline)
        return
    with _explained(f"The migration {migration.file_name}", schema_stays=True):
        for statement in split_statements(migration.text):
            connection.execute(statement.encode())
    record_migration(connection, migration)


def apply_functions(
    connection: Connection,
    wanted: Functions,
    together: Sequence[Migration],
    *,
    again: bool,
    deadline: float,
) -> bool:
    """The migrations `together` and all functions in one transaction; nothing where no function has changed. `again`:
    whether migrations came before, which may have dropped some. Returns whether any were applied."""
    recorded = recorded_functions(connection)
    if recorded is not None and recorded[0] == wanted.sha256 and not again:
        return False

    def apply() -> None:
        for migration in together:
            _execute_migration(connection, migration)
        for file_name, text in wanted.texts:
            with _explained(f"The functions in {file_name}"):
                connection.execute(text.encode())
        record_functions(connection, wanted)

    _giving_way(connection, apply, together, deadline)
    return True


def _execute_migration(connection: Connection, migration: Migration) -> None:
    with _explained(f"The migration {migration.file_name}", schema_stays=True):
        connection.execute(migration.text.encode())
    record_migration(connection, migration)


def _giving_way(
    connection: Connection, apply: Callable[[], None], migrations: Sequence[Migration], deadline: float
) -> None:
    """`apply()` in one transaction; where somebody else holds what it needs, again a moment later."""
    while True:
        try:
            with connection.transaction():
                _lock_tables(connection, migrations)
                apply()
        except _IN_THE_WAY as error:
            if time.monotonic() > deadline:
                raise DatabaseError(
                    f"The migration could not have a table that it changes, since others use it "
                    f"({first_line(error)}). Nothing is changed. End what holds it for so long "
                    "(pg_stat_activity, the oldest xact_start), and run `embedmill db migrate` again."
                ) from error
            time.sleep(_GIVE_WAY_SECONDS)
        else:
            return


def _lock_tables(connection: Connection, migrations: Sequence[Migration]) -> None:
    """Tables that a migration changes against everybody, the others against writers: functions come with triggers."""
    ours = [str(row[0]) for row in connection.execute(_OUR_TABLES).fetchall()]
    altered = {name.lower() for migration in migrations for name in _ALTERED.findall(migration.text)}
    connection.execute(
        "SELECT set_config(name, %s, true) FROM unnest(ARRAY['lock_timeout', 'statement_timeout']) AS name",
        (_LOCK_WAIT,),
    )
    try:
        for mode, tables in (
            ("ACCESS EXCLUSIVE", [name for name in ours if name in altered]),
            ("SHARE ROW EXCLUSIVE", [name for name in ours if name not in altered]),
        ):
            if tables:
                names = sql.SQL(", ").join(sql.Identifier("embedmill", name) for name in tables)
                connection.execute(sql.SQL("LOCK TABLE {} IN {} MODE").format(names, sql.SQL(mode)))
    except psycopg.errors.QueryCanceled as error:
        raise psycopg.errors.LockNotAvailable(str(error)) from error
    connection.execute("SET LOCAL statement_timeout = 0")


@contextmanager
def _explained(what: str, *, schema_stays: bool = False) -> Iterator[None]:
    try:
        yield
    except (psycopg.errors.InsufficientPrivilege, *_IN_THE_WAY):
        raise
    except psycopg.Error as error:
        after = (
            " The schema stays at the one before it; `embedmill db migrate` tries again."
            if schema_stays
            else ""
        )
        raise DatabaseError(f"{what} failed: {first_line(error)}.{after}") from error


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
