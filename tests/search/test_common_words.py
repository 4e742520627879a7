"""Search by words where some stand in every passage: a word is worth as much as it tells passages apart, and the page
is as full, and as good, as if all that have any of the words were ranked."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ConfigurationError
from embedmill.search.searcher import MOST_QUERY_CHARACTERS, Filter, Mode, Searcher
from tests.support.work import add_document

CHUNKS = 700


def passage(number: int) -> str:
    rare = {0: "harpoon", 1: "compass"}.get(number % 50, f"lantern{number}")
    return f"The keeper of lamp {number} and his {rare}."


@pytest.fixture
async def lamps(app: App, pipeline: Pipeline) -> Searcher:
    await add_document(app, pipeline, "/lamps.txt", [passage(n) for n in range(CHUNKS)], uuid4())
    return Searcher(app.database, pipeline, None)


async def weights(app: App, pipeline: Pipeline, words: Sequence[str]) -> dict[str, float]:
    rows = await app.database.fetch(
        "SELECT w.word::text, w.weight FROM embedmill.generations g, LATERAL embedmill.weighed_words("
        "       g.tenant_id, g.pipeline_id, g.chunk_set, %(words)s::tsquery[]) AS w WHERE g.id = %(generation_id)s",
        {"words": list(words), "generation_id": pipeline.generation.id},
    )
    assert [weight for _, weight in rows] == sorted((weight for _, weight in rows), reverse=True)
    return {word.strip("'"): weight for word, weight in rows}


async def test_passages_with_a_word_that_tells_come_before_all_others(lamps: Searcher) -> None:
    hits = await lamps.search("the keeper and his harpoon and compass", mode=Mode.TEXT, limit=28)
    assert sum("harpoon" in hit.text for hit in hits) == sum("compass" in hit.text for hit in hits) == 14


async def test_where_they_do_not_fill_the_page_the_others_follow(lamps: Searcher) -> None:
    hits = await lamps.search("the keeper and his harpoon and compass", mode=Mode.TEXT, limit=100)
    assert len(hits) == len({hit.chunk_id for hit in hits}) == 100
    assert {"harpoon" in hit.text or "compass" in hit.text for hit in hits[:28]} == {True}


async def test_a_word_weighs_as_much_as_it_is_rare(lamps: Searcher, app: App, pipeline: Pipeline) -> None:
    found = await weights(app, pipeline, ["the", "harpoon", "nowhere", "'his' <-> 'harpoon'", "the"])
    assert math.isclose(sum(found.values()), 1)
    assert found["nowhere"] > found["harpoon"] > 100 * found["the"] > 0
    assert found["his' <-> 'harpoon"] == found["harpoon"]  # a phrase is one word


async def test_without_passages_to_go_by_all_words_weigh_the_same(app: App, pipeline: Pipeline) -> None:
    assert await weights(app, pipeline, ["one", "two"]) == {"one": 0.5, "two": 0.5}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("keeper -harpoon -compass", CHUNKS - CHUNKS // 25),
        ('"his harpoon"', CHUNKS // 50),
        ('"his harpoon" or "his compass"', CHUNKS // 25),
        ("harpoon or keeper", CHUNKS),
        ('keeper "his harpoon"', CHUNKS),  # as a question's words: some of them do
        ("lantern2 lantern3 nowhere", 2),
        ("nowhere", 0),
        ('""', 0),
        ("-", 0),
    ],
)
async def test_a_page_holds_all_that_have_what_was_asked(lamps: Searcher, query: str, found: int) -> None:
    hits = await lamps.search(query, mode=Mode.TEXT, limit=CHUNKS)
    assert len(hits) == len({hit.chunk_id for hit in hits}) == found
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


async def test_words_that_stand_together_come_first_among_equals(app: App, pipeline: Pipeline) -> None:
    passages = [f"red {'word ' * apart}door" for apart in (9, 3, 0, 6)]
    await add_document(app, pipeline, "/doors.txt", passages, uuid4())
    hits = await Searcher(app.database, pipeline, None).search("red door", mode=Mode.TEXT)
    assert [hit.ordinal for hit in hits] == [2, 1, 3, 0]


async def test_looking_up_the_dearest_words_alone_finds_what_looking_up_all_would(
    app: App, pipeline: Pipeline
) -> None:
    """Beside a reading of every passage, with words of every rarity; no filter, one that leaves much, one that leaves
    what is looked at first."""
    chance = random.Random(7)
    words = [f"w{n}" for n in range(40)]
    odd, even = (
        [[word for n, word in enumerate(words) if chance.random() < 0.6 / (n + 1)] for _ in range(600)]
        for _ in range(2)
    )
    for name, passages in (("odd", odd), ("even", even)):
        await add_document(
            app, pipeline, f"/{name}.txt", [" ".join(["lamp", *each]) for each in passages], uuid4()
        )
    searcher = Searcher(app.database, pipeline, None)
    (even_id,) = {
        hit.document_id
        for hit in await searcher.search("lamp", mode=Mode.TEXT, where=Filter(source="/even*"))
    }
    filters = [(Filter(), odd + even), (Filter(source="/odd*"), odd), (Filter(document_id=even_id), even)]
    for _ in range(25):
        asked = chance.sample(words, chance.randint(1, 6))
        worth = await weights(app, pipeline, asked)
        for where, passages in filters:
            worths = [sum(worth[word] for word in asked if word in each) for each in passages]
            expected = [each for each in sorted(worths, reverse=True) if each > 0][:20]
            hits = await searcher.search(" ".join(asked), mode=Mode.TEXT, limit=20, where=where)
            assert [hit.score for hit in hits] == pytest.approx(expected, abs=0.0011)


async def test_a_page_of_text_is_searched_by_its_dearest_words(
    lamps: Searcher, app: App, pipeline: Pipeline
) -> None:
    common = "the keeper of the lamp and his own " * 40
    hits = await lamps.search(f"{common} harpoon compass", mode=Mode.TEXT, limit=28)
    assert {hit.text.split()[-1] for hit in hits} == {"harpoon.", "compass."}
    many = [f"word{number}" for number in range(190)]
    found = await weights(app, pipeline, ["harpoon", *many, "the"])
    assert len(found) == 64
    assert math.isclose(sum(found.values()), 1)


async def test_a_query_of_many_pages_is_refused_and_says_so(lamps: Searcher) -> None:
    longest = "harpoon " * (MOST_QUERY_CHARACTERS // 8)
    assert len(await lamps.search(longest, mode=Mode.TEXT)) == 10
    with pytest.raises(ConfigurationError, match="20,001 characters"):
        await lamps.search(longest + "!", mode=Mode.TEXT)
