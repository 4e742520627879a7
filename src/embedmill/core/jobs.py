"""The two state machines, each as one table. Pure. The diagrams in ARCHITECTURE.md are drawn from these tables
(scripts/draw_states.py), and tests hold the database against them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class JobStatus(StrEnum):
    """The run of one upload, as a person sees it."""

    STAGED = "staged"
    PARSING = "parsing"
    CHUNK_PREVIEW_READY = "chunk_preview_ready"
    EMBEDDING_IN_PROGRESS = "embedding_in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class ItemStatus(StrEnum):
    """A unit of work in the queue. The last three stand in the history only."""

    PENDING = "pending"
    PROCESSING = "processing"
    RATE_LIMITED = "rate_limited"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


JOB_TRANSITIONS: Mapping[JobStatus, Mapping[JobStatus, str]] = {
    JobStatus.STAGED: {
        JobStatus.PARSING: "a parser takes it",
        JobStatus.CANCELLED: "cancelled",
        JobStatus.FAILED: "staging failed",
    },
    JobStatus.PARSING: {
        JobStatus.CHUNK_PREVIEW_READY: "chunks stand",
        JobStatus.CANCELLED: "cancelled",
        JobStatus.FAILED: "not readable",
    },
    JobStatus.CHUNK_PREVIEW_READY: {
        JobStatus.EMBEDDING_IN_PROGRESS: "launched",
        JobStatus.COMPLETED: "launched, all vectors reused",
        JobStatus.STAGED: "to be cut by another plan",
        JobStatus.CANCELLED: "cancelled or superseded",
        JobStatus.FAILED: "launch failed",
    },
    JobStatus.EMBEDDING_IN_PROGRESS: {
        JobStatus.COMPLETED: "every embeddable chunk has its vector",
        JobStatus.CANCELLED: "cancelled or superseded",
        JobStatus.FAILED: "attempts used up",
    },
    JobStatus.CANCELLED: {
        JobStatus.STAGED: "resumed, was not parsed yet",
        JobStatus.EMBEDDING_IN_PROGRESS: "resumed",
        JobStatus.COMPLETED: "resumed, nothing was missing",
    },
    JobStatus.FAILED: {
        JobStatus.STAGED: "retried from the start",
        JobStatus.EMBEDDING_IN_PROGRESS: "retried",
        JobStatus.COMPLETED: "retried, nothing was missing",
    },
    JobStatus.COMPLETED: {
        JobStatus.EMBEDDING_IN_PROGRESS: "retried, chunks had been refused",
    },
}
"""From each status, where it may go and why."""

ITEM_TRANSITIONS: Mapping[ItemStatus, Mapping[ItemStatus, str]] = {
    ItemStatus.PENDING: {
        ItemStatus.PROCESSING: "claimed with a lease",
        ItemStatus.CANCELLED: "cancelled or superseded",
    },
    ItemStatus.PROCESSING: {
        ItemStatus.COMPLETED: "every vector verified",
        ItemStatus.PENDING: "failed attempt, stop, or rescue",
        ItemStatus.RATE_LIMITED: "429: no attempt spent",
        ItemStatus.FAILED: "attempts used up: dead letter",
        ItemStatus.CANCELLED: "cancelled or superseded",
    },
    ItemStatus.RATE_LIMITED: {
        ItemStatus.PROCESSING: "claimed when the delay is over",
        ItemStatus.CANCELLED: "cancelled or superseded",
    },
    ItemStatus.COMPLETED: {},
    ItemStatus.FAILED: {},
    ItemStatus.CANCELLED: {},
}
"""From each status, where it may go and why. A retry of an ended item is a new item."""
