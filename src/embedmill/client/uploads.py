"""What is asked of an upload besides its files, and how files are shared out among requests. Pure; must not send."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict
from uuid import UUID

import msgspec

from embedmill.client.forms import FilePart
from embedmill.client.records.jobs import Priority, ReceivedJobs, StagedJob

# Well below what a service takes by default (100 files, 2 GiB): several smaller requests are as good as one.
MOST_FILES = 50
MOST_BYTES = 512 * 1024 * 1024


class UploadWishes(TypedDict, total=False):
    """What is left out is as the service has it: pipeline "default", priority "medium", no launch by itself."""

    pipeline: str
    priority: Priority
    metadata: dict[str, Any]
    auto_launch: bool
    """Embed it as soon as it is cut, without waiting for somebody who looks at the preview."""
    batch_id: UUID | str
    source_id: str
    """Names the document: the next upload is its next version."""
    user_id: str
    chunk_tokens: int
    chunk_overlap: int
    budget_usd: float
    """The most each job may spend."""


def json_of(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """For a request in JSON; None is the same as left out."""
    return {_camel(name): value for name, value in wishes.items() if value is not None}


def fields_of(wishes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """For a form."""
    return [(name, _text(value)) for name, value in json_of(wishes).items()]


def requests_of(parts: Sequence[FilePart]) -> Iterator[list[FilePart]]:
    """The files, shared out in their order; at least one in each request."""
    taken: list[FilePart] = []
    size = 0
    for part in parts:
        if taken and (len(taken) >= MOST_FILES or size + (part.size or 0) > MOST_BYTES):
            yield taken
            taken, size = [], 0
        taken.append(part)
        size += part.size or 0
    if taken:
        yield taken


def staged_of(content: bytes) -> list[StagedJob]:
    """The jobs of an answer: one file gives its job, several give a list."""
    if "jobs" in msgspec.json.decode(content, type=dict[str, msgspec.Raw]):
        return list(msgspec.json.decode(content, type=ReceivedJobs).jobs)
    return [msgspec.json.decode(content, type=StagedJob)]


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.title() for word in others)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode().strip('"')
