"""Receives uploads: a form with files as it streams in, or the name of a URL. Owns the reading of the request and its
answer; must not hold a file. Each file is one story: what is wrong with one is told in its job."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID, uuid4, uuid5

import msgspec
from fastapi import Request, Response
from pydantic import Field, ValidationError
from starlette.requests import ClientDisconnect

from embedmill.api.idempotency import Answer, Idempotency
from embedmill.api.multipart import FilePart, Form, FormError, FormLimits, read_form
from embedmill.api.problems import Problem
from embedmill.api.service import Caller
from embedmill.api.wire import Metadata, Wire
from embedmill.app import ServiceApp
from embedmill.core.documents import ChunkPlan
from embedmill.database.pipelines import Pipeline, find_pipeline
from embedmill.errors import ConflictError, DocumentError
from embedmill.ingest.jobs import Jobs
from embedmill.ingest.upload import Kept, Staged, Uploads, Wishes

_MIB = 1024 * 1024
_MOST_JSON_BYTES = _MIB
_URL_JOBS = UUID("1f0c35c2-6f0e-4b6b-9a55-0c7f8ab0a1d4")


class StagedJob(Wire):
    """A job that was taken in. `isKnown`: these bytes were uploaded before, and this is the job they have."""

    job_id: UUID
    document_id: int
    status: str
    is_resumable: bool
    is_known: bool
    name: str
    batch_id: UUID | None
    error_message: str | None


class ReceivedJobs(Wire):
    """The jobs of a request with several files, in their order."""

    batch_id: UUID
    jobs: list[StagedJob]


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


async def receive(
    request: Request, response: Response, caller: Caller, service: ServiceApp
) -> StagedJob | ReceivedJobs:
    """The jobs of a request. Raises Problem where the request as a whole is wrong."""
    most_bytes = await _assert_room(caller, service)
    uploads = Uploads(caller.database, service.originals, caller.tenant_id)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _receive_form(request, response, caller, service, uploads, most_bytes)
    if kind in {"application/json", ""}:
        return await _receive_url(request, response, caller, uploads)
    raise Problem(
        415, "unsupported_media_type", "send multipart/form-data with files, or application/json with a url"
    )


async def _receive_form(
    request: Request,
    response: Response,
    caller: Caller,
    service: ServiceApp,
    uploads: Uploads,
    most_bytes: int,
) -> StagedJob | ReceivedJobs:
    kept: list[Kept] = []

    async def on_file(part: FilePart, content: AsyncIterator[bytes]) -> Kept:
        one = await uploads.keep(part.name, part.media_type, content, max_bytes=most_bytes)
        kept.append(one)
        return one

    limits = FormLimits(
        max_files=service.settings.max_request_files,
        max_total_bytes=int(service.settings.max_request_mb * _MIB),
    )
    try:
        form = await read_form(
            request.stream(), request.headers.get("content-type", ""), on_file=on_file, limits=limits
        )
        wishes = _wishes_of(form)
        _assert_files(form.files, wishes)
        pipeline = await find_pipeline(caller.database, caller.tenant_id, wishes.pipeline)
        _assert_plan(wishes, pipeline)
        digest = _digest(wishes, [one.original.sha256 if one.original else b"" for one in form.files])
        async with _idempotent(request, response, caller, digest) as answer:
            if answer.stored is not None:
                await _discard(uploads, kept)
                return _revived(answer.stored)
            answer.body = await _stage_files(caller, uploads, pipeline, kept, wishes)
            return _revived(answer.body)
    except FormError as error:
        await _discard(uploads, kept)
        raise Problem(error.status, error.code, str(error)) from error
    except ClientDisconnect as error:
        await _discard(uploads, kept)
        raise Problem(400, "truncated_form", "the connection ended before the form did") from error
    except BaseException:
        await _discard(uploads, kept)
        raise


async def _stage_files(
    caller: Caller, uploads: Uploads, pipeline: Pipeline, kept: list[Kept], wishes: UploadWishes
) -> dict[str, Any]:
    batch_id = wishes.batch_id or (uuid4() if len(kept) > 1 else None)
    jobs = []
    while kept:
        one = kept.pop(0)  # from here on the database may know of it, also where we do not hear so
        staged = await uploads.stage(pipeline, one, _stage_wishes(wishes, pipeline, batch_id))
        jobs.append(await _answer(caller, staged, one.name, batch_id, wishes))
    if len(jobs) == 1:
        return jobs[0].model_dump(mode="json")
    return ReceivedJobs(batch_id=batch_id or uuid4(), jobs=jobs).model_dump(mode="json")


async def _receive_url(request: Request, response: Response, caller: Caller, uploads: Uploads) -> StagedJob:
    asked = await _read_json(request)
    pipeline = await find_pipeline(caller.database, caller.tenant_id, asked.pipeline)
    _assert_plan(asked, pipeline)
    async with _idempotent(request, response, caller, _digest(asked, [])) as answer:
        if answer.stored is None:
            staged = await uploads.stage_url(
                pipeline,
                asked.url,
                _stage_wishes(asked, pipeline, asked.batch_id),
                job_id=_job_id_of(request, caller, asked),
            )
            job = await _answer(caller, staged, None, asked.batch_id, asked)
            answer.body = job.model_dump(mode="json")
            return job
        return StagedJob.model_validate(answer.stored)


async def _answer(
    caller: Caller, staged: Staged, name: str | None, batch_id: UUID | None, wishes: UploadWishes
) -> StagedJob:
    """What is told of a job; one that was found again goes on, where it is to be launched by itself. A `name` of None
    is the database's to say."""
    jobs = Jobs(caller.database, caller.tenant_id)
    job = await jobs.find(staged.job_id)
    if staged.is_known and wishes.auto_launch:
        with contextlib.suppress(ConflictError):  # somebody else was quicker; its status says what it is
            if job.status == "chunk_preview_ready":
                await jobs.launch(job.id)
            elif job.status in {"cancelled", "failed"}:
                await jobs.resume(job.id)
        job = await jobs.find(staged.job_id)
    return StagedJob(
        job_id=job.id,
        document_id=job.document_id,
        status=job.status,
        is_resumable=job.is_resumable,
        is_known=staged.is_known,
        name=job.name,
        batch_id=job.batch_id,
        error_message=job.error_message,
    )


async def _assert_room(caller: Caller, service: ServiceApp) -> int:
    """Whether the tenant may stage more; returns the most bytes of a file of its."""
    room = await Jobs(caller.database, caller.tenant_id).room()
    most = room.max_staged_jobs or service.settings.max_staged_jobs
    if room.staged_jobs >= most:
        detail = f"{room.staged_jobs} jobs of this tenant wait for a parser already: try again when there are fewer"
        raise Problem(429, "too_many_jobs", detail, headers={"Retry-After": "30"})
    return min(service.settings.max_file_bytes, room.max_file_bytes or service.settings.max_file_bytes)


async def _read_json(request: Request) -> UrlUpload:
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


def _wishes_of(form: Form[Kept]) -> UploadWishes:
    """The fields of a form; each once, those that we do not know refused."""
    values: dict[str, Any] = {}
    for name, given in form.fields.items():
        if len(given) != 1:
            raise Problem(422, "invalid_request", f"{name}: given {len(given)} times")
        values[name] = given[0]
    if "metadata" in values:
        try:
            values["metadata"] = msgspec.json.decode(values["metadata"], type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Problem(422, "invalid_request", "metadata: a JSON object is expected") from error
    try:
        return UploadWishes.model_validate(values)
    except ValidationError as error:
        raise Problem(422, "invalid_request", _first_error(error)) from error


def _assert_files(files: list[Kept], wishes: UploadWishes) -> None:
    if not files:
        raise Problem(422, "invalid_request", "file: the form has no file")
    if len(files) == 1 and isinstance(files[0].error, DocumentError):
        raise Problem(413, files[0].error.reason, str(files[0].error))
    if len(files) > 1 and wishes.source_id is not None:
        raise Problem(422, "invalid_request", "sourceId names one document: upload one file with it")


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else first["msg"]


def _assert_plan(wishes: UploadWishes, pipeline: Pipeline) -> None:
    tokens = wishes.chunk_tokens or pipeline.chunk_plan.max_tokens
    if wishes.chunk_overlap is not None and wishes.chunk_overlap > tokens // 2:
        raise Problem(422, "invalid_request", "chunkOverlap: at most half of chunkTokens")
    if wishes.budget_usd is not None and pipeline.price_per_million_tokens is None:
        raise Problem(
            422,
            "invalid_request",
            f"budgetUsd: the price of the pipeline {pipeline.name} is not known, so no budget can be kept",
        )


def _stage_wishes(wishes: UploadWishes, pipeline: Pipeline, batch_id: UUID | None) -> Wishes:
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


def _job_id_of(request: Request, caller: Caller, asked: UrlUpload) -> UUID | None:
    """The same for the same request under the same key: where we were killed before its answer was kept, it finds the
    job that it had made."""
    key = request.headers.get("idempotency-key")
    return uuid5(_URL_JOBS, f"{caller.tenant_id} {key} {_digest(asked, []).hex()}") if key else None


def _digest(wishes: UploadWishes, files: list[bytes]) -> bytes:
    """What was asked for: by it a key that is used for something else is told from one that is sent again."""
    return hashlib.sha256(wishes.model_dump_json().encode() + b"".join(files)).digest()


@contextlib.asynccontextmanager
async def _idempotent(
    request: Request, response: Response, caller: Caller, digest: bytes
) -> AsyncIterator[Answer]:
    key = request.headers.get("idempotency-key")
    if key is None:
        yield Answer()
        return
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise Problem(422, "invalid_request", "Idempotency-Key: 1 to 255 printable characters")
    idempotency = Idempotency(caller.database, caller.tenant_id)
    answer = await idempotency.begin(key, digest)
    if answer.stored is not None:
        response.headers["Idempotent-Replayed"] = "true"
        yield answer
        return
    try:
        yield answer
    except BaseException:
        await idempotency.forget(key)
        raise
    await idempotency.keep(key, answer)


def _revived(stored: dict[str, Any]) -> StagedJob | ReceivedJobs:
    return (ReceivedJobs if "jobs" in stored else StagedJob).model_validate(stored)


async def _discard(uploads: Uploads, kept: list[Kept]) -> None:
    for one in kept:
        await uploads.discard(one)
