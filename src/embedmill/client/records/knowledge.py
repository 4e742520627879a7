"""What is searched, by which recipes, and what it costs."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from embedmill.client.records.base import Moment, Record

SearchMode: TypeAlias = Literal["hybrid", "vector", "text"]
UsageGrouping: TypeAlias = Literal["usage_type", "model", "pipeline", "day", "user", "session"]
BudgetPeriod: TypeAlias = Literal["month", "total"]


class Passage(Record, frozen=True):
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
    heading_path: tuple[str, ...]
    text: str
    metadata: dict[str, Any]


class Answers(Record, frozen=True):
    passages: tuple[Passage, ...]


class Pipeline(Record, frozen=True):
    """A recipe from content to vectors. A limit or price of None: none, or unknown."""

    name: str
    provider: str
    model: str
    dimensions: int
    storage: str
    chunk_tokens: int
    chunk_overlap: int
    price_per_million_tokens_usd: float | None
    quota_key: str
    calls_per_minute: int | None
    tokens_per_minute: int | None
    is_paused: bool
    view: str


class PipelineList(Record, frozen=True):
    pipelines: tuple[Pipeline, ...]


class UsageRow(Record, frozen=True):
    """Calls and what they counted. `cost_usd` sums the known costs and is None where none is known; of
    `unknown_cost_calls` nobody knows it. Failed calls are counted with what they were charged."""

    group: str | None
    calls: int
    failed_calls: int
    inputs: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost_usd: float | None
    unknown_cost_calls: int
    latency_ms_average: float | None


class Usage(Record, frozen=True):
    """The sums of the groups, and of all. `truncated`: there are more groups than are shown."""

    group_by: str
    since: Moment | None
    until: Moment | None
    time_zone: str
    rows: tuple[UsageRow, ...]
    total: UsageRow
    truncated: bool


class Budget(Record, frozen=True):
    """The most that the tenant may spend in a period. `reached_at`: since when it stops the tenant's work."""

    limit_usd: float
    period: str
    spent_usd: float
    reserved_usd: float
    reached_at: Moment | None
    uncounted_pipelines: tuple[str, ...]
