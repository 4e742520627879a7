"""Altering and removing table sources. Owns what has to be read anew after a change, and what becomes of the documents
of a table that is removed; must not read rows itself."""

from __future__ import annotations

import msgspec
import psycopg

from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, NotFoundError
from embedmill.sources.table_locks import LOCK_PATIENCE_SECONDS, with_table_locked
from embedmill.sources.table_plans import CheckedPlan, Relation, TablePlan, check_plan
from embedmill.sources.tables import AddedTable, TableSource, column_refusal, record, shape_of, source_by_id
from embedmill.sources.template import Template

_SQL = load_queries("embedmill.sources", "tables.sql")
_BATCH = 1_000


class TableAlteration(msgspec.Struct, frozen=True):
    """What is to be otherwise; None leaves it as it is, an empty `condition`, `columns` or `metadata_columns` takes it
    away. `rereads`: look at all rows in any case."""

    template: str | None = None
    columns: tuple[str, ...] | None = None
    condition: str | None = None
    metadata_columns: tuple[str, ...] | None = None
    key: tuple[str, ...] | None = None
    target_column: str | None = None
    priority: str | None = None
    rereads: bool = False


class RemovedTable(msgspec.Struct, frozen=True):
    """How many documents a removed table left behind, or took with it."""

    documents_kept: int
    documents_deleted: int


async def alter_table(
    database: Database,
    pipeline: Pipeline,
    source: TableSource,
    change: TableAlteration,
    *,
    actor: str,
    patience_seconds: float = LOCK_PATIENCE_SECONDS,
) -> AddedTable:
    """Change how a table is read. Where texts may come out otherwise, all rows are looked at anew; what comes out the
    same costs nothing. Raises as `add_table`."""
    if not source.exists:
        raise NotFoundError(f"{source.trouble or 'the table was dropped'}")
    if change.target_column is not None and source.target_column is None:
        raise ConfigurationError(
            f"vectors of {source.name} stand beside their chunks: to have them in a column, remove the table and "
            "add it again with --into column"
        )
    relation = await _relation(database, source)
    checked = await check_plan(database, pipeline, relation, _plan(source, change))
    rereads = change.rereads or _needs_reading(source, checked)

    async def make(connection: Connection) -> None:
        await connection.execute(_SQL["hold"], {"id": source.id, "tenant_id": source.tenant_id})
        await connection.execute(
            _SQL["alter_source"],
            {"id": source.id, "template": checked.template, "priority": checked.priority},
        )
        await connection.execute(
            _SQL["alter_table"],
            {"id": source.id, "target_column": checked.target_column, **shape_of(checked)},
        )
        # Through the triggers and not the function alone: writers who wrote by the old one end before anybody looks.
        await connection.execute(_SQL["attach"], {"id": source.id})
        if rereads:
            await connection.execute(_SQL["reread"], {"id": source.id})
            await connection.execute(_SQL["count_rows"], {"id": source.id})  # which the condition may fail at
        await record(connection, source.tenant_id, actor, "table.alter", source.name, source, checked)

    try:
        await with_table_locked(database, source.relation, source.name, make, patience_seconds)
    except psycopg.errors.InvalidParameterValue as error:
        raise column_refusal(error) from error
    except psycopg.DataError as error:
        raise ConfigurationError(
            f"--where fails on some row of {source.name}: {error.diag.message_primary}; nothing was changed"
        ) from error
    await database.fetch(_SQL["check_source"], {"id": source.id})
    return AddedTable(await source_by_id(database, source.tenant_id, source.id), checked.notes)


def _plan(source: TableSource, change: TableAlteration) -> TablePlan:
    """The plan that a source would be added by now."""
    template = source.template if change.template is None else change.template
    heeded_default = set(source.columns) == set(Template(source.template).fields)
    columns = change.columns
    if columns is None and not heeded_default:
        columns = source.columns
    return TablePlan(
        template=template,
        columns=columns or None,
        condition=source.condition if change.condition is None else change.condition,
        metadata_columns=(
            source.metadata_columns if change.metadata_columns is None else change.metadata_columns
        ),
        key=change.key,
        target_column=source.target_column if change.target_column is None else change.target_column,
        adopts=source.adopts,
        priority=source.priority if change.priority is None else change.priority,
    )


def _needs_reading(source: TableSource, plan: CheckedPlan) -> bool:
    """Whether a document may come out otherwise, or rows be embedded that were not, or the reverse. Columns that are
    heeded now may have changed before."""
    return (
        (source.template, source.condition, source.target_column)
        != (plan.template, plan.condition, plan.target_column)
        or source.metadata_columns != plan.metadata_columns
        or source.key_columns != plan.key_columns
        or source.key_types != plan.key_types
        or not set(plan.columns) <= set(source.columns)
        or source.trouble is not None
    )


async def _relation(database: Database, source: TableSource) -> Relation:
    """The table as it is called now; the source keeps the name under which it was added."""
    row = await database.fetch_one(_SQL["relation_by_oid"], {"relation": source.relation})
    if row is None:
        raise NotFoundError(f"the table {source.name} was dropped")
    return Relation(source.relation, row[0], row[1], source.name)


async def remove_table(
    database: Database,
    source: TableSource,
    *,
    with_vectors: bool,
    actor: str,
    patience_seconds: float = LOCK_PATIENCE_SECONDS,
) -> RemovedTable:
    """Take the triggers off and forget the table. Its documents stay with their vectors, as documents of no source,
    unless `with_vectors`. Where the vectors stand in a column of the table, the documents go and the column stays as it
    is: without the source nobody would know where their vectors are. Cut off at any
    point it is done again by the same call."""

    async def stop(connection: Connection) -> None:
        await connection.execute(_SQL["pause"], {"id": source.id})
        await connection.execute(_SQL["detach"], {"id": source.id})

    await with_table_locked(database, source.relation, source.name, stop, patience_seconds)
    deletes = with_vectors or source.target_column is not None
    step = _SQL["delete_documents" if deletes else "release_documents"]
    documents = 0
    while row := await database.fetch_one(step, {"id": source.id, "limit": _BATCH}):
        if not row[0]:
            break
        documents += row[0]
    async with database.transaction() as connection:
        await connection.execute(_SQL["delete_source"], {"id": source.id})
        await record(
            connection, source.tenant_id, actor, "table.remove", source.name, source,
            {"with_vectors": with_vectors, "documents": documents},
        )  # fmt: skip
    return RemovedTable(0 if deletes else documents, documents if deletes else 0)
