"""A document as it can be cut anew, from what is stored of it. Pure; owns the guess at where the pages of an older
document are, whose places were not kept."""

from __future__ import annotations

import msgspec

from embedmill.core.documents import ParsedDocument, Place

_ChunkPlace = tuple[str, str, str, int, int]
"""Of a chunk: kind, first label, last label, start, end."""


class StaleDocument(msgspec.Struct, frozen=True):
    """A row of embedmill.stale_documents: a document whose chunks by one plan are to be made. `body` is None where it
    can no longer be read and has no text; one that `is_whole` is to be a single chunk."""

    document_id: int
    version: int
    record_source_id: int
    media_type: str
    title: str | None
    is_markdown: bool
    places: str | None
    chunk_places: str | None
    body: str | None
    is_whole: bool

    def parsed(self) -> ParsedDocument:
        """What is to be cut."""
        return ParsedDocument(
            text=self.body or "",
            media_type=self.media_type,
            title=self.title,
            is_markdown=self.is_markdown,
            places=self._places(),
        )

    def _places(self) -> tuple[Place, ...]:
        if self.places is not None:
            return msgspec.json.decode(self.places, type=tuple[Place, ...])
        if self.chunk_places is None:
            return ()
        return places_of_chunks(msgspec.json.decode(self.chunk_places, type=list[_ChunkPlace]))


def places_of_chunks(chunks: list[_ChunkPlace]) -> tuple[Place, ...]:
    """Places from those of the chunks, in order, where a version before this one kept no others.

    A chunk within one page says where that page is; one that crosses from a page to the next is halved between them.
    A page that no chunk begins or ends in is not named by any.
    """
    pieces: list[tuple[str, str, int, int]] = []
    reached = 0
    for kind, first, last, start, end in chunks:
        begin = max(start, reached)  # chunks overlap
        if end <= begin:
            continue
        reached = end
        if first == last:
            pieces.append((kind, first, begin, end))
            continue
        # What was the first page's before stays its own; the rest is halved.
        middle = (begin + end) // 2
        pieces += [(kind, first, begin, middle), (kind, last, middle, end)]
    places: list[Place] = []
    for kind, label, start, end in pieces:
        if places and (places[-1].kind, places[-1].label) == (kind, label):
            places[-1] = msgspec.structs.replace(places[-1], end=end)
        elif end > start:
            places.append(Place(kind, label, start, end))
    return tuple(places)
