"""Reads JSON and JSON Lines as lines of `path.to.key: value`, one record a paragraph. Numbers stay as they
are written. What is not valid JSON (comments, trailing commas) is still text and is read as such."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain

from embedmill.adapters.parsers import media_types as types
from embedmill.adapters.parsers.plain import read_text
from embedmill.adapters.parsers.records import render
from embedmill.adapters.parsers.text import document
from embedmill.core.documents import ParsedDocument
from embedmill.errors import DocumentError

MAX_DEPTH = 200
# Python objects need ten times the room of their JSON: what is larger is read as the text that it is.
_MAX_DECODED_CHARS = 40_000_000


class _Pairs(list[tuple[str, object]]):
    """A JSON object as its pairs, in order, repeated keys included."""


class JsonParser:
    def __init__(self, max_text_chars: int) -> None:
        self._max_text_chars = max_text_chars

    def parse(self, path: str, media_type: str) -> ParsedDocument:
        text, _ = read_text(path, self._max_text_chars)
        try:
            value = None if media_type == types.JSONL else _decode_document(text)
            records = _line_records(text) if media_type == types.JSONL else _records(value)
            rendered, places = render(records, self._max_text_chars)
        except json.JSONDecodeError as error:
            note = f"not valid JSON (line {error.lineno}), read as plain text"
            return document(text.strip("\n"), types.PLAIN, metadata={"note": note})
        except RecursionError as error:
            raise _too_deep() from error
        if isinstance(value, _Pairs):
            places = []  # one object: the paths say where a value stands
        return document(rendered, media_type, places=places, title=_title(value))


def _line_records(text: str) -> Iterator[str]:
    """One record a line, blank lines included in the count. A line that is not JSON stays as it is."""
    broken = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            yield ""
            continue
        try:
            yield "\n".join(_lines(_decode(line), "", 0))
        except json.JSONDecodeError:
            broken += 1
            if number == broken == 3:
                raise
            yield line


def _decode_document(text: str) -> object:
    if len(text) > _MAX_DECODED_CHARS:
        raise json.JSONDecodeError("too large to take apart", text[:1], 0)
    return _decode(text)


def _records(value: object) -> Iterator[str]:
    if isinstance(value, _Pairs):
        return _object_records(value)
    items = value if isinstance(value, list) and any(isinstance(item, list) for item in value) else [value]
    return ("\n".join(_lines(item, "", 0)) for item in items)


def _object_records(pairs: _Pairs) -> Iterator[str]:
    """The plain values of the object first, as one record; then each object in a list of objects as its own,
    under its path, so that `{"items": [...]}` is cut between the items."""
    head: list[str] = []
    rest: list[Iterator[str]] = []
    for key, value in pairs:
        if (
            isinstance(value, list)
            and not isinstance(value, _Pairs)
            and any(isinstance(v, _Pairs) for v in value)
        ):
            rest.append(_under(key, value))
        else:
            head.extend(_lines(value, key, 1))
    return chain(["\n".join(head)], *rest)


def _under(key: str, items: list[object]) -> Iterator[str]:
    for at, item in enumerate(items):
        yield "\n".join(chain([f"{key}[{at}]"], _lines(item, "", 1)))


def _decode(text: str) -> object:
    """The value with numbers, NaN included, as they are spelled: a huge integer is as good as any text."""
    return json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str, parse_constant=str)


def _lines(value: object, path: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, _Pairs):
        for key, item in value:
            yield from _lines(item, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, list):
        if all(_is_short(item) for item in value):
            joined = ", ".join(_spelled(item) for item in value)
            if joined:
                yield f"{path}: {joined}" if path else joined
            return
        for at, item in enumerate(value):
            yield from _lines(item, f"{path}[{at}]", depth + 1)
    elif value is not None and value != "":
        yield f"{path}: {_spelled(value)}" if path else _spelled(value)


def _is_short(item: object) -> bool:
    return not isinstance(item, list) and len(_spelled(item)) <= 80 and "\n" not in _spelled(item)


def _spelled(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _title(value: object) -> str | None:
    """The `title` (or `name`) of a document that is one object."""
    if not isinstance(value, _Pairs):
        return None
    named = {key.lower(): item for key, item in value if isinstance(item, str)}
    return named.get("title") or named.get("name")


def _too_deep() -> DocumentError:
    return DocumentError("corrupt", f"The JSON is nested more than {MAX_DEPTH} levels deep.")
