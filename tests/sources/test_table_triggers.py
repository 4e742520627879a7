"""The triggers of a followed table: many rows, odd types, odd sessions; and that nothing ever fails a user's write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.sources.following import Changes, connected, follow, noted

Connection = psycopg.Connection[tuple[Any, ...]]
MANY = 1_300


@pytest.fixture
def user(database: str) -> Iterator[Connection]:
    with connected(database) as connection:
        yield connection


def by_operation(connection: Connection) -> dict[str, int]:
    """How many keys were written down of each operation, none of them twice."""
    changes = noted(connection)
    assert set(changes.values()) <= {1}
    return dict(Counter(operation for operation, _ in changes))


def keys(*numbers: int, operation: str = "U") -> Changes:
    return Counter({(operation, str(number)): 1 for number in numbers})


async def test_statements_of_many_rows_are_noted_as_small_ones_are(database: str, user: Connection) -> None:
    user.execute(
        "CREATE TABLE jobs (id bigint PRIMARY KEY, title text, kind text DEFAULT 'job', views int DEFAULT 0)"
    )
    await follow(database, "jobs", "$title", condition="kind = 'job'")
    user.execute("INSERT INTO jobs (id, title) SELECT g, 't' FROM generate_series(1, %s) g", (MANY,))
    assert by_operation(user) == {"I": MANY}
    user.execute("UPDATE jobs SET views = views + 1, title = title")
    assert by_operation(user) == {}
    user.execute("UPDATE jobs SET title = title || 'x' WHERE id % 2 = 0")
    assert by_operation(user) == {"U": MANY // 2}
    user.execute("UPDATE jobs SET kind = 'gone', title = 'new' WHERE id <= 600")
    assert by_operation(user) == {"D": 600}
    user.execute("UPDATE jobs SET kind = 'job', id = -id WHERE id <= 700")
    assert by_operation(user) == {"I": 700, "D": 100}
    with user.cursor().copy("COPY jobs (id, title) FROM STDIN") as copy:
        for number in range(5_000, 5_000 + MANY):
            copy.write_row((number, "copied"))
    assert by_operation(user) == {"I": MANY}
    user.execute("DELETE FROM jobs")
    assert by_operation(user) == {"D": 2 * MANY}


async def test_unrelated_updates_write_nothing_and_start_no_number(database: str, user: Connection) -> None:
    user.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, title text, views int DEFAULT 0, place text)")
    user.execute("INSERT INTO jobs VALUES (1, 'a', 0, 'here')")
    await follow(database, "jobs", "$title", metadata_columns=("place",))
    user.execute("UPDATE jobs SET views = 1, title = 'a'")
    assert noted(user) == Counter()
    user.execute("UPDATE jobs SET place = 'there'")
    assert noted(user) == keys(1)


@pytest.mark.parametrize(
    ("type_name", "before", "after"),
    [
        ("numeric", "1.0", "1.00"),
        ("jsonb", '{"a": 1.0}', '{"a": 1.00}'),
        ("json", '{"a":1}', '{"a": 1}'),
        ("interval", "24 hours", "1 day"),
        ("character(5)", "a", "b"),
        ("integer[]", "{1}", "{1,NULL}"),
        ("double precision", "0", "-0"),
        ("point", "(1,2)", "(1,3)"),
        ("character varying(20)", "a", "a "),
        ("date", "2026-01-01", "infinity"),
        ("bytea", "\\x00", "\\x0000"),
        ("mood", "glad", "sad"),
        ("positive", "1", "2"),
    ],
)
async def test_what_reads_differently_is_a_change_though_it_may_be_equal(
    database: str, user: Connection, type_name: str, before: str, after: str
) -> None:
    user.execute(
        "CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE DOMAIN positive AS integer CHECK (VALUE > 0)"
    )
    user.execute(f"CREATE TABLE things (id int PRIMARY KEY, what {type_name}, n int DEFAULT 0)".encode())
    user.execute("INSERT INTO things (id, what) SELECT g, %s FROM generate_series(1, 600) g", (before,))
    await follow(database, "things", "$what")
    user.execute("UPDATE things SET n = n + 1")
    user.execute("UPDATE things SET n = n + 1 WHERE id < 5")
    assert noted(user) == Counter()
    user.execute("UPDATE things SET what = %s WHERE id = 7", (after,))
    assert noted(user) == keys(7)
    user.execute("UPDATE things SET n = n + 1, what = CASE WHEN id < 3 THEN NULL ELSE what END")
    assert noted(user) == keys(1, 2)


async def test_a_condition_that_fails_on_a_row_fails_no_write(database: str, user: Connection) -> None:
    user.execute("CREATE TABLE jobs (id int PRIMARY KEY, title text, n int)")
    user.execute("INSERT INTO jobs VALUES (1, 'a', 1)")
    await follow(database, "jobs", "$title", condition="10 / n > 1")
    user.execute("INSERT INTO jobs VALUES (2, 'b', 0), (3, 'c', 1)")
    assert noted(user) == keys(2, 3)
    user.execute("UPDATE jobs SET n = 0 WHERE id = 1")
    assert noted(user) == keys(1)
    user.execute("INSERT INTO jobs SELECT g, 'many', g % 2 FROM generate_series(1001, 2300) g")
    assert by_operation(user) == {"U": MANY}
    user.execute("UPDATE jobs SET id = -id WHERE id > 1000")
    assert by_operation(user) == {"U": 2 * MANY}
    user.execute("DELETE FROM jobs WHERE id < 4")
    assert by_operation(user) == {"U": 3 + MANY}


async def test_keys_too_long_for_an_index_are_passed_over(database: str, user: Connection) -> None:
    user.execute("CREATE TABLE pages (url text PRIMARY KEY, body text)")
    await follow(database, "pages", "$body")
    user.execute(
        "INSERT INTO pages VALUES (repeat('ä', 1001), 'long'), (repeat('ä', 1000), 'fits'), ('', 'empty')"
    )
    assert noted(user) == Counter({("I", "ä" * 1000): 1, ("I", ""): 1})
    user.execute("UPDATE pages SET body = 'x' WHERE url LIKE 'ää%'")
    assert noted(user) == Counter({("U", "ä" * 1000): 1})
    user.execute("DELETE FROM pages WHERE length(url) > 1000")
    assert noted(user) == Counter()


async def test_writers_need_no_rights_of_ours_and_no_settings(database: str, user: Connection) -> None:
    user.execute("CREATE TABLE jobs (id int PRIMARY KEY, title text, at timestamptz)")
    await follow(database, "jobs", "$title $at", condition="length(title) > 0")
    user.execute("DROP ROLE IF EXISTS some_writer; CREATE ROLE some_writer")
    user.execute("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON jobs TO some_writer")
    user.execute("REVOKE ALL ON SCHEMA embedmill FROM PUBLIC")
    try:
        user.execute("SET ROLE some_writer")
        # pg_restore switches it off; a session may shadow whatever it likes.
        user.execute("SET row_security = off; SET search_path = pg_temp, public; SET DateStyle = 'SQL, DMY'")
        user.execute(
            "CREATE TEMPORARY TABLE embedmill_new (id int); CREATE TEMPORARY TABLE record_changes (id int)"
        )
        user.execute(
            "CREATE FUNCTION pg_temp.length(text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$no$$; END'"
        )
        user.execute("SET embedmill.tenant_id = '99'")
        user.execute("INSERT INTO public.jobs VALUES (1, 'a', now()), (2, '', now())")
        user.execute(
            "UPDATE public.jobs SET title = 'b'; DELETE FROM public.jobs WHERE id = 2; TRUNCATE public.jobs"
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            user.execute("SELECT embedmill.record_source_1()")
    finally:
        user.execute(
            "RESET ROLE; RESET row_security; RESET search_path; DROP OWNED BY some_writer; DROP ROLE some_writer"
        )
    assert noted(user) == keys(1) + keys(1, 2, operation="I") + keys(2, operation="D") + Counter(
        {("T", ""): 1}
    )


async def test_a_transaction_of_many_statements_uses_one_transaction_number(
    database: str, user: Connection
) -> None:
    """Numbers of sub-transactions, 64 of which a server keeps at hand, would slow everybody."""
    user.execute("CREATE TABLE jobs (id int PRIMARY KEY, title text)")
    await follow(database, "jobs", "$title", condition="length(title) > 0")
    number = "SELECT pg_current_xact_id()::text::bigint"
    (before,) = user.execute(number).fetchone() or (0,)
    with user.transaction():
        for key in range(70):
            user.execute("INSERT INTO jobs VALUES (%s, 'x')", (key,))
        user.execute("UPDATE jobs SET title = 'y'; DELETE FROM jobs")
    (after,) = user.execute(number).fetchone() or (0,)
    # One of that transaction and one of the question; the server's own work (autovacuum) takes a few.
    assert after - before < 35, "a number for every second statement"


async def test_our_own_writes_of_vectors_are_not_noted(database: str, user: Connection) -> None:
    user.execute("CREATE TABLE jobs (id int PRIMARY KEY, title text)")
    user.execute("INSERT INTO jobs VALUES (1, 'a')")
    source = await follow(database, "jobs", "$title")
    writing = "SELECT set_config('embedmill.is_writing', %s, true)"
    with user.transaction():
        user.execute(writing, (str(source.id),))
        user.execute("UPDATE jobs SET title = 'b'")
    assert noted(user) == Counter()
    user.execute("UPDATE jobs SET title = 'c'")
    assert noted(user) == keys(1)
    with user.transaction():  # another source's column is no reason
        user.execute(writing, (str(source.id + 1),))
        user.execute("UPDATE jobs SET title = 'd'")
    assert noted(user) == keys(1)


async def test_a_trigger_of_an_older_version_is_made_anew_and_nothing_is_read_again(
    database: str, user: Connection
) -> None:
    user.execute("CREATE TABLE jobs (id int PRIMARY KEY, title text)")
    source = await follow(database, "jobs", "$title")
    name = f"embedmill_{source.id}_update"
    user.execute(
        f"CREATE OR REPLACE TRIGGER {name} AFTER UPDATE ON jobs REFERENCING OLD TABLE AS embedmill_old "
        "NEW TABLE AS embedmill_new FOR EACH STATEMENT WHEN (pg_catalog.current_setting('embedmill.is_writing', true) "
        f"IS DISTINCT FROM 'on') EXECUTE FUNCTION embedmill.record_source_{source.id}()"
    )
    definition = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = %s"
    for _ in range(2):
        assert user.execute("SELECT embedmill.check_table_source(%s)", (source.id,)).fetchone() == (None,)
        row = user.execute(definition, (name,)).fetchone()
        assert row is not None
        assert f"IS DISTINCT FROM '{source.id}'::text" in row[0]
    assert noted(user) == Counter()  # no T, with which all rows would be read again


async def test_truncating_a_partition_and_the_whole(database: str, user: Connection) -> None:
    user.execute("CREATE TABLE parts (id int PRIMARY KEY, title text) PARTITION BY RANGE (id)")
    user.execute("CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (10)")
    user.execute("CREATE TABLE parts_high PARTITION OF parts DEFAULT")
    source = await follow(database, "parts", "$title")
    assert source.tables == 3
    user.execute("INSERT INTO parts VALUES (1, 'a'), (11, 'b')")
    user.execute("INSERT INTO parts_low VALUES (2, 'c')")
    user.execute(
        "WITH moved AS (DELETE FROM parts WHERE id = 1 RETURNING *)"
        " INSERT INTO parts SELECT 21, title FROM moved"
    )
    assert noted(user) == keys(1, 2, 11, 21, operation="I") + keys(1, operation="D")
    user.execute("TRUNCATE parts_low")
    assert noted(user)["T", ""] == 1
    user.execute("TRUNCATE parts")
    assert noted(user)["T", ""] >= 1


async def test_children_of_a_table_are_followed_too(database: str, user: Connection) -> None:
    user.execute("CREATE TABLE animals (id int PRIMARY KEY, title text)")
    user.execute("CREATE TABLE cats (claws int) INHERITS (animals)")
    assert (await follow(database, "animals", "$title")).tables == 2
    user.execute("INSERT INTO animals VALUES (1, 'a'); INSERT INTO cats VALUES (2, 'b', 4)")
    user.execute("UPDATE animals SET title = 'c'; UPDATE cats SET claws = 5")
    assert noted(user) == keys(1, 2, operation="I") + keys(1, 2)


async def test_cascades_and_changes_by_triggers_of_users_are_seen(database: str, user: Connection) -> None:
    user.execute("CREATE TABLE owners (id int PRIMARY KEY)")
    user.execute(
        "CREATE TABLE jobs (id int PRIMARY KEY, owner int REFERENCES owners ON DELETE CASCADE ON UPDATE CASCADE, "
        "title text, loud text GENERATED ALWAYS AS (upper(title)) STORED)"
    )
    user.execute(
        "CREATE FUNCTION trimmed() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN NEW.title := trim(NEW.title); RETURN NEW; END'"
    )
    user.execute(
        "CREATE TRIGGER trimmed BEFORE INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION trimmed()"
    )
    await follow(database, "jobs", "$loud $owner")
    user.execute(
        "INSERT INTO owners VALUES (1), (2);"
        " INSERT INTO jobs (id, owner, title) VALUES (1, 1, 'a'), (2, 2, 'b')"
    )
    assert noted(user) == keys(1, 2, operation="I")
    user.execute("UPDATE jobs SET title = title || ' '")
    assert noted(user) == Counter()
    user.execute("UPDATE jobs SET title = 'new' WHERE id = 1")
    assert noted(user) == keys(1)
    user.execute("UPDATE owners SET id = 9 WHERE id = 2; DELETE FROM owners WHERE id = 1")
    assert noted(user) == keys(2) + keys(1, operation="D")


async def test_two_pipelines_may_follow_one_table(database: str, user: Connection) -> None:
    user.execute("CREATE TABLE jobs (id int PRIMARY KEY, title text, body text)")
    await follow(database, "jobs", "$title")
    user.execute(
        "SELECT embedmill.create_pipeline(1, 'second', spec, dimensions, storage, 256, 32, 'english', 0, NULL, NULL,"
        " NULL, false) FROM embedmill.generations LIMIT 1"
    )
    await follow(database, "jobs", "$body", pipeline="second")
    user.execute("INSERT INTO jobs VALUES (1, 'a', 'b')")
    assert noted(user) == Counter({("I", "1"): 2})
    user.execute("UPDATE jobs SET body = 'c'")
    assert user.execute("SELECT record_source_id FROM embedmill.record_changes").fetchall() == [(2,)]
