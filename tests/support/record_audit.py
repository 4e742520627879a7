"""Says whether users' tables are embedded, by reading them and computing anew what must stand. Owns the independent
check; must not use the product's rendering, cutting, or counters but to compare them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from psycopg import sql

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import vectors_table
from tests.support.provider import vector_for
from tests.support.record_writers import Kind

_DOCUMENTS = """
SELECT d.source_id, d.error_reason, c.text, v.embedding::text
  FROM embedmill.record_sources s
  JOIN embedmill.knowledge_documents d ON d.record_source_id = s.id
  LEFT JOIN embedmill.knowledge_chunks c ON c.document_id = d.id
  LEFT JOIN {vectors} v ON v.chunk_id = c.id
 WHERE s.pipeline_id = %(pipeline_id)s AND s.name = %(name)s
"""
_COUNTED = """
SELECT s.rows, s.documents, coalesce(k.chunks, 0), coalesce(k.embedded, 0), coalesce(k.unembeddable, 0), s.trouble
  FROM embedmill.record_sources s
  LEFT JOIN embedmill.coverage_counters k ON k.record_source_id = s.id AND k.generation_id = %(generation_id)s
 WHERE s.pipeline_id = %(pipeline_id)s AND s.name = %(name)s
"""


async def assert_tables_are_embedded(
    app: App, sources: Sequence[tuple[Pipeline, Kind, str]], dimensions: int
) -> int:
    """Each row whose text is not blank has one chunk with its text and that text's vector, each other one says that it
    is empty, there is nothing besides, and the counts are true. Returns how many rows there are."""
    rows = 0
    for pipeline, kind, template in sources:
        wanted = await _wanted(app, kind, template)
        await _assert_documents(app, pipeline, kind.name, wanted, dimensions)
        with_text = sum(bool(text) for text in wanted.values())
        counted = await app.database.fetch(
            _COUNTED,
            {
                "generation_id": pipeline.generation.id,
                "pipeline_id": pipeline.id,
                "name": f"public.{kind.name}",
            },
        )
        truth = (len(wanted), len(wanted), with_text, with_text, 0, None)
        assert counted == [truth], (
            f"{kind.name}: (rows, documents, chunks, embedded, unembeddable, trouble) are {truth}, counted {counted}"
        )
        rows += len(wanted)
    return rows


async def _wanted(app: App, kind: Kind, template: str) -> dict[str, str]:
    """The text of each row that counts, by its key; '' where there is none."""
    columns = sql.SQL(", ").join(sql.Identifier(column) for column in kind.key_columns)
    found = await app.database.fetch(
        sql.SQL("SELECT title, body, {} FROM {} WHERE {}").format(
            columns, sql.Identifier(kind.name), sql.SQL(kind.condition or "true")
        )
    )
    return {
        str(key[0]) if len(key) == 1 else json.dumps([str(part) for part in key]): (
            template.replace("$title", title or "").replace("$body", body or "").strip()
        )
        for title, body, *key in found
    }


async def _assert_documents(
    app: App, pipeline: Pipeline, name: str, wanted: dict[str, str], dimensions: int
) -> None:
    query = sql.SQL(_DOCUMENTS).format(vectors=vectors_table(pipeline.generation.id))
    found = await app.database.fetch(query, {"pipeline_id": pipeline.id, "name": f"public.{name}"})
    standing = {key: (reason, text) for key, reason, text, _ in found}
    assert len(standing) == len(found), f"{name}: rows with several chunks: {len(found)} for {len(standing)}"
    lacking, beyond = wanted.keys() - standing.keys(), standing.keys() - wanted.keys()
    assert not lacking, f"{name}: rows without a document: {sorted(lacking)[:5]} of {len(lacking)}"
    assert not beyond, f"{name}: documents whose rows are gone: {sorted(beyond)[:5]} of {len(beyond)}"
    for key, reason, text, embedding in found:
        if not wanted[key]:
            assert (reason, text) == ("empty", None), f"{name} {key}: empty, but {reason}, {text!r}"
            continue
        assert (reason, text) == (None, wanted[key]), (
            f"{name} {key}: {text!r} ({reason}), not {wanted[key]!r}"
        )
        assert embedding is not None, f"{name} {key}: no vector"
        distance = np.abs(np.array(json.loads(embedding)) - vector_for(text, dimensions)).max()
        assert distance < 1e-6, f"{name} {key}: the vector of another text"
