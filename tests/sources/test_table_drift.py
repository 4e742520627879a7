"""What becomes of a followed table when somebody alters it: writes go on, and the trouble is told or mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from embedmill.database.pipelines import find_pipeline, tenant_id
from embedmill.database.pool import Database
from embedmill.sources.table_changes import TableAlteration, alter_table
from embedmill.sources.tables import TableSource, find_table
from tests.sources.following import ACTOR, connected, follow, noted

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def user(database: str) -> Iterator[Connection]:
    with connected(database) as connection:
        connection.execute(
            "CREATE TABLE jobs (id bigint PRIMARY KEY, title text, body text, place text,"
            " is_active boolean DEFAULT true)"
        )
        connection.execute("INSERT INTO jobs VALUES (1, 'a', 'b', 'c')")
        yield connection


def checked(connection: Connection) -> str | None:
    """The trouble of the only source after the sweep has looked twice: what was mended is counted with the second."""
    connection.execute("SELECT embedmill.check_table_sources()")
    connection.execute("SELECT embedmill.check_table_sources()")
    row = connection.execute("SELECT trouble FROM embedmill.record_sources").fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


async def altered(url: str, name: str, **change: Any) -> TableSource:
    async with Database(url) as database:
        source = await find_table(database, 1, name)
        pipeline = await find_pipeline(database, await tenant_id(database, "default"), source.pipeline)
        return (await alter_table(database, pipeline, source, TableAlteration(**change), actor=ACTOR)).source


async def test_nothing_is_wrong_with_a_table_as_it_was_added(database: str, user: Connection) -> None:
    await follow(database, "jobs", "$title", condition="is_active", metadata_columns=("place",))
    assert checked(user) is None
    assert noted(user) == Counter(), "nothing was to be mended"
    assert user.execute("SELECT count(*) FROM embedmill.backfills").fetchone() == (0,)


@pytest.mark.parametrize(
    ("statement", "told", "remedy"),
    [
        (
            "RENAME title TO headline",
            "the column title of public.jobs is called headline now",
            "--content TEMPLATE",
        ),
        ("DROP COLUMN title", "the column title of public.jobs was dropped", "--content TEMPLATE"),
        ("RENAME place TO city", "is called city now", "--metadata COLUMNS"),
        ("DROP COLUMN place", "was dropped", "--metadata COLUMNS"),
        ("RENAME is_active TO active", "is called active now", "--where CONDITION"),
        ("DROP COLUMN is_active", "was dropped", "--where CONDITION"),
    ],
)
async def test_a_column_that_is_gone_is_told_and_fails_no_write(
    database: str, user: Connection, statement: str, told: str, remedy: str
) -> None:
    await follow(database, "jobs", "$title", condition="is_active", metadata_columns=("place",))
    # In one session, which has planned the trigger's statements already.
    user.execute(
        "INSERT INTO jobs (id) VALUES (2); UPDATE jobs SET title = 'x', place = 'y'; DELETE FROM jobs WHERE id = 2"
    )
    noted(user)
    user.execute(f"ALTER TABLE jobs {statement}".encode())
    user.execute("INSERT INTO jobs (id, body) VALUES (3, 'new')")
    user.execute("UPDATE jobs SET body = 'newer'")
    user.execute("INSERT INTO jobs (id) SELECT g FROM generate_series(1001, 2000) g")
    user.execute("DELETE FROM jobs WHERE id > 500")
    changes = noted(user)
    assert {key for _, key in changes} >= {"3", "1500"}, "which rows to look at is known all the same"
    trouble = checked(user)
    assert trouble is not None
    assert told in trouble
    assert f"`embedmill table alter public.jobs {remedy}`" in trouble


async def test_altering_the_table_s_reading_ends_the_trouble(database: str, user: Connection) -> None:
    await follow(database, "jobs", "$title")
    user.execute("ALTER TABLE jobs RENAME title TO headline")
    assert checked(user) is not None
    source = await altered(database, "jobs", template="$headline")
    assert (source.trouble, source.columns, source.backfill) == (None, ("headline",), "running")
    noted(user)
    user.execute("UPDATE jobs SET headline = 'x'; UPDATE jobs SET body = 'y'")
    assert noted(user) == Counter({("U", "1"): 1})
    assert checked(user) is None


async def test_renaming_it_back_ends_the_trouble_too(database: str, user: Connection) -> None:
    await follow(database, "jobs", "$title")
    user.execute("ALTER TABLE jobs RENAME title TO headline")
    assert checked(user) is not None
    user.execute("ALTER TABLE jobs RENAME headline TO title")
    assert checked(user) is None


async def test_a_renamed_key_says_look_at_all_rows(database: str, user: Connection) -> None:
    await follow(database, "jobs", "$title")
    user.execute("ALTER TABLE jobs RENAME id TO number")
    user.execute("INSERT INTO jobs (number) VALUES (2); DELETE FROM jobs WHERE number = 2")
    assert noted(user) == Counter({("U", ""): 2})
    assert "the column id of public.jobs is called number now" in str(checked(user))
    source = await altered(database, "jobs", rereads=True)
    assert (source.trouble, source.key_columns) == (None, ("number",))
    noted(user)
    user.execute("INSERT INTO jobs (number) VALUES (2)")
    assert noted(user) == Counter({("I", "2"): 1})


async def test_a_column_of_another_type_is_mended_and_all_rows_are_read(
    database: str, user: Connection
) -> None:
    await follow(database, "jobs", "$title $place")
    user.execute("UPDATE jobs SET title = 'x'")
    user.execute(
        "ALTER TABLE jobs ALTER COLUMN id TYPE text, ALTER COLUMN title TYPE json USING to_json(title)"
    )
    user.execute("UPDATE jobs SET title = '1'")
    assert noted(user) == Counter({("U", "1"): 2})
    assert checked(user) is None
    assert noted(user)["T", ""] == 1
    assert user.execute("SELECT rereads, ended_at FROM embedmill.backfills").fetchone() == (True, None)
    assert user.execute("SELECT key_types FROM embedmill.table_sources").fetchone() == (["text"],)
    user.execute("UPDATE jobs SET body = 'unrelated'")
    assert noted(user) == Counter()


async def test_new_partitions_get_triggers_and_those_that_left_lose_them(
    database: str, user: Connection
) -> None:
    user.execute("CREATE TABLE parts (id int PRIMARY KEY, title text) PARTITION BY LIST (id)")
    user.execute("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)")
    await follow(database, "parts", "$title")
    user.execute(
        "CREATE TABLE parts_2 (id int PRIMARY KEY, title text); INSERT INTO parts_2 VALUES (2, 'stands already')"
    )
    user.execute("ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES IN (2)")
    user.execute("UPDATE parts SET title = 'seen through the parent'")
    assert noted(user) == Counter({("U", "2"): 1})
    assert checked(user) is None
    assert user.execute("SELECT rows FROM embedmill.record_sources").fetchone() == (1,)
    noted(user)
    user.execute("UPDATE parts_2 SET title = 'seen at the partition'; INSERT INTO parts_1 VALUES (1, 'x')")
    assert noted(user) == Counter({("U", "2"): 1, ("I", "1"): 1})
    user.execute("ALTER TABLE parts DETACH PARTITION parts_2")
    assert checked(user) is None
    assert noted(user) == Counter({("T", ""): 1}), "its documents are to go"
    user.execute("DELETE FROM parts_2")
    assert noted(user) == Counter(), "it is no business of ours"
    user.execute("DROP TABLE parts_1")
    assert checked(user) is None
    assert noted(user) == Counter({("T", ""): 1})


async def test_triggers_that_were_dropped_come_back(database: str, user: Connection) -> None:
    await follow(database, "jobs", "$title")
    user.execute("DROP TRIGGER embedmill_1_insert ON jobs; INSERT INTO jobs (id) VALUES (2)")
    assert noted(user) == Counter()
    assert checked(user) is None
    assert noted(user) == Counter({("T", ""): 1})
    assert user.execute("SELECT rows FROM embedmill.record_sources").fetchone() == (2,)
    user.execute("INSERT INTO jobs (id) VALUES (3)")
    assert noted(user) == Counter({("I", "3"): 1})


async def test_triggers_that_are_switched_off_are_told(database: str, user: Connection) -> None:
    await follow(database, "jobs", "$title")
    user.execute("ALTER TABLE jobs DISABLE TRIGGER ALL")
    assert "ALTER TABLE jobs ENABLE TRIGGER ALL" in str(checked(user)).replace("public.", "")
    user.execute("ALTER TABLE jobs ENABLE TRIGGER ALL")
    assert checked(user) is None


async def test_a_table_without_its_key_is_told(database: str, user: Connection) -> None:
    await follow(database, "jobs", "$title")
    user.execute("ALTER TABLE jobs DROP CONSTRAINT jobs_pkey")
    assert "nothing makes (id) unique in public.jobs any more" in str(checked(user))
    user.execute("CREATE UNIQUE INDEX ON jobs (id)")
    assert checked(user) is None


async def test_a_dropped_table_is_told_and_can_be_removed(database: str, user: Connection) -> None:
    await follow(database, "jobs", "$title")
    user.execute("DROP TABLE jobs")
    trouble = checked(user)
    assert trouble == "the table public.jobs was dropped: `embedmill table remove public.jobs` ends it"


async def test_a_renamed_table_is_still_followed(database: str, user: Connection) -> None:
    await follow(database, "jobs", "$title")
    user.execute("CREATE SCHEMA other; ALTER TABLE jobs RENAME TO posts; ALTER TABLE posts SET SCHEMA other")
    assert checked(user) is None
    user.execute("INSERT INTO other.posts (id) VALUES (2)")
    assert noted(user) == Counter({("I", "2"): 1})
    async with Database(database) as pool:
        assert (await find_table(pool, 1, "other.posts")).name == "public.jobs"


async def test_a_busy_table_is_left_for_the_next_time(database: str, user: Connection) -> None:
    await follow(database, "jobs", "$title")
    user.execute("DROP TRIGGER embedmill_1_insert ON jobs")
    with connected(database) as writer, writer.transaction():
        writer.execute("UPDATE jobs SET title = 'held'")
        assert checked(user) is None
        assert noted(user) == Counter(), "it was not mended yet"
    noted(user)
    assert checked(user) is None
    assert noted(user) == Counter({("T", ""): 1})


async def test_a_foreign_partition_fails_no_write_for_longer_than_until_the_sweep(
    database: str, user: Connection
) -> None:
    user.execute("CREATE TABLE parts (id int, title text) PARTITION BY LIST (id)")
    user.execute("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)")
    user.execute("CREATE UNIQUE INDEX ON parts (id); ALTER TABLE parts ALTER COLUMN id SET NOT NULL")
    await follow(database, "parts", "$title", key=("id",))
    user.execute("DROP INDEX parts_id_idx CASCADE")
    user.execute("CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere")
    user.execute("CREATE FOREIGN TABLE parts_2 PARTITION OF parts FOR VALUES IN (2) SERVER nowhere")
    assert "foreign table parts_2" in str(checked(user)).replace("public.", "")
    user.execute("INSERT INTO parts VALUES (1, 'x')")
    assert noted(user) == Counter()
    user.execute("DROP FOREIGN TABLE parts_2; CREATE UNIQUE INDEX ON parts (id)")
    assert checked(user) is None
    user.execute("UPDATE parts SET title = 'y'")
    assert noted(user)["U", "1"] == 1


async def test_migrating_writes_the_trigger_functions_anew(database: str, user: Connection) -> None:
    from embedmill.database import migrator

    await follow(database, "jobs", "$title", condition="is_active")
    before = user.execute("SELECT prosrc FROM pg_proc WHERE proname = 'record_source_1'").fetchone()
    user.execute(
        "CREATE OR REPLACE FUNCTION embedmill.record_source_1() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NULL; END'"
    )
    user.execute("UPDATE embedmill.schema_functions SET sha256 = repeat('0', 64)")
    migrator.migrate(user)
    assert user.execute("SELECT prosrc FROM pg_proc WHERE proname = 'record_source_1'").fetchone() == before
