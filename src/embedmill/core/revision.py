"""Which chunks of a changed document are still the same. Pure; owns the matching by text, in order."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

import msgspec


class Revision(msgspec.Struct, frozen=True):
    """`kept` pairs the index of a new chunk with that of the old one of the same text; `added` are indexes of
    new chunks, `removed` of old ones. All ascending."""

    kept: list[tuple[int, int]]
    added: list[int]
    removed: list[int]


def revise(old: Sequence[bytes], new: Sequence[bytes]) -> Revision:
    """Match new chunks with old ones by the hash of their text; of equal ones, the first with the first."""
    free: dict[bytes, deque[int]] = defaultdict(deque)
    for index, content_hash in enumerate(old):
        free[content_hash].append(index)
    kept: list[tuple[int, int]] = []
    added: list[int] = []
    for index, content_hash in enumerate(new):
        candidates = free.get(content_hash)
        if candidates:
            kept.append((index, candidates.popleft()))
        else:
            added.append(index)
    removed = sorted(index for rest in free.values() for index in rest)
    return Revision(kept, added, removed)
