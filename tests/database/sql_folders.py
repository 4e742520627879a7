"""Migrations and functions of a test's own, as an embedmill brings them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Self

import psycopg

from embedmill.database.migrator import MigrationReport, assert_current, migrate

Connection = psycopg.Connection[tuple[object, ...]]


class SqlFolders:
    """Migrations and functions of a test's own."""

    def __init__(self, root: Path) -> None:
        self.migrations = root / "migrations"
        self.functions = root / "functions"
        self.migrations.mkdir()
        self.functions.mkdir()
        self.migration("0001_base.sql", "CREATE TABLE embedmill.things (id int);")
        self.function("10_answer.sql", answer(1))

    def migration(self, name: str, text: str) -> None:
        (self.migrations / name).write_text(text)

    def function(self, name: str, text: str) -> None:
        (self.functions / name).write_text(text)

    def copy(self, to: Path) -> Self:
        """The next release, to begin with."""
        shutil.copytree(self.migrations.parent, to, dirs_exist_ok=True)
        copy = type(self).__new__(type(self))
        copy.migrations, copy.functions = to / "migrations", to / "functions"
        return copy

    def migrate(self, connection: Connection) -> MigrationReport:
        return migrate(connection, self.migrations, self.functions)

    def assert_current(self, connection: Connection) -> None:
        assert_current(connection, self.migrations, self.functions)


def answer(number: int) -> str:
    return (
        f"CREATE OR REPLACE FUNCTION embedmill.answer() RETURNS int LANGUAGE sql AS $$ SELECT {number}; $$;"
    )
