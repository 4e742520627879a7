"""What a document is between its bytes and its chunks. Owns plain values; must not touch disk or database."""

from __future__ import annotations

import msgspec


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A numbered part of a document: a page, slide, sheet or chapter.

    `kind` is "page", "slide", "sheet", "chapter", "message" or "record"; `label` its name in the
    document ("3", "Budget 2024"); `start` and `end` are offsets into `ParsedDocument.text`, end exclusive.
    """

    kind: str
    label: str
    start: int
    end: int


class ParsedDocument(msgspec.Struct, frozen=True):
    """The text of a document, as it is chunked, stored and cited.

    `text` holds no NUL and no lone surrogate. Where the format has headings they stand as Markdown
    ATX headings (`## Title`) when `is_markdown`. `places` are in order and do not overlap.
    """

    text: str
    media_type: str
    title: str | None = None
    is_markdown: bool = False
    places: tuple[Place, ...] = ()
    metadata: dict[str, str] = {}


class ChunkPlan(msgspec.Struct, frozen=True):
    """How text is cut: at most `max_tokens` a chunk as the pipeline's model counts them (special tokens
    included), of which up to `overlap_tokens` repeat the end of the chunk before. `is_whole`: one chunk of all of the
    text, or none where it is longer."""

    max_tokens: int
    overlap_tokens: int
    is_whole: bool = False


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """A passage: `text == document.text[start:end]`, always.

    `tokens` is the model's own count, special tokens included; `heading_path` the titles of the headings
    the passage stands under, outermost first.
    """

    ordinal: int
    start: int
    end: int
    text: str
    tokens: int
    heading_path: tuple[str, ...] = ()
