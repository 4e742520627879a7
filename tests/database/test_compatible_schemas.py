"""Two releases on one schema: the older one works where the newer one says so, and never puts its own in its place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from embedmill import __version__
from embedmill.database import schema_records
from embedmill.database.migrator import migrate, newest_migration, schema_version, shipped_migrations
from embedmill.errors import DatabaseError, SchemaVersionError
from tests.database.sql_folders import Connection, SqlFolders, answer

ADDS = "-- embedmill: compatible-since 0001\nALTER TABLE embedmill.things ADD COLUMN note text;"


@pytest.fixture
def old(tmp_path: Path) -> SqlFolders:
    (tmp_path / "old").mkdir()
    return SqlFolders(tmp_path / "old")


@pytest.fixture
def new(old: SqlFolders, tmp_path: Path) -> SqlFolders:
    return old.copy(tmp_path / "new")


@pytest.fixture
def connection(empty_database: str) -> Iterator[Connection]:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        yield connection


def where(connection: Connection) -> str:
    """For a second connection; `dsn` leaves the password out."""
    return make_conninfo(connection.info.dsn, password=connection.info.password or None)


def answers(connection: Connection) -> object:
    row = connection.execute("SELECT embedmill.answer()").fetchone()
    assert row is not None
    return row[0]


def test_an_older_release_works_on_a_schema_that_bears_with_it_and_leaves_its_functions(
    connection: Connection, old: SqlFolders, new: SqlFolders
) -> None:
    old.migrate(connection)
    new.migration("0002_note.sql", ADDS)
    new.function("10_answer.sql", answer(2))
    with pytest.raises(SchemaVersionError, match="schema is at 1, this embedmill needs 2"):
        new.assert_current(connection)
    new.migrate(connection)
    for _ in range(2):  # the older one's migration job, run again on the way back
        old.assert_current(connection)
        report = old.migrate(connection)
        assert (report.from_version, report.to_version, report.changed) == (2, 2, False)
        assert answers(connection) == 2
        new.assert_current(connection)


@pytest.mark.parametrize("head", ["", "-- embedmill: compatible-since 0002\n"])
def test_it_refuses_one_that_does_not(
    connection: Connection, old: SqlFolders, new: SqlFolders, head: str
) -> None:
    new.migration("0002_note.sql", ADDS)
    new.migration("0003_drops.sql", head + "ALTER TABLE embedmill.things DROP COLUMN note;")
    new.migrate(connection)
    for act in (old.migrate, old.assert_current):
        with pytest.raises(SchemaVersionError, match=r"newer \(3\) than this embedmill \(1\): upgrade"):
            act(connection)
    between = old
    between.migration("0002_note.sql", ADDS)
    if head:
        between.assert_current(connection)
    else:
        with pytest.raises(SchemaVersionError, match=r"newer \(3\) than this embedmill \(2\)"):
            between.assert_current(connection)


def test_functions_alone_of_a_newer_release_stay_too(
    connection: Connection, old: SqlFolders, new: SqlFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.migrate(connection)
    new.function("10_answer.sql", answer(2))
    monkeypatch.setattr(schema_records, "__version__", "999.0.1")
    new.migrate(connection)
    monkeypatch.setattr(schema_records, "__version__", __version__)
    old.assert_current(connection)
    assert not old.migrate(connection).changed
    assert answers(connection) == 2
    monkeypatch.setattr(schema_records, "__version__", "999.0.2")
    with pytest.raises(SchemaVersionError, match=r"functions in the database are not.*embedmill db migrate"):
        old.assert_current(connection)
    assert old.migrate(connection).functions_applied, "the next release brings its own"


def test_what_a_compatible_migration_drops_is_never_missing(
    connection: Connection, old: SqlFolders, new: SqlFolders
) -> None:
    """A function that only other functions call may change its shape: both come in one transaction."""
    inner = "CREATE OR REPLACE FUNCTION embedmill.inner_answer() RETURNS {} LANGUAGE sql AS 'SELECT {}';"
    outer = "CREATE OR REPLACE FUNCTION embedmill.answer() RETURNS int LANGUAGE plpgsql AS "
    outer += "$$ BEGIN RETURN embedmill.inner_answer(); END $$;"
    for folders, kind, number in ((old, "int", 1), (new, "bigint", 2)):
        folders.function("10_answer.sql", inner.format(kind, number) + outer)
    old.migrate(connection)
    new.migration(
        "0002_shape.sql",
        "-- embedmill: compatible-since 0001\nDROP FUNCTION embedmill.inner_answer(); SELECT pg_sleep(0.3);",
    )
    done = threading.Event()
    seen = set()

    def ask() -> None:
        with psycopg.connect(where(connection), autocommit=True) as asking:
            while not done.is_set():
                seen.add(answers(asking))
            seen.add(answers(asking))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        new.migrate(connection)
    finally:
        done.set()
        thread.join()
    assert seen <= {1, 2}
    assert 2 in seen, "a question that failed ends the thread before this one"


def test_a_failing_function_takes_a_compatible_migration_back_with_it(
    connection: Connection, old: SqlFolders, new: SqlFolders
) -> None:
    old.migrate(connection)
    new.migration("0002_note.sql", ADDS)
    new.function("20_bad.sql", "CREATE OR REPLACE FUNCTION nonsense")
    with pytest.raises(DatabaseError, match=r"20_bad\.sql failed: syntax error"):
        new.migrate(connection)
    assert schema_version(connection) == 1
    old.assert_current(connection)


def test_a_table_in_use_is_waited_for_without_keeping_others_from_it(
    connection: Connection, old: SqlFolders, new: SqlFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.migrate(connection)
    new.migration("0002_note.sql", ADDS)
    gave_way = threading.Event()

    def pause(seconds: float) -> None:
        # Between two tries: nobody waits in line for the table, so another may read and write it at once.
        with psycopg.connect(where(connection), autocommit=True) as other:
            other.execute("SET lock_timeout = '1ms'")
            other.execute("INSERT INTO embedmill.things (id) VALUES (1)")
        gave_way.set()

    monkeypatch.setattr("embedmill.database.applying.time.sleep", pause)
    with psycopg.connect(where(connection)) as holder:
        holder.execute("SELECT count(*) FROM embedmill.things")

        def let_go() -> None:
            gave_way.wait(30)
            holder.rollback()

        thread = threading.Thread(target=let_go)
        thread.start()
        assert new.migrate(connection).applied == ("0002_note.sql",)
        thread.join()
    assert gave_way.is_set()


def test_a_table_that_stays_in_use_is_given_up_with_what_to_do(
    connection: Connection, old: SqlFolders, new: SqlFolders
) -> None:
    old.migrate(connection)
    new.migration("0002_note.sql", ADDS)
    with psycopg.connect(where(connection)) as holder:
        holder.execute("SELECT count(*) FROM embedmill.things")
        with pytest.raises(DatabaseError, match=r"others use it .*Nothing is changed\. End what holds it"):
            migrate(connection, new.migrations, new.functions, lock_timeout_seconds=0.0)
    assert schema_version(connection) == 1
    new.migrate(connection)


def test_a_database_of_before_the_declaration_gets_its_column(
    connection: Connection, old: SqlFolders
) -> None:
    old.migrate(connection)
    connection.execute("ALTER TABLE embedmill.schema_migrations DROP COLUMN compatible_since")
    old.assert_current(connection)
    old.migration("0002_note.sql", ADDS)
    old.migrate(connection)
    since = "SELECT version, compatible_since FROM embedmill.schema_migrations ORDER BY 1"
    assert connection.execute(since).fetchall() == [(1, None), (2, 1)]


def test_the_newest_shipped_migration_has_the_highest_number() -> None:
    names = sorted(file.name for file in shipped_migrations().iterdir())
    assert names[-1].startswith(f"{newest_migration():04}_")
