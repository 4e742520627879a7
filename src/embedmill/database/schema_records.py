"""What is recorded in the database about its schema: which migrations, which functions, by which embedmill.

Owns the two record tables and what may be concluded from them: whether this embedmill may work on a schema that a
newer one has made. Applies nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
    embedmill_version text NOT NULL,
    compatible_since integer
);
ALTER TABLE embedmill.schema_migrations ADD COLUMN IF NOT EXISTS compatible_since integer;
CREATE TABLE IF NOT EXISTS embedmill.schema_functions (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    embedmill_version text NOT NULL
);
"""

# Without a declaration a migration asks for an embedmill that knows it. By way of jsonb: the column is missing where no
# embedmill since 0006 has migrated.
NEEDED_VERSION = """
SELECT max(coalesce((to_jsonb(m) ->> 'compatible_since')::integer, m.version)) FROM embedmill.schema_migrations m
"""
"""The newest migration that a process must know in order to work on this schema."""
_RECORDED = """
SELECT m.version, m.name, m.sha256, coalesce((to_jsonb(m) ->> 'compatible_since')::integer, m.version)
  FROM embedmill.schema_migrations m
"""


class Recorded(NamedTuple):
    """An applied migration. `compatible_since`: releases that know this one may work on the schema."""

    name: str
    sha256: str
    compatible_since: int


def record_migration(connection: Connection, migration: Migration) -> None:
    connection.execute(
        "INSERT INTO embedmill.schema_migrations (version, name, sha256, embedmill_version, compatible_since) "
        "VALUES (%s, %s, %s, %s, %s)",
        (migration.version, migration.name, migration.sha256, __version__, migration.compatible_since),
    )


def record_functions(connection: Connection, functions: Functions) -> None:
    connection.execute(
        "INSERT INTO embedmill.schema_functions (sha256, embedmill_version) VALUES (%s, %s) "
        "ON CONFLICT (only_row) DO UPDATE SET sha256 = excluded.sha256, applied_at = now(), "
        "embedmill_version = excluded.embedmill_version",
        (functions.sha256, __version__),
    )


def assert_compatible(recorded: Mapping[int, Recorded], known: Sequence[Migration]) -> None:
    """A schema that a newer embedmill made will do where each of its later migrations says so."""
    ours = known[-1].version if known else 0
    needed = max((each.compatible_since for version, each in recorded.items() if version > ours), default=0)
    if needed > ours:
        raise SchemaVersionError(
            f"The schema is newer ({max(recorded)}) than this embedmill ({ours}): upgrade embedmill."
        )


def assert_frozen(recorded: Mapping[int, Recorded], known: Sequence[Migration]) -> None:
    for migration in known:
        found = recorded.get(migration.version)
        if found is not None and found[:2] != (migration.name, migration.sha256):
            raise SchemaVersionError(
                f"The migration {migration.file_name} is not the one that was applied to this database as "
                f"{migration.version:04}_{found.name}: an applied migration is frozen. Install the embedmill that "
                "applied it, or put the change into a new migration."
            )


def are_functions_of_newer(
    recorded: Mapping[int, Recorded],
    known: Sequence[Migration],
    found: tuple[str, str] | None,
    wanted: Functions,
) -> bool:
    """Whether the functions in the database are those of a newer embedmill. They serve this one as well (what they may
    not change without a migration that says so: CONTRIBUTING.md), and it must not put its own in their place."""
    if max(recorded, default=0) > (known[-1].version if known else 0):
        return True
    return (
        found is not None and found[0] != wanted.sha256 and _version_key(found[1]) > _version_key(__version__)
    )


def recorded_migrations(connection: Connection) -> dict[int, Recorded]:
    """By version."""
    rows = connection.execute(_RECORDED).fetchall()
    return {int(str(row[0])): Recorded(str(row[1]), str(row[2]), int(str(row[3]))) for row in rows}


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
