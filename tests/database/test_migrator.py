"""Migrations one at a time: order, records, frozen files, functions, what is said when something is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedmill.database.migrator import assert_current, migrate, schema_version
from embedmill.errors import DatabaseError, DatabaseUnsuitableError, SchemaVersionError
from tests.database.sql_folders import Connection, SqlFolders, answer


@pytest.fixture
def folders(tmp_path: Path) -> SqlFolders:
    return SqlFolders(tmp_path)


@pytest.fixture
def connection(empty_database: str) -> Iterator[Connection]:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        yield connection


def value(connection: Connection, query: str) -> object:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_a_fresh_install_and_a_second_run(connection: Connection, folders: SqlFolders) -> None:
    assert schema_version(connection) is None
    first = folders.migrate(connection)
    assert (first.from_version, first.to_version, first.applied) == (None, 1, ("0001_base.sql",))
    assert first.functions_applied
    assert schema_version(connection) == 1
    assert value(connection, "SELECT embedmill.answer()") == 1
    second = folders.migrate(connection)
    assert (second.from_version, second.applied, second.changed) == (1, (), False)
    folders.assert_current(connection)


def test_later_migrations_come_in_order_and_changed_functions_again(
    connection: Connection, folders: SqlFolders
) -> None:
    folders.migrate(connection)
    folders.migration("0002_more.sql", "ALTER TABLE embedmill.things ADD COLUMN name text;")
    folders.migration("0003_most.sql", "ALTER TABLE embedmill.things RENAME COLUMN name TO title;")
    with pytest.raises(
        SchemaVersionError, match="schema is at 1, this embedmill needs 3: run `embedmill db migrate`"
    ):
        folders.assert_current(connection)
    assert folders.migrate(connection).applied == ("0002_more.sql", "0003_most.sql")
    folders.function("10_answer.sql", answer(2))
    with pytest.raises(SchemaVersionError, match=r"functions in the database are not.*embedmill db migrate"):
        folders.assert_current(connection)
    report = folders.migrate(connection)
    assert (report.applied, report.functions_applied) == ((), True)
    assert value(connection, "SELECT embedmill.answer()") == 2


def test_an_empty_database_is_told_apart_from_an_old_one(connection: Connection, folders: SqlFolders) -> None:
    with pytest.raises(SchemaVersionError, match="no embedmill schema yet: run `embedmill db migrate`"):
        folders.assert_current(connection)


def test_a_newer_schema_is_left_alone(connection: Connection, folders: SqlFolders) -> None:
    folders.migration("0002_more.sql", "CREATE TABLE embedmill.more ();")
    folders.migrate(connection)
    (folders.migrations / "0002_more.sql").unlink()
    for act in (folders.migrate, folders.assert_current):
        with pytest.raises(
            SchemaVersionError, match=r"newer \(2\) than this embedmill \(1\): upgrade embedmill"
        ):
            act(connection)


@pytest.mark.parametrize("change", ["text", "name"])
def test_an_applied_migration_is_frozen(connection: Connection, folders: SqlFolders, change: str) -> None:
    folders.migrate(connection)
    if change == "text":
        folders.migration("0001_base.sql", "CREATE TABLE embedmill.things (id bigint);")
    else:
        (folders.migrations / "0001_base.sql").rename(folders.migrations / "0001_other.sql")
    for act in (folders.migrate, folders.assert_current):
        with pytest.raises(SchemaVersionError, match=r"applied to this database as 0001_base: .*is frozen"):
            act(connection)


def test_a_checkout_with_other_line_ends_changes_nothing(connection: Connection, folders: SqlFolders) -> None:
    folders.migration("0001_base.sql", "CREATE TABLE embedmill.things\n(id int);\n")
    folders.migrate(connection)
    (folders.migrations / "0001_base.sql").write_bytes(b"CREATE TABLE embedmill.things\r\n(id int);\r\n")
    folders.assert_current(connection)


def test_a_failing_migration_leaves_the_schema_before_it_whole(
    connection: Connection, folders: SqlFolders
) -> None:
    folders.migration("0002_bad.sql", "CREATE TABLE embedmill.half ();\nSELECT 1/0;")
    with pytest.raises(DatabaseError, match=r"0002_bad\.sql failed: division by zero"):
        folders.migrate(connection)
    assert schema_version(connection) == 1
    assert value(connection, "SELECT to_regclass('embedmill.half')") is None
    # And no lock is left: mended, it goes on.
    folders.migration("0002_bad.sql", "CREATE TABLE embedmill.half ();")
    assert folders.migrate(connection).applied == ("0002_bad.sql",)


def test_a_failing_function_changes_no_function(connection: Connection, folders: SqlFolders) -> None:
    folders.migrate(connection)
    folders.function("10_answer.sql", answer(3))
    folders.function("20_bad.sql", "CREATE OR REPLACE FUNCTION nonsense")
    with pytest.raises(DatabaseError, match=r"20_bad\.sql failed: syntax error"):
        folders.migrate(connection)
    assert value(connection, "SELECT embedmill.answer()") == 1


def test_without_a_transaction_statements_run_one_by_one_and_again_after_a_failure(
    connection: Connection, folders: SqlFolders
) -> None:
    folders.migration(
        "0002_index.sql",
        "-- embedmill: no-transaction\n"
        "CREATE TABLE IF NOT EXISTS embedmill.log (line text); /* a; comment /* within; one */ ; */\n"
        "INSERT INTO embedmill.log VALUES ('a;b'), (E'it\\'s;'), ($x$ $$;$$ $x$), (';--'); -- not; an end\n"
        "DO $$ BEGIN PERFORM 1; END $$;\n"
        "DROP INDEX CONCURRENTLY IF EXISTS embedmill.by_id;\n"
        "CREATE INDEX CONCURRENTLY by_id ON embedmill.things (id);\n"
        "SELECT 1 / count(*) FROM embedmill.switch;\n",
    )
    with pytest.raises(DatabaseError, match=r"0002_index\.sql failed"):
        folders.migrate(connection)
    assert schema_version(connection) == 1
    connection.execute("CREATE TABLE embedmill.switch AS SELECT 1")
    assert folders.migrate(connection).applied == ("0002_index.sql",)
    lines = connection.execute("SELECT DISTINCT line FROM embedmill.log ORDER BY 1").fetchall()
    assert {line for (line,) in lines} == {"a;b", "it's;", " $$;$$ ", ";--"}
    assert value(connection, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'embedmill.by_id'::regclass")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("0003_gap.sql", "SELECT 1", "should be number 0002"),
        ("0001_twice.sql", "SELECT 1", "should be number 0002"),
        ("2_short.sql", "SELECT 1", "is no name for a migration"),
        ("0002_Big.sql", "SELECT 1", "is no name for a migration"),
        ("0002_ends.sql", "SELECT 1; -- and\n/* now */ COMMIT;", "opens and ends the transaction"),
        ("0002_begins.sql", "  begin; SELECT 1;", "opens and ends the transaction"),
        ("0002_word.sql", "-- embedmill: no transaction\nSELECT 1", "what may stand there"),
        ("0002_when.sql", "-- embedmill: compatible-since 1\nSELECT 1", "what may stand there"),
        ("0002_later.sql", "-- embedmill: compatible-since 0003\nSELECT 1", "from 0001 to 0002"),
        ("0002_never.sql", "-- embedmill: compatible-since 0000\nSELECT 1", "from 0001 to 0002"),
    ],
)
def test_a_wrongly_made_migration_is_refused_before_anything_runs(
    connection: Connection, folders: SqlFolders, name: str, text: str, message: str
) -> None:
    folders.migration(name, text)
    with pytest.raises(SchemaVersionError, match=message):
        folders.migrate(connection)
    assert schema_version(connection) is None


def test_a_role_s_own_settings_do_not_change_what_is_made(
    connection: Connection, folders: SqlFolders
) -> None:
    folders.migration(
        "0001_base.sql", "CREATE TABLE things AS SELECT '[1,2]'::vector AS v; SELECT pg_sleep(0.2);"
    )
    connection.execute("CREATE SCHEMA elsewhere")
    connection.execute("CREATE EXTENSION vector SCHEMA elsewhere")
    connection.execute("SET search_path = pg_catalog")
    connection.execute("SET statement_timeout = '100ms'")
    folders.migrate(connection)
    assert value(connection, "SELECT count(*) FROM embedmill.things") == 1
    assert connection.autocommit


def test_pgvector_is_put_where_a_dropped_schema_does_not_take_it_along(
    connection: Connection, folders: SqlFolders
) -> None:
    folders.migrate(connection)
    home = "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
    assert value(connection, home) == "public"


def test_a_connection_inside_a_transaction_is_refused_and_one_outside_keeps_its_mode(
    empty_database: str, folders: SqlFolders
) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("SELECT 1")
        with pytest.raises(DatabaseError, match="outside any transaction"):
            folders.migrate(connection)
        connection.rollback()
        folders.migrate(connection)
        assert not connection.autocommit


def test_a_role_without_rights_is_told_so_in_a_sentence(connection: Connection, folders: SqlFolders) -> None:
    folders.migrate(connection)
    connection.execute("CREATE ROLE reader")
    try:
        connection.execute("GRANT USAGE ON SCHEMA embedmill TO reader")
        connection.execute("SET SESSION AUTHORIZATION reader")
        for act in (folders.migrate, folders.assert_current, schema_version):
            with pytest.raises(
                DatabaseUnsuitableError, match=r"role may not .*permission denied.*connect as the role"
            ):
                act(connection)
    finally:
        connection.execute("RESET SESSION AUTHORIZATION")
        connection.execute("DROP OWNED BY reader")
        connection.execute("DROP ROLE reader")


def test_the_shipped_schema_installs_and_is_current(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        assert_current(connection)
        assert not migrate(connection).changed
