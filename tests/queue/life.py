"""What an item's life should be, in plain Python, beside the database: the model of test_life_of_items.py.
Owns the prediction; never asks the database."""

from __future__ import annotations

from dataclasses import dataclass, field

from embedmill.core.jobs import ItemStatus

PRIORITIES = ["high", "medium", "low"]
FINAL = {ItemStatus.COMPLETED, ItemStatus.FAILED, ItemStatus.CANCELLED}
WAITING = {ItemStatus.PENDING, ItemStatus.RATE_LIMITED}
CRASHES_ALLOWED = 10


@dataclass
class ModelItem:
    """One item. `due`: it could be claimed now; `token` and `worker` are those of its current lease."""

    id: int
    source: int
    part: int
    operation: str
    priority: str
    max_retries: int
    status: ItemStatus = ItemStatus.PENDING
    retries: int = 0
    crashes: int = 0
    token: int | None = None
    worker: int | None = None
    due: bool = True

    @property
    def live(self) -> bool:
        return self.status not in FINAL

    def leave(self, status: ItemStatus) -> None:
        """Leave the hands of whoever held it."""
        self.status, self.token, self.worker = status, None, None

    def fail(self) -> None:
        self.retries += 1
        self.leave(ItemStatus.FAILED if self.retries > self.max_retries else ItemStatus.PENDING)
        self.due = False

    def crash(self) -> None:
        self.crashes += 1
        self.leave(ItemStatus.FAILED if self.crashes > CRASHES_ALLOWED else ItemStatus.PENDING)


@dataclass
class Model:
    """All items that ever were, and of each source the parts that still lack a vector (None: no document)."""

    sources: list[set[int] | None]
    items: dict[int, ModelItem] = field(default_factory=dict)
    paused: bool = False
    enabled: bool = True
    cap: int | None = None

    def live(self, source: int, operation: str | None = None) -> list[ModelItem]:
        return [
            item
            for item in self.items.values()
            if item.live and item.source == source and operation in (None, item.operation)
        ]

    def held_by(self, worker: int) -> list[ModelItem]:
        return [item for item in self.items.values() if item.worker == worker]

    def claimable(self, most: int) -> int:
        """How many a claim of `most` takes."""
        if self.paused or not self.enabled:
            return 0
        ready = sum(item.status in WAITING and item.due for item in self.items.values())
        working = sum(item.status is ItemStatus.PROCESSING for item in self.items.values())
        return min(most, ready, most if self.cap is None else max(self.cap - working, 0))

    def enqueue(
        self, source: int, ids: list[int], priority: str, max_retries: int, *, newer: bool = False
    ) -> None:
        """What enqueueing (again) does; `ids` are the items that the database named, in order of part."""
        for deletion in self.live(source, "DELETE"):
            deletion.leave(ItemStatus.CANCELLED)
        lacking = self.sources[source]
        assert lacking is not None
        by_part = {item.part: item for item in self.live(source)}
        assert len(ids) == len(lacking), "one item for each part that lacks something"
        known = {item.id: part for part, item in by_part.items()}
        for item_id in ids:
            if item_id in known:
                self._merge(by_part[known[item_id]], priority, newer=newer)
        new = [item_id for item_id in ids if item_id not in known]
        parts = sorted(lacking - by_part.keys())
        assert len(new) == len(parts), "what waits already merges and is not enqueued twice"
        for item_id, part in zip(sorted(new), parts, strict=True):
            assert item_id not in self.items
            self.items[item_id] = ModelItem(item_id, source, part, "UPDATE", priority, max_retries)

    def enqueue_deletion(self, source: int, item_id: int, priority: str, max_retries: int) -> None:
        standing = self.live(source, "DELETE")
        if standing:
            assert [item.id for item in standing] == [item_id]
            self._promote(standing[0], priority)
            return
        for item in self.live(source):
            item.leave(ItemStatus.CANCELLED)
        assert item_id not in self.items
        self.items[item_id] = ModelItem(item_id, source, 0, "DELETE", priority, max_retries)

    def _merge(self, item: ModelItem, priority: str, *, newer: bool) -> None:
        self._promote(item, priority)
        if item.status is ItemStatus.PENDING:
            item.due = True
        if newer and item.status is ItemStatus.PROCESSING:
            item.leave(ItemStatus.PENDING)

    @staticmethod
    def _promote(item: ModelItem, priority: str) -> None:
        item.priority = min(item.priority, priority, key=PRIORITIES.index)
