"""A source of records as it stands in the catalogue. Owns its value; must not read rows or change anything but its
`trouble`."""

from __future__ import annotations

import msgspec
import psycopg

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import NotFoundError

_SQL = load_queries("embedmill.sources", "catalog.sql")


class TableShape(msgspec.Struct, frozen=True):
    """Where a table source's rows stand and what is read of them; names are unquoted."""

    schema: str
    table: str
    key_columns: tuple[str, ...]
    key_types: tuple[str, ...]
    columns: tuple[str, ...]
    metadata_columns: tuple[str, ...]
    condition: str | None
    target_column: str | None
    is_counted: bool
    adopts: bool


class RecordSource(msgspec.Struct, frozen=True):
    """A table (`table` is its shape) or a shard feed (None). `name` is the source_type of its documents."""

    id: int
    tenant_id: int
    pipeline_id: int
    name: str
    template: str | None
    priority: str
    table: TableShape | None
    trouble: str | None


async def record_source(database: Database, record_source_id: int) -> RecordSource:
    """NotFoundError where it was removed; a table that was dropped has empty names."""
    row = await database.fetch_one(_SQL["source"], {"record_source_id": record_source_id})
    if row is None:
        raise NotFoundError(f"there is no source {record_source_id}: it was removed")
    shape = None
    if row[3] == "table":
        shape = TableShape(
            row[7] or "",
            row[8] or "",
            tuple(row[9]),
            tuple(row[10]),
            tuple(row[11]),
            tuple(row[12]),
            row[13],
            row[14],
            row[15],
            row[17],
        )
    return RecordSource(row[0], row[1], row[2], row[4], row[5], row[6], shape, row[16])


async def end_trouble(database: Database, record_source_id: int) -> None:
    """It is read again; what became of its table (check_table_source) is another matter."""
    await database.fetch(_SQL["end_trouble"], {"record_source_id": record_source_id})


async def set_trouble(database: Database, record_source_id: int, trouble: str) -> None:
    """Say why a source is not read."""
    await database.fetch(_SQL["set_trouble"], {"record_source_id": record_source_id, "trouble": trouble})


def told(error: psycopg.Error) -> str:
    """What the database says, without what rows hold: messages about values (classes 22 and 23) and of people's own
    functions (P0) quote them."""
    if error.sqlstate is not None and error.sqlstate[:2] in {"22", "23", "P0"}:
        return f"{type(error).__name__} (SQLSTATE {error.sqlstate})"
    return error.diag.message_primary or type(error).__name__
