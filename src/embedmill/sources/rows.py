"""What a row of a source is when it has been read, and what every kind of source can be asked for. Owns the values and
the protocol only: table_rows.py and shard_rows.py read.

A row's key as text is what it is known by: of one column its text, of several a JSON array of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from embedmill.database.pool import Connection
from embedmill.errors import DocumentError

# What one load brings at most, in bytes of text: rows beyond it are left for the next one.
LOAD_BYTES = 16 * 2**20
# Of a larger row the text is not even fetched.
MAX_ROW_BYTES = 64 * 2**20


class Row(msgspec.Struct, frozen=True):
    """The present state of a row: its text, or why there is none (`refusal`). `version` is another for each state.
    `is_wanted`: it satisfies the source's condition."""

    key: str
    version: str
    content: str
    metadata: str
    """JSON."""
    is_wanted: bool = True
    refusal: DocumentError | None = None


class Loaded(msgspec.Struct, frozen=True):
    """Those of the wanted rows that exist, in no order; `left` are keys for which there was no room any more."""

    rows: list[Row]
    left: list[str]


class WalkedKey(msgspec.Struct, frozen=True):
    """A row that a walk has come to: its key, and the values of its key columns as texts."""

    key: str
    columns: tuple[str, ...]


class Rows(Protocol):
    """The rows of one source."""

    async def load(self, keys: Sequence[str]) -> Loaded:
        """The rows of these keys: texts of at most LOAD_BYTES, but at least one row."""
        ...

    async def wanted(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys whose rows exist and satisfy the condition, or may do so."""
        ...

    async def versions(self, connection: Connection, keys: Sequence[str]) -> dict[str, str]:
        """The present versions of those that exist, as this transaction sees them."""
        ...

    async def walk(self, after: Sequence[str] | None, limit: int) -> list[WalkedKey]:
        """The next keys in order; None begins at the first."""
        ...


def refused_row(key: str, reason: str, message: str, *, version: str = "", metadata: str = "{}") -> Row:
    """A row that has no text, and why."""
    return Row(key, version, "", metadata, refusal=DocumentError(reason, message))
