"""The chunks of a job beside the text of its document: pages of chunks, and that part of the text in which the chosen
one stands. Owns which part is shown; nothing is loaded whole."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from embedmill.dashboard.pages import show_plain
from embedmill.dashboard.visitors import Reader, Visitor
from embedmill.errors import NotFoundError
from embedmill.ingest.jobs import Job, Jobs, PreviewChunk

router = APIRouter()
PAGE_CHUNKS = 25
WINDOW_CHARACTERS = 6000
BEFORE_CHARACTERS = 400
_EXCERPT_CHARACTERS = 220
_LARGEST = 2**31 - 2


class Wanted(msgspec.Struct, frozen=True):
    """What is looked at: a chunk by its ordinal, the page of chunks that begins with `first`, the text from the
    character `at` on."""

    chunk: int | None = None
    first: int = 0
    at: int | None = None


class Passage(msgspec.Struct, frozen=True):
    """A part of the text: before, within and behind the chosen chunk. `start` to `end` in characters of the whole."""

    before: str
    chosen: str
    behind: str
    start: int
    end: int
    total: int

    @property
    def earlier(self) -> int | None:
        """Where the part before this one begins; None at the beginning of the text."""
        return max(self.start - WINDOW_CHARACTERS, 0) if self.start > 0 else None

    @property
    def later(self) -> int | None:
        return self.end if self.end < self.total else None


class ShownChunk(msgspec.Struct, frozen=True):
    chunk: PreviewChunk
    excerpt: str
    place: str

    @classmethod
    def of(cls, chunk: PreviewChunk) -> ShownChunk:
        words = " ".join(chunk.text[: 2 * _EXCERPT_CHARACTERS].split())
        is_whole = len(words) <= _EXCERPT_CHARACTERS and len(chunk.text) <= 2 * _EXCERPT_CHARACTERS
        return cls(chunk, words if is_whole else f"{words[:_EXCERPT_CHARACTERS].rstrip()} …", place_of(chunk))


def place_of(chunk: PreviewChunk) -> str:
    """page 3, slides 4 to 5; empty where the document has no places."""
    if chunk.place_kind is None:
        return ""
    if chunk.place_last is None or chunk.place_first == chunk.place_last:
        return f"{chunk.place_kind} {chunk.place_first}"
    return f"{chunk.place_kind}s {chunk.place_first} to {chunk.place_last}"


@router.get("/documents/jobs/{job_id}/preview")
async def preview_part(
    request: Request,
    visitor: Reader,
    job_id: UUID,
    chunk: int | None = None,
    first: int = 0,
    at: int | None = None,
) -> Response:
    """The same as a piece of the page, which a script puts into its place."""
    job = await Jobs(visitor.database, visitor.tenant_id).find(job_id)
    preview = await load_preview(visitor, job, Wanted(chunk, first, at))
    response = show_plain(request, "job_preview.html", preview=preview, address=f"/documents/jobs/{job_id}")
    response.headers["Cache-Control"] = "no-store"
    return response


async def load_preview(visitor: Visitor, job: Job, wanted: Wanted) -> dict[str, Any]:
    """A page of chunks, and the text around the chosen one: without a choice, the first of the page."""
    jobs = Jobs(visitor.database, visitor.tenant_id)
    first = min(max(wanted.first, 0), _LARGEST)
    if wanted.chunk is not None and not first <= wanted.chunk < first + PAGE_CHUNKS:
        first = min(max(wanted.chunk, 0), _LARGEST) // PAGE_CHUNKS * PAGE_CHUNKS
    found = await jobs.chunks(job, first_ordinal=first, limit=PAGE_CHUNKS + 1)
    if not found and first > 0:  # the document has fewer by now
        first = 0
        found = await jobs.chunks(job, first_ordinal=0, limit=PAGE_CHUNKS + 1)
    page = found[:PAGE_CHUNKS]
    chosen = next((each for each in page if each.ordinal == wanted.chunk), page[0] if page else None)
    return {
        "chunks": [ShownChunk.of(each) for each in page],
        "chosen": chosen,
        "passage": await _passage(jobs, job, chosen, wanted.at),
        "total": job.total_chunks,
        "first": first,
        "previous": max(first - PAGE_CHUNKS, 0) if first > 0 else None,
        "next": found[PAGE_CHUNKS].ordinal if len(found) > PAGE_CHUNKS else None,
    }


async def _passage(jobs: Jobs, job: Job, chosen: PreviewChunk | None, at: int | None) -> Passage | None:
    if chosen is None:
        return None
    start = max(chosen.start_offset - BEFORE_CHARACTERS, 0) if at is None else min(max(at, 0), _LARGEST)
    length = WINDOW_CHARACTERS
    if at is None:  # the whole of the chunk, where it is not huge
        length = max(length, min(chosen.end_offset - start + BEFORE_CHARACTERS, 5 * WINDOW_CHARACTERS))
    try:
        text, total = await jobs.text(job, start=start, length=length)
    except NotFoundError:
        return None
    inner_start = min(max(chosen.start_offset - start, 0), len(text))
    inner_end = min(max(chosen.end_offset - start, inner_start), len(text))
    return Passage(
        before=text[:inner_start],
        chosen=text[inner_start:inner_end],
        behind=text[inner_end:],
        start=start,
        end=start + len(text),
        total=total,
    )
