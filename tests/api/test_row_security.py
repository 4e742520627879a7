"""Direct SQL, as somebody who has a login of the service's role or of the readers': no tenant, no rows; one tenant, its
rows; and nobody else's can be read, written or asked for by any table, view or function."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from embedmill.app import App, open_app
from embedmill.ingest.jobs import JobFilter, Jobs
from embedmill.settings import Settings
from tests.api.row_security import faults_of_protection, readable, seen_of_alpha
from tests.api.two_tenants import ALPHA, BETA, TwoTenants
from tests.api.two_tenants_making import login
from tests.support.columns import JOBS, add_column_source, insert_jobs, working
from tests.support.work import DIMENSIONS

SERVICE, READER = "embedmill_service", "embedmill_reader"
REFUSED = psycopg.errors.InsufficientPrivilege


@pytest.fixture(params=[SERVICE, READER])
def visitor(request: pytest.FixtureRequest, seeded: TwoTenants) -> Iterator[psycopg.Connection[Any]]:
    """A connection of somebody who is a member of the one role."""
    with login(seeded.admin_url, request.param) as url, psycopg.connect(url) as connection:
        yield connection


@pytest.fixture
def service(two: TwoTenants) -> Iterator[psycopg.Connection[Any]]:
    """The same on a database of this test's own, as the service."""
    with login(two.admin_url, SERVICE) as url, psycopg.connect(url) as connection:
        yield connection


def tenant_ids(two: TwoTenants) -> dict[str, int]:
    with psycopg.connect(two.admin_url) as connection:
        return dict(connection.execute("SELECT slug, id FROM embedmill.tenants").fetchall())


def act_for(connection: psycopg.Connection[Any], tenant_id: int) -> None:
    connection.execute("SELECT set_config('embedmill.tenant_id', %s, true)", (str(tenant_id),))


def claim(connection: psycopg.Connection[Any], claims: str) -> None:
    """As PostgREST does it, once for each request."""
    connection.execute("SELECT set_config('request.jwt.claims', %s, true)", (claims,))


def definers_of(connection: psycopg.Connection[Any]) -> dict[str, tuple[list[str], list[str]]]:
    """The functions that run as their owner: their settings, and who may call them."""
    return {
        row[0]: (row[1], row[2])
        for row in connection.execute(
            "SELECT proname, proconfig, proacl::text[] FROM pg_proc "
            "WHERE pronamespace = 'embedmill'::regnamespace AND prosecdef"
        )
    }


def slugs(connection: psycopg.Connection[Any]) -> list[str]:
    return [row[0] for row in connection.execute("SELECT slug FROM embedmill.tenants ORDER BY 1")]


def test_every_table_is_protected_or_holds_nothing_of_a_tenant(seeded: TwoTenants) -> None:
    with psycopg.connect(seeded.admin_url) as connection:
        assert faults_of_protection(connection) == []


def test_without_a_tenant_nothing_of_any_is_seen(
    visitor: psycopg.Connection[Any], seeded: TwoTenants
) -> None:
    assert slugs(visitor) == []
    assert seen_of_alpha(visitor, seeded) == {}
    for name in readable(visitor):
        if name.startswith("vectors_"):
            count = sql.SQL("SELECT count(*) FROM embedmill.{}").format(sql.Identifier(name))
            assert visitor.execute(count).fetchone() == (0,), name


def test_with_one_tenant_its_rows_are_seen_and_no_others(
    visitor: psycopg.Connection[Any], seeded: TwoTenants
) -> None:
    act_for(visitor, tenant_ids(seeded)[BETA])
    assert slugs(visitor) == [BETA]
    assert seen_of_alpha(visitor, seeded) == {}
    # And the probe can fail: alpha itself is seen in every table that has something of it.
    act_for(visitor, tenant_ids(seeded)[ALPHA])
    seen = seen_of_alpha(visitor, seeded)
    assert {"tenants", "knowledge_chunks", "ingestion_jobs", "embedding_jobs", "llm_usage_log"} <= set(seen)
    assert any(name.startswith("vectors_") for name in seen)
    assert any("embeddings_standin" in name for name in seen)


def test_each_table_would_be_missed_if_its_protection_were_taken_away(two: TwoTenants) -> None:
    """Switched off, not forced, opened to all, or with no policy of the tenant: each is reported, for each table."""
    with psycopg.connect(two.admin_url) as connection:
        protected = [
            row[0]
            for row in connection.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'embedmill'::regnamespace AND relrowsecurity"
            )
        ]
        assert len(protected) > 25
        for name in protected:
            for change in (
                "ALTER TABLE embedmill.{} DISABLE ROW LEVEL SECURITY",
                "ALTER TABLE embedmill.{} NO FORCE ROW LEVEL SECURITY",
                "DROP POLICY own_tenant ON embedmill.{}",
                "CREATE POLICY everybody ON embedmill.{} FOR SELECT USING (true)",
                "ALTER POLICY own_tenant ON embedmill.{} USING (true)",
                "ALTER POLICY own_tenant ON embedmill.{} WITH CHECK (true)",
                "ALTER POLICY operator ON embedmill.{} TO PUBLIC",
            ):
                with connection.transaction(force_rollback=True):
                    connection.execute(sql.SQL(change).format(sql.Identifier(name)))
                    assert [name in fault for fault in faults_of_protection(connection)] == [True], change
        for change in (
            "CREATE TABLE embedmill.forgotten (tenant_id integer, text text)",
            "CREATE TABLE embedmill.forgotten (text text)",
            "CREATE VIEW embedmill.forgotten AS SELECT * FROM embedmill.knowledge_chunks",
            "CREATE MATERIALIZED VIEW embedmill.forgotten AS SELECT * FROM embedmill.knowledge_chunks",
            "CREATE FUNCTION embedmill.forgotten() RETURNS integer LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        ):
            with connection.transaction(force_rollback=True):
                connection.execute(change)
                assert ["forgotten" in fault for fault in faults_of_protection(connection)] == [True], change


def test_with_row_security_off_in_one_table_the_other_tenants_rows_are_seen_there(two: TwoTenants) -> None:
    """The probe of the tests above finds what the catalogue's check finds."""
    beta = tenant_ids(two)[BETA]
    with login(two.admin_url, SERVICE) as url, psycopg.connect(two.admin_url, autocommit=True) as admin:
        for name in ("knowledge_chunks", "webhooks", "api_keys", "events", "vectors_900000001"):
            table = sql.Identifier(name)
            admin.execute(sql.SQL("ALTER TABLE embedmill.{} DISABLE ROW LEVEL SECURITY").format(table))
            with psycopg.connect(url) as connection:
                act_for(connection, beta)
                assert name in seen_of_alpha(connection, two)
            admin.execute(sql.SQL("ALTER TABLE embedmill.{} ENABLE ROW LEVEL SECURITY").format(table))


def test_rows_of_another_tenant_are_neither_changed_nor_removed_nor_made(
    service: psycopg.Connection[Any], two: TwoTenants
) -> None:
    ids = tenant_ids(two)
    tried = {"UPDATE": 0, "DELETE": 0, "INSERT": 0, "give away": 0}
    with psycopg.connect(two.admin_url) as admin:
        for name in readable(service):
            table = sql.Identifier(name)
            columns = _columns(admin, name)
            if "tenant_id" not in columns:
                continue
            for act, statement in (
                ("UPDATE", "UPDATE embedmill.{} SET tenant_id = tenant_id WHERE tenant_id = %s"),
                ("DELETE", "DELETE FROM embedmill.{} WHERE tenant_id = %s"),
            ):
                with service.transaction(force_rollback=True):
                    act_for(service, ids[BETA])
                    if _may(service, name, act):
                        done = service.execute(sql.SQL(statement).format(table), (ids[ALPHA],))
                        assert done.rowcount == 0, (name, act)
                        tried[act] += 1
            if _may(service, name, "UPDATE"):
                tried["give away"] += _cannot_give_away(service, name, ids)
            row = admin.execute(
                sql.SQL("SELECT to_jsonb(t)::text FROM embedmill.{} t WHERE tenant_id = %s LIMIT 1").format(
                    table
                ),
                (ids[ALPHA],),
            ).fetchone()
            if row is not None and _may(service, name, "INSERT"):
                names = sql.SQL(", ").join(map(sql.Identifier, columns))
                insert = sql.SQL(
                    "INSERT INTO embedmill.{t} ({c}) OVERRIDING SYSTEM VALUE "
                    "SELECT {c} FROM jsonb_populate_record(NULL::embedmill.{t}, %s::jsonb)"
                ).format(t=table, c=names)
                with service.transaction(force_rollback=True):
                    act_for(service, ids[BETA])
                    with pytest.raises(REFUSED, match="row-level security"), service.transaction():
                        service.execute(insert, row)
                tried["INSERT"] += 1
    assert min(tried.values()) > 12, tried


def test_vectors_of_another_tenant_are_neither_read_nor_written(
    service: psycopg.Connection[Any], two: TwoTenants
) -> None:
    ids = tenant_ids(two)
    vectors = "embedmill.vectors_900000001"
    with service.transaction():
        act_for(service, ids[ALPHA])
        assert service.execute(f"SELECT count(*) FROM {vectors}").fetchone() == (2,)
    with service.transaction():
        act_for(service, ids[BETA])
        assert service.execute(f"SELECT count(*) FROM {vectors}").fetchone() == (0,)
        assert service.execute(f"DELETE FROM {vectors}").rowcount == 0
        numbers = str([1.0] * 16)
        with pytest.raises(REFUSED, match="row-level security"), service.transaction():
            service.execute(f"INSERT INTO {vectors} VALUES (1, '', %s)", (numbers,))


def test_claims_of_a_checked_token_name_the_tenant(seeded: TwoTenants) -> None:
    ids = tenant_ids(seeded)
    told = {
        f'{{"tenant_id": {ids[BETA]}}}': [BETA],
        f'{{"tenant_id": "{ids[BETA]}", "role": "authenticated"}}': [BETA],
        f'{{"app_metadata": {{"tenant_id": {ids[BETA]}}}}}': [BETA],
        f'{{"tenant_id": {ids[BETA]}, "app_metadata": {{"tenant_id": {ids[ALPHA]}}}}}': [BETA],
        # What a user may write himself is not believed.
        f'{{"user_metadata": {{"tenant_id": {ids[ALPHA]}}}}}': [],
        f'{{"raw_user_meta_data": {{"tenant_id": {ids[ALPHA]}}}}}': [],
        f'{{"user_metadata": {{"app_metadata": {{"tenant_id": {ids[ALPHA]}}}}}}}': [],
        f'{{"app_metadata": {{"tenant_id": {ids[BETA]}}}, "user_metadata": {{"tenant_id": {ids[ALPHA]}}}}}': [
            BETA
        ],
        '{"role": "anon"}': [],
        '{"tenant_id": null}': [],
        "{}": [],
        "": [],
        '{"tenant_id": 123456}': [],
        f'[{{"tenant_id": {ids[ALPHA]}}}]': [],
    }
    with login(seeded.admin_url, READER) as url, psycopg.connect(url) as connection:
        for claims, expected in told.items():
            with connection.transaction():
                claim(connection, claims)
                assert slugs(connection) == expected, claims
        for broken in ("{", '{"tenant_id": "alpha"}', '{"tenant_id": "1 OR true"}', '{"tenant_id": [1]}'):
            with connection.transaction(force_rollback=True):
                claim(connection, broken)
                with pytest.raises(psycopg.DataError), connection.transaction():
                    slugs(connection)
        assert slugs(connection) == []  # nothing of a request stays on its connection


def test_the_functions_of_the_schema_leak_nothing(seeded: TwoTenants) -> None:
    """Of those that run as the owner, one gives away whose key this is, and to the service only."""
    ids = tenant_ids(seeded)
    with psycopg.connect(seeded.admin_url) as admin:
        definers = definers_of(admin)
    assert set(definers) == {
        "authenticate_key",
        "search_columns",
        "oldest_waiting_seconds",
        "advance_record",
        "oldest_items",
        "average_tokens",
        "waiting_items",
        "source_coverage",
        "items_before",
        "passing_documents",
        "search_vectors",
        "search_text",
        "similarity_of_chance",
    }
    for name, (settings, rights) in definers.items():
        assert "search_path=pg_catalog, pg_temp" in settings, name
        assert not any(right.startswith("=") for right in rights), name
    assert not any(right.startswith(READER) for right in definers["authenticate_key"][1])
    job = seeded.alpha.jobs["completed"]["jobId"]
    with login(seeded.admin_url, READER) as url, psycopg.connect(url) as connection, pytest.raises(REFUSED):
        connection.execute("SELECT * FROM embedmill.authenticate_key('\\x00')")
    with login(seeded.admin_url, SERVICE) as url, psycopg.connect(url) as connection:
        act_for(connection, ids[BETA])
        found = connection.execute("SELECT * FROM embedmill.authenticate_key('\\x00')").fetchall()
        assert found == []
        generation = "SELECT id FROM embedmill.generations WHERE tenant_id = %s LIMIT 1"
        with psycopg.connect(seeded.admin_url) as admin:
            (foreign,) = admin.execute(generation, (ids[ALPHA],)).fetchone() or (None,)
        assert connection.execute("SELECT * FROM embedmill.source_coverage(%s)", (ids[BETA],)).fetchall()
        assert (
            connection.execute("SELECT * FROM embedmill.source_coverage(%s)", (ids[ALPHA],)).fetchall() == []
        )
        waiting = connection.execute("SELECT * FROM embedmill.waiting_items(%s)", (ids[ALPHA],)).fetchall()
        assert waiting in ([], [(None, 0, 0)])
        assert connection.execute("SELECT * FROM embedmill.oldest_items(%s)", (foreign,)).fetchall() == []
        with psycopg.connect(seeded.admin_url) as admin:
            item = "SELECT min(id) FROM embedmill.embedding_queue WHERE tenant_id = %s"
            before = "SELECT ahead, of_other_lanes FROM embedmill.items_before(%s)"
            (foreign_item,) = admin.execute(item, (ids[ALPHA],)).fetchone() or (None,)
            assert admin.execute(before, (foreign_item,)).fetchone() != (None, None)
        assert connection.execute(before, (foreign_item,)).fetchone() == (None, None)
        assert connection.execute("SELECT embedmill.average_tokens(%s)", (foreign,)).fetchone() in {
            None,
            (None,),
        }
        text = "SELECT * FROM embedmill.search_text(%s, 'the', 10, NULL, NULL, NULL)"
        near = "SELECT * FROM embedmill.search_vectors(%s, '[1]', 10, NULL, NULL, NULL)"
        for search in (text, near):
            assert connection.execute(search, (foreign,)).fetchall() == []
        passing = "SELECT * FROM embedmill.passing_documents(%s, 10, NULL, '%%', NULL)"
        with psycopg.connect(seeded.admin_url) as admin:
            assert admin.execute(passing, (foreign,)).fetchone() != (None, None)
        assert connection.execute(passing, (foreign,)).fetchone() == (None, None)
        chance = "SELECT embedmill.similarity_of_chance(%s, '[1]')"
        assert connection.execute(chance, (foreign,)).fetchone() == (None,)
        for call in ("launch_job", "resume_job", "retry_job", "delete_job"):
            statement = sql.SQL("SELECT embedmill.{}(%s)").format(sql.Identifier(call))
            with pytest.raises(psycopg.Error, match="there is no ingestion job"), connection.transaction():
                connection.execute(statement, (job,))
        assert connection.execute("SELECT * FROM embedmill.estimate_job(%s)", (job,)).fetchone() in {
            (0, 0, 0, None),
            None,
        }


async def test_vectors_in_a_column_of_one_tenant_are_found_by_no_other(two: TwoTenants) -> None:
    """search_columns reads users' tables with the rights of the owner, for the tenant whose generation it is."""
    ids = tenant_ids(two)
    settings = Settings(database_url=two.url, data_dir=two.folder, tenant=ALPHA)
    owner = sql.Identifier(urlsplit(two.url).username or "")
    async with (
        open_app(settings, two.url) as app,
        await psycopg.AsyncConnection.connect(two.admin_url, autocommit=True) as user,
    ):
        await user.execute(JOBS)
        grant = "GRANT SELECT, TRIGGER, UPDATE (embedding) ON public.jobs TO {}"
        await user.execute(sql.SQL(grant).format(owner))
        await insert_jobs(user, "alpha's miller", "alpha's baker")
        numbers = str([1.0] * DIMENSIONS)
        await user.execute("UPDATE public.jobs SET embedding = %s", (numbers,))
        pipeline = await app.pipeline("standin")
        source = await add_column_source(app, pipeline, adopts=True)
        async with asyncio.timeout(60), working(app):
            while await app.database.fetch("SELECT count(*) FROM embedmill.vectors_900000001") != [(4,)]:
                await asyncio.sleep(0.02)
    query = "SELECT count(*) FROM embedmill.search_columns(900000001, %s, 10)"

    def found_by(connection: psycopg.Connection[Any]) -> int:
        row = connection.execute(query, (numbers,)).fetchone()
        assert row is not None
        return int(row[0])

    for role in (SERVICE, READER):
        with login(two.admin_url, role) as url, psycopg.connect(url) as connection:
            assert found_by(connection) == 0
            for slug, expected in ((ALPHA, 2), (BETA, 0)):
                with connection.transaction(force_rollback=True):
                    act_for(connection, ids[slug])
                    assert found_by(connection) == expected, (role, slug)
                with connection.transaction(force_rollback=True):
                    claim(connection, f'{{"app_metadata": {{"tenant_id": {ids[slug]}}}}}')
                    assert found_by(connection) == expected, (role, slug)
            with pytest.raises(REFUSED), connection.transaction():
                connection.execute("SELECT embedding FROM public.jobs")
    with psycopg.connect(two.admin_url) as admin:
        assert faults_of_protection(admin) == []
        searching, rights = definers_of(admin)[f"record_source_{source}"]
        assert searching[:2] == ["search_path=pg_catalog, pg_temp", "row_security=on"]
        assert not any(right.startswith(("=", SERVICE, READER)) for right in rights)


def test_neither_role_can_rise_above_itself(two: TwoTenants) -> None:
    owner = urlsplit(two.url).username or ""
    for role in (SERVICE, READER):
        with login(two.admin_url, role) as url, psycopg.connect(url) as connection:
            (facts,) = connection.execute(
                "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcanlogin FROM pg_roles WHERE rolname = %s",
                (role,),
            )
            assert facts == (False, False, False, False)
            for attempt in (
                f'SET ROLE "{owner}"',
                "SET session_replication_role = replica",
                "ALTER TABLE embedmill.knowledge_chunks DISABLE ROW LEVEL SECURITY",
                "DROP POLICY own_tenant ON embedmill.knowledge_chunks",
                "CREATE POLICY mine ON embedmill.knowledge_chunks USING (true)",
                "TRUNCATE embedmill.knowledge_chunks",
                "CREATE FUNCTION embedmill.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
                "CREATE OR REPLACE FUNCTION embedmill.current_tenant_id() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
                "CREATE TRIGGER mine BEFORE UPDATE ON embedmill.tenants EXECUTE FUNCTION embedmill.job_changed()",
                "SELECT * FROM embedmill.embedding_queue_history_rest",
                "COPY embedmill.knowledge_chunks TO PROGRAM 'cat'",
            ):
                with pytest.raises(psycopg.Error) as caught, connection.transaction():
                    connection.execute(attempt)
                assert isinstance(caught.value, REFUSED), (role, attempt, caught.value)
            connection.execute("SET LOCAL row_security = off")
            with pytest.raises(REFUSED), connection.transaction():
                connection.execute("SELECT * FROM embedmill.knowledge_chunks")


async def test_an_owner_who_is_no_superuser_sees_all_tenants_and_the_service_one(two: TwoTenants) -> None:
    with psycopg.connect(two.url) as connection:
        (facts,) = connection.execute(
            "SELECT rolsuper, rolbypassrls, row_security_active('embedmill.knowledge_chunks') "
            "FROM pg_roles WHERE rolname = current_user"
        )
        assert facts == (False, False, True)
    settings = Settings(database_url=two.url, data_dir=two.folder)
    ids = tenant_ids(two)
    async with open_app(settings, two.url) as app:
        for slug in (ALPHA, BETA):
            jobs = await Jobs(app.database, ids[slug]).page(JobFilter(), after=None, limit=100)
            assert len(jobs) == 9
        await _assert_one_seen(app, two, ids)


async def _assert_one_seen(app: App, two: TwoTenants, ids: dict[str, int]) -> None:
    from embedmill.database.pool import SERVICE_ROLE, Database

    async with Database(two.url, role=SERVICE_ROLE) as database:
        assert await Jobs(database, ids[ALPHA]).page(JobFilter(), after=None, limit=100) == []
        beta = database.for_tenant(ids[BETA], actor="test")
        assert await Jobs(beta, ids[ALPHA]).page(JobFilter(), after=None, limit=100) == []
        assert len(await Jobs(beta, ids[BETA]).page(JobFilter(), after=None, limit=100)) == 9
        # Nothing of a tenant stays on a connection that goes back to the pool.
        rows = await database.fetch("SELECT slug FROM embedmill.tenants")
        assert rows == []


def _cannot_give_away(connection: psycopg.Connection[Any], name: str, ids: dict[str, int]) -> int:
    """A row of one's own cannot be made another tenant's; how many tables it was tried in."""
    table = sql.Identifier(name)
    with connection.transaction(force_rollback=True):
        act_for(connection, ids[BETA])
        count = connection.execute(sql.SQL("SELECT count(*) FROM embedmill.{}").format(table)).fetchone()
        if count == (0,):
            return 0
        with pytest.raises(REFUSED, match="row-level security"), connection.transaction():
            connection.execute(sql.SQL("UPDATE embedmill.{} SET tenant_id = %s").format(table), (ids[ALPHA],))
    return 1


def _may(connection: psycopg.Connection[Any], name: str, act: str) -> bool:
    found = connection.execute("SELECT has_table_privilege(%s, %s)", (f"embedmill.{name}", act)).fetchone()
    return bool(found and found[0])


def _columns(connection: psycopg.Connection[Any], name: str) -> list[str]:
    """Of a table, those that can be written."""
    return [
        row[0]
        for row in connection.execute(
            "SELECT a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
            "WHERE c.oid = %s::regclass AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped "
            "AND a.attgenerated = ''",
            (f"embedmill.{name}",),
        )
    ]
