"""A table that is embedded, and audits of it, for tests. Owns how faults are counted, and how they are made
unseen; must not assert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import vectors_table
from embedmill.sources.audit import Audit
from embedmill.sources.audits import AuditRecord, Mends, begin_audit, find_scope
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table
from tests.support.records import work_until_quiet

TABLE = "public.jobs"


async def make_table(app: App, rows: int) -> None:
    """`public.jobs`: each row has a text of its own."""
    await app.database.fetch(
        "CREATE TABLE public.jobs (id bigint PRIMARY KEY, title text NOT NULL, body text NOT NULL,"
        "                          is_active boolean NOT NULL DEFAULT true)"
    )
    await add_rows(app, 1, rows)


async def add_rows(app: App, first: int, last: int) -> None:
    await app.database.fetch(
        "INSERT INTO public.jobs SELECT n, 'Miller ' || n, 'Grinds grain number ' || n"
        "  FROM generate_series(%s::bigint, %s::bigint) AS n",
        (first, last),
    )


async def embedded_table(app: App, pipeline: Pipeline, rows: int, **plan: Any) -> int:
    """The table with all of its rows embedded; its source."""
    await make_table(app, rows)
    wanted = TablePlan("$title\n\n$body", **{"condition": "is_active", **plan})
    added = await add_table(app.database, pipeline, TABLE, wanted, actor="tester")
    await work_until_quiet(app)
    return added.source.id


async def audit(
    app: App, *, mends: Mends = "nothing", source: str | None = None, pipeline: str | None = None
) -> AuditRecord:
    """An audit from its beginning to its end."""
    scope = await find_scope(app.database, await app.tenant_id(), pipeline=pipeline, source=source)
    return await Audit(
        app.database, await begin_audit(app.database, scope, mends=mends, actor="tester")
    ).run()


def counts(record: AuditRecord) -> dict[str, int]:
    """How many of each kind were found."""
    return {finding.kind: finding.count for finding in record.findings}


def mended(record: AuditRecord) -> dict[str, int]:
    return {finding.kind: finding.mended for finding in record.findings}


def named(record: AuditRecord, kind: str) -> set[str]:
    """The examples of a kind."""
    return {example.id for finding in record.findings if finding.kind == kind for example in finding.examples}


def alter(app: App, statement: str) -> None:
    """By a session of its own, as a person does."""
    with psycopg.connect(app.database.url, autocommit=True) as connection:
        connection.execute(statement.encode())


async def behind_our_back(app: App, *statements: str) -> None:
    """Run as a restore or a replica does: no trigger fires, no foreign key is looked at."""
    async with app.database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await connection.execute(sql.SQL(statement))  # type: ignore[arg-type]


async def delete_vectors(app: App, pipeline: Pipeline, keys: Sequence[str]) -> int:
    """Those of these rows or documents; how many. The counters believe they stand."""
    rows = await app.database.fetch(
        sql.SQL(
            "DELETE FROM {} v USING embedmill.knowledge_chunks c, embedmill.knowledge_documents d"
            " WHERE v.chunk_id = c.id AND c.document_id = d.id AND d.source_id = ANY (%s) RETURNING v.chunk_id"
        ).format(vectors_table(pipeline.generation.id)),
        (list(keys),),
    )
    return len(rows)
