"""Packs chunks of many items into full provider calls. Pure; owns what a call may hold and which chunks
travel together, not when it is sent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec


class Target(msgspec.Struct, frozen=True, array_like=True):
    """A place a vector is wanted for: a chunk, and the queue item that asks for it."""

    item_id: int
    chunk_id: int


class Unit(msgspec.Struct):
    """One text to embed, and every chunk that has exactly this text.

    A text that stands in many chunks is sent once; `group` keeps apart what must not share a call (another
    kind of usage in the ledger, or an item that already failed once and is suspected of being poison).
    """

    content_hash: bytes
    text: str
    tokens: int
    group: str
    targets: list[Target]


class CallLimits(msgspec.Struct, frozen=True):
    """What one call may hold, quota and provider taken together."""

    max_inputs: int
    max_tokens: int


class Packer:
    """Holds units until they fill a call. First in, first out within a group; groups in turn of arrival."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._groups: OrderedDict[str, list[Unit]] = OrderedDict()
        self._by_hash: dict[tuple[str, bytes], Unit] = {}
        self.inputs = 0
        self.tokens = 0

    def __len__(self) -> int:
        return self.inputs

    @property
    def is_full(self) -> bool:
        """Whether a whole call's worth waits."""
        return self.inputs >= self._limits.max_inputs or self.tokens >= self._limits.max_tokens

    @property
    def room(self) -> tuple[int, int]:
        """Inputs and tokens that are missing to a full call."""
        return self._limits.max_inputs - self.inputs, self._limits.max_tokens - self.tokens

    def add(self, unit: Unit) -> None:
        """Take a unit; a text that already waits in its group gets the targets instead."""
        waiting = self._by_hash.get((unit.group, unit.content_hash))
        if waiting is not None:
            waiting.targets.extend(unit.targets)
            return
        self._by_hash[unit.group, unit.content_hash] = unit
        self._groups.setdefault(unit.group, []).append(unit)
        self.inputs += 1
        self.tokens += unit.tokens

    def take(self) -> list[Unit]:
        """The next call: as many units of the oldest group as fit, at least one; [] where nothing waits."""
        if not self._groups:
            return []
        group, units = next(iter(self._groups.items()))
        tokens = 0
        count = 0
        for unit in units:
            if count and (count >= self._limits.max_inputs or tokens + unit.tokens > self._limits.max_tokens):
                break
            tokens += unit.tokens
            count += 1
        call, rest = units[:count], units[count:]
        if rest:
            self._groups[group] = rest
        else:
            del self._groups[group]
        self._forget(call)
        return call

    def drop_items(self, item_ids: Iterable[int]) -> None:
        """Forget what waits for these items only; used when they are given back."""
        gone = set(item_ids)
        for group, units in list(self._groups.items()):
            for unit in units:
                unit.targets = [target for target in unit.targets if target.item_id not in gone]
            kept = [unit for unit in units if unit.targets]
            self._forget([unit for unit in units if not unit.targets])
            if kept:
                self._groups[group] = kept
            else:
                del self._groups[group]

    def _forget(self, units: list[Unit]) -> None:
        for unit in units:
            del self._by_hash[unit.group, unit.content_hash]
            self.inputs -= 1
            self.tokens -= unit.tokens
