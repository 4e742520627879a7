"""Examples in the API's description: one value for each name of a field, wherever it stands, so that all shapes tell
the same story. Owns the words only; docs/reference/rest.md is made of them."""

from __future__ import annotations

from typing import Any

EXAMPLES: dict[str, Any] = {
    "status": "staged",
    "jobId": "04c04560-3f07-43d1-930a-8e8a8a30cb5c",
    "documentId": 1,
    "name": "handbook.pdf",
    "totalChunks": 141,
    "embeddedChunks": 64,
    "progress": 45,
    "totalTokens": 23697,
    "paidTokens": 10638,
    "tokens": 23697,
    "pipeline": "default",
    "sourceType": "upload",
    "sourceId": "sha256:1dd1f12b3dcb0894",
    "mediaType": "application/pdf",
    "sizeBytes": 483120,
    "chunkTokens": 256,
    "chunkOverlap": 32,
    "isResumable": True,
    "spentUsd": 0.0002,
    "costUsd": 0.0003,
    "limitUsd": 20.0,
    "headingPath": ["2. How to use bzip2", "2.6. RECOVERING DATA"],
    "secret": "em_...",
    "prefix": "em_Xk3vQ9pA",
    "tenant": "default",
    "tenantId": "default",
    "text": "The passage.",
    "url": "https://example.com/hooks/embedmill",
    "model": "text-embedding-3-small",
    "embeddingModel": "text-embedding-3-small",
    "vectorCount": 141,
    "jobs": [],
    "attempts": [],
    "deadLetters": [],
    "payload": {"type": "job.completed", "timestamp": "2026-11-22T11:42:58.1Z", "data": {}},
    "eventType": "job.completed",
    "eventTypes": ["job.completed"],
    "period": "month",
    "uncountedPipelines": [],
    "errors": None,
    "title": "Not Found",
    "type": "about:blank",
    "code": "not_found",
    "detail": "there is no ingestion job 04c04560-3f07-43d1-930a-8e8a8a30cb5c",
    "shardTypeId": "upload",
    "shardId": "sha256:1dd1f12b3dcb0894",
    "version": 7,
    "content": "Wheat is ground between two stones.",
    "template": "$title\n\n$body",
    "results": [],
    "feeds": [],
    "embeddingJobs": [],
    "chunkCount": 1,
    "applied": 1,
    "errorReason": None,
    "provider": "openai",
    "dimensions": 1536,
    "storage": "vector",
    "quotaKey": "openai-main",
    "view": "embeddings_default",
    "timeZone": "UTC",
    "groupBy": "usage_type",
    "group": "internal_ingestion",
    "reason": "input_rejected",
    "priority": "medium",
    "operation": "INSERT",
    "state": "active",
    "createdBy": "key 7d0b3f0e-5a3e-4c9e-9a52-0f2f0a1d2c3b",
    "database": "ok",
    "originals": "ok",
    "unembeddable": {"empty": 2, "input_rejected": 1},
    "binds": "embedding",
    "trouble": None,
    "percent": 99.4,
    "notes": [],
    "maxItems": 50,
    "maxSeconds": 25,
    "place": {"kind": "page", "first": "9", "last": "10"},
    "kind": "page",
    "first": "9",
    "last": "10",
}


_TYPES: dict[type, tuple[str, ...]] = {
    str: ("string",),
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    list: ("array",),
    dict: ("object",),
    type(None): ("null",),
}


def add_examples(schema: dict[str, Any]) -> None:
    """Put them where the description has none: on the fields of its shapes, and on parameters."""
    for shape in schema["components"]["schemas"].values():
        for name, field in shape.get("properties", {}).items():
            if "examples" not in field and _fits(name, field):
                field["examples"] = [EXAMPLES[name]]
    for path in schema["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                if "example" not in parameter and _fits(parameter["name"], parameter["schema"]):
                    parameter["example"] = EXAMPLES[parameter["name"]]


def _fits(name: str, field: dict[str, Any]) -> bool:
    """Whether there is one of this name, and of a type that the field may have."""
    kinds = field.get("anyOf", [field])
    return name in EXAMPLES and any(
        kind.get("type") in _TYPES[type(EXAMPLES[name])] and "enum" not in kind for kind in kinds
    )
