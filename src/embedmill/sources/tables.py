"""Table sources: users' tables whose rows are kept embedded. Owns adding, finding, listing and pausing them; what is
checked before stands in table_plans.py, what is altered or removed in table_changes.py, the triggers in
database/functions/70_tables.sql. Reads no row but to count."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import psycopg

from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, ConflictError, NotFoundError
from embedmill.sources.table_locks import LOCK_PATIENCE_SECONDS, with_table_locked
from embedmill.sources.table_plans import (
    CheckedPlan,
    TablePlan,
    check_plan,
    find_relation,
    name_parts,
)

_SQL = load_queries("embedmill.sources", "tables.sql")
_BATCH = 1_000


class TableSource(msgspec.Struct, frozen=True):
    """A table in a pipeline. `rows`: that satisfy the condition (None: not counted yet); `documents`: of these, read;
    `chunks`, `embedded`, `unembeddable`: in the live generation. `changes`: rows that change notes wait for (counted
    up to 10,000 notes). `tables`: with partitions and children, how many carry the triggers."""

    id: int
    tenant_id: int
    pipeline_id: int
    pipeline: str
    name: str
    template: str
    priority: str
    paused_at: datetime | None
    trouble: str | None
    rows: int | None
    documents: int
    created_at: datetime
    relation: int
    exists: bool
    key_columns: tuple[str, ...]
    key_types: tuple[str, ...]
    columns: tuple[str, ...]
    metadata_columns: tuple[str, ...]
    condition: str | None
    target_column: str | None
    adopts: bool
    tables: int
    chunks: int
    embedded: int
    unembeddable: int
    backfill: str
    backfill_rows_walked: int
    backfill_rows_read: int
    change_notes: int
    changes: int


class AddedTable(msgspec.Struct, frozen=True):
    """A source that was added, with what is worth saying of it."""

    source: TableSource
    notes: tuple[str, ...]


async def add_table(
    database: Database,
    pipeline: Pipeline,
    name: str,
    plan: TablePlan,
    *,
    backfills: bool = True,
    actor: str,
    patience_seconds: float = LOCK_PATIENCE_SECONDS,
) -> AddedTable:
    """Put triggers on a table and count its rows; with `backfills`, the rows that stand there already are read by and
    by. Raises NotFoundError, ConfigurationError, DatabaseUnsuitableError, ConflictError where it was added before or
    a transaction holds the table for longer than our patience."""
    relation = await find_relation(database, name)
    checked = await check_plan(database, pipeline, relation, plan)

    async def make(connection: Connection) -> int:
        return await _insert(connection, pipeline, checked, backfills=backfills, actor=actor)

    try:
        source_id = await with_table_locked(database, relation.oid, relation.name, make, patience_seconds)
    except psycopg.errors.InvalidParameterValue as error:
        raise column_refusal(error) from error
    try:
        await count_rows(database, source_id)
    except psycopg.DataError as error:
        await _undo(database, source_id, relation.oid, relation.name, patience_seconds)
        raise ConfigurationError(
            f"--where {plan.condition!r} fails on some row of {relation.name}: {error.diag.message_primary}"
        ) from error
    left = await _take_up_documents(
        database, source_id, rereads=backfills, has_column=checked.target_column is not None
    )
    notes = list(checked.notes)
    if left and checked.target_column is None:
        notes.append(
            f"{left:,} documents of this table stand already and are taken up again, with their vectors"
        )
    elif left:
        notes.append(
            f"{left:,} documents of this table that stood beside it are deleted: its vectors are to stand in "
            f"the column {checked.target_column}"
        )
    return AddedTable(await source_by_id(database, pipeline.tenant_id, source_id), tuple(notes))


async def _take_up_documents(database: Database, source_id: int, *, rereads: bool, has_column: bool) -> int:
    """Take up what the table left behind when it was removed, or delete it, where a column is to hold the vectors; how
    many documents. What changed since is found by reading all rows."""
    step = _SQL["delete_left_documents" if has_column else "adopt_documents"]
    documents = 0
    while row := await database.fetch_one(step, {"id": source_id, "limit": _BATCH}):
        if not row[0]:
            break
        documents += row[0]
    if documents and rereads:
        await database.fetch(_SQL["reread"], {"id": source_id})
        await count_rows(database, source_id)
    return documents


def column_refusal(error: psycopg.Error) -> ConfigurationError:
    """What the database says of a column that cannot hold the vectors, with what to do about it."""
    hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
    return ConfigurationError(f"{error.diag.message_primary}{hint}; nothing was changed")


async def _insert(
    connection: Connection, pipeline: Pipeline, plan: CheckedPlan, *, backfills: bool, actor: str
) -> int:
    """Rows and triggers; returns the source's id."""
    try:
        cursor = await connection.execute(
            _SQL["insert_source"],
            {
                "tenant_id": pipeline.tenant_id,
                "pipeline_id": pipeline.id,
                "name": plan.relation.name,
                "template": plan.template,
                "priority": plan.priority,
            },
        )
    except psycopg.errors.UniqueViolation as error:
        raise ConflictError(
            f"{plan.relation.name} is in the pipeline {pipeline.name} already: "
            f"`embedmill table alter {plan.relation.name}` changes how it is read"
        ) from error
    ((source_id,),) = await cursor.fetchall()
    await connection.execute(
        _SQL["insert_table"],
        {
            "id": source_id,
            "tenant_id": pipeline.tenant_id,
            "relation": plan.relation.oid,
            "target_column": plan.target_column,
            "adopts": plan.adopts,
            **shape_of(plan),
        },
    )
    if backfills:
        await connection.execute(_SQL["begin_walk"], {"id": source_id})
    await record(connection, pipeline.tenant_id, actor, "table.add", plan.relation.name, None, plan)
    await connection.execute(_SQL["attach"], {"id": source_id})
    return int(source_id)


def shape_of(plan: CheckedPlan) -> dict[str, Any]:
    """The columns of table_sources that say how a table is read."""
    return {
        "key_columns": list(plan.key_columns),
        "key_types": list(plan.key_types),
        "columns": list(plan.columns),
        "metadata_columns": list(plan.metadata_columns),
        "condition": plan.condition,
        "watched": msgspec.json.encode(plan.watched).decode(),
    }


async def _undo(database: Database, source_id: int, oid: int, name: str, patience_seconds: float) -> None:
    async def unmake(connection: Connection) -> None:
        await connection.execute(_SQL["detach"], {"id": source_id})
        await connection.execute(_SQL["delete_source"], {"id": source_id})

    await with_table_locked(database, oid, name, unmake, patience_seconds)


async def count_rows(database: Database, source_id: int) -> int:
    """Count the rows of a source in full, and keep in which snapshot; needed once, and wherever rows came or went
    without triggers. Raises psycopg.DataError where the condition fails on some row."""
    row = await database.fetch_one(_SQL["count_rows"], {"id": source_id})
    return int(row[0]) if row else 0


async def list_tables(
    database: Database, tenant_id: int, *, pipeline: str | None = None, names: list[str] | None = None
) -> list[TableSource]:
    """The table sources of a tenant, by name."""
    rows = await database.fetch(
        _SQL["sources"], {"tenant_id": tenant_id, "pipeline": pipeline, "names": names}
    )
    return [
        msgspec.convert(dict(zip(TableSource.__struct_fields__, row, strict=True)), TableSource)
        for row in rows
    ]


async def find_table(
    database: Database, tenant_id: int, name: str, *, pipeline: str | None = None
) -> TableSource:
    """The source of that name, written as a person writes it. Raises NotFoundError with those that there are,
    ConflictError where several pipelines hold the table and none was named."""
    found = await list_tables(
        database, tenant_id, pipeline=pipeline, names=await _names_of(database, tenant_id, name)
    )
    if len(found) > 1:
        pipelines = ", ".join(source.pipeline for source in found)
        raise ConflictError(f"{found[0].name} is in several pipelines ({pipelines}): say which by --pipeline")
    if not found:
        others = ", ".join(source.name for source in await list_tables(database, tenant_id))
        there = f"there are: {others}" if others else "none was added yet"
        where = f" in the pipeline {pipeline}" if pipeline else ""
        raise NotFoundError(f"the table {name} was not added{where}; {there}. `embedmill table add` adds one")
    return found[0]


async def _names_of(database: Database, tenant_id: int, name: str) -> list[str]:
    """Names under which a source may stand: as it was given, and as the table was called when it was added."""
    names = [name]
    try:
        schema, table = await name_parts(database, name)
        relations = await database.fetch(_SQL["tables_named"], {"schema": schema, "table": table})
    except ConfigurationError:
        return names
    for row in relations:
        known = await database.fetch(_SQL["relation_name"], {"relation": row[0], "tenant_id": tenant_id})
        names += [each[0] for each in known]
    if schema is None:
        names += [f"public.{name}"]
    return names


async def source_by_id(database: Database, tenant_id: int, source_id: int) -> TableSource:
    """Raises NotFoundError."""
    for source in await list_tables(database, tenant_id):
        if source.id == source_id:
            return source
    raise NotFoundError(f"there is no source {source_id}: it was removed")


async def pause_table(database: Database, source: TableSource, *, actor: str) -> TableSource:
    """Changes are still noted, but not read until it is resumed."""
    async with database.transaction() as connection:
        await connection.execute(_SQL["pause"], {"id": source.id})
        await record(connection, source.tenant_id, actor, "table.pause", source.name, None, None)
    return await source_by_id(database, source.tenant_id, source.id)


async def resume_table(database: Database, source: TableSource, *, actor: str) -> TableSource:
    """Read on; what an interrupted `add` left undone is done."""
    async with database.transaction() as connection:
        await connection.execute(_SQL["resume"], {"id": source.id})
        await record(connection, source.tenant_id, actor, "table.resume", source.name, None, None)
    await database.fetch(_SQL["check_source"], {"id": source.id})
    if source.exists and source.rows is None:
        await count_rows(database, source.id)
    return await source_by_id(database, source.tenant_id, source.id)


async def record(
    connection: Connection, tenant_id: int, actor: str, action: str, subject: str, old: object, new: object
) -> None:
    """One act in the audit log of this transaction."""
    await connection.execute(_SQL["act_as"], {"actor": actor})
    await connection.execute(
        _SQL["record_action"],
        {
            "tenant_id": tenant_id,
            "action": action,
            "subject": subject,
            "old_value": None if old is None else msgspec.json.encode(old).decode(),
            "new_value": None if new is None else msgspec.json.encode(new).decode(),
        },
    )
