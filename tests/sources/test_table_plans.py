"""What is refused of a table source, with a sentence that says what to do, and how conditions are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from embedmill.database.pipelines import Pipeline, find_pipeline, tenant_id
from embedmill.database.pool import Database
from embedmill.errors import ConfigurationError, DatabaseUnsuitableError, NotFoundError
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import (
    TableSource,
    add_table,
    list_tables,
)
from tests.sources.following import ACTOR, connected, noted

Connection = psycopg.Connection[tuple[Any, ...]]
CONTENT = TablePlan("$title\n\n${body}")


@pytest.fixture
def user(database: str) -> Iterator[Connection]:
    with connected(database) as connection:
        connection.execute(
            "CREATE TABLE jobs (id bigint PRIMARY KEY, title text, body text, place text, is_active boolean, n int)"
        )
        connection.execute(
            "INSERT INTO jobs SELECT g, 't', 'b', 'p', g % 4 > 0, g % 3 FROM generate_series(1, 40) g"
        )
        yield connection


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Database]:
    async with Database(database) as pool:
        yield pool


@pytest.fixture
async def pipeline(pool: Database) -> Pipeline:
    return await find_pipeline(pool, await tenant_id(pool, "default"), "default")


async def added(
    pool: Database, pipeline: Pipeline, name: str, plan: TablePlan = CONTENT, **more: Any
) -> TableSource:
    return (
        await add_table(pool, pipeline, name, plan, actor=ACTOR, **{"patience_seconds": 5, **more})
    ).source


@pytest.mark.parametrize(
    ("name", "plan", "said"),
    [
        ("nothing", CONTENT, "there is no table nothing; capital letters need quotes"),
        ("Mixed", CONTENT, 'did you mean public."Mixed"'),
        ("pg_class", CONTENT, "there is no table"),
        ("embedmill.tenants", CONTENT, "there is no table"),
        ("a.b.c", CONTENT, "too many parts"),
        ("'x", CONTENT, "is no name of a table"),
        ("a_view", TablePlan("$id"), "is a view, on which no trigger can tell what changed"),
        ("keyless", TablePlan("$a"), "give it a primary key"),
        ("part", TablePlan("$a"), "is a partition of whole, and what is written through that"),
        ("cat", TablePlan("$a"), "is a child of keyless"),
        ("sly", TablePlan("$what"), "becomes text by the function spelled\\(spell\\) of somebody_else"),
        ("half_keyed", TablePlan("$a"), "it can be added by --key a"),
        ("half_keyed", TablePlan("$a", key=("b",)), "no unique index over b; it can be added by --key a"),
        ("jobs", TablePlan("$titel"), "no column titel, which --content names"),
        ("jobs", TablePlan("$Title"), "there is title"),
        ("jobs", TablePlan("no field"), "names no field"),
        ("jobs", TablePlan("$title $"), "lone \\$"),
        ("jobs", TablePlan("$title", columns=("x",)), "no column x, which --columns names"),
        ("jobs", TablePlan("$title", metadata_columns=("x",)), "no column x, which --metadata names"),
        ("jobs", TablePlan("$title", condition="n"), "must be type boolean"),
        ("jobs", TablePlan("$title", condition="titel = ''"), 'column "titel" does not exist'),
        ("jobs", TablePlan("$title", condition="n > (SELECT 1)"), "cannot use subquery"),
        ("jobs", TablePlan("$title", condition="n > random()"), "random\\(\\) does not"),
        ("jobs", TablePlan("$title", condition="n > extract(year FROM now())"), "now\\(\\) does not"),
        ("jobs", TablePlan("$title", condition="title < current_user"), "not on the time or on who asks"),
        ("jobs", TablePlan("$title", condition="true"), "it looks at no column"),
        ("jobs", TablePlan("$title", condition="jobs IS NULL"), "not at whole rows"),
        ("jobs", TablePlan("$title", condition="n > 0); DROP TABLE jobs; --"), "syntax error"),
        ("jobs", TablePlan("$title", condition="foreign_made(n)"), "belongs to somebody_else"),
        ("jobs", TablePlan("$title", target_column="vector"), "ADD COLUMN vector vector\\(384\\)"),
        ("jobs", TablePlan("$title", target_column="title"), "cannot be embedded and hold the vectors too"),
        (
            "jobs",
            TablePlan("$title", target_column="n"),
            "vectors of the pipeline default need vector\\(384\\)",
        ),
    ],
)
async def test_what_cannot_be_done_is_refused(
    pool: Database, pipeline: Pipeline, user: Connection, name: str, plan: TablePlan, said: str
) -> None:
    user.execute('CREATE TABLE "Mixed" (id int PRIMARY KEY); CREATE TABLE keyless (a int)')
    user.execute(
        "CREATE TABLE half_keyed (a int NOT NULL UNIQUE, b int UNIQUE); CREATE VIEW a_view AS SELECT 1 AS id"
    )
    user.execute("DO $$BEGIN CREATE ROLE somebody_else; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
    user.execute(
        "CREATE TABLE whole (a int PRIMARY KEY) PARTITION BY LIST (a); CREATE TABLE cat () INHERITS (keyless)"
    )
    user.execute("CREATE TABLE part PARTITION OF whole DEFAULT")
    user.execute("CREATE TYPE spell AS (a int); CREATE TABLE sly (id int PRIMARY KEY, what spell)")
    user.execute("CREATE FUNCTION spelled(spell) RETURNS text LANGUAGE sql AS 'SELECT $$x$$'")
    user.execute("CREATE CAST (spell AS text) WITH FUNCTION spelled(spell)")
    user.execute("ALTER FUNCTION spelled OWNER TO somebody_else")
    user.execute("CREATE FUNCTION foreign_made(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'")
    user.execute("ALTER FUNCTION foreign_made OWNER TO somebody_else")
    with pytest.raises((ConfigurationError, NotFoundError), match=said):
        await added(pool, pipeline, name, plan)
    assert await list_tables(pool, 1) == []


async def test_conditions_keep_their_meaning_under_any_search_path(
    pool: Database, pipeline: Pipeline, user: Connection
) -> None:
    user.execute("CREATE TYPE mood AS ENUM ('glad', 'sad'); ALTER TABLE jobs ADD mood mood DEFAULT 'glad'")
    user.execute(
        "CREATE FUNCTION is_good(mood) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$SELECT $1 = 'glad'$$"
    )
    plan = TablePlan(
        "$title", condition="is_good(jobs.mood) AND title LIKE '%t%' AND mood <> 'sad' -- so be it"
    )
    source = await added(pool, pipeline, "jobs", plan)
    assert source.rows == 40
    assert "public.is_good(mood)" in str(source.condition)
    assert "'sad'::public.mood" in str(source.condition)
    user.execute("UPDATE jobs SET mood = 'sad' WHERE id = 1")
    assert noted(user) == Counter({("D", "1"): 1})


async def test_columns_for_vectors_are_checked_and_kept(
    pool: Database, pipeline: Pipeline, user: Connection
) -> None:
    user.execute("ALTER TABLE jobs ADD v vector(384), ADD h halfvec(384), ADD wrong vector(3)")
    with pytest.raises(ConfigurationError, match=r"is vector\(3\)"):
        await added(pool, pipeline, "jobs", TablePlan("$title", target_column="wrong"))
    source = await added(pool, pipeline, "jobs", TablePlan("$title", target_column="h", adopts=True))
    assert (source.target_column, source.adopts) == ("h", True)


async def test_lacking_rights_are_told_with_their_grant(
    pool: Database, pipeline: Pipeline, user: Connection, database: str
) -> None:
    user.execute("DO $$BEGIN CREATE ROLE mill_runner; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
    user.execute(
        "GRANT USAGE ON SCHEMA embedmill TO mill_runner; GRANT ALL ON ALL TABLES IN SCHEMA embedmill TO mill_runner"
    )
    async with Database(database, role="mill_runner") as runner:
        with pytest.raises(DatabaseUnsuitableError, match="GRANT SELECT, TRIGGER ON jobs TO mill_runner"):
            await added(runner, pipeline, "jobs")
        user.execute(
            "CREATE SCHEMA hidden; CREATE TABLE hidden.jobs2 (id int PRIMARY KEY, title text, body text)"
        )
        with pytest.raises(DatabaseUnsuitableError, match="GRANT USAGE ON SCHEMA hidden TO mill_runner"):
            await added(runner, pipeline, "hidden.jobs2")
        user.execute("GRANT SELECT, TRIGGER ON jobs TO mill_runner; ALTER TABLE jobs ADD v vector(384)")
        with pytest.raises(DatabaseUnsuitableError, match=r"GRANT UPDATE \(v\) ON jobs TO mill_runner"):
            await added(runner, pipeline, "jobs", TablePlan("$title", target_column="v"))
