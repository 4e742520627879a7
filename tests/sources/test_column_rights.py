"""Columns where the workers' role is no superuser and row-level security binds it: a right that is lacking is named,
and what was paid is written once it is there."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from psycopg import sql

from embedmill.database.migrator import migrate
from tests.support.columns import (
    JOBS,
    add_column_source,
    assert_columns_match,
    insert_jobs,
    until_quiet,
    wait_until,
    working,
)
from tests.support.provider.handle import RunningProvider
from tests.support.work import DIMENSIONS, app_on, stand_in_pipeline


async def test_a_right_that_is_taken_away_is_named_and_nothing_paid_is_lost(
    empty_database: str, tmp_path: Path, provider: RunningProvider
) -> None:
    role, secret = f"mill_{uuid4().hex[:12]}", uuid4().hex
    async with await psycopg.AsyncConnection.connect(empty_database, autocommit=True) as user:
        name = sql.Identifier(role)
        await user.execute("CREATE EXTENSION IF NOT EXISTS vector")
        await user.execute(
            sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER PASSWORD {}").format(name, sql.Literal(secret))
        )
        try:
            for group in ("embedmill_service", "embedmill_reader"):
                await user.execute(
                    sql.SQL(
                        "DO $do$ BEGIN CREATE ROLE {0}; EXCEPTION WHEN duplicate_object THEN NULL; END $do$"
                    ).format(sql.Identifier(group))
                )
                await user.execute(
                    sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(sql.Identifier(group), name)
                )
            database = sql.Identifier(urlsplit(empty_database).path.lstrip("/"))
            await user.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, name))
            await user.execute(JOBS)
            await insert_jobs(user, *(f"miller {n}" for n in range(12)))
            await user.execute(
                sql.SQL("GRANT SELECT, TRIGGER, UPDATE (embedding) ON public.jobs TO {}").format(name)
            )
            url = _as(empty_database, role, secret)
            with psycopg.Connection.connect(url, autocommit=True) as connection:
                migrate(connection)
            async with app_on(url, tmp_path) as app:
                pipeline = await stand_in_pipeline(
                    app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=10
                )
                await add_column_source(app, pipeline)
                await user.execute(sql.SQL("REVOKE UPDATE (embedding) ON public.jobs FROM {}").format(name))
                async with working(app):
                    await wait_until(app, "SELECT trouble IS NOT NULL FROM embedmill.record_sources")
                    ((trouble,),) = await app.database.fetch("SELECT trouble FROM embedmill.record_sources")
                    grant = f"GRANT SELECT, UPDATE (embedding) ON public.jobs TO {role}"
                    assert grant in trouble
                    await user.execute(grant)
                    await until_quiet(app)
                assert await assert_columns_match(app) == 12
                assert provider.stats()["inputs_paid"] == 12
                await app.database.fetch(
                    "SELECT embedmill.detach_table_source(id) FROM embedmill.record_sources"
                )
        finally:
            await user.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(name))
            await user.execute(sql.SQL("DROP ROLE {}").format(name))


def _as(url: str, role: str, secret: str) -> str:
    """The same database as another role."""
    parts = urlsplit(url)
    at = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{secret}@{at}"))
