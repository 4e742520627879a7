"""Work that has ended is done again: by document, since what a document lacks is what has to be done. Owns the
order of that; must not know who chose the items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from embedmill.database.pool import Connection
from embedmill.database.queries import load_queries
from embedmill.queue.acting import Act

_SQL = load_queries("embedmill.queue", "administration.sql")
# Each costs a few milliseconds with its row locked, and its worker may want it.
_DOCUMENTS_IN_A_STEP = 100


NOT_REDONE = ("complete", "gone", "unreadable", "being_deleted", "back")
"""Why nothing came of a document: every vector stands, it is gone, it cannot be read any more, it is to be
deleted, or it came back after a deletion that is not repeated."""


class EndedItem(msgspec.Struct, frozen=True):
    """What of an ended item decides how it is done again; `id` is None for what was embedded without the queue."""

    id: int | None
    document_id: int | None
    operation: str
    batch_id: Any
    priority: str


async def redo_documents(act: Act, tenant_id: int, items: Sequence[EndedItem]) -> None:
    """Enqueue again what the items' documents lack, and failed deletions as such; their dead letters count as
    dealt with. Counted in the act: ended `items` taken up, their `documents`, the new items (`enqueued`), and
    documents of which nothing came, by NOT_REDONE."""
    by_document: dict[int, list[EndedItem]] = {}
    for item in items:
        # An item without a document cannot be done again; -1 is nobody's.
        by_document.setdefault(item.document_id or -1, []).append(item)
    documents = sorted(by_document)
    for start in range(0, len(documents), _DOCUMENTS_IN_A_STEP):
        chosen = [item for d in documents[start : start + _DOCUMENTS_IN_A_STEP] for item in by_document[d]]
        await act.step(partial(_redo, tenant_id=tenant_id, items=chosen))


async def _redo(
    connection: Connection, *, tenant_id: int, items: Sequence[EndedItem]
) -> tuple[None, dict[str, int]]:
    deletions = {item.document_id or -1: item for item in items if item.operation == "DELETE"}
    others = {item.document_id or -1: item for item in items if item.operation != "DELETE"}
    outcomes: list[Any] = []
    if deletions:
        cursor = await connection.execute(
            _SQL["retry_deletions"],
            {
                "tenant_id": tenant_id,
                "item_ids": [item.id for item in deletions.values()],
                "document_ids": list(deletions),
            },
        )
        outcomes += await cursor.fetchall()
    if others:
        cursor = await connection.execute(
            _SQL["retry_documents"],
            {
                "tenant_id": tenant_id,
                "document_ids": list(others),
                "batch_ids": [item.batch_id for item in others.values()],
                "priorities": [item.priority for item in others.values()],
            },
        )
        outcomes += [row for row in await cursor.fetchall() if row[0] not in deletions]
    # Where there is nothing left to do it on, nobody will: a letter about it has no use any more.
    gone = {document_id for document_id, why, _ in outcomes if why in {"gone", "back"}}
    done = {document_id for document_id, why, _ in outcomes if why is None}
    for documents, resolution in ((gone, "discarded"), (done, "retried")):
        item_ids = [item.id for item in items if item.id and (item.document_id or -1) in documents]
        await connection.execute(
            _SQL["resolve_item_letters"],
            {
                "tenant_id": tenant_id,
                "item_ids": item_ids,
                "document_ids": list(documents),
                "resolution": resolution,
            },
        )
    counts = Counter(why or ("" if made else "complete") for _, why, made in outcomes)
    return None, {
        "items": len(items),
        "documents": len(outcomes),
        "enqueued": sum(made for _, why, made in outcomes if why is None),
        **{why: counts[why] for why in NOT_REDONE},
    }
