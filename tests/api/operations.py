"""Every operation of the API: who may do it, and with what a stranger would try it. Owns the two tables, which a new
endpoint must be entered in; must not assert."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.api.two_tenants import Tenant

LEAST_ROLE: dict[str, str | None] = {
    "GET /healthz": None,
    "GET /readyz": None,
    "POST /api/v1/ingestion-jobs": "writer",
    "GET /api/v1/ingestion-jobs": "reader",
    "GET /api/v1/ingestion-jobs/{jobId}": "reader",
    "PATCH /api/v1/ingestion-jobs/{jobId}": "writer",
    "DELETE /api/v1/ingestion-jobs/{jobId}": "writer",
    "GET /api/v1/ingestion-jobs/{jobId}/chunks": "reader",
    "GET /api/v1/ingestion-jobs/{jobId}/text": "reader",
    "POST /api/v1/ingestion-jobs/{jobId}/launch": "writer",
    "POST /api/v1/ingestion-jobs/{jobId}/cancel": "writer",
    "POST /api/v1/ingestion-jobs/{jobId}/resume": "writer",
    "POST /api/v1/ingestion-jobs/{jobId}/retry": "writer",
    "GET /api/v1/ingestion-jobs/{jobId}/events": "reader",
    "GET /api/v1/batches/{batchId}": "reader",
    "POST /api/v1/batches/{batchId}/launch": "writer",
    "POST /api/v1/batches/{batchId}/cancel": "writer",
    "POST /api/v1/batches/{batchId}/resume": "writer",
    "GET /api/v1/batches/{batchId}/events": "reader",
    "GET /api/v1/events": "reader",
    "GET /api/v1/embedding-jobs": "reader",
    "GET /api/v1/embedding-jobs/stats": "reader",
    "GET /api/v1/embedding-jobs/{id}": "reader",
    "GET /api/v1/shards": "reader",
    "GET /api/v1/shards/{shardTypeId}": "reader",
    "PUT /api/v1/shards/{shardTypeId}": "writer",
    "DELETE /api/v1/shards/{shardTypeId}": "admin",
    "GET /api/v1/shards/{shardTypeId}/{shardId}": "reader",
    "PUT /api/v1/shards/{shardTypeId}/{shardId}": "writer",
    "DELETE /api/v1/shards/{shardTypeId}/{shardId}": "writer",
    "POST /api/v1/shards:batch": "writer",
    "POST /api/v1/search": "reader",
    "GET /api/v1/coverage": "reader",
    "GET /api/v1/activity": "reader",
    "POST /api/v1/process-embedding-queue": "writer",
    "GET /api/v1/usage": "reader",
    "GET /api/v1/budget": "reader",
    "PUT /api/v1/budget": "admin",
    "DELETE /api/v1/budget": "admin",
    "GET /api/v1/pipelines": "reader",
    "GET /api/v1/pipelines/{name}": "reader",
    "GET /api/v1/webhooks": "reader",
    "POST /api/v1/webhooks": "admin",
    "GET /api/v1/webhooks/{webhookId}": "reader",
    "PATCH /api/v1/webhooks/{webhookId}": "admin",
    "DELETE /api/v1/webhooks/{webhookId}": "admin",
    "POST /api/v1/webhooks/{webhookId}/secret": "admin",
    "POST /api/v1/webhooks/{webhookId}/test": "admin",
    "GET /api/v1/webhooks/{webhookId}/deliveries": "reader",
    "POST /api/v1/webhooks/{webhookId}/deliveries/{deliveryId}/redeliver": "admin",
    "GET /api/v1/alerts": "reader",
    "POST /api/v1/alerts/{alertId}/acknowledge": "writer",
    "GET /api/v1/audits": "reader",
    "POST /api/v1/audits": "admin",
    "GET /api/v1/whoami": "reader",
    "GET /api/v1/keys": "admin",
    "POST /api/v1/keys": "admin",
    "DELETE /api/v1/keys/{keyId}": "admin",
}
STREAMS = {operation for operation in LEAST_ROLE if operation.endswith("/events")} | {
    "POST /api/v1/process-embedding-queue"
}
"""They do not end; the last sweeps for everybody, as each worker does: tested by themselves."""


@dataclass(frozen=True)
class Attempt:
    """A request of a stranger; `expected` is what an administrator of his own tenant is answered."""

    method: str
    path: str
    expected: int
    sent: dict[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        return f"{self.path} {self.sent}"


def operations_of(description: dict[str, Any]) -> set[str]:
    """ "GET /healthz" and its like, as the service describes itself."""
    return {
        f"{method.upper()} {path}" for path, methods in description["paths"].items() for method in methods
    }


def attempts(operation: str, alpha: Tenant, beta: Tenant) -> list[Attempt]:
    """What beta tries with an operation, to see or to change what is alpha's. Raises KeyError for a new one."""
    method, path = operation.split(" ")
    sent = _SENT.get(operation, [{}])
    if "{" not in path:
        sent = _collections(alpha).get(operation, sent)
        return [Attempt(method, path, each.pop("expected", _OK[operation]), each) for each in map(dict, sent)]
    return [Attempt(method, where, 404, each) for where in _paths(path, alpha, beta) for each in sent]


def _paths(path: str, alpha: Tenant, beta: Tenant) -> Iterator[str]:
    """The path, leading to each thing of alpha's of its kind."""
    if "{deliveryId}" in path:
        for webhook in (alpha.webhook_id, beta.webhook_id):
            yield path.replace("{webhookId}", webhook).replace("{deliveryId}", alpha.delivery_id)
        return
    if "{shardId}" in path:
        for shard_type in (alpha.shard_type_id, beta.shard_type_id):
            yield path.replace("{shardTypeId}", shard_type).replace("{shardId}", alpha.shard_id)
        return
    things = {
        "{shardTypeId}": [alpha.shard_type_id],
        "{jobId}": [job["jobId"] for job in alpha.jobs.values()],
        "{batchId}": [alpha.batch_id],
        "{webhookId}": [alpha.webhook_id],
        "{alertId}": [str(alpha.alert_id)],
        "{keyId}": alpha.key_ids,
        "{id}": [str(alpha.item_id), str(alpha.item_id - 1)],
        "{name}": ["alpha", "900000001", "alpha%2Fstandin"],
    }
    for name, values in things.items():
        if name in path:
            yield from (path.replace(name, value) for value in values)


_SENT: dict[str, list[dict[str, Any]]] = {
    "PUT /api/v1/shards/{shardTypeId}": [{"json": {"pipeline": "alpha"}}],
    "PUT /api/v1/shards/{shardTypeId}/{shardId}": [
        {"json": {"content": "beta's own words", "version": 99}, "params": {"pipeline": "alpha"}}
    ],
    "PATCH /api/v1/ingestion-jobs/{jobId}": [
        {"json": {"priority": "high"}},
        {"json": {"metadata": {"mine": True}}},
        {"json": {"chunkTokens": 64}},
        {"json": {"budgetUsd": 0}},
        {"json": {"budgetUsd": None}},
    ],
    "PATCH /api/v1/webhooks/{webhookId}": [
        {"json": {"isActive": True}},
        {"json": {"url": "http://127.0.0.1:64999/mine"}},
    ],
}
_OK = {
    operation: status
    for operations, status in (
        (("POST /api/v1/ingestion-jobs", "POST /api/v1/audits"), 202),
        (("POST /api/v1/webhooks", "POST /api/v1/keys"), 201),
        (("DELETE /api/v1/budget",), 204),
    )
    for operation in operations
} | {
    f"GET /api/v1/{name}": 200
    for name in (
        "ingestion-jobs", "embedding-jobs", "embedding-jobs/stats", "usage", "budget", "pipelines", "webhooks",
        "whoami", "keys", "shards", "audits", "alerts", "coverage", "activity",
    )
} | {
    "GET /healthz": 200, "GET /readyz": 200, "POST /api/v1/search": 200, "POST /api/v1/shards:batch": 200,
    "PUT /api/v1/budget": 200, "POST /api/v1/process-embedding-queue": 200,
}  # fmt: skip


def _collections(alpha: Tenant) -> dict[str, list[dict[str, Any]]]:
    """Requests that name nothing by their path, but may do so otherwise."""
    document = alpha.jobs["completed"]["documentId"]
    job = alpha.jobs["completed"]["jobId"]

    def asked(**filters: Any) -> dict[str, Any]:
        return {"params": filters}

    def search(**fields: Any) -> dict[str, Any]:
        return {"json": {"query": "alpha has a paper", "pipeline": "standin", "mode": "text", **fields}}

    def upload(
        name: str, content: bytes, headers: dict[str, str] | None = None, **fields: str
    ) -> dict[str, Any]:
        sent = {"files": {"file": (name, content)}, "data": {"pipeline": "standin", **fields}}
        return sent | ({"headers": headers} if headers else {})

    return {
        "GET /api/v1/ingestion-jobs": [
            asked(limit=500),
            asked(documentId=document),
            asked(batchId=alpha.batch_id),
            asked(cursor=alpha.cursor),
            *(asked(status=state) for state in ("staged", "completed", "failed", "embedding_in_progress")),
        ],
        "GET /api/v1/embedding-jobs": [
            asked(limit=1000),
            {"params": {"tenantId": "alpha"}, "expected": 403},
            {"params": {"tenantId": "900000001"}, "expected": 403},
            asked(shardTypeId="upload", shardId="alpha-completed"),
            asked(batchId=alpha.batch_id),
            asked(jobId=job),
            asked(jobId=alpha.jobs["embedding_in_progress"]["jobId"], status="pending"),
        ],
        "GET /api/v1/alerts": [*(asked(state=state) for state in ("open", "resolved", "all"))],
        "GET /api/v1/embedding-jobs/stats": [{}, {"params": {"tenantId": "alpha"}, "expected": 403}],
        "POST /api/v1/search": [
            search(),
            search(documentId=document),
            search(source="alpha*"),
            search(metadata={"owner": "alpha"}),
            search(mode="vector"),
            search(mode="hybrid", source="*alpha*"),
            search(pipeline="held"),
            search(pipeline="alpha") | {"expected": 404},
        ],
        "POST /api/v1/shards:batch": [
            {
                "json": {"shards": [{"shardTypeId": alpha.shard_type_id, "shardId": alpha.shard_id, **each}]},
                "params": {"pipeline": "standin"},
            }
            for each in (
                {"content": "beta's own words", "version": 99},
                {"operation": "delete", "version": 100},
            )
        ],
        "GET /api/v1/usage": [
            *(asked(by=by) for by in ("usage_type", "model", "pipeline", "day", "user", "session")),
        ],
        "PUT /api/v1/budget": [{"json": {"limitUsd": 50}}],
        "POST /api/v1/keys": [{"json": {"name": "another", "role": "admin"}}],
        "POST /api/v1/audits": [
            {"json": {}},
            {"json": {"source": "upload"}, "expected": 404},
            {"json": {"pipeline": "alpha"}, "expected": 404},
        ],
        "POST /api/v1/webhooks": [{"json": {"url": "http://127.0.0.1:64999/beta"}}],
        "POST /api/v1/ingestion-jobs": [
            upload("a.txt", b"beta's own words", sourceId="alpha-completed"),
            upload("a.txt", b"alpha has a paper about completed, which is nobody else's.\n" * 3),
            upload("b.txt", b"beta comes again", {"Idempotency-Key": "alpha completed"}),
            upload("c.txt", b"beta joins", batchId=alpha.batch_id),
            {
                "json": {
                    "url": "http://127.0.0.1:64999/x.txt",
                    "pipeline": "standin",
                    "batchId": alpha.batch_id,
                }
            },
            upload("d.txt", b"beta guesses", pipeline="alpha") | {"expected": 404},
        ],
    }
