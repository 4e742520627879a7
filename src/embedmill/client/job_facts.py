"""What a job handle tells of its job: each field of the record, as it was last seen. Values only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Never, TypeVar, overload

from embedmill.client.records.jobs import IngestionJob

T = TypeVar("T")


class Fact(Generic[T]):
    """A field of the record, on the handle."""

    def __init__(self, read: Callable[[IngestionJob], T]) -> None:
        self._read = read

    @overload
    def __get__(self, owner: None, kind: type) -> Fact[T]: ...
    @overload
    def __get__(self, owner: JobFacts, kind: type) -> T: ...
    def __get__(self, owner: JobFacts | None, kind: type) -> Fact[T] | T:
        return self if owner is None else self._read(owner.record)

    def __set__(self, owner: JobFacts, value: Never) -> None:
        raise AttributeError("a job's facts are the service's: its methods change them")


class JobFacts:
    """`record` is the job as it was last seen: by the last call of a method of this object, not by magic."""

    record: IngestionJob

    job_id = Fact(lambda job: job.job_id)
    document_id = Fact(lambda job: job.document_id)
    batch_id = Fact(lambda job: job.batch_id)
    pipeline = Fact(lambda job: job.pipeline)
    source_type = Fact(lambda job: job.source_type)
    source_id = Fact(lambda job: job.source_id)
    name = Fact(lambda job: job.name)
    media_type = Fact(lambda job: job.media_type)
    size_bytes = Fact(lambda job: job.size_bytes)
    status = Fact(lambda job: job.status)
    progress = Fact(lambda job: job.progress)
    total_chunks = Fact(lambda job: job.total_chunks)
    embedded_chunks = Fact(lambda job: job.embedded_chunks)
    reused_chunks = Fact(lambda job: job.reused_chunks)
    failed_chunks = Fact(lambda job: job.failed_chunks)
    total_tokens = Fact(lambda job: job.total_tokens)
    priority = Fact(lambda job: job.priority)
    error_stage = Fact(lambda job: job.error_stage)
    error_message = Fact(lambda job: job.error_message)
    paused_reason = Fact(lambda job: job.paused_reason)
    is_resumable = Fact(lambda job: job.is_resumable)
    eta_seconds = Fact(lambda job: job.eta_seconds)
    cost = Fact(lambda job: job.cost)
    chunk_tokens = Fact(lambda job: job.chunk_tokens)
    chunk_overlap = Fact(lambda job: job.chunk_overlap)
    auto_launch = Fact(lambda job: job.auto_launch)
    metadata: Fact[dict[str, Any]] = Fact(lambda job: job.metadata)
    user_id = Fact(lambda job: job.user_id)
    created_at = Fact(lambda job: job.created_at)
    parsing_started_at = Fact(lambda job: job.parsing_started_at)
    preview_ready_at = Fact(lambda job: job.preview_ready_at)
    launched_at = Fact(lambda job: job.launched_at)
    updated_at = Fact(lambda job: job.updated_at)
    completed_at = Fact(lambda job: job.completed_at)
    original_dropped_at = Fact(lambda job: job.original_dropped_at)
    has_ended = Fact(lambda job: job.has_ended)
