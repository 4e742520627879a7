"""What goes over the wire: camelCase JSON, and cursors that tell nothing. Owns the base of all models and the coding of
cursors; must not know what they carry."""

from __future__ import annotations

import base64
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

T = TypeVar("T")


class Wire(BaseModel):
    """A message: snake_case here, camelCase outside. What is not known is refused, so that a slip is told."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        from_attributes=True,
        extra="forbid",
    )


_MOST_LEVELS = 100


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    """JSON that can be parsed is more than a database can hold: half a character, NUL, an abyss of brackets."""
    try:
        encoded = msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError("it holds a text or a number that cannot be stored, or is too deep") from error
    if b"\\u0000" in encoded:
        raise ValueError("it holds a NUL character, which cannot be stored")
    level: list[Any] = [value]
    for _ in range(_MOST_LEVELS):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return value
    raise ValueError(f"it has more than {_MOST_LEVELS} levels")


Metadata = Annotated[dict[str, Any], AfterValidator(_storable)]
"""An object of JSON that a user attaches to what is his."""


class InvalidCursorError(ValueError):
    """It was not made by us, or not for this list."""


def encode_cursor(position: object) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode()


def decode_cursor(cursor: str, kind: type[T]) -> T:
    """Raises InvalidCursorError."""
    try:
        raw = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, msgspec.MsgspecError) as error:
        raise InvalidCursorError(
            "the cursor is not one of this list: leave it out to begin at the top"
        ) from error
