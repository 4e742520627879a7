"""The way from a changed record to its vectors: read, cut, saved, embedded; what is unchanged is not paid for again."""

from __future__ import annotations

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.support.audit import assert_books_balance
from tests.support.prose import paragraphs
from tests.support.provider.handle import RunningProvider
from tests.support.records import add_feed, push_shards, work_until_quiet
from tests.support.work import stored_vectors


async def texts_of(app: App) -> dict[str, list[str]]:
    """The embedded chunks of each document, by its source_id."""
    rows = await app.database.fetch(
        "SELECT d.source_id, array_agg(c.text ORDER BY c.ordinal) FROM embedmill.knowledge_documents d "
        "  JOIN embedmill.knowledge_chunks c ON c.document_id = d.id GROUP BY 1"
    )
    return dict(rows)


async def test_what_is_pushed_is_embedded_and_what_changes_is_embedded_anew(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    feed = await add_feed(app, pipeline, "articles")
    await push_shards(app, feed, {"a": "Wheat is ground between stones.", "b": "Rye needs another gap."})
    await work_until_quiet(app)
    assert await texts_of(app) == {"a": ["Wheat is ground between stones."], "b": ["Rye needs another gap."]}
    assert {text for _, text, _ in await stored_vectors(app, pipeline)} == {
        "Wheat is ground between stones.",
        "Rye needs another gap.",
    }
    provider.forget_counts()

    await push_shards(
        app, feed, {"a": "Wheat is ground between stones.", "b": "Barley now.", "c": "Oats too."}
    )
    await work_until_quiet(app)
    assert provider.stats()["inputs_paid"] == 2
    await push_shards(app, feed, {"a": None, "c": None})
    await work_until_quiet(app)
    assert await texts_of(app) == {"b": ["Barley now."]}
    assert await app.database.fetch("SELECT documents FROM embedmill.record_sources") == [(1,)]
    await assert_books_balance(app)


async def test_fields_are_put_into_the_template(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    feed = await add_feed(app, pipeline, "products", "${name}\n\n$price \\$$")
    await push_shards(app, feed, {"1": {"name": "Mill", "price": 12.5, "other": True}, "2": {"name": None}})
    await work_until_quiet(app)
    assert await texts_of(app) == {"1": ["Mill\n\n12.5 \\$"]}
    rows = await app.database.fetch("SELECT reason FROM embedmill.dead_letters WHERE resolved_at IS NULL")
    assert rows == [("empty",)]


async def test_an_edited_paragraph_of_a_long_record_pays_for_at_most_three_chunks(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    feed = await add_feed(app, pipeline, "books")
    parts = paragraphs(700, seed=3).split("\n\n")
    await push_shards(app, feed, {"long": "\n\n".join(parts)})
    await work_until_quiet(app)
    chunks = (await texts_of(app))["long"]
    assert len(chunks) >= 200
    provider.forget_counts()
    parts[350] = parts[350].replace("mill", "factory") + " And one more sentence."
    await push_shards(app, feed, {"long": "\n\n".join(parts)})
    await work_until_quiet(app)
    assert 1 <= provider.stats()["inputs_paid"] <= 3
    await assert_books_balance(app)
