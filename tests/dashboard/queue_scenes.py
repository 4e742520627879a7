"""What stands in a queue for tests of its pages: jobs of every state, dead letters of two reasons. Must not assert."""

from __future__ import annotations

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.support.work import add_document


async def fail_documents(app: App, pipeline: Pipeline, *names: str) -> None:
    """Documents of two chunks whose jobs failed for good: nobody answered."""
    for name in names:
        await add_document(app, pipeline, name, [f"{name} one", f"{name} two"])
    await app.database.fetch(
        "SELECT embedmill.bury_items(array_agg(id ORDER BY id), 'provider_unavailable', %s) "
        "  FROM embedmill.embedding_queue WHERE source_id = ANY (%s)",
        ("the provider answered 503 <busy>", list(names)),
    )


async def refuse_chunk(app: App, pipeline: Pipeline, name: str) -> None:
    """A document whose first chunk the provider refused for good, the rest of which waits."""
    await add_document(app, pipeline, name, [f"{name} secret words", f"{name} two"])
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


async def item_of(app: App, source_id: str) -> int:
    """The newest item of a source, live or ended."""
    ((item_id,),) = await app.database.fetch(
        "SELECT max(id) FROM embedmill.embedding_jobs WHERE source_id = %s", (source_id,)
    )
    return int(item_id)


async def letter_of(app: App, reason: str) -> int:
    ((letter_id,),) = await app.database.fetch(
        "SELECT max(id) FROM embedmill.dead_letters WHERE reason = %s", (reason,)
    )
    return int(letter_id)


async def other_tenant(app: App) -> int:
    ((tenant_id,),) = await app.database.fetch(
        "INSERT INTO embedmill.tenants (slug) VALUES ('acme') RETURNING id"
    )
    return int(tenant_id)
