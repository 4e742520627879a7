"""Search by words where some stand in every passage: those that tell passages apart find them, and the page is as full
as without that."""

from __future__ import annotations

from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.search.searcher import Mode, Searcher
from tests.support.work import add_document

CHUNKS = 700


def passage(number: int) -> str:
    rare = {0: "harpoon", 1: "compass"}.get(number % 50, f"lantern{number}")
    return f"The keeper of lamp {number} and his {rare}."


@pytest.fixture
async def lamps(app: App, pipeline: Pipeline) -> Searcher:
    await add_document(app, pipeline, "/lamps.txt", [passage(n) for n in range(CHUNKS)], uuid4())
    return Searcher(app.database, pipeline, None)


async def told(app: App, pipeline: Pipeline, words: str) -> str | None:
    row = await app.database.fetch_one(
        "SELECT embedmill.telling_words(g.tenant_id, g.pipeline_id, g.chunk_set, "
        "       websearch_to_tsquery('simple', %(words)s))::text"
        "  FROM embedmill.generations g WHERE g.id = %(generation_id)s",
        {"words": words, "generation_id": pipeline.generation.id},
    )
    assert row is not None
    return None if row[0] is None else str(row[0])


async def test_passages_with_a_word_that_tells_come_before_all_others(lamps: Searcher) -> None:
    hits = await lamps.search("the keeper and his harpoon and compass", mode=Mode.TEXT, limit=28)
    assert sum("harpoon" in hit.text for hit in hits) == sum("compass" in hit.text for hit in hits) == 14


async def test_where_they_do_not_fill_the_page_the_others_follow(lamps: Searcher) -> None:
    hits = await lamps.search("the keeper and his harpoon and compass", mode=Mode.TEXT, limit=100)
    assert len(hits) == len({hit.chunk_id for hit in hits}) == 100
    assert {"harpoon" in hit.text or "compass" in hit.text for hit in hits[:28]} == {True}


@pytest.mark.parametrize(
    ("words", "which"),
    [
        ("the keeper and his harpoon", "'harpoon'"),
        ("harpoon keeper compass", "'harpoon' | 'compass'"),
        ('"the keeper" harpoon', "'harpoon'"),
        ('keeper "his harpoon"', "'his' <-> 'harpoon'"),
        ("harpoon or keeper", "'harpoon'"),
        ("the keeper", None),  # all are common: there is nothing else to go by
        ("harpoon compass", None),  # none is
        ("harpoon", None),
        ("keeper -harpoon", None),
        ("", None),
    ],
)
async def test_words_of_one_passage_in_twenty_do_not_tell(
    lamps: Searcher, app: App, pipeline: Pipeline, words: str, which: str | None
) -> None:
    assert await told(app, pipeline, words) == which


async def test_who_has_few_passages_has_them_all_ranked(app: App, pipeline: Pipeline) -> None:
    await add_document(app, pipeline, "/lamps.txt", [passage(n) for n in range(100)], uuid4())
    assert await told(app, pipeline, "the keeper and his harpoon") is None
