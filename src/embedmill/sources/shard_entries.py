"""What somebody says of a shard: one state or its deletion, checked. Owns what is a mistake of the sender (nothing can
be kept of it) and what is content that cannot be stored (kept, as the reason why not); must not know where it comes
from or goes to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from embedmill.errors import ConfigurationError

LONGEST_TYPE_BYTES = 255
LONGEST_ID_BYTES = 2000
LARGEST_VERSION = 9_000_000_000_000_000_000
OPERATIONS = ("upsert", "delete")
_KEYS = {"shardTypeId", "shardId", "operation", "content", "fields", "metadata", "version"}
# What documents that are no records have as their source's type.
_TAKEN_TYPES = {"upload", "url", "file"}
_MOST_LEVELS = 100
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class ShardError(ConfigurationError):
    """The sender must send something else; nothing was kept."""


class ShardEntry(msgspec.Struct, frozen=True):
    """One state of a shard, or that it is deleted. Of `content` and `fields` (JSON) one is there, or none and a
    `reject_reason`, a sentence. `version` None: one more than what stands."""

    shard_type_id: str
    shard_id: str
    is_deletion: bool = False
    version: int | None = None
    content: str | None = None
    fields: str | None = None
    metadata: str = "{}"
    reject_reason: str | None = None


def read_entry(said: object, *, most_bytes: int, **defaults: str) -> ShardEntry:
    """An entry from decoded JSON. `defaults` are what is known without its being said (shardTypeId, shardId);
    `most_bytes`: of content, or of fields as JSON. Raises ShardError, with what to do."""
    if not isinstance(said, dict):
        raise ShardError("a JSON object is expected")
    entry: dict[str, Any] = {**defaults, **said}
    for name, value in defaults.items():
        if entry[name] != value:
            raise ShardError(f"{name}: it is {value!r} already, leave it out")
    if unknown := sorted(set(entry) - _KEYS):
        raise ShardError(
            f"{_shown(unknown[0])}: there is no such field; there are {', '.join(sorted(_KEYS))}"
        )
    type_id = read_type(entry.get("shardTypeId"))
    shard_id = _read_id(entry.get("shardId"))
    version = read_version(entry.get("version"))
    operation = entry.get("operation") or "upsert"
    if operation not in OPERATIONS:
        raise ShardError("operation: upsert or delete")
    content, fields, metadata = (entry.get(name) for name in ("content", "fields", "metadata"))
    if operation == "delete":
        if content is not None or fields is not None:
            raise ShardError("a delete has neither content nor fields")
        return ShardEntry(type_id, shard_id, is_deletion=True, version=version)
    if (content is None) == (fields is None):
        raise ShardError("say either content (a text) or fields (an object), not both")
    if content is not None and not isinstance(content, str):
        raise ShardError("content: a text is expected; an object goes into fields")
    if fields is not None and not isinstance(fields, dict):
        raise ShardError("fields: an object is expected; a text goes into content")
    if metadata is not None and not isinstance(metadata, dict):
        raise ShardError("metadata: an object is expected")
    return _kept(ShardEntry(type_id, shard_id, version=version), content, fields, metadata or {}, most_bytes)


def _kept(
    entry: ShardEntry,
    content: str | None,
    fields: Mapping[str, Any] | None,
    metadata: Mapping[str, Any],
    most_bytes: int,
) -> ShardEntry:
    """With what is to be stored; what cannot be is replaced by the reason."""
    try:
        return msgspec.structs.replace(
            entry,
            content=None if content is None else _storable_text(content, "content", most_bytes),
            fields=None if fields is None else _storable_object(fields, "fields", most_bytes),
            metadata=_storable_object(metadata, "metadata", most_bytes),
        )
    except _NotStorableError as reason:
        return msgspec.structs.replace(entry, reject_reason=str(reason))


class _NotStorableError(Exception):
    """Why content cannot be kept; the message is for its sender."""


def _storable_text(text: str, name: str, most_bytes: int) -> str:
    if "\0" in text:
        raise _NotStorableError(f"{name}: it holds a NUL character, which cannot be stored: send it without")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise _NotStorableError(
            f"{name}: character {error.start + 1} is half of a surrogate pair, which is no character: "
            "repair the text where it was cut"
        ) from error
    if size > most_bytes:
        raise _NotStorableError(
            f"{name}: {size:,} bytes are more than the {most_bytes:,} that a shard may have"
        )
    return text


def _storable_object(value: Mapping[str, Any], name: str, most_bytes: int) -> str:
    if _levels(value) > _MOST_LEVELS:
        raise _NotStorableError(f"{name}: it has more than {_MOST_LEVELS} levels")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise _NotStorableError(f"{name}: it holds a number that cannot be stored") from error
    if _NUL.search(text):
        raise _NotStorableError(f"{name}: it holds a NUL character, which cannot be stored: send it without")
    return _storable_text(text, name, most_bytes)


def _levels(value: object) -> int:
    """How deep it is, up to one more than it may be."""
    level: list[Any] = [value]
    for depth in range(_MOST_LEVELS + 1):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return depth + 1
    return _MOST_LEVELS + 1


def read_type(value: object) -> str:
    """The name of a feed. Raises ShardError."""
    text = _read_name(value, "shardTypeId", LONGEST_TYPE_BYTES)
    if text in _TAKEN_TYPES:
        raise ShardError(f"shardTypeId: {text} means documents that are no shards; choose another name")
    if "/" in text or text in {".", ".."}:
        raise ShardError("shardTypeId: it stands in addresses and has no / in it; choose another name")
    return text


def _read_id(value: object) -> str:
    text = _read_name(value, "shardId", LONGEST_ID_BYTES)
    if text in {".", ".."}:
        raise ShardError("shardId: . and .. mean something else in an address; choose another id")
    return text


def _read_name(value: object, name: str, longest: int) -> str:
    if not isinstance(value, str) or not value:
        raise ShardError(f"{name}: a text of 1 to {longest:,} bytes is expected")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise ShardError(f"{name}: it holds half of a surrogate pair, which is no character") from error
    if size > longest:
        raise ShardError(f"{name}: {size:,} bytes are more than {longest:,}; name it by a hash, for instance")
    if "\0" in value:
        raise ShardError(f"{name}: it holds a NUL character, which cannot be stored")
    return value


def read_version(value: object) -> int | None:
    """Raises ShardError."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_VERSION:
        raise ShardError(f"version: a whole number from 0 to {LARGEST_VERSION:,} is expected")
    return value


def _shown(name: str) -> str:
    return ascii(name)[1:-1][:100]
