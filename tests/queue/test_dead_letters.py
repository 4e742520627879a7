"""Dead letters: listed, tried again, let be."""

from __future__ import annotations

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import NotFoundError
from embedmill.queue.administration import read_audit_log
from embedmill.queue.dead_letters import (
    DeadLetter,
    Letters,
    count_letters,
    discard_letters,
    list_letters,
    retry_letters,
)
from embedmill.queue.items import Return, Waiting, return_items
from tests.support import audit
from tests.support.queue_rows import claim
from tests.support.work import add_document

DEAD = Return(Waiting.PENDING, 100, 0, "provider_unavailable", "answered 503")


async def letters(
    app: App, *, resolved_too: bool = False, limit: int = 50, after: int | None = None, **chosen: object
) -> list[DeadLetter]:
    asked = Letters(**chosen)  # type: ignore[arg-type]
    return await list_letters(
        app.database, await app.tenant_id(), asked, resolved_too=resolved_too, limit=limit, after=after
    )


async def refuse_chunk(app: App, pipeline: Pipeline, name: str) -> None:
    """As if the provider had refused the first chunk of a document for good."""
    await app.database.fetch(
        "SELECT embedmill.bury_chunks(%s, ARRAY[q.id], ARRAY[c.id], 'input_rejected', 'content filter') "
        "  FROM embedmill.embedding_queue q JOIN embedmill.knowledge_chunks c ON c.document_id = q.document_id "
        " WHERE q.source_id = %s AND c.ordinal = 0",
        (pipeline.generation.id, name),
    )
    await app.database.fetch(
        "UPDATE embedmill.coverage_counters SET unembeddable = unembeddable + 1 WHERE generation_id = %s",
        (pipeline.generation.id,),
    )


async def two_kinds(app: App, pipeline: Pipeline) -> None:
    """Two items that failed, and a refused chunk of a third document."""
    for name in ("a", "b", "c"):
        await add_document(app, pipeline, name, [f"{name} one", f"{name} two"])
    await refuse_chunk(app, pipeline, "c")
    held = await claim(app.database, pipeline.generation.id, items=2)
    await return_items(app.database, held, DEAD)


async def test_letters_are_listed_newest_first_with_what_they_are_about(app: App, pipeline: Pipeline) -> None:
    await two_kinds(app, pipeline)
    found = await letters(app)
    assert [(one.reason, one.document, one.ordinal) for one in found] == [
        ("provider_unavailable", "b", None),
        ("provider_unavailable", "a", None),
        ("input_rejected", "c", 0),
    ]
    assert [one.document for one in await letters(app, reason="input_rejected")] == ["c"]
    assert await letters(app, pipeline="default") == []
    assert await letters(app, limit=2, after=found[0].id) == found[1:]
    with pytest.raises(NotFoundError):
        await letters(app, pipeline="nobody")


async def test_a_refused_chunk_is_sent_once_more(app: App, pipeline: Pipeline) -> None:
    await two_kinds(app, pipeline)
    tenant, chosen = await app.tenant_id(), Letters(reason="input_rejected")
    assert (await count_letters(app.database, tenant, chosen)).counts == {"input_rejected": 1}
    done = await retry_letters(app.database, tenant, chosen, actor="ann")
    assert (done["items"], done["documents"]) == (1, 1)
    (row,) = await app.database.fetch(
        "SELECT count(*) FROM embedmill.knowledge_chunks WHERE error_reason IS NOT NULL"
    )
    assert row == (0,)
    assert [one.reason for one in await letters(app)] == ["provider_unavailable"] * 2
    assert {one.resolution for one in await letters(app, resolved_too=True)} == {None, "retried"}


async def test_letters_of_failed_items_become_items_again(app: App, pipeline: Pipeline) -> None:
    await two_kinds(app, pipeline)
    tenant = await app.tenant_id()
    done = await retry_letters(app.database, tenant, Letters(reason="provider_unavailable"), actor="ann")
    assert (done["items"], done["documents"], done["enqueued"]) == (2, 2, 2)
    assert len(await audit.live_items(app)) == 3
    again = await retry_letters(app.database, tenant, Letters(reason="provider_unavailable"), actor="ann")
    assert not again
    (record,) = await read_audit_log(app.database, tenant, limit=5)
    assert record.action == "dead_letters.retry"
    assert record.new_value["done"]["enqueued"] == 2


async def test_discarding_changes_nothing_but_the_letters(app: App, pipeline: Pipeline) -> None:
    await two_kinds(app, pipeline)
    before = await audit.live_items(app)
    tenant = await app.tenant_id()
    chosen = Letters(ids=tuple(one.id for one in await letters(app))[:2])
    assert dict(await discard_letters(app.database, tenant, chosen, actor="ann")) == {"letters": 2}
    assert [one.reason for one in await letters(app)] == ["input_rejected"]
    assert await audit.live_items(app) == before
    assert not await discard_letters(app.database, tenant, chosen, actor="ann"), "once is enough"


async def test_a_letter_about_a_document_that_is_gone_does_not_stay_open(
    app: App, pipeline: Pipeline
) -> None:
    await two_kinds(app, pipeline)
    await app.database.fetch("DELETE FROM embedmill.knowledge_documents WHERE source_id = 'a'")
    done = await retry_letters(app.database, await app.tenant_id(), Letters(), actor="ann")
    assert (done["gone"], done["documents"]) == (1, 3)
    assert await letters(app) == []
    gone = next(one for one in await letters(app, resolved_too=True) if one.document is None)
    assert gone.resolution == "discarded"


async def test_letters_of_what_was_embedded_without_the_queue_are_dealt_with_too(
    app: App, pipeline: Pipeline
) -> None:
    await two_kinds(app, pipeline)
    await app.database.fetch("UPDATE embedmill.dead_letters SET item_id = NULL")
    await app.database.fetch("DELETE FROM embedmill.knowledge_documents WHERE source_id = 'a'")
    assert {one.item_id for one in await letters(app)} == {None}
    done = await retry_letters(app.database, await app.tenant_id(), Letters(), actor="ann")
    assert (done["gone"], done["documents"]) == (1, 3)
    assert await letters(app) == []


async def test_a_document_that_is_enqueued_again_needs_nobody_to_look_at_its_failure(
    app: App, pipeline: Pipeline
) -> None:
    """By whatever way: its file is taken in again, its row changes, the audit mends it. What is refused stays open."""
    await two_kinds(app, pipeline)
    await app.database.fetch(
        "SELECT embedmill.enqueue_documents(ARRAY(SELECT id FROM embedmill.knowledge_documents "
        "WHERE source_id IN ('a', 'c') ORDER BY id), NULL, 'medium', 'internal_ingestion')"
    )
    assert {(letter.document, letter.ordinal is None) for letter in await letters(app)} == {
        ("b", True),
        ("c", False),
    }
    resolved = await app.database.fetch(
        "SELECT resolution FROM embedmill.dead_letters WHERE resolved_at IS NOT NULL"
    )
    assert resolved == [("retried",)]
