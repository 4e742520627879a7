"""What a person can choose from before a table is added: tables, their columns and keys, and how its first row would
read. Owns the looking; adds nothing. Whoever may call this may look into every table of the database."""

from __future__ import annotations

import msgspec
import psycopg

from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError
from embedmill.sources.catalog import RecordSource, TableShape, told
from embedmill.sources.table_plans import CheckedPlan, Relation, TablePlan, check_plan
from embedmill.sources.table_rows import TableRows

_SQL = load_queries("embedmill.sources", "table_choices.sql")
_PLANS = load_queries("embedmill.sources", "tables.sql")
_ROWS_LOOKED_AT = 50
_TEXTS = ("text", "character varying", "character", "citext")


class TableChoice(msgspec.Struct, frozen=True):
    """A table that may be added. `rows` are estimated; `pipelines` of the tenant that have it already."""

    name: str
    rows: int
    comment: str | None
    pipelines: tuple[str, ...]


class ColumnChoice(msgspec.Struct, frozen=True):
    """A column as PostgreSQL writes its type. One that is computed whenever it is read can be seen by no trigger."""

    name: str
    type_name: str
    is_usable: bool

    @property
    def is_text(self) -> bool:
        return self.type_name.partition("(")[0].rpartition(".")[2] in _TEXTS

    @property
    def placeholder(self) -> str:
        """As a template names it."""
        is_plain = self.name.isascii() and self.name.isidentifier()
        return f"${self.name}" if is_plain else f"${{{self.name}}}"

    def holds(self, pipeline: Pipeline) -> bool:
        """Whether vectors of the pipeline fit into it."""
        wanted = {f"{kind}({pipeline.generation.dimensions})" for kind in ("vector", "halfvec")}
        return self.type_name.rpartition(".")[2] in wanted


class TableLook(msgspec.Struct, frozen=True):
    """A table's columns, and what can tell its rows apart: the primary key first."""

    columns: tuple[ColumnChoice, ...]
    keys: tuple[tuple[str, ...], ...]

    @property
    def suggested_template(self) -> str:
        """Of its first columns with text; '' where it has none."""
        texts = [column.placeholder for column in self.columns if column.is_text and column.is_usable]
        return "\n\n".join(texts[:3])


class RowPreview(msgspec.Struct, frozen=True):
    """How the first row that satisfies the condition reads; `key` None: none of the first ones does. `refusal`: why it
    could not be embedded."""

    key: str | None
    text: str
    refusal: str | None
    looked_at: int


async def list_table_choices(
    database: Database, tenant_id: int, *, name: str = "", limit: int = 200
) -> list[TableChoice]:
    """Tables whose name has this in it."""
    rows = await database.fetch(_SQL["relations"], {"tenant_id": tenant_id, "name": name, "limit": limit})
    return [TableChoice(row[0], row[1], row[2], tuple(row[3])) for row in rows]


async def look_at_table(database: Database, relation: Relation) -> TableLook:
    asked = {"relation": relation.oid}
    columns = await database.fetch(_PLANS["columns"], asked)
    keys = await database.fetch(_PLANS["unique_keys"], asked)
    return TableLook(
        tuple(ColumnChoice(name, type_name, not is_virtual) for name, type_name, is_virtual, _ in columns),
        tuple(tuple(names) for _, names, _ in keys),
    )


async def preview_row(
    database: Database, pipeline: Pipeline, relation: Relation, plan: TablePlan
) -> RowPreview:
    """The first row, in the order of the key, that the plan would have embedded, read as a worker reads it. Raises what
    check_plan raises, and ConfigurationError where the condition fails on a row."""
    checked = await check_plan(database, pipeline, relation, plan)
    rows = TableRows(database, _source(pipeline, checked), _shape(checked))
    try:
        walked = [each.key for each in await rows.walk(None, _ROWS_LOOKED_AT)]
        wanted = await rows.wanted(walked)
        first = next((key for key in walked if key in wanted), None)
        loaded = await rows.load([first]) if first is not None else None
    except psycopg.DataError as error:
        raise ConfigurationError(f"--where fails on some row: {told(error)}") from error
    if loaded is None or not loaded.rows:
        return RowPreview(None, "", None, len(walked))
    (row,) = loaded.rows
    refusal = None if row.refusal is None else str(row.refusal)
    if refusal is None and not row.content.strip():
        refusal = "every column that the template names is empty in this row: such rows are counted as not embeddable"
    return RowPreview(row.key, row.content, refusal, len(walked))


def _source(pipeline: Pipeline, checked: CheckedPlan) -> RecordSource:
    """As if it had been added."""
    return RecordSource(
        0,
        pipeline.tenant_id,
        pipeline.id,
        checked.relation.name,
        checked.template,
        checked.priority,
        None,
        None,
    )


def _shape(checked: CheckedPlan) -> TableShape:
    return TableShape(
        checked.relation.schema,
        checked.relation.table,
        checked.key_columns,
        checked.key_types,
        checked.columns,
        checked.metadata_columns,
        checked.condition,
        checked.target_column,
        False,
        False,
    )
