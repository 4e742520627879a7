"""Dead letters as a person deals with them: by reason with what it means, listed, one looked at, retried or discarded
with a note. Owns the pages; what they are and how they are done again is queue/dead_letters.py's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Query, Request
from starlette.responses import Response

from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.queue_words import explain_reason, retry_outcome
from embedmill.dashboard.rendering import link
from embedmill.dashboard.visitors import Reader, Visitor, Writer
from embedmill.database.pipelines import list_pipelines
from embedmill.errors import EmbedmillError
from embedmill.queue.acting import Progress
from embedmill.queue.dead_letters import (
    DeadLetter,
    Letters,
    LettersMatched,
    count_by_reason,
    count_letters,
    discard_letters,
    find_letter,
    letter_sources,
    list_letters,
    retry_letters,
)
from embedmill.queue.standing import COUNTED_AT_MOST

router = APIRouter(prefix="/queue/dead-letters")
_PAGE_ROWS = 50
_UPLOADS = "uploads"
_LONGEST_NOTE = 1000
_LetterId = Annotated[int, Path(ge=1, le=2**63 - 1)]
_Text = Annotated[str, Query(max_length=500)]


class Wanted:
    """Which letters are meant, as it was typed. `source`: uploads, or the number of a table or shard feed."""

    def __init__(self, reason: str = "", pipeline: str = "", source: str = "") -> None:
        self.typed = {
            name: value.strip()
            for name, value in (("reason", reason), ("pipeline", pipeline), ("source", source))
            if value.strip() and "\x00" not in value
        }

    @property
    def letters(self) -> Letters:
        source = self.typed.get("source")
        is_number = source is not None and source.isascii() and source.isdigit() and len(source) < 10
        return Letters(
            reason=self.typed.get("reason"),
            pipeline=self.typed.get("pipeline"),
            record_source_id=None if source is None else int(source) if is_number else 0,
        )

    def words(self, sources: Mapping[int, str]) -> str:
        source = self.letters.record_source_id
        said = [self.typed["reason"].replace("_", " ")] if "reason" in self.typed else []
        said += [f"of pipeline {self.typed['pipeline']}"] if "pipeline" in self.typed else []
        said += [] if source is None else [f"of {sources.get(source, 'uploads')}"]
        return " ".join(said)


@router.get("")
async def letters_page(
    request: Request,
    visitor: Reader,
    reason: _Text = "",
    pipeline: _Text = "",
    source: _Text = "",
    resolved: _Text = "",
    after: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> Response:
    wanted = Wanted(reason, pipeline, source)
    return await show(
        request,
        visitor,
        "dead_letters.html",
        lambda: load_letters(visitor, wanted, resolved_too=bool(resolved), after=after),
    )


@router.get("/bulk")
async def bulk_page(
    request: Request,
    visitor: Writer,
    act: Literal["retry", "discard"],
    reason: _Text = "",
    pipeline: _Text = "",
    source: _Text = "",
) -> Response:
    """What an act would be about; nothing is changed."""
    return await _show_bulk(request, visitor, act, Wanted(reason, pipeline, source), FormReading())


@router.post("/bulk")
async def begin_bulk(
    request: Request, visitor: Writer, act: Annotated[Literal["retry", "discard"], Form()]
) -> Response:
    form = await FormReading.of(request)
    wanted = Wanted(form.value("reason"), form.value("pipeline"), form.value("source"))
    note = _note(form)
    if form.errors:
        return await _show_bulk(request, visitor, act, wanted, form)
    matched = await _count(visitor, wanted)
    sources = await letter_sources(visitor.database, visitor.tenant_id)
    title = f"{act.capitalize()} dead letters {wanted.words(sources)}".strip()
    work = partial(_retry, visitor, wanted.letters)
    if act == "discard":
        work = partial(_discard, visitor, wanted.letters, note)
    try:
        running = visitor.service.acts.begin(
            visitor.tenant_id, title, matched.items, work, actor=visitor.actor
        )
    except EmbedmillError as error:
        return redirect(link("/queue/dead-letters", wanted.typed), str(error), is_error=True)
    return redirect(f"/queue/acts/{running.id}")


@router.get("/{letter_id:int}")
async def letter_page(request: Request, visitor: Reader, letter_id: _LetterId) -> Response:
    return await show(request, visitor, "dead_letter.html", lambda: load_letter(visitor, letter_id))


@router.post("/{letter_id:int}/retry")
async def retry_one(visitor: Writer, letter_id: _LetterId) -> Response:
    await find_letter(visitor.database, visitor.tenant_id, letter_id, with_text=False)
    done = await _retry(visitor, Letters(ids=(letter_id,)))
    said = retry_outcome(done) if done["items"] else "It was dealt with already."
    return redirect(f"/queue/dead-letters/{letter_id}", said, is_error=not done["items"])


@router.post("/{letter_id:int}/discard")
async def discard_one(request: Request, visitor: Writer, letter_id: _LetterId) -> Response:
    form = await FormReading.of(request)
    note = _note(form)
    if form.errors:
        return await show(
            request,
            visitor,
            "dead_letter.html",
            lambda: load_letter(visitor, letter_id, form),
            status=422,
            here=f"/queue/dead-letters/{letter_id}",
        )
    await find_letter(visitor.database, visitor.tenant_id, letter_id, with_text=False)
    done = await _discard(visitor, Letters(ids=(letter_id,)), note)
    said = "Discarded: what it is about stays without vectors." if done else "It was dealt with already."
    return redirect(f"/queue/dead-letters/{letter_id}", said, is_error=not done)


async def load_letters(
    visitor: Visitor, wanted: Wanted, *, resolved_too: bool, after: int | None
) -> Mapping[str, Any]:
    database, tenant_id = visitor.database, visitor.tenant_id
    names = [pipeline.name for pipeline in await list_pipelines(database, tenant_id)]
    found: list[DeadLetter] = []
    if wanted.typed.get("pipeline", "") in {"", *names}:
        found = await list_letters(
            database, tenant_id, wanted.letters, resolved_too=resolved_too, limit=_PAGE_ROWS + 1, after=after
        )
    reasons = await count_by_reason(database, tenant_id, most=COUNTED_AT_MOST)
    counted = sum(reason.letters for reason in reasons)
    return {
        "letters": found[:_PAGE_ROWS],
        "next": found[_PAGE_ROWS - 1].id if len(found) > _PAGE_ROWS else None,
        "after": after,
        "reasons": reasons,
        "counted": counted,
        "is_exact": counted < COUNTED_AT_MOST,
        "explain": explain_reason,
        "wanted": wanted,
        "resolved": resolved_too,
        "pipelines": names,
        "sources": await letter_sources(database, tenant_id),
        "uploads": _UPLOADS,
    }


async def load_letter(visitor: Visitor, letter_id: int, form: FormReading | None = None) -> Mapping[str, Any]:
    # What a tenant has written is its own: whoever runs the installation deals with its letters without reading it.
    is_own = visitor.principal.tenant_id == visitor.tenant_id
    detail = await find_letter(visitor.database, visitor.tenant_id, letter_id, with_text=is_own)
    return {
        "detail": detail,
        "letter": detail.letter,
        "is_own": is_own,
        "meaning": explain_reason(detail.letter.reason),
        "form": form or FormReading(),
    }


async def _show_bulk(
    request: Request, visitor: Visitor, act: str, wanted: Wanted, form: FormReading
) -> Response:
    async def load() -> Mapping[str, Any]:
        if "text/event-stream" in request.headers.get("accept", ""):
            return {}  # nothing on this page changes by itself: it is not counted again each second
        sources = await letter_sources(visitor.database, visitor.tenant_id)
        return {
            "act": act,
            "wanted": wanted,
            "words": wanted.words(sources),
            "matched": await _count(visitor, wanted),
            "form": form,
        }

    here = link("/queue/dead-letters/bulk", wanted.typed, act=act)
    return await show(
        request, visitor, "dead_letters_bulk.html", load, status=422 if form.errors else 200, here=here
    )


async def _count(visitor: Visitor, wanted: Wanted) -> LettersMatched:
    return await count_letters(visitor.database, visitor.tenant_id, wanted.letters)


async def _retry(
    visitor: Visitor, letters: Letters, on_progress: Progress = lambda done: None
) -> Counter[str]:
    return await retry_letters(
        visitor.database, visitor.tenant_id, letters, actor=visitor.actor, on_progress=on_progress
    )


async def _discard(
    visitor: Visitor, letters: Letters, note: str | None, on_progress: Progress = lambda done: None
) -> Counter[str]:
    return await discard_letters(
        visitor.database, visitor.tenant_id, letters, actor=visitor.actor, note=note, on_progress=on_progress
    )


def _note(form: FormReading) -> str | None:
    note = form.paragraphs("note")
    if note is not None and len(note) > _LONGEST_NOTE:
        form.refuse("note", f"at most {_LONGEST_NOTE:,} characters; these are {len(note):,}")
    return None if note is None else note.strip()
