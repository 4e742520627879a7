"""Cuts a parsed document into chunks that fit a model, with exact offsets and boundaries that stay put.

Owns the story: units, cuts, overlap, then the model's own count of every chunk, which alone decides what
fits. Pure: the same text, plan and counter give the same chunks in every process. Does not store or embed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embedmill.core.chunking_cuts import best_cut, choose_cuts
from embedmill.core.chunking_cutters import grapheme_end
from embedmill.core.chunking_layout import read_layout
from embedmill.core.chunking_overlap import choose_overlaps
from embedmill.core.chunking_parts import Kind, Section
from embedmill.core.chunking_scale import CHARACTERS_PER_TOKEN, Scale
from embedmill.core.chunking_units import Units, cut_into_units
from embedmill.core.documents import Chunk, ChunkPlan, ParsedDocument, Place
from embedmill.errors import ConfigurationError, DocumentError

_LIKELY_CHARACTERS_PER_TOKEN = 6
"""Text of more characters for each token of the plan rarely fits whole."""

CountTokens = Callable[[Sequence[str]], list[int]]
"""Counts tokens as the model does, the special tokens it adds to each text included."""


def chunk_document(document: ParsedDocument, plan: ChunkPlan, count_tokens: CountTokens) -> tuple[Chunk, ...]:
    """The chunks of a document, in order; none for a text of whitespace.

    Every non-whitespace character is in a chunk; a chunk begins and ends with none. Counting is asked for in
    few calls with many texts. Raises ConfigurationError when the plan contradicts itself or is too small
    for a single character of the text, and a DocumentError (`too_long`) where a plan of one chunk is.
    """
    _check_plan(plan)
    if plan.is_whole:
        return _whole(document.text, plan.max_tokens, count_tokens)
    if not document.is_markdown and (short := _short(document.text, plan.max_tokens, count_tokens)):
        return short
    scale = Scale(count_tokens)
    limit = plan.max_tokens - scale.special_tokens
    if limit < 1:
        raise ConfigurationError(
            f"Chunks of {plan.max_tokens} tokens have no room for text, for the model adds "
            f"{scale.special_tokens} special tokens to each. Raise the chunk size (--chunk-tokens)."
        )
    target = max(1, limit - plan.overlap_tokens)
    sections: list[Section] = []
    parts = read_layout(document.text, sections, is_markdown=document.is_markdown)
    units = cut_into_units(document.text, parts, scale, target, limit)
    if not len(units):
        return ()
    cuts = choose_cuts(units, target, limit)
    overlaps = choose_overlaps(document.text, units, cuts, scale, plan.overlap_tokens)
    pieces = [
        _Piece(first, end, units.starts[first], units.ends[end - 1], overlap)
        for first, end, overlap in zip(cuts, [*cuts[1:], len(units)], overlaps, strict=True)
    ]
    counted = _fit(document.text, units, pieces, scale, plan.max_tokens)
    return tuple(
        Chunk(
            ordinal=ordinal,
            start=piece.start,
            end=piece.end,
            text=document.text[piece.start : piece.end],
            tokens=tokens,
            heading_path=_heading_path(units, sections, piece),
        )
        for ordinal, (piece, tokens) in enumerate(counted)
    )


def place_of(places: Sequence[Place], start: int, end: int) -> tuple[str, str, str] | None:
    """The kind and the first and last label of the places that text[start:end] touches, for a citation:
    ("page", "3", "4"). None where it touches none. Takes logarithmic time."""
    first = bisect_right(places, start, key=lambda place: place.end)
    last = bisect_left(places, end, key=lambda place: place.start) - 1
    if end <= start or first > last:
        return None
    kind = places[first].kind
    while places[last].kind != kind:
        last -= 1
    return kind, places[first].label, places[last].label


def _whole(text: str, max_tokens: int, count_tokens: CountTokens) -> tuple[Chunk, ...]:
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    if start >= end:
        return ()
    # What is too long anyhow is not worth counting.
    is_longer = end - start > max_tokens * CHARACTERS_PER_TOKEN
    tokens = max_tokens + 1 if is_longer else count_tokens([text[start:end]])[0]
    if tokens > max_tokens:
        counted = f"more than {max_tokens}" if is_longer else str(tokens)
        raise DocumentError(
            "too_long",
            f"The text has {counted} tokens, and the model reads {max_tokens} of one text: shorten it, or embed it in "
            "chunks.",
        )
    return (Chunk(0, start, end, text[start:end], tokens),)


def _short(text: str, max_tokens: int, count_tokens: CountTokens) -> tuple[Chunk, ...]:
    """The one chunk of a text that fits as it is, as most rows of a table do: there is nothing to choose, and weighing
    its words takes ten times as long. None where it does not fit, or is too long to be worth counting."""
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    if start >= end or end - start > max_tokens * _LIKELY_CHARACTERS_PER_TOKEN:
        return ()
    tokens = count_tokens([text[start:end]])[0]
    return (Chunk(0, start, end, text[start:end], tokens),) if tokens <= max_tokens else ()


def _check_plan(plan: ChunkPlan) -> None:
    if plan.max_tokens < 1 or plan.overlap_tokens < 0:
        raise ConfigurationError(
            f"A chunk plan of {plan.max_tokens} tokens with {plan.overlap_tokens} of overlap cannot be: "
            "the chunk size must be positive and the overlap must not be negative."
        )
    if plan.overlap_tokens > plan.max_tokens // 2:
        raise ConfigurationError(
            f"An overlap of {plan.overlap_tokens} tokens is more than half of a chunk of {plan.max_tokens}: "
            f"set --chunk-overlap to {plan.max_tokens // 2} or less, or raise --chunk-tokens."
        )


@dataclass(slots=True)
class _Piece:
    """A chunk in the making: text[body:end] is its own, text[overlap:body] repeats the one before."""

    first_unit: int
    end_unit: int
    body: int
    end: int
    overlap: int | None

    @property
    def start(self) -> int:
        return self.body if self.overlap is None else self.overlap


def _fit(
    text: str, units: Units, pieces: list[_Piece], scale: Scale, max_tokens: int
) -> list[tuple[_Piece, int]]:
    """The pieces with the model's counts; one that is over gives up its overlap, then is cut in two."""
    fitting: list[tuple[_Piece, int]] = []
    longest = max_tokens * CHARACTERS_PER_TOKEN
    while pieces:
        over: list[_Piece] = []
        # What is too long anyhow is not worth counting: its first characters stand for it.
        texts = (text[piece.start : min(piece.end, piece.start + longest + 1)] for piece in pieces)
        for piece, tokens in zip(pieces, scale.count(texts), strict=True):
            if tokens <= max_tokens and piece.end - piece.start <= longest:
                fitting.append((piece, tokens))
            elif piece.overlap is not None:
                piece.overlap = None
                over.append(piece)
            else:
                over += _halves(text, units, piece, tokens, max_tokens)
        fitting.sort(key=lambda counted: counted[0].body)
        pieces = over or _take_swallowing(fitting)
    return fitting


def _take_swallowing(fitting: list[tuple[_Piece, int]]) -> list[_Piece]:
    """Takes out the pieces that would repeat the whole of the one before, since that one was cut in two, and
    ends their overlap."""
    swallowing = [
        index
        for index, (piece, _) in enumerate(fitting)
        if index and piece.overlap is not None and piece.overlap <= fitting[index - 1][0].body
    ]
    taken = [fitting.pop(index)[0] for index in reversed(swallowing)]
    for piece in taken:
        piece.overlap = None
    return taken


def _halves(text: str, units: Units, piece: _Piece, tokens: int, max_tokens: int) -> tuple[_Piece, _Piece]:
    """Two pieces in place of one whose words were lighter than their text turned out to be."""
    first, end = piece.first_unit, piece.end_unit
    if end - first > 1:
        at = best_cut(units, first, end, max(1, units.weight(first, end) * 3 // 4))
        return (
            _Piece(first, at, piece.body, units.ends[at - 1], None),
            _Piece(at, end, units.starts[at], piece.end, None),
        )
    if piece.end - piece.body == 1:
        raise ConfigurationError(
            f"Chunks of {max_tokens} tokens are too small for this model and text: the character "
            f"{text[piece.body]!r} alone takes {tokens}. Raise the chunk size (--chunk-tokens)."
        )
    left_end, right_start = _tear(text, piece.body, piece.end)
    return (
        _Piece(first, end, piece.body, left_end, None),
        _Piece(first, end, right_start, piece.end, None),
    )


def _tear(text: str, start: int, end: int) -> tuple[int, int]:
    """Where the left half ends and the right half starts: at whitespace near the middle if there is any."""
    middle = (start + end) // 2
    for at in range(middle, min(end, middle + 64)):
        if text[at].isspace():
            right = at
            while text[right].isspace():
                right += 1
            while text[at - 1].isspace():
                at -= 1  # noqa: PLW2901
            if at > start:
                return at, right
    at = grapheme_end(text, middle, end)
    if at >= end or at == start:
        at = max(start + 1, middle)
    return at, at


def _heading_path(units: Units, sections: Sequence[Section], piece: _Piece) -> tuple[str, ...]:
    """What the paths of the piece's sections have in common; a heading without text of its own in the piece
    counts only where all are such."""
    first, end = piece.first_unit, piece.end_unit
    own = {units.sections[at] for at in range(first, end) if units.kinds[at] is not Kind.HEADING}
    paths = [sections[at].path for at in own or {units.sections[at] for at in range(first, end)}]
    common = 0
    for titles in zip(*paths, strict=False):
        if len(set(titles)) > 1:
            break
        common += 1
    return paths[0][:common]
