"""/api/v1/shards: what other systems push, one by one or many at once. Owns the wire's shapes and the reading of
requests, in which one shard's mistake must harm no other."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from embedmill.api.embedding_jobs import EmbeddingJob
from embedmill.api.idempotency import answered_once
from embedmill.api.problems import Problem, describe
from embedmill.api.service import Caller, Reader, Service, Writer
from embedmill.api.wire import Wire
from embedmill.queue.embedding_job_pages import JobFilter
from embedmill.queue.embedding_jobs import list_embedding_jobs
from embedmill.service import ServiceApp
from embedmill.sources.shard_entries import LARGEST_VERSION, ShardEntry, ShardError, read_entry
from embedmill.sources.shards import Outcome, Shard, Shards

router = APIRouter(tags=["shards"])
MOST_ENTRIES = 10_000
_JOBS_SHOWN = 20

ShardTypeId = Annotated[
    str, Path(alias="shardTypeId", description="The kind of shard: the name of its feed.")
]
ShardId = Annotated[
    str, Path(alias="shardId", description="At most 2,000 bytes; a slash in it may be sent as it is.")
]
PipelineName = Annotated[
    str | None,
    Query(
        max_length=100,
        description="In which pipeline the type's feed is, or is to be made. Left out: where it is, else `default`.",
    ),
]
Version = Annotated[int | None, Field(ge=0, le=LARGEST_VERSION)]


class NewShard(Wire):
    """The newest state of a shard: `content`, or `fields` that the feed's template puts together. Without a version it
    is one more than the last."""

    content: str | None = None
    fields: dict[str, Any] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    version: Version = None


class ShardChange(NewShard):
    """One entry of a batch."""

    shard_type_id: Annotated[str, Field(min_length=1, max_length=255)]
    shard_id: Annotated[str, Field(min_length=1, max_length=2000)]
    operation: Literal["upsert", "delete"] = "upsert"


class ShardResult(Wire):
    """What became of a shard. `version` is the one that stands now; `ignored`: because it is newer. `rejected` says why
    by `reason` (not_storable: it is kept as a dead letter; version_conflict, no_feed, invalid: nothing is kept) and
    `message`."""

    shard_type_id: str | None
    shard_id: str | None
    status: Literal["applied", "ignored", "rejected"]
    version: int | None
    reason: str | None
    message: str | None


class ShardResults(Wire):
    """The results of a batch, in the order of its entries."""

    applied: int
    ignored: int
    rejected: int
    results: list[ShardResult]


class ShardState(Wire):
    """A shard as it stands. `isRead`: its document is of this state; until then the chunks are those of an older one.
    `embedded`: every chunk of this state that can have a vector has it. `errorReason`: why it has no chunks."""

    shard_type_id: str
    shard_id: str
    pipeline: str
    version: int
    is_deleted: bool
    metadata: dict[str, Any]
    updated_at: datetime
    document_id: int | None
    chunk_count: int
    embedded_chunks: int
    unembeddable_chunks: int
    is_read: bool
    embedded: bool
    error_reason: str | None
    error: str | None
    embedding_jobs: list[EmbeddingJob]

    @classmethod
    def of(cls, shard: Shard, jobs: list[EmbeddingJob]) -> ShardState:
        left_out = {"metadata", "error", "embedding_jobs"}
        fields = {name: getattr(shard, name) for name in cls.model_fields if name not in left_out}
        metadata = msgspec.json.decode(shard.metadata)
        return cls(**fields, metadata=metadata, error=shard.error_message, embedding_jobs=jobs)


def _body(shape: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{shape}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Sent again with the same key, the request is answered as before and nothing is done.",
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "NewShard": NewShard.model_json_schema(by_alias=True),
    "ShardChange": ShardChange.model_json_schema(by_alias=True),
    "ShardBatch": {
        "title": "ShardBatch",
        "description": "Shards to set and to delete.",
        "type": "object",
        "required": ["shards"],
        "additionalProperties": False,
        "properties": {
            "shards": {
                "type": "array",
                "maxItems": MOST_ENTRIES,
                "items": {"$ref": "#/components/schemas/ShardChange"},
            }
        },
    },
}
"""What requests hold; they are read here and not by FastAPI, which would refuse all for the mistake of one."""


@router.put(
    "/shards/{shardTypeId}/{shardId:path}",
    responses=describe(401, 403, 404, 409, 422, 429),
    openapi_extra=_body("NewShard"),
)
async def put_shard(
    shard_type_id: ShardTypeId,
    shard_id: ShardId,
    request: Request,
    caller: Writer,
    service: Service,
    pipeline: PipelineName = None,
) -> ShardResult:
    """Set a shard. Its embedding job is seen from now on. A version older than the one that stands changes nothing;
    the same one again neither, and with another content it is a conflict."""
    said = await _read(request)
    if isinstance(said, dict) and "operation" in said:
        raise Problem(422, "invalid_request", "operation: DELETE deletes a shard; only a batch says it so")
    entry = read_entry(said, most_bytes=_most_bytes(service), shardTypeId=shard_type_id, shardId=shard_id)
    return _answer_one(entry, await _shards(caller).put_one(entry, pipeline=pipeline))


@router.get("/shards/{shardTypeId}/{shardId:path}", responses=describe(401, 403, 404, 409, 422, 429))
async def get_shard(
    shard_type_id: ShardTypeId, shard_id: ShardId, caller: Reader, pipeline: PipelineName = None
) -> ShardState:
    """How a shard stands, with its newest embedding jobs. A deleted one is remembered for a month."""
    found = await _shards(caller).find(shard_type_id, shard_id, pipeline=pipeline)
    page = await list_embedding_jobs(
        caller.database,
        caller.tenant_id,
        JobFilter(source_type=shard_type_id, source_id=shard_id),
        cursor=None,
        limit=_JOBS_SHOWN,
    )
    tenant = caller.principal.tenant_slug
    return ShardState.of(found, [EmbeddingJob.of(job, tenant) for job in page.jobs])


@router.delete("/shards/{shardTypeId}/{shardId:path}", responses=describe(401, 403, 404, 409, 422, 429))
async def delete_shard(
    shard_type_id: ShardTypeId,
    shard_id: ShardId,
    caller: Writer,
    pipeline: PipelineName = None,
    version: Annotated[int | None, Query(ge=0, le=LARGEST_VERSION)] = None,
) -> ShardResult:
    """Delete a shard with its vectors. With a version, a late older one does not bring it back, also where the shard
    itself has not come yet."""
    entry = read_entry(
        {"operation": "delete", "version": version}, most_bytes=0, shardTypeId=shard_type_id, shardId=shard_id
    )
    outcome = await _shards(caller).delete(shard_type_id, shard_id, version=version, pipeline=pipeline)
    return _answer_one(entry, outcome)


@router.post(
    "/shards:batch",
    response_model=ShardResults,
    responses=describe(401, 403, 404, 409, 422, 429),
    openapi_extra=_body("ShardBatch") | {"parameters": [_KEY_PARAMETER]},
)
async def put_shards(
    request: Request, caller: Writer, service: Service, pipeline: PipelineName = None
) -> Response:
    """Set and delete up to 10,000 shards, of one type or several, at once. What is wrong with one is told in its result
    and harms no other. Of several entries of one shard the newest is applied."""
    said = await _read(request)
    if not isinstance(said, dict) or set(said) != {"shards"} or not isinstance(said["shards"], list):
        raise Problem(422, "invalid_request", 'an object with one field is expected: {"shards": [...]}')
    if len(said["shards"]) > MOST_ENTRIES:
        detail = (
            f"shards: {len(said['shards']):,} entries are more than {MOST_ENTRIES:,}: send several batches"
        )
        raise Problem(422, "invalid_request", detail)
    digest = f"{pipeline} {await request.body()!r}".encode()
    response = Response(media_type="application/json")
    async with answered_once(request, response, caller.database, caller.tenant_id, digest) as answer:
        if answer.stored is None:
            results = await _put_all(caller, said["shards"], _most_bytes(service), pipeline)
            answer.body = _summed(results).model_dump(mode="json", by_alias=True)
    response.body = msgspec.json.encode(answer.stored or answer.body)
    response.headers["Content-Length"] = str(len(response.body))
    return response


async def _put_all(
    caller: Caller, entries: list[object], most_bytes: int, pipeline: str | None
) -> list[ShardResult]:
    judged = await asyncio.to_thread(_judge, entries, most_bytes)
    wanted = [each for each in judged if isinstance(each, ShardEntry)]
    outcomes = iter(await _shards(caller).put(wanted, pipeline=pipeline) if wanted else [])
    return [each if isinstance(each, ShardResult) else _answer(each, next(outcomes)) for each in judged]


def _judge(entries: list[object], most_bytes: int) -> list[ShardEntry | ShardResult]:
    """Each entry, or why it is none."""
    return [_entry_or_result(said, most_bytes) for said in entries]


def _entry_or_result(said: object, most_bytes: int) -> ShardEntry | ShardResult:
    try:
        return read_entry(said, most_bytes=most_bytes)
    except ShardError as error:
        return ShardResult(
            shard_type_id=_told(said, "shardTypeId", 255),
            shard_id=_told(said, "shardId", 2000),
            status="rejected",
            version=None,
            reason="invalid",
            message=str(error),
        )


def _told(said: object, name: str, longest: int) -> str | None:
    """What an entry calls itself, as far as it can be said back."""
    value = said.get(name) if isinstance(said, dict) else None
    return value if isinstance(value, str) and len(value) <= longest and value.isprintable() else None


def _summed(results: list[ShardResult]) -> ShardResults:
    counts = {"applied": 0, "ignored": 0, "rejected": 0}
    for result in results:
        counts[result.status] += 1
    return ShardResults(**counts, results=results)


def _answer(entry: ShardEntry, outcome: Outcome) -> ShardResult:
    return ShardResult(
        shard_type_id=entry.shard_type_id,
        shard_id=entry.shard_id,
        status=outcome.status,
        version=outcome.version,
        reason=outcome.reason,
        message=outcome.message,
    )


def _answer_one(entry: ShardEntry, outcome: Outcome) -> ShardResult:
    """Of a request about one shard: an error, where nothing of it is kept."""
    if outcome.reason == "version_conflict":
        raise Problem(409, "version_conflict", outcome.message or "")
    return _answer(entry, outcome)


async def _read(request: Request) -> object:
    """The body as JSON. A text may be no text at all (half a character): whoever stores it sees to that."""
    body = await request.body()
    try:
        return await asyncio.to_thread(json.loads, body)
    except (ValueError, RecursionError) as error:
        reason = "it is too deep" if isinstance(error, RecursionError) else str(error)
        raise Problem(422, "invalid_request", f"the body is no JSON that can be read: {reason}") from error


def _most_bytes(service: ServiceApp) -> int:
    return service.settings.max_file_bytes


def _shards(caller: Caller) -> Shards:
    return Shards(caller.database, caller.tenant_id)
