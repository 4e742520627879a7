"""What an upload may say besides its content: the fields of a form, or a request in JSON. Owns their shapes, their
checks and what they mean for the staging; knows neither files nor jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from fastapi import Request
from pydantic import Field, ValidationError

from embedmill.api.problems import Problem
from embedmill.api.wire import Metadata, Wire
from embedmill.core.documents import ChunkPlan
from embedmill.database.pipelines import Pipeline
from embedmill.ingest.upload import Wishes

_MOST_JSON_BYTES = 1024 * 1024


class UploadWishes(Wire):
    """The fields of an upload, besides the files."""

    pipeline: Annotated[str, Field(max_length=100)] = "default"
    priority: Annotated[str, Field(pattern="^(high|medium|low)$")] = "medium"
    metadata: Metadata = Field(default_factory=dict)
    auto_launch: bool = False
    batch_id: UUID | None = None
    source_id: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=500,
            description="Names the document: the next upload is its next version.",
        ),
    ] = None
    user_id: Annotated[str | None, Field(max_length=200)] = None
    chunk_tokens: Annotated[int | None, Field(ge=8, le=100_000)] = None
    chunk_overlap: Annotated[int | None, Field(ge=0, le=50_000)] = None
    budget_usd: Annotated[float | None, Field(ge=0, le=1e9, description="The most each job may spend.")] = (
        None
    )


class UrlUpload(UploadWishes):
    """A document to fetch."""

    url: Annotated[str, Field(min_length=1, max_length=2000, examples=["https://example.com/handbook.pdf"])]


W = TypeVar("W", bound=UploadWishes)


class FormUpload(UploadWishes):
    """Files to upload."""

    file: Annotated[
        list[bytes], Field(min_length=1, json_schema_extra={"items": {"type": "string", "format": "binary"}})
    ]
    metadata: Annotated[str, Field(description="A JSON object.", examples=['{"team": "sales"}'])] = "{}"  # type: ignore[assignment]


UPLOAD_DESCRIPTION: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": FormUpload.model_json_schema(by_alias=True)},
            "application/json": {"schema": UrlUpload.model_json_schema(by_alias=True)},
        },
    },
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            "description": "Sent again with the same key, the request is answered as before and nothing is done.",
        }
    ],
}


async def read_url_upload(request: Request) -> UrlUpload:
    """The request in JSON. Raises Problem."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_JSON_BYTES:
            raise Problem(
                413, "too_large", "a request in JSON has at most 1 MiB: upload files as multipart/form-data"
            )
    try:
        return UrlUpload.model_validate_json(bytes(body))
    except ValidationError as error:
        raise Problem(422, "invalid_request", _first_error(error)) from error


def wishes_of(fields: Mapping[str, list[str]]) -> UploadWishes:
    """The fields of a form; each once, those that we do not know refused. Raises Problem."""
    return _read_fields(fields, UploadWishes)


def url_upload_of(fields: Mapping[str, list[str]]) -> UrlUpload:
    """The same of a form that names a URL."""
    return _read_fields(fields, UrlUpload)


def _read_fields(fields: Mapping[str, list[str]], kind: type[W]) -> W:
    values: dict[str, Any] = {}
    for name, given in fields.items():
        if len(given) != 1:
            raise Problem(422, "invalid_request", f"{name}: given {len(given)} times")
        values[name] = given[0]
    if "metadata" in values:
        try:
            values["metadata"] = msgspec.json.decode(values["metadata"], type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Problem(422, "invalid_request", "metadata: a JSON object is expected") from error
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise Problem(422, "invalid_request", _first_error(error)) from error


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else first["msg"]


def assert_plan(wishes: UploadWishes, pipeline: Pipeline) -> None:
    """Whether the pipeline can do what is wished. Raises Problem."""
    tokens = wishes.chunk_tokens or pipeline.chunk_plan.max_tokens
    if wishes.chunk_overlap is not None and wishes.chunk_overlap > tokens // 2:
        raise Problem(422, "invalid_request", "chunkOverlap: at most half of chunkTokens")
    if wishes.budget_usd is not None and pipeline.price_per_million_tokens is None:
        raise Problem(
            422,
            "invalid_request",
            f"budgetUsd: the price of the pipeline {pipeline.name} is not known, so no budget can be kept",
        )


def stage_wishes(wishes: UploadWishes, pipeline: Pipeline, batch_id: UUID | None) -> Wishes:
    """The same for the staging, with the plan filled up from the pipeline's."""
    plan = None
    if wishes.chunk_tokens is not None or wishes.chunk_overlap is not None:
        tokens = wishes.chunk_tokens or pipeline.chunk_plan.max_tokens
        overlap = pipeline.chunk_plan.overlap_tokens if wishes.chunk_overlap is None else wishes.chunk_overlap
        plan = ChunkPlan(max_tokens=tokens, overlap_tokens=min(overlap, tokens // 2))
    return Wishes(
        priority=wishes.priority,
        batch_id=batch_id,
        metadata=wishes.metadata,
        user_id=wishes.user_id,
        auto_launch=wishes.auto_launch,
        source_id=wishes.source_id,
        chunk_plan=plan,
        budget_usd=wishes.budget_usd,
    )
