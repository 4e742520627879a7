"""/api/v1/search: the passages that answer a query. Owns the wire's shapes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from embedmill.api.problems import describe
from embedmill.api.service import Reader, Service
from embedmill.api.wire import Metadata, Wire
from embedmill.database.pipelines import find_pipeline
from embedmill.search.searcher import Filter, Hit, Mode

router = APIRouter(tags=["search"])


class Query(Wire):
    """`source` matches a document's source, with * and ? as in a shell; `metadata` must be part of a document's."""

    query: Annotated[str, Field(min_length=1, max_length=20_000, examples=["how do I return a mill wheel?"])]
    pipeline: Annotated[str, Field(max_length=100)] = "default"
    mode: Mode = Mode.HYBRID
    limit: Annotated[int, Field(ge=1, le=100)] = 10
    document_id: Annotated[int | None, Field(ge=1, le=2**63 - 1)] = None
    source: Annotated[str | None, Field(max_length=2000)] = None
    metadata: Metadata | None = None
    user_id: Annotated[str | None, Field(max_length=200, description="On whose behalf, for the ledger.")] = (
        None
    )


class Passage(Wire):
    """A passage, and where it stands. `score`: the cosine similarity (`vector`), the share of the query's words that it
    has, by how rare they are (`text`), or both fused (`hybrid`); 1 is the best."""

    score: float
    vector_rank: int | None
    text_rank: int | None
    chunk_id: int
    document_id: int
    source_type: str
    source_id: str
    name: str
    title: str | None
    ordinal: int
    start_offset: int
    end_offset: int
    place: str | None
    heading_path: list[str]
    text: str
    metadata: dict[str, Any]

    @classmethod
    def of(cls, hit: Hit) -> Passage:
        return cls(**{name: getattr(hit, name) for name in cls.model_fields})


class Answers(Wire):
    passages: list[Passage]


@router.post("/search", responses=describe(401, 402, 403, 404, 422, 429, 502, 503))
async def search(asked: Query, caller: Reader, service: Service) -> Answers:
    """The best passages, best first: by meaning (vector), by words (text), or both (hybrid)."""
    pipeline = await find_pipeline(caller.database, caller.tenant_id, asked.pipeline)
    searcher = service.searcher(caller.database, pipeline, by_vector=asked.mode is not Mode.TEXT)
    where = Filter(document_id=asked.document_id, source=asked.source, metadata=asked.metadata)
    hits = await searcher.search(
        asked.query, mode=asked.mode, limit=asked.limit, where=where, user_id=asked.user_id
    )
    return Answers(passages=[Passage.of(hit) for hit in hits])
