"""A crowded installation for measurements of the dashboard: history, backlog, sources, jobs, calls, letters of several
tenants, made in bulk (crowd.sql). Owns how much there is and whose; must not assert."""

from __future__ import annotations

from pathlib import Path

import msgspec
import psycopg
from psycopg import sql

from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import load_queries, vectors_table
from tests.support.work import app_on, stand_in_pipeline

_SQL = load_queries("tests.dashboard", "crowd.sql")
_MADE_BEFORE = {"days", "users_table", "users_rows", "sources"}
DIMENSIONS = 16
LARGE, SMALL = "default", "small"


class Sizes(msgspec.Struct, frozen=True):
    """How many of each. `sources` are the large tenant's; `chunks` of an upload; `records` have one each."""

    ended: int = 1_000_000
    live: int = 100_000
    sources: int = 300
    uploads: int = 20_000
    records: int = 80_000
    chunks: int = 5
    calls: int = 1_000_000
    letters: int = 10_000
    deliveries: int = 20_000
    events_of_a_job: int = 10
    large_pipelines: int = 6
    others: int = 20


async def make_crowd(url: str, folder: Path, sizes: Sizes, provider: str) -> None:
    """Fill a fresh database. `provider` is the address of a stand-in, which pipelines call when somebody searches."""
    pipelines = await _make_pipelines(url, folder, sizes, provider)
    large, small = pipelines[LARGE], pipelines[SMALL]
    others = [each for tenant, made in pipelines.items() if tenant not in (LARGE, SMALL) for each in made]
    given = {
        **msgspec.structs.asdict(sizes),
        "large": large[0].tenant_id,
        "large_pipelines": [each.id for each in large],
        "small_pipelines": [each.id for each in small],
        "other_pipelines": [each.id for each in others],
    }
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_SQL["days"])
        for n in range(2, sizes.sources + 1, 2):
            for block in ("users_table", "users_rows"):
                connection.execute(_SQL[block].format(name=sql.Identifier("public", f"crowd_{n}")))
        _switch_triggers(connection, "DISABLE")
        for made, count in ((large, sizes.sources), (small, 5), *(([each], 3) for each in others)):
            of_tenant = {"tenant_id": made[0].tenant_id, "pipelines": [each.id for each in made]}
            connection.execute(_SQL["sources"], {**of_tenant, "sources": count})
        for name in _SQL:
            if name == "vectors":
                for each in (*large, *small, *others):
                    connection.execute(_vectors_of(each), {})
            elif name == "fold":
                while connection.execute(_SQL[name]).fetchone() != (0,):
                    pass
            elif name not in _MADE_BEFORE:
                connection.execute(_SQL[name], None if name == "places" else given)
        _switch_triggers(connection, "ENABLE")


async def _make_pipelines(url: str, folder: Path, sizes: Sizes, provider: str) -> dict[str, list[Pipeline]]:
    """By tenant: several of the large one's, two of the small one's, one of each other's."""
    made: dict[str, list[Pipeline]] = {}
    tenants = {LARGE: sizes.large_pipelines, SMALL: 2, **{f"other-{n}": 1 for n in range(sizes.others)}}
    async with app_on(url, folder) as app:
        for slug in tenants:
            if slug != LARGE:
                await app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES (%s)", (slug,))
    for slug, count in tenants.items():
        async with app_on(url, folder, tenant=slug) as app:
            made[slug] = [
                await stand_in_pipeline(
                    app,
                    provider,
                    f"recipe-{n}",
                    dimensions=DIMENSIONS,
                    price_per_million_tokens=2,
                    calls_per_minute=1000,
                    tokens_per_minute=1_000_000,
                )
                for n in range(count)
            ]
    return made


def _vectors_of(pipeline: Pipeline) -> sql.Composed:
    return _SQL["vectors"].format(
        vectors=vectors_table(pipeline.generation.id),
        dimensions=sql.Literal(DIMENSIONS),
        pipeline_id=sql.Literal(pipeline.id),
    )


def _switch_triggers(connection: psycopg.Connection[tuple[object, ...]], what: str) -> None:
    """What triggers would count and tell row by row is made in bulk too."""
    tables = connection.execute(
        "SELECT DISTINCT c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
        " WHERE c.relnamespace = 'embedmill'::regnamespace AND NOT t.tgisinternal AND c.relkind = 'r' "
        "   AND c.relname <> 'llm_usage_log'"  # its sums are kept by its trigger
    ).fetchall()
    for (table,) in tables:
        connection.execute(f'ALTER TABLE embedmill."{table}" {what} TRIGGER USER'.encode())
