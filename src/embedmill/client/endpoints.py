"""Every endpoint of the REST API as a value: method, path, what it answers, and whether it may be asked twice. The one
list that both clients are made from; a test holds it against /openapi.json. Knows of no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from urllib.parse import quote
from uuid import UUID

import msgspec

from embedmill.client.forms import Form
from embedmill.client.records.access import ApiKey, CreatedKey, Health, KeyList, Readiness, Whoami
from embedmill.client.records.alerts import Alert, AlertPage
from embedmill.client.records.audits import Audit, AuditList
from embedmill.client.records.coverage import ActivityReport, CoverageReport, ProcessAnswer
from embedmill.client.records.embedding_jobs import EmbeddingJobHistory, EmbeddingJobPage, EmbeddingJobStats
from embedmill.client.records.jobs import (
    Batch,
    BatchAct,
    ChunkPreview,
    DocumentText,
    IngestionJob,
    IngestionJobPage,
)
from embedmill.client.records.knowledge import Answers, Budget, Pipeline, PipelineList, Usage
from embedmill.client.records.shards import (
    RemovedFeed,
    ShardFeed,
    ShardFeedList,
    ShardResult,
    ShardResults,
    ShardState,
)
from embedmill.client.records.webhooks import (
    Delivery,
    DeliveryPage,
    Webhook,
    WebhookList,
    WebhookTest,
    WebhookWithSecret,
)

T = TypeVar("T")
Value = str | int | UUID | datetime | None
Id = UUID | str
_REPEATABLE_METHODS = {
    "GET",
    "PUT",
    "PATCH",
    "DELETE",
}  # each PATCH of ours says what shall be, not what to add


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request: what to send, and what its answer is."""

    method: str
    path: str
    result: type[T]
    query: tuple[tuple[str, str], ...]
    body: bytes | None
    form: Form | None
    headers: tuple[tuple[str, str], ...]
    is_repeatable: bool
    """Asked twice it does no harm: what broke off may be sent again."""
    accepts: frozenset[int]
    """Statuses that carry a result, besides 2xx."""


@dataclass(frozen=True)
class Endpoint(Generic[T]):
    """`result` is what the answer is decoded to; NoneType where it has no body."""

    method: str
    path: str
    result: type[T]
    reads_only: bool = False
    accepts: frozenset[int] = frozenset()

    def call(
        self,
        path: Mapping[str, str | int | UUID] | None = None,
        *,
        query: Mapping[str, Value] | None = None,
        body: object = None,
        form: Form | None = None,
        idempotency_key: str | None = None,
    ) -> Call[T]:
        """A request of this endpoint; what is None in the query is left out. Raises ValueError for a path that would
        be another's."""
        is_repeatable = self.reads_only or self.method in _REPEATABLE_METHODS or idempotency_key is not None
        return Call(
            method=self.method,
            path=self.path.format_map({name: _segment(value) for name, value in (path or {}).items()}),
            result=self.result,
            query=tuple((name, _text(value)) for name, value in (query or {}).items() if value is not None),
            body=None if body is None else msgspec.json.encode(body),
            form=form,
            headers=() if idempotency_key is None else (("Idempotency-Key", idempotency_key),),
            is_repeatable=is_repeatable and (form is None or form.is_repeatable),
            accepts=self.accepts,
        )


def _segment(value: str | int | UUID) -> str:
    text = str(value)
    if text in {"", ".", ".."}:
        raise ValueError(f"{text!r} is no name")
    return quote(text, safe="")


def id_of(given: Id) -> UUID:
    """Raises ValueError for what is no id."""
    return given if isinstance(given, UUID) else UUID(given)


def _text(value: Value) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


_API = "/api/v1"
_JOB = f"{_API}/ingestion-jobs/{{jobId}}"
_BATCH = f"{_API}/batches/{{batchId}}"
_WEBHOOK = f"{_API}/webhooks/{{webhookId}}"
_FEED = f"{_API}/shards/{{shardTypeId}}"
_SHARD = f"{_FEED}/{{shardId}}"
Nothing = type(None)
Stream = msgspec.Raw
"""The answer is a stream of events, read as it comes."""

HEALTH = Endpoint("GET", "/healthz", Health)
READINESS = Endpoint("GET", "/readyz", Readiness, accepts=frozenset({503}))

CREATE_JOBS = Endpoint("POST", f"{_API}/ingestion-jobs", msgspec.Raw)
LIST_JOBS = Endpoint("GET", f"{_API}/ingestion-jobs", IngestionJobPage)
GET_JOB = Endpoint("GET", _JOB, IngestionJob)
CHANGE_JOB = Endpoint("PATCH", _JOB, IngestionJob)
DELETE_JOB = Endpoint("DELETE", _JOB, Nothing)
PREVIEW_CHUNKS = Endpoint("GET", f"{_JOB}/chunks", ChunkPreview)
GET_TEXT = Endpoint("GET", f"{_JOB}/text", DocumentText)
LAUNCH_JOB = Endpoint("POST", f"{_JOB}/launch", IngestionJob)
CANCEL_JOB = Endpoint("POST", f"{_JOB}/cancel", IngestionJob)
RESUME_JOB = Endpoint("POST", f"{_JOB}/resume", IngestionJob)
RETRY_JOB = Endpoint("POST", f"{_JOB}/retry", IngestionJob)
STREAM_JOB = Endpoint("GET", f"{_JOB}/events", Stream)

GET_BATCH = Endpoint("GET", _BATCH, Batch)
LAUNCH_BATCH = Endpoint("POST", f"{_BATCH}/launch", BatchAct)
CANCEL_BATCH = Endpoint("POST", f"{_BATCH}/cancel", BatchAct)
RESUME_BATCH = Endpoint("POST", f"{_BATCH}/resume", BatchAct)
STREAM_BATCH = Endpoint("GET", f"{_BATCH}/events", Stream)
STREAM_TENANT = Endpoint("GET", f"{_API}/events", Stream)

LIST_EMBEDDING_JOBS = Endpoint("GET", f"{_API}/embedding-jobs", EmbeddingJobPage)
COUNT_EMBEDDING_JOBS = Endpoint("GET", f"{_API}/embedding-jobs/stats", EmbeddingJobStats)
GET_EMBEDDING_JOB = Endpoint("GET", f"{_API}/embedding-jobs/{{id}}", EmbeddingJobHistory)

PUT_SHARD = Endpoint("PUT", _SHARD, ShardResult)
GET_SHARD = Endpoint("GET", _SHARD, ShardState)
DELETE_SHARD = Endpoint("DELETE", _SHARD, ShardResult)
PUT_SHARDS = Endpoint("POST", f"{_API}/shards:batch", ShardResults)
LIST_SHARD_FEEDS = Endpoint("GET", f"{_API}/shards", ShardFeedList)
GET_SHARD_FEED = Endpoint("GET", _FEED, ShardFeed)
PUT_SHARD_FEED = Endpoint("PUT", _FEED, ShardFeed)
REMOVE_SHARD_FEED = Endpoint("DELETE", _FEED, RemovedFeed)

SEARCH = Endpoint("POST", f"{_API}/search", Answers, reads_only=True)
GET_USAGE = Endpoint("GET", f"{_API}/usage", Usage)
GET_COVERAGE = Endpoint("GET", f"{_API}/coverage", CoverageReport)
GET_ACTIVITY = Endpoint("GET", f"{_API}/activity", ActivityReport)
PROCESS_QUEUE = Endpoint("POST", f"{_API}/process-embedding-queue", ProcessAnswer)
GET_BUDGET = Endpoint("GET", f"{_API}/budget", Budget)
SET_BUDGET = Endpoint("PUT", f"{_API}/budget", Budget)
REMOVE_BUDGET = Endpoint("DELETE", f"{_API}/budget", Nothing)
LIST_ALERTS = Endpoint("GET", f"{_API}/alerts", AlertPage)
ACKNOWLEDGE_ALERT = Endpoint("POST", f"{_API}/alerts/{{alertId}}/acknowledge", Alert)
LIST_AUDITS = Endpoint("GET", f"{_API}/audits", AuditList)
ORDER_AUDIT = Endpoint("POST", f"{_API}/audits", Audit)
LIST_PIPELINES = Endpoint("GET", f"{_API}/pipelines", PipelineList)
GET_PIPELINE = Endpoint("GET", f"{_API}/pipelines/{{name}}", Pipeline)

LIST_WEBHOOKS = Endpoint("GET", f"{_API}/webhooks", WebhookList)
CREATE_WEBHOOK = Endpoint("POST", f"{_API}/webhooks", WebhookWithSecret)
GET_WEBHOOK = Endpoint("GET", _WEBHOOK, Webhook)
CHANGE_WEBHOOK = Endpoint("PATCH", _WEBHOOK, Webhook)
DELETE_WEBHOOK = Endpoint("DELETE", _WEBHOOK, Nothing)
ROTATE_SECRET = Endpoint("POST", f"{_WEBHOOK}/secret", WebhookWithSecret)
TEST_WEBHOOK = Endpoint("POST", f"{_WEBHOOK}/test", WebhookTest)
LIST_DELIVERIES = Endpoint("GET", f"{_WEBHOOK}/deliveries", DeliveryPage)
REDELIVER = Endpoint("POST", f"{_WEBHOOK}/deliveries/{{deliveryId}}/redeliver", Delivery)

WHOAMI = Endpoint("GET", f"{_API}/whoami", Whoami)
LIST_KEYS = Endpoint("GET", f"{_API}/keys", KeyList)
CREATE_KEY = Endpoint("POST", f"{_API}/keys", CreatedKey)
REVOKE_KEY = Endpoint("DELETE", f"{_API}/keys/{{keyId}}", ApiKey)

ENDPOINTS: tuple[Endpoint[object], ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Endpoint)
)
