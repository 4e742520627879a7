"""The chunks of documents as rows. Owns how new chunks take the place of older ones: unchanged passages keep their
row, and with it their vectors. Must not know where documents come from; the transaction, and the locks on the
documents and their items, are the caller's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
from psycopg import sql
from psycopg.types.json import Jsonb

from embedmill.core.chunking import place_of
from embedmill.core.documents import Chunk, Place
from embedmill.core.hashing import text_hash
from embedmill.core.revision import revise
from embedmill.database.copying import copying
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Connection
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.database", "chunk_rows.sql")

_CHUNKS = sql.Identifier("embedmill", "knowledge_chunks")
_COLUMNS = (
    "tenant_id",
    "pipeline_id",
    "document_id",
    "chunk_set",
    "ordinal",
    "start_offset",
    "end_offset",
    "token_count",
    "text_config",
    "content_hash",
    "place_kind",
    "place_first",
    "place_last",
    "heading_path",
    "text",
    "record_source_id",
)

_PlaceColumns = tuple[str, str, str] | tuple[None, None, None]


class DocumentChunks(msgspec.Struct, frozen=True):
    """All chunks of a document by one plan (`chunk_set`). `is_new`: it has none of this set yet."""

    document_id: int
    chunk_set: int
    chunks: Sequence[Chunk]
    places: Sequence[Place] = ()
    is_new: bool = False


async def replace_chunks(
    connection: Connection,
    pipeline: Pipeline,
    documents: Sequence[DocumentChunks],
    *,
    record_source_id: int = 0,
) -> None:
    """Make these the chunks of their documents. Sets of a document that are not named stay as they are."""
    older = [document.document_id for document in documents if not document.is_new]
    standing: dict[tuple[int, int], list[tuple[Any, ...]]] = defaultdict(list)
    if older:
        cursor = await connection.execute(_SQL["standing_chunks"], {"document_ids": older})
        for document_id, chunk_set, *row in await cursor.fetchall():
            standing[document_id, chunk_set].append(tuple(row))
    removed: list[int] = []
    moved: list[_Moved] = []
    added: list[tuple[Any, ...]] = []
    for document in documents:
        _revise(pipeline, document, standing[document.document_id, document.chunk_set], removed, moved, added)
    if removed:
        await connection.execute(_SQL["delete_chunks"], {"chunk_ids": removed})
    if moved:
        await _move(connection, moved)
    if added:
        async with copying(connection, _CHUNKS, _COLUMNS) as copy:
            for columns in added:
                await copy.write_row((*columns, record_source_id))


class _Moved(msgspec.Struct, frozen=True):
    """A passage that stands elsewhere now."""

    chunk_id: int
    chunk: Chunk
    place: _PlaceColumns


def _revise(
    pipeline: Pipeline,
    document: DocumentChunks,
    standing: list[tuple[Any, ...]],
    removed: list[int],
    moved: list[_Moved],
    added: list[tuple[Any, ...]],
) -> None:
    """Sort a document's chunks into those that go, move and come."""
    hashes = [text_hash(chunk.text) for chunk in document.chunks]
    places: list[_PlaceColumns] = [
        place_of(document.places, chunk.start, chunk.end) or (None, None, None) for chunk in document.chunks
    ]
    revision = revise([row[1] for row in standing], hashes)
    removed += [standing[index][0] for index in revision.removed]
    for new, old in revision.kept:
        chunk, place = document.chunks[new], places[new]
        if _position(chunk, place) != (*standing[old][2:8], tuple(standing[old][8])):
            moved.append(_Moved(standing[old][0], chunk, place))
    for index in revision.added:
        chunk = document.chunks[index]
        added.append(
            (
                pipeline.tenant_id,
                pipeline.id,
                document.document_id,
                document.chunk_set,
                chunk.ordinal,
                chunk.start,
                chunk.end,
                chunk.tokens,
                pipeline.text_search_config,
                hashes[index],
                *places[index],
                list(chunk.heading_path),
                chunk.text,
            )
        )


async def _move(connection: Connection, moved: Sequence[_Moved]) -> None:
    await connection.execute(
        _SQL["move_chunks"],
        {
            "chunk_ids": [each.chunk_id for each in moved],
            "ordinals": [each.chunk.ordinal for each in moved],
            "starts": [each.chunk.start for each in moved],
            "ends": [each.chunk.end for each in moved],
            "place_kinds": [each.place[0] for each in moved],
            "place_firsts": [each.place[1] for each in moved],
            "place_lasts": [each.place[2] for each in moved],
            "heading_paths": [Jsonb(list(each.chunk.heading_path)) for each in moved],
        },
    )


def _position(chunk: Chunk, place: _PlaceColumns) -> tuple[Any, ...]:
    """As it stands in a row of `standing_chunks`, from `ordinal` on."""
    return (chunk.ordinal, chunk.start, chunk.end, *place, chunk.heading_path)
