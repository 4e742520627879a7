"""What is recorded in the database about its schema: which migrations, which functions, by which embedmill.

Owns the two record tables and what may be concluded from them; applies nothing.
"""

from __future__ import annotations

import psycopg

from embedmill import __version__
from embedmill.database.migration_files import Functions, Migration
from embedmill.errors import SchemaVersionError

Connection = psycopg.Connection[tuple[object, ...]]

RECORD_TABLES = """
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


def record_migration(connection: Connection, migration: Migration) -> None:
    connection.execute(
        "INSERT INTO embedmill.schema_migrations (version, name, sha256, embedmill_version) "
        "VALUES (%s, %s, %s, %s)",
        (migration.version, migration.name, migration.sha256, __version__),
    )


def record_functions(connection: Connection, functions: Functions) -> None:
    connection.execute(
        "INSERT INTO embedmill.schema_functions (sha256, embedmill_version) VALUES (%s, %s) "
        "ON CONFLICT (only_row) DO UPDATE SET sha256 = excluded.sha256, applied_at = now(), "
        "embedmill_version = excluded.embedmill_version",
        (functions.sha256, __version__),
    )


def assert_not_newer(recorded: dict[int, tuple[str, str]], known: list[Migration]) -> None:
    newest, ours = max(recorded, default=0), known[-1].version if known else 0
    if newest > ours:
        raise SchemaVersionError(
            f"The schema is newer ({newest}) than this embedmill ({ours}): upgrade embedmill."
        )


def assert_frozen(recorded: dict[int, tuple[str, str]], known: list[Migration]) -> None:
    for migration in known:
        name, sha256 = recorded.get(migration.version, (migration.name, migration.sha256))
        if (name, sha256) != (migration.name, migration.sha256):
            raise SchemaVersionError(
                f"The migration {migration.file_name} is not the one that was applied to this database as "
                f"{migration.version:04}_{name}: an applied migration is frozen. Install the embedmill that "
                "applied it, or put the change into a new migration."
            )


def assert_functions_not_newer(found: tuple[str, str] | None, wanted: Functions) -> None:
    if found and found[0] != wanted.sha256 and _version_key(found[1]) > _version_key(__version__):
        raise SchemaVersionError(
            f"The functions in the database are of a newer embedmill ({found[1]}) than this one "
            f"({__version__}): upgrade embedmill."
        )


def recorded_migrations(connection: Connection) -> dict[int, tuple[str, str]]:
    rows = connection.execute("SELECT version, name, sha256 FROM embedmill.schema_migrations").fetchall()
    return {int(str(version)): (str(name), str(sha256)) for version, name, sha256 in rows}


def recorded_functions(connection: Connection) -> tuple[str, str] | None:
    row = connection.execute("SELECT sha256, embedmill_version FROM embedmill.schema_functions").fetchone()
    return (str(row[0]), str(row[1])) if row else None


def table_exists(connection: Connection, table: str) -> bool:
    # From the catalog: to_regclass() raises where the schema may not be used.
    return bool(
        single(
            connection,
            "SELECT true FROM pg_class WHERE relname = %s AND relnamespace = "
            "(SELECT oid FROM pg_namespace WHERE nspname = 'embedmill')",
            table,
        )
    )


def single(connection: Connection, query: str, parameter: object) -> object:
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
