"""Search: one query in the three modes side by side. Owns the form and how hits are shown; finding is
search/searcher.py's.

The query stands in the address, so that it can be shared; it is asked, and paid for, when the page is loaded, once for
all modes. A page of another site that makes the browser load it gets the form filled in, and nothing is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from embedmill.dashboard.highlighting import Passage, show_passage, words_in
from embedmill.dashboard.pages import show
from embedmill.dashboard.visitors import Reader, Visitor
from embedmill.database.pipelines import Pipeline, list_pipelines
from embedmill.database.queries import load_queries
from embedmill.errors import EmbedmillError
from embedmill.search.searcher import Answer, Comparison, Filter, Hit, Mode

router = APIRouter()
_SQL = load_queries("embedmill.dashboard", "search.sql")
_MODES = (Mode.HYBRID, Mode.VECTOR, Mode.TEXT)
_LONGEST_QUERY = 4000
_MOST_HITS = 50
_DEFAULT_HITS = 10


class Asked(msgspec.Struct, frozen=True):
    """The form as it was filled in."""

    query: str
    pipeline: str
    hits: str
    source: str
    metadata: str


class Wish(msgspec.Struct, frozen=True):
    """The form understood."""

    query: str
    pipeline: Pipeline
    hits: int
    where: Filter


class Shown(msgspec.Struct, frozen=True):
    """A hit on the page. `elsewhere`: (mode, rank) of the same passage in the other modes."""

    rank: int
    hit: Hit
    passage: Passage
    address: str | None
    elsewhere: list[tuple[str, int]]


@router.get("/search")
async def search_page(
    request: Request,
    visitor: Reader,
    q: str = "",
    pipeline: Annotated[str, Query(max_length=200)] = "",
    k: Annotated[str, Query(max_length=20)] = "",
    source: Annotated[str, Query(max_length=2000)] = "",
    metadata: Annotated[str, Query(max_length=4000)] = "",
) -> Response:
    asked = Asked(q, pipeline, k.strip(), source.strip(), metadata.strip())
    # What changes by itself on this page is nothing: its stream must not ask, and pay, again.
    if "text/event-stream" in request.headers.get("accept", ""):
        return await show(request, visitor, "search.html", _nothing)
    pipelines = await list_pipelines(visitor.database, visitor.tenant_id)
    wish, errors = read_wish(asked, pipelines)
    is_foreign = request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}

    async def load() -> Mapping[str, Any]:
        return {
            **await _nothing(),
            "asked": asked,
            "errors": errors,
            "pipelines": [each.name for each in pipelines],
            "is_foreign": is_foreign and bool(q.strip()),
            **(await _coverage(visitor, wish.pipeline) if wish else {}),
            **(await find(visitor, wish) if wish and wish.query and not is_foreign else {}),
        }

    return await show(request, visitor, "search.html", load, status=422 if errors else 200)


async def _nothing() -> Mapping[str, Any]:
    return {"comparison": None, "pipelines": [], "errors": {}, "chosen": None, "chunks": 0, "embedded": 0}


def read_wish(asked: Asked, pipelines: Sequence[Pipeline]) -> tuple[Wish | None, dict[str, str]]:
    """What is to be asked (None where there is no pipeline or something is wrong), and what is wrong by field."""
    errors: dict[str, str] = {}
    texts = {"q": asked.query, "source": asked.source, "metadata": asked.metadata}
    for field, text in texts.items():
        if not _is_storable(text):
            errors[field] = "This holds characters that no text has."
    if len(asked.query) > _LONGEST_QUERY:
        errors["q"] = f"At most {_LONGEST_QUERY:,} characters: ask with less."
    hits = _DEFAULT_HITS
    if asked.hits:
        hits = int(asked.hits) if asked.hits.isascii() and asked.hits.isdigit() else 0
        if not 1 <= hits <= _MOST_HITS:
            errors["k"] = f"A number from 1 to {_MOST_HITS} is wanted."
    metadata = None
    if asked.metadata and "metadata" not in errors:
        metadata = _json_object(asked.metadata)
        if metadata is None:
            errors["metadata"] = 'A JSON object is wanted, such as {"team": "mill"}.'
    found = next((each for each in pipelines if each.name == asked.pipeline), None)
    if found is None and asked.pipeline:
        errors["pipeline"] = "There is no such pipeline."
    chosen = found or _default(pipelines)
    if errors or chosen is None:
        return None, errors
    where = Filter(source=asked.source or None, metadata=metadata)
    return Wish(asked.query.strip(), chosen, hits, where), errors


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
        msgspec.json.encode(found)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return None if r"\u0000" in text else found


def _default(pipelines: Sequence[Pipeline]) -> Pipeline | None:
    """The one called default, else the first."""
    return next((each for each in pipelines if each.name == "default"), pipelines[0] if pipelines else None)


async def _coverage(visitor: Visitor, pipeline: Pipeline) -> Mapping[str, Any]:
    row = await visitor.database.fetch_one(_SQL["searchable"], {"generation_id": pipeline.generation.id})
    chunks, embedded = row or (0, 0)
    return {"chosen": pipeline, "chunks": chunks, "embedded": embedded}


async def find(visitor: Visitor, wish: Wish) -> Mapping[str, Any]:
    """The answers of all modes, as the page shows them."""
    comparison = await _compare(visitor, wish)
    hits = {hit.chunk_id: hit for answer in comparison.answers for hit in answer.hits}
    words = await _words(visitor, wish, list(hits))
    addresses = await _addresses(visitor, list(hits.values()))
    passages = {
        chunk_id: show_passage(hit.text, words.get(chunk_id, set())) for chunk_id, hit in hits.items()
    }
    ranks = {
        answer.mode: {hit.chunk_id: rank for rank, hit in enumerate(answer.hits, 1)}
        for answer in comparison.answers
    }
    shown = {
        answer.mode.value: [
            Shown(
                rank,
                hit,
                passages[hit.chunk_id],
                addresses.get(hit.chunk_id),
                _elsewhere(ranks, answer, hit),
            )
            for rank, hit in enumerate(answer.hits, 1)
        ]
        for answer in comparison.answers
    }
    return {"comparison": comparison, "shown": shown}


async def _compare(visitor: Visitor, wish: Wish) -> Comparison:
    """Where the provider cannot even be set up, the search by words answers alone."""
    service = visitor.service
    try:
        searcher = service.searcher(visitor.database, wish.pipeline, by_vector=True)
    except EmbedmillError as error:
        searcher = service.searcher(visitor.database, wish.pipeline, by_vector=False)
        by_words = await searcher.compare(wish.query, [Mode.TEXT], limit=wish.hits, where=wish.where)
        failed = [Answer(mode, [], 0.0, str(error)) for mode in _MODES if mode is not Mode.TEXT]
        return msgspec.structs.replace(by_words, answers=[*failed, *by_words.answers])
    return await searcher.compare(wish.query, _MODES, limit=wish.hits, where=wish.where)


async def _words(visitor: Visitor, wish: Wish, chunk_ids: list[int]) -> dict[int, set[str]]:
    rows = await visitor.database.fetch(
        _SQL["words_found"],
        {"config": wish.pipeline.text_search_config, "words": wish.query, "chunk_ids": chunk_ids},
    )
    return {row[0]: words_in(row[1]) for row in rows}


async def _addresses(visitor: Visitor, hits: list[Hit]) -> dict[int, str]:
    """Of chunks: their places in the pages of their uploads' jobs, or the sources of their records."""
    document_ids = {hit.document_id for hit in hits}
    rows = await visitor.database.fetch(_SQL["homes"], {"document_ids": list(document_ids)})
    homes = {document_id: (job_id, source_id) for document_id, source_id, job_id in rows}
    addresses = {}
    for hit in hits:
        job_id, source_id = homes.get(hit.document_id, (None, None))
        if job_id:
            addresses[hit.chunk_id] = f"/documents/jobs/{job_id}?chunk={hit.ordinal}#preview"
        elif source_id:
            addresses[hit.chunk_id] = f"/sources/{source_id}"
    return addresses


def _elsewhere(ranks: Mapping[Mode, Mapping[int, int]], answer: Answer, hit: Hit) -> list[tuple[str, int]]:
    return [
        (mode.value, ranks[mode][hit.chunk_id])
        for mode in ranks
        if mode is not answer.mode and hit.chunk_id in ranks[mode]
    ]
