"""Migrations by many at once, and killed in the middle: one runs, the others wait, nothing stays locked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from embedmill.database.migrator import migrate, schema_version
from embedmill.errors import DatabaseError

MIGRATE = (
    "import sys; from pathlib import Path; import psycopg; from embedmill.database.migrator import migrate\n"
    "with psycopg.connect(sys.argv[1]) as connection:\n"
    "    report = migrate(connection, Path(sys.argv[2]) / 'migrations', Path(sys.argv[2]) / 'functions')\n"
    "    print(len(report.applied), report.functions_applied)\n"
)
OURS = "(SELECT oid FROM pg_database WHERE datname = current_database())"
LOCKED = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = {OURS}"
ASLEEP = f"SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datid = {OURS}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    migrations, functions = tmp_path / "migrations", tmp_path / "functions"
    migrations.mkdir()
    functions.mkdir()
    (migrations / "0001_base.sql").write_text("CREATE TABLE embedmill.things AS SELECT 1 AS id;")
    (migrations / "0002_slow.sql").write_text(
        "INSERT INTO embedmill.things VALUES (2); SELECT pg_sleep(0.3);"
    )
    (migrations / "0003_index.sql").write_text(
        "-- embedmill: no-transaction\n"
        "DROP INDEX CONCURRENTLY IF EXISTS embedmill.by_id;\n"
        "CREATE INDEX CONCURRENTLY by_id ON embedmill.things (id);\n"
    )
    (functions / "10_f.sql").write_text(
        "CREATE OR REPLACE FUNCTION embedmill.f() RETURNS int LANGUAGE sql AS 'SELECT 1';"
    )
    return tmp_path


def start(url: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MIGRATE, url, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_eight_processes_at_once_all_succeed_and_one_migrates(empty_database: str, folder: Path) -> None:
    processes = [start(empty_database, folder) for _ in range(8)]
    outputs = [process.communicate() for process in processes]
    assert [errors for _, errors in outputs] == [""] * 8
    assert sorted(output.strip() for output, _ in outputs) == ["0 False"] * 7 + ["3 True"]
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT array_agg(id ORDER BY id) FROM embedmill.things").fetchone() == (
            [1, 2],
        )


def test_killed_in_a_long_statement_nothing_stays_locked_and_the_next_completes(
    empty_database: str, folder: Path
) -> None:
    slow = folder / "migrations" / "0002_slow.sql"
    slow.write_text(
        "INSERT INTO embedmill.things VALUES (2); SELECT pg_sleep(coalesce(sum(s), 0)) FROM embedmill.pauses;"
    )
    with psycopg.connect(empty_database, autocommit=True) as watcher:
        watcher.execute("CREATE SCHEMA embedmill")
        watcher.execute("CREATE TABLE embedmill.pauses AS SELECT 600 AS s")
        with start(empty_database, folder) as victim:
            while watcher.execute(ASLEEP.encode()).fetchone() == (0,):
                assert victim.poll() is None
            assert watcher.execute(LOCKED.encode()).fetchone() == (1,)
            victim.kill()
        watcher.execute("DELETE FROM embedmill.pauses")
        with start(empty_database, folder) as successor:
            output, errors = successor.communicate()
        assert (errors, output.strip()) == ("", "2 True")
        assert schema_version(watcher) == 3
        assert watcher.execute("SELECT count(*) FROM embedmill.things").fetchone() == (2,)
        assert watcher.execute(LOCKED.encode()).fetchone() == (0,)


def test_a_migration_that_does_not_end_is_named_with_its_process(empty_database: str, folder: Path) -> None:
    with (
        psycopg.connect(empty_database, autocommit=True) as holder,
        psycopg.connect(empty_database, autocommit=True) as waiter,
    ):
        migrations, functions = folder / "migrations", folder / "functions"
        migrate(holder, migrations, functions)
        key = int.from_bytes(b"embedmil", "big")
        holder.execute("SELECT pg_advisory_lock(%s)", (key,))
        with pytest.raises(DatabaseError, match=rf"server process {holder.info.backend_pid}\)"):
            migrate(waiter, migrations, functions, lock_timeout_seconds=0.2)
        holder.execute("SELECT pg_advisory_unlock(%s)", (key,))
        assert not migrate(waiter, migrations, functions).changed
