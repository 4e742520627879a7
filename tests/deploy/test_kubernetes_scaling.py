"""The query by which KEDA scales workers: against the real schema, by the login that the how-to makes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
import yaml
from psycopg import sql

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.config import set_value
from tests.deploy.shipped import KUBERNETES, ROOT
from tests.support.work import add_document, unanswered_pipeline

SCALED = next(yaml.safe_load_all((KUBERNETES / "keda" / "scaling.yaml").read_text(encoding="utf-8")))
QUERY = SCALED["spec"]["triggers"][0]["metadata"]["query"]
HOW_TO = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
LOGIN = re.search(r"```sql\n(CREATE ROLE embedmill_scaler.*?)```", HOW_TO, re.DOTALL)
AGED = "UPDATE embedmill.embedding_queue SET available_at = now() - interval '100 s'"


@pytest.fixture
async def pipeline(app: App) -> Pipeline:
    return await unanswered_pipeline(app)


@pytest.fixture
def scaler(database: str) -> Iterator[psycopg.Connection]:
    """A session of the login."""
    assert LOGIN is not None
    with (
        psycopg.connect(database, autocommit=True) as owner,
        psycopg.connect(database, autocommit=True) as own,
    ):
        owner.execute(LOGIN[1].encode())
        try:
            own.execute("SET SESSION AUTHORIZATION embedmill_scaler")
            yield own
        finally:
            own.close()
            owner.execute("DROP OWNED BY embedmill_scaler")
            owner.execute("DROP ROLE embedmill_scaler")


def age(scaler: psycopg.Connection) -> float:
    row = scaler.execute(QUERY.encode()).fetchone()
    assert row is not None
    return float(row[0])


async def test_nothing_waits(app: App, pipeline: Pipeline, scaler: psycopg.Connection) -> None:
    assert age(scaler) == 0


async def test_the_oldest_of_what_waits(app: App, pipeline: Pipeline, scaler: psycopg.Connection) -> None:
    await add_document(app, pipeline, "a", ["one"])
    await app.database.fetch(AGED)
    await add_document(app, pipeline, "b", ["two"])
    assert 100 <= age(scaler) < 160


HINDRANCES = {
    "the pipeline is paused": "UPDATE embedmill.pipelines SET paused_at = now()",
    "the queue is off": None,
    "the provider asked to wait": "SELECT embedmill.cool_down(quota_key, 60000, 'test') FROM embedmill.quotas",
    "it waits out a failure": "UPDATE embedmill.embedding_queue SET available_at = now() + interval '1 h'",
    "somebody is at it": "SELECT embedmill.claim_items(gen_random_uuid(), g.id, 10, 1000, 1000, 600) "
    "FROM embedmill.generations g",
}


@pytest.mark.parametrize("hindrance", HINDRANCES)
async def test_what_another_worker_would_not_help_does_not_count(
    app: App, pipeline: Pipeline, scaler: psycopg.Connection, hindrance: str
) -> None:
    await add_document(app, pipeline, "a", ["one"])
    await app.database.fetch(AGED)
    assert age(scaler) >= 100
    statement = HINDRANCES[hindrance]
    if statement is None:
        await set_value(app.database, "queue_enabled", "false", actor="test")
    else:
        await app.database.fetch(statement)
    assert age(scaler) == 0


async def test_a_tenant_at_its_cap_does_not_count(
    app: App, pipeline: Pipeline, scaler: psycopg.Connection
) -> None:
    for name in ("a", "b"):
        await add_document(app, pipeline, name, [name])
    await app.database.fetch(AGED)
    await app.database.fetch("UPDATE embedmill.tenants SET max_processing_items = 1")
    assert age(scaler) >= 100
    await app.database.fetch(
        "SELECT embedmill.claim_items(gen_random_uuid(), %s, 1, 1000, 1000, 600)", (pipeline.generation.id,)
    )
    assert age(scaler) == 0


async def test_a_document_that_waits_for_a_parser_counts_also_while_the_queue_is_off(
    app: App, pipeline: Pipeline, scaler: psycopg.Connection
) -> None:
    launched = await add_document(app, pipeline, "a", ["one"])
    await app.database.fetch("DELETE FROM embedmill.embedding_queue")
    await app.database.fetch(
        "INSERT INTO embedmill.parse_queue (job_id, tenant_id, priority, available_at) "
        "SELECT j.id, j.tenant_id, 'low', now() - interval '50 s' "
        "  FROM embedmill.ingestion_jobs j WHERE j.document_id = %s",
        (launched.document_id,),
    )
    await set_value(app.database, "queue_enabled", "false", actor="test")
    assert 50 <= age(scaler) < 110


async def test_the_login_sees_nothing_else(app: App, pipeline: Pipeline, scaler: psycopg.Connection) -> None:
    rows = await app.database.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'embedmill'::regnamespace AND relkind IN ('r', 'p', 'v')"
    )
    assert len(rows) > 30
    for (name,) in rows:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            scaler.execute(sql.SQL("SELECT count(*) FROM embedmill.{}").format(sql.Identifier(name)))


async def test_nobody_may_ask_unless_it_was_granted(app: App) -> None:
    async with app.database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE embedmill_reader")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with connection.transaction():
                await connection.execute(QUERY.encode())
