"""What the pool and the parsing process say to each other: values and framing only. Both sides import this
page, so it must not import a stage, an adapter or anything that runs."""

from __future__ import annotations

import struct

import msgspec

from embedmill.core.documents import Chunk, ChunkPlan, ParsedDocument

MIB = 1024 * 1024

LENGTH = struct.Struct("!Q")
"""A frame is the length of its body in bytes, eight bytes in network order, then the body in msgpack."""


class TokenizerSpec(msgspec.Struct, frozen=True):
    """The part of a pipeline that decides how its model counts tokens (see `ports.ProviderSpec`).

    What it names must be on this machine already: the parsing process writes no file and has no settings.
    """

    tokenizer: str | None
    model: str
    provider: str
    models_dir: str | None = None


class ParseRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="parse"):
    """One document to read, from `path` or from `text` itself (exactly one of them), and how to cut it.

    `name` is the display name, whose ending is a hint where the content does not tell; `media_type` is
    believed where the content allows it. Without a `plan` nothing is cut; a plan needs a `tokenizer`.
    Sizes are in bytes, text in characters (code points); what is larger is refused, never cut off.
    """

    name: str
    path: str | None = None
    text: str | None = None
    media_type: str | None = None
    is_markdown: bool = False
    max_bytes: int = 256 * MIB
    max_text_chars: int = 50_000_000
    plan: ChunkPlan | None = None
    tokenizer: TokenizerSpec | None = None


class CutRequest(msgspec.Struct, frozen=True, tag="cut"):
    """Texts that need no parsing, to be cut by one plan: rows, shards, documents that were parsed before."""

    documents: tuple[ParsedDocument, ...]
    plan: ChunkPlan
    tokenizer: TokenizerSpec
    max_text_chars: int = 50_000_000


class ParseReply(msgspec.Struct, frozen=True, tag="parsed"):
    """The document, and its chunks where the request had a plan."""

    document: ParsedDocument
    chunks: tuple[Chunk, ...] = ()


class ParseFailure(msgspec.Struct, frozen=True, tag="failed"):
    """Why there is no document: a `reason` of DocumentError and one sentence for a person. `spoilt` when the
    process should not be used again."""

    reason: str
    message: str
    spoilt: bool = False


class CutReply(msgspec.Struct, frozen=True, tag="cut"):
    """For each text of a CutRequest, in order, the cleaned document with its chunks, or why there is none."""

    replies: tuple[ParseReply | ParseFailure, ...]


class ParseUnavailable(msgspec.Struct, frozen=True, tag="unavailable"):
    """The document is not to blame: a part is not installed or a tokenizer cannot be loaded."""

    message: str


class ChildReady(msgspec.Struct, frozen=True, tag="ready"):
    """The first frame of a child: its limits stand and it waits for a request."""


Request = ParseRequest | CutRequest
Reply = ParseReply | CutReply | ParseFailure | ParseUnavailable | ChildReady


def framed(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body
