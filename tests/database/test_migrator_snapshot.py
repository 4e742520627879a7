"""The snapshot of the schema: the same for the same schema, and a difference is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from embedmill.database.migrator import migrate
from tests.support.postgres import with_database

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "snapshot_schema.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], check=False, capture_output=True, text=True
    )


def test_a_fresh_install_is_as_the_snapshot_says(database: str) -> None:
    with psycopg.connect(database) as connection:
        if connection.info.server_version < 160000:
            pytest.skip("PostgreSQL 15 names the table of each column of a view")
    answer = run("--check", "--database", database)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (
            "ALTER TABLE embedmill.tenants ADD COLUMN extra numeric(5, 2) DEFAULT 1",
            "extra numeric(5,2) default",
        ),
        ("ALTER TABLE embedmill.tenants ALTER COLUMN slug DROP NOT NULL", "slug text"),
        (
            "CREATE INDEX odd ON embedmill.tenants (lower(slug)) WHERE id > 3",
            "INDEX odd ON embedmill.tenants",
        ),
        ("ALTER TABLE embedmill.tenants SET (fillfactor = 77)", "fillfactor=77"),
        ("ALTER TABLE embedmill.tenants ADD CONSTRAINT c CHECK (id <> 7)", "CHECK ((id <> 7))"),
        ("CREATE POLICY p ON embedmill.tenants FOR SELECT USING (id = 9)", "using (id = 9)"),
        ("ALTER TABLE embedmill.tenants DISABLE ROW LEVEL SECURITY", "-    row security"),
        ("GRANT SELECT ON embedmill.tenants TO PUBLIC", "grant select to public"),
        ("CREATE FUNCTION embedmill.g() RETURNS int LANGUAGE sql AS 'SELECT 1'", "function g()"),
        ("CREATE TYPE embedmill.mood AS ENUM ('good', 'bad')", "'good', 'bad'"),
        ("CREATE VIEW embedmill.w AS SELECT 42 AS answer", "42 AS answer"),
    ],
)
def test_each_kind_of_change_is_shown(database: str, change: str, shown: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(change.encode())
    answer = run("--check", "--database", database)
    assert answer.returncode == 1
    assert any(line[0] in "+-" and shown.lstrip("-") in line for line in answer.stdout.splitlines() if line)
    assert "python scripts/snapshot_schema.py" in answer.stdout


def test_a_server_of_another_version_gives_the_same_words(postgres16: str) -> None:
    with psycopg.connect(postgres16, autocommit=True) as connection:
        connection.execute("CREATE DATABASE snapshot TEMPLATE template0")
    own = with_database(postgres16, "snapshot")
    with psycopg.connect(own, autocommit=True) as connection:
        migrate(connection)
    answer = run("--check", "--database", own)
    assert answer.returncode == 0, answer.stdout
