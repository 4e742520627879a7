"""Searches a pipeline: by vector, by full text, or both fused. Owns the queries and what a hit shows; must not
write anything (the query's own call is query_call.py's)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import psycopg

from embedmill.core.ranking import fuse_scores
from embedmill.database.pipelines import Pipeline, pipeline_by_id
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, ConflictError, EmbedmillError
from embedmill.ports import EmbeddingProvider, ProviderSpec
from embedmill.search.candidates import Asked, Lists, find_candidates
from embedmill.search.query_call import QueryVectors

_SQL = load_queries("embedmill.search", "search.sql")
MOST_HITS = 1000
# Some five pages: no model reads more of a query, and a search by words would take long and find everything.
MOST_QUERY_CHARACTERS = 20_000
# What is fused is drawn from more candidates than are shown: a passage may be 40th in one list and 1st in both.
_CANDIDATES_PER_HIT = 4
_FEWEST_CANDIDATES = 50
# A pipeline is switched and pruned once in a while, never as often as this within a search.
_TRIES = 5


class Mode(StrEnum):
    HYBRID = "hybrid"
    VECTOR = "vector"
    TEXT = "text"


class Filter(msgspec.Struct, frozen=True):
    """Which documents may answer: one document, those whose source matches (`*` and `?` as in a shell), those
    whose metadata contains this."""

    document_id: int | None = None
    source: str | None = None
    metadata: dict[str, Any] | None = None

    @property
    def is_empty(self) -> bool:
        return self.document_id is None and self.source is None and self.metadata is None


class Hit(msgspec.Struct, frozen=True):
    """A passage. `score` is the cosine similarity (vector), the share of the query's words that it has, by their weight
    (text), or both fused (hybrid: core/ranking.py), 1 being the best; the ranks (from 1) say where each list had it."""

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
    place_kind: str | None
    place_first: str | None
    place_last: str | None
    heading_path: list[str]
    text: str
    metadata: dict[str, Any]

    @property
    def place(self) -> str | None:
        """For people: "page 3", "pages 3-4", "sheet Prices"."""
        if self.place_kind is None:
            return None
        if self.place_first == self.place_last:
            return f"{self.place_kind} {self.place_first}"
        return f"{self.place_kind}s {self.place_first}-{self.place_last}"


class Answer(msgspec.Struct, frozen=True):
    """What one mode found, best first, in `seconds`, those of the query's call not among them; or why it did not."""

    mode: Mode
    hits: list[Hit]
    seconds: float
    error: str | None = None


class Comparison(msgspec.Struct, frozen=True):
    """Several modes' answers to one query, for which the provider was asked once, for `call_seconds` (None: not at
    all). `cost_usd` of None is unknown."""

    answers: list[Answer]
    call_seconds: float | None
    tokens: int
    cost_usd: Decimal | None


class _Found(NamedTuple):
    """A mode's hits, and in how many seconds."""

    mode: Mode
    hits: list[Hit]
    seconds: float


class Searcher:
    """Answers queries over one pipeline."""

    def __init__(
        self,
        database: Database,
        pipeline: Pipeline,
        provider: EmbeddingProvider | None,
        *,
        build_provider: Callable[[ProviderSpec], EmbeddingProvider] | None = None,
    ) -> None:
        """`provider` may be None where only full text will be searched. `build_provider` gives the one of the live
        generation, where that of the pipeline is gone by the time of a search; what it gives is its owner's to close.
        """
        self._database = database
        self._pipeline = pipeline
        self._provider = provider
        self._build_provider = build_provider

    async def search(
        self,
        query: str,
        *,
        mode: Mode = Mode.HYBRID,
        limit: int = 10,
        where: Filter | None = None,
        user_id: str | None = None,
    ) -> list[Hit]:
        """The best `limit` passages, best first; `user_id` is whom the ledger names. An empty query is a
        ConfigurationError."""
        _check(query, limit)
        vectors = QueryVectors(self._database, query, user_id)
        (found,) = await self._search(query, [mode], limit, where or Filter(), vectors)
        return found.hits

    async def compare(
        self,
        query: str,
        modes: Sequence[Mode],
        *,
        limit: int = 10,
        where: Filter | None = None,
        user_id: str | None = None,
    ) -> Comparison:
        """The query in several modes, paid for once, and what two of them share read once. Where there is no vector to
        be had, those that need one say so, and the search by words answers all the same. An empty query is a
        ConfigurationError."""
        _check(query, limit)
        vectors = QueryVectors(self._database, query, user_id)
        problem = None
        found: list[_Found] = []
        # Where the first fails, words may answer by themselves.
        for asked in [modes, [Mode.TEXT]] if Mode.TEXT in modes and len(modes) > 1 else [modes]:
            try:
                found = await self._search(query, asked, limit, where or Filter(), vectors)
                break
            except EmbedmillError as error:
                problem = problem or str(error)
        answers = {one.mode: Answer(one.mode, one.hits, one.seconds) for one in found}
        return Comparison(
            [answers.get(mode) or Answer(mode, [], 0.0, problem) for mode in modes],
            vectors.seconds,
            vectors.tokens,
            vectors.cost_usd,
        )

    async def _search(
        self, query: str, modes: Sequence[Mode], limit: int, where: Filter, vectors: QueryVectors
    ) -> list[_Found]:
        """In the order of `modes`."""
        for _ in range(_TRIES):
            try:
                found = await self._ask(query, modes, limit, where, vectors)
            except psycopg.errors.UndefinedTable:
                found = None
            if found is not None:
                return found
            await self._renew()
        raise ConflictError("the pipeline was switched and pruned again and again: ask once more")

    async def _renew(self) -> None:
        """The generation that was to be searched is gone: the pipeline has another one by now."""
        before = self._pipeline.generation.spec
        self._pipeline = await pipeline_by_id(self._database, self._pipeline.id)
        spec = self._pipeline.generation.spec
        if self._provider is not None and spec != before:
            if self._build_provider is None:
                raise ConflictError(
                    "the pipeline was switched to another model while it was searched: ask again"
                )
            self._provider = self._build_provider(spec)

    async def _ask(
        self, query: str, modes: Sequence[Mode], limit: int, chosen: Filter, vectors: QueryVectors
    ) -> list[_Found] | None:
        """What the modes find in this generation; None where it was dropped meanwhile, and that may not be all."""
        # The provider is asked before a transaction is open.
        needs_vector = any(mode is not Mode.TEXT for mode in modes)
        vector = await vectors.of(self._pipeline, self._provider) if needs_vector else None
        words = query.replace("\x00", " ") if any(mode is not Mode.VECTOR for mode in modes) else None
        number = max(_FEWEST_CANDIDATES, limit * _CANDIDATES_PER_HIT) if Mode.HYBRID in modes else limit
        asked = Asked(self._pipeline.generation.id, vector, words, number, _filter_values(chosen))
        async with self._database.transaction() as connection:
            for _ in range(_TRIES):
                lists = await find_candidates(self._database, connection, asked)
                rankings = {mode: _rank(mode, lists, limit) for mode in modes}
                found, is_whole = await self._show(connection, rankings, lists)
                if is_whole:
                    break  # else passages were replaced since they were ranked: others stand in their place
            # Asked last: its chunks and vectors were all there then, however long this took.
            cursor = await connection.execute(
                _SQL["is_there"], {"generation_id": self._pipeline.generation.id}
            )
            return found if await cursor.fetchone() else None

    @staticmethod
    async def _show(
        connection: Connection, rankings: Mapping[Mode, list[tuple[int, float]]], lists: Lists
    ) -> tuple[list[_Found], bool]:
        """The passages of all modes, each read once, in the seconds that a mode would take by itself; and whether all
        of them are still there."""
        began_at = time.monotonic()
        ranks = [
            {i: rank for rank, (i, _) in enumerate(found, 1)} for found in (lists.by_vector, lists.by_text)
        ]
        wanted = {i for scored in rankings.values() for i, _ in scored}
        cursor = await connection.execute(_SQL["passages"], {"chunk_ids": list(wanted)})
        rows = {row[0]: row for row in await cursor.fetchall()}
        seconds = time.monotonic() - began_at
        shown = []
        for mode, scored in rankings.items():
            by_vector = {} if mode is Mode.TEXT else ranks[0]
            by_text = {} if mode is Mode.VECTOR else ranks[1]
            hits = [
                Hit(score, by_vector.get(i), by_text.get(i), *rows[i]) for i, score in scored if i in rows
            ]
            waited = {Mode.VECTOR: lists.vector_seconds, Mode.TEXT: lists.text_seconds}.get(
                mode, lists.seconds
            )
            shown.append(_Found(mode, hits, seconds + waited))
        return shown, len(rows) == len(wanted)


def _rank(mode: Mode, lists: Lists, limit: int) -> list[tuple[int, float]]:
    """(chunk, score) of the best of the lists that a mode goes by."""
    if mode is Mode.HYBRID:
        return fuse_scores(lists.by_vector, lists.by_text, lists.chance)[:limit]
    return (lists.by_vector if mode is Mode.VECTOR else lists.by_text)[:limit]


def _check(query: str, limit: int) -> None:
    if not query.strip():
        raise ConfigurationError("the query is empty: say what you are looking for")
    if len(query) > MOST_QUERY_CHARACTERS:
        raise ConfigurationError(
            f"the query has {len(query):,} characters, of which at most {MOST_QUERY_CHARACTERS:,} can be searched for: "
            "ask with the passage that matters"
        )
    if not 1 <= limit <= MOST_HITS:
        raise ConfigurationError(f"--limit is 1 to {MOST_HITS}")


def _filter_values(where: Filter) -> dict[str, Any]:
    """Shell wildcards become LIKE's; LIKE's own characters are escaped."""
    like = None
    if where.source is not None:
        escaped = where.source.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
        like = escaped.replace("*", "%").replace("?", "_")
    metadata = None if where.metadata is None else msgspec.json.encode(where.metadata).decode()
    return {"document_id": where.document_id, "source": like, "metadata": metadata}
