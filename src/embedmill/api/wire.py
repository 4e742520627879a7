"""What goes over the wire: camelCase JSON, and cursors that tell nothing. Owns the base of all models and the coding of
cursors; must not know what they carry."""

from __future__ import annotations

import base64
from typing import TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict
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
