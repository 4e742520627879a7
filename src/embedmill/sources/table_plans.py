"""What a person wants of a table, checked against the table as it is. Owns every refusal that can be told before
anything is changed; changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import psycopg

from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, DatabaseUnsuitableError, NotFoundError
from embedmill.sources.template import Template

_SQL = load_queries("embedmill.sources", "tables.sql")
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
_MOST_PARTS = 2
MAX_NAME_BYTES = 255


class TablePlan(msgspec.Struct, frozen=True):
    """What a person says. `columns`: whose changes are heeded (None: those of the template). `key`: what tells rows
    apart where there is no primary key, or another unique index is meant. `target_column`: vectors are written into
    this column of the table; with `adopts` those that stand there already are believed."""

    template: str
    columns: tuple[str, ...] | None = None
    condition: str | None = None
    metadata_columns: tuple[str, ...] = ()
    key: tuple[str, ...] | None = None
    target_column: str | None = None
    adopts: bool = False
    priority: str = "medium"


class Relation(msgspec.Struct, frozen=True):
    """A table that exists; `name` is quoted where SQL needs it."""

    oid: int
    schema: str
    table: str
    name: str


class CheckedPlan(msgspec.Struct, frozen=True):
    """A plan that fits its table. `condition` is as PostgreSQL writes it, every name with its schema. `watched`: of
    each column that is used, its number and type. `notes`: what is worth saying."""

    relation: Relation
    template: str
    key_columns: tuple[str, ...]
    key_types: tuple[str, ...]
    columns: tuple[str, ...]
    metadata_columns: tuple[str, ...]
    condition: str | None
    target_column: str | None
    adopts: bool
    priority: str
    watched: dict[str, tuple[int, str]]
    notes: tuple[str, ...] = ()


async def find_relation(database: Database, name: str) -> Relation:
    """The table that a name means: `jobs`, `public.jobs`, `"Odd Name"."x"`. Raises NotFoundError with what may have
    been meant, ConfigurationError for what is no table."""
    schema, table = await name_parts(database, name)
    found = await database.fetch(_SQL["tables_named"], {"schema": schema, "table": table})
    if not found:
        alike = [row[0] for row in await database.fetch(_SQL["names_alike"], {"table": table})]
        hint = f"did you mean {' or '.join(alike)}?" if alike else "capital letters need quotes: '\"Jobs\"'"
        raise NotFoundError(f"there is no table {name}; {hint}")
    if len(found) > 1 and found[0][1] != "public":
        names = ", ".join(row[4] for row in found)
        raise ConfigurationError(f"{name} may be one of {names}: say which schema")
    oid, schema, table, kind, quoted = found[0]
    if kind in _KINDS:
        raise ConfigurationError(
            f"{quoted} is {_KINDS[kind]}, on which no trigger can tell what changed: add the table behind it, or push "
            "its rows as shards"
        )
    if len(quoted.encode()) > MAX_NAME_BYTES:
        raise ConfigurationError(f"the name {quoted} is too long: {MAX_NAME_BYTES} bytes at most")
    return Relation(oid, schema, table, quoted)


async def name_parts(database: Database, name: str) -> tuple[str | None, str]:
    """Schema (None: not said) and table, unquoted."""
    try:
        row = await database.fetch_one(_SQL["name_parts"], {"name": name})
    except psycopg.errors.DataError as error:
        raise ConfigurationError(
            f'{name!r} is no name of a table: {_said(error)}. Write jobs, public.jobs or \'"Odd Name"."x"\''
        ) from error
    parts: list[str] = row[0] if row else []
    if not 1 <= len(parts) <= _MOST_PARTS:
        raise ConfigurationError(f"{name!r} has too many parts: write schema.table")
    return (parts[0] if len(parts) == _MOST_PARTS else None), parts[-1]


async def check_plan(
    database: Database, pipeline: Pipeline, relation: Relation, plan: TablePlan
) -> CheckedPlan:
    """Raises ConfigurationError for what does not fit, DatabaseUnsuitableError for rights that are lacking, each with
    what to do."""
    await _refuse_parts(database, relation)
    notes = await _check_rights(database, relation, plan.target_column)
    types, numbers = await _columns(database, relation)
    fields = Template(plan.template).fields
    columns = tuple(dict.fromkeys(plan.columns if plan.columns is not None else fields))
    if not columns:
        raise ConfigurationError("no column is heeded: changes would never be seen; leave out --columns")
    metadata = tuple(dict.fromkeys(plan.metadata_columns))
    for given, where in ((fields, "--content"), (columns, "--columns"), (metadata, "--metadata")):
        _assert_known(given, types, relation, where)
    key_columns, key_types = await _key(database, relation, plan.key)
    condition, condition_columns = await _condition(database, relation, plan.condition)
    used = {*fields, *columns, *metadata, *key_columns, *condition_columns}
    if plan.target_column is not None:
        _check_target(plan.target_column, types, used, pipeline)
        used.add(plan.target_column)
    await _refuse_foreign_casts(database, relation, used)
    watched = {name: (numbers[name], types[name]) for name in sorted(used)}
    return CheckedPlan(
        relation, plan.template, key_columns, key_types, columns, metadata, condition, plan.target_column,
        plan.adopts, plan.priority, watched, tuple(notes),
    )  # fmt: skip


async def _refuse_parts(database: Database, relation: Relation) -> None:
    row = await database.fetch_one(_SQL["parent"], {"relation": relation.oid})
    if row is not None:
        raise ConfigurationError(
            f"{relation.name} is a {'partition' if row[1] else 'child'} of {row[0]}, and what is written through that "
            f"would not be seen: add {row[0]}, with --where for a part of it"
        )


async def _refuse_foreign_casts(database: Database, relation: Relation, used: set[str]) -> None:
    rows = await database.fetch(_SQL["foreign_casts"], {"relation": relation.oid, "columns": sorted(used)})
    for column, function, owner in rows:
        raise ConfigurationError(
            f"the column {column} becomes text by the function {function} of {owner}, which would run with the rights "
            "of embedmill: leave the column out, or have an administrator own that function"
        )


async def _check_rights(database: Database, relation: Relation, target: str | None) -> list[str]:
    row = await database.fetch_one(_SQL["may_use_schema"], {"schema": relation.schema})
    if row is not None and not row[0]:
        raise DatabaseUnsuitableError(
            f"the role {row[1]} may not look into the schema: GRANT USAGE ON SCHEMA {row[2]} TO {_quoted(row[1])}"
        )
    notes: list[str] = []
    found = await database.fetch(_SQL["rights"], {"relation": relation.oid, "target": None})
    for name, is_foreign, selects, triggers, _, _, role in found:
        if is_foreign:
            raise ConfigurationError(
                f"{relation.name} has the foreign table {name} among its partitions, on which no trigger can tell what "
                "changed: detach it, or push the rows as shards"
            )
        lacking = [right for right, is_there in (("SELECT", selects), ("TRIGGER", triggers)) if not is_there]
        if lacking:
            raise DatabaseUnsuitableError(
                f"the role {role} lacks rights on {name}: GRANT {', '.join(lacking)} ON {name} TO {_quoted(role)}"
            )
    if any(row[5] for row in found):
        notes.append(
            f"row-level security holds for {_quoted(found[0][6])} on {relation.name}: rows that its policies hide are "
            "not embedded"
        )
    if target is not None and target in (await _columns(database, relation))[0]:
        for row in await database.fetch(_SQL["rights"], {"relation": relation.oid, "target": target}):
            if not row[4]:
                raise DatabaseUnsuitableError(
                    f"the role {row[6]} may not write vectors: GRANT UPDATE ({_quoted(target)}) ON {row[0]} TO "
                    f"{_quoted(row[6])}"
                )
    return notes


async def _columns(database: Database, relation: Relation) -> tuple[dict[str, str], dict[str, int]]:
    """Type and number of each column. One that is computed whenever it is read never stands in what triggers see."""
    rows = await database.fetch(_SQL["columns"], {"relation": relation.oid})
    return (
        {name: "" if is_virtual else type_name for name, type_name, is_virtual, _ in rows},
        {name: number for name, _, _, number in rows},
    )


def _assert_known(names: Iterable[str], types: dict[str, str], relation: Relation, where: str) -> None:
    for name in names:
        if name not in types:
            alike = [column for column in types if column.lower() == name.lower()]
            hint = f" (there is {alike[0]})" if alike else ""
            known = ", ".join(types)
            raise ConfigurationError(
                f"{relation.name} has no column {name}, which {where} names{hint}; it has {known}"
            )
        if not types[name]:
            raise ConfigurationError(
                f"the column {name}, which {where} names, is computed whenever it is read, and no trigger sees it: "
                "name the columns that it is computed from, or make it GENERATED ... STORED"
            )


async def _key(
    database: Database, relation: Relation, wanted: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    keys = await database.fetch(_SQL["unique_keys"], {"relation": relation.oid})
    for is_primary, columns, types in keys:
        if (is_primary and wanted is None) or (wanted is not None and sorted(columns) == sorted(wanted)):
            return tuple(columns), tuple(types)
    there = [f"--key {','.join(columns)}" for _, columns, _ in keys]
    if there:
        what = "has no primary key" if wanted is None else f"has no unique index over {', '.join(wanted)}"
        raise ConfigurationError(f"{relation.name} {what}; it can be added by {' or '.join(there)}")
    raise ConfigurationError(
        f"{relation.name} has nothing that tells its rows apart: give it a primary key (ALTER TABLE {relation.name} "
        "ADD PRIMARY KEY (...)), or a unique index over NOT NULL columns"
    )


async def _condition(
    database: Database, relation: Relation, condition: str | None
) -> tuple[str | None, list[str]]:
    if condition is None or not condition.strip():
        return None, []
    try:
        row = await database.fetch_one(
            _SQL["check_condition"], {"relation": relation.oid, "condition": condition}
        )
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate[:2] not in ("42", "22", "0A", "2F", "55"):
            raise
        raise ConfigurationError(f"--where {condition!r} cannot be used: {_said(error)}") from error
    return (row[0], row[1]) if row else (None, [])


def _check_target(target: str, types: dict[str, str], used: set[str], pipeline: Pipeline) -> None:
    dimensions = pipeline.generation.dimensions
    if target not in types:
        raise ConfigurationError(
            f"there is no column {target} to write vectors into: ALTER TABLE ... ADD COLUMN {_quoted(target)} "
            f"{pipeline.generation.storage}({dimensions})"
        )
    if target in used:
        raise ConfigurationError(f"the column {target} cannot be embedded and hold the vectors too")
    wanted = (f"vector({dimensions})", f"halfvec({dimensions})")
    # The type's schema stands before it where the search path does not lead to it.
    if types[target].rpartition(".")[2] not in wanted:
        raise ConfigurationError(
            f"the column {target} is {types[target]}; vectors of the pipeline {pipeline.name} need {wanted[0]} or "
            f"{wanted[1]}"
        )


def _quoted(name: str) -> str:
    """An identifier as SQL takes it, for statements that a person is to run."""
    if name.isidentifier() and name.isascii() and name == name.lower():
        return name
    return '"' + name.replace('"', '""') + '"'


def _said(error: Any) -> str:
    return str(error.diag.message_primary or error).strip()
