"""What holds for every chunking of every text: offsets, budget, coverage, order, overlap, determinism."""

from __future__ import annotations

import itertools
import subprocess
import sys
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedmill.core.chunking import place_of
from embedmill.core.chunking_scale import remembering_words
from embedmill.core.documents import ChunkPlan, Place
from embedmill.errors import ConfigurationError
from tests.core.chunking_counters import (
    COUNTERS,
    CountTokens,
    chunks_of,
    count_as_the_model,
    count_unevenly,
    count_words,
    plans,
    texts,
)

every_counter = pytest.mark.parametrize("count_tokens", COUNTERS)


@every_counter
@settings(max_examples=60, deadline=None)
@given(text=texts, plan=plans, is_markdown=st.booleans())
def test_every_chunk_is_a_slice_within_the_budget_and_nothing_is_lost(
    count_tokens: CountTokens, text: str, plan: ChunkPlan, is_markdown: bool
) -> None:
    chunks = chunks_of(text, plan, count_tokens, is_markdown=is_markdown)

    covered = 0
    for ordinal, chunk in enumerate(chunks):
        assert chunk.ordinal == ordinal
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text
        assert chunk.text == chunk.text.strip()
        assert chunk.tokens == count_tokens([chunk.text])[0] <= plan.max_tokens
        assert not text[covered : chunk.start].strip()
        assert chunk.end > covered
        covered = chunk.end
    assert not text[covered:].strip()
    assert [chunk.start for chunk in chunks] == sorted({chunk.start for chunk in chunks})


@every_counter
@settings(max_examples=60, deadline=None)
@given(text=texts, plan=plans)
def test_an_overlap_stays_within_the_plan_and_starts_at_a_word(
    count_tokens: CountTokens, text: str, plan: ChunkPlan
) -> None:
    special = count_tokens([""])[0]
    chunks = chunks_of(text, plan, count_tokens)

    for before, chunk in itertools.pairwise(chunks):
        if chunk.start < before.end:
            assert count_tokens([text[chunk.start : before.end]])[0] - special <= plan.overlap_tokens
            assert (
                text[chunk.start - 1].isspace() or text[chunk.start - 1] in "、，；：。！？｡」』”’）】》\"')"
            )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("```python\n``` the.\n\n0 \n\nthe.\n\n0 0 0 0\n\n", 8),  # a line of code that ends in a space
        ("```python\n```\n\n" + "\u200b" * 50 + "\n\n##\n\n", 53),  # a tiny section that has to be cut off
    ],
)
def test_what_the_properties_once_found_stays_mended(text: str, size: int) -> None:
    for count_tokens in COUNTERS:
        chunks = chunks_of(text, ChunkPlan(size, 0), count_tokens)
        assert [chunk.text for chunk in chunks] == [chunk.text.strip() for chunk in chunks]


def test_consecutive_chunks_of_prose_overlap() -> None:
    text = " ".join(f"Sentence {number} tells of pumps and of pressure." for number in range(200))

    chunks = chunks_of(text, ChunkPlan(64, 16), count_as_the_model)

    assert len(chunks) > 20
    assert all(chunk.start < before.end for before, chunk in itertools.pairwise(chunks))
    assert all(chunk.text.startswith("Sentence") for chunk in chunks)


def test_a_section_repeats_nothing_of_the_section_before() -> None:
    section = "Pumps stop when the pressure falls. " * 12
    text = "\n\n".join(f"# Part {number}\n\n{section}" for number in range(6))

    chunks = chunks_of(text, ChunkPlan(64, 16), count_as_the_model)

    for number in range(6):
        opening = next(chunk for chunk in chunks if f"# Part {number}" in chunk.text)
        assert opening.text.startswith(f"# Part {number}")


def test_an_overlap_never_repeats_the_whole_chunk_before() -> None:
    # The whitespace counts only once the chunk is put together: it is cut in two after the overlaps were chosen.
    text = "the." + " " * 70 + "the. the the."

    chunks = chunks_of(text, ChunkPlan(11, 2), count_unevenly, is_markdown=False)

    assert [(chunk.start, chunk.end) for chunk in chunks] == [(0, 4), (74, 78), (79, 87)]


@settings(max_examples=40, deadline=None)
@given(text=texts, plan=plans)
def test_the_same_text_gives_the_same_chunks(text: str, plan: ChunkPlan) -> None:
    assert chunks_of(text, plan, count_unevenly) == chunks_of(text, plan, count_unevenly)


def test_another_process_with_another_hash_seed_gives_the_same_chunks() -> None:
    script = (
        "from tests.core.chunking_counters import *; from embedmill.core.documents import ChunkPlan\n"
        "text = ' '.join(f'Word {n} of many, said {n % 7} times.' for n in range(3000))\n"
        "print([c.start for c in chunks_of(text, ChunkPlan(50, 10), count_words)])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(answers) == 1
    assert len(answers.pop()) > 500


@pytest.mark.parametrize("text", ["", " \n\t \u3000\n", "\n" * 100_000])
def test_a_text_of_whitespace_has_no_chunks(text: str) -> None:
    assert chunks_of(text, ChunkPlan(32, 4), count_words) == ()


@every_counter
def test_eight_tokens_are_enough(count_tokens: CountTokens) -> None:
    text = "## A heading of some length\n\nThe pump stops. 水泵停止。Extraordinarily long-winded!"

    chunks = chunks_of(text, ChunkPlan(8, 2), count_tokens)

    assert all(chunk.tokens <= 8 for chunk in chunks)
    assert "".join("".join(chunk.text.split()) for chunk in chunks).count("pump") >= 1


def test_mean_fill_of_long_prose_is_at_least_65_percent() -> None:
    paragraphs = [
        " ".join(f"Sentence {n * m % 97} of paragraph {n} says the pump stopped." for m in range(3 + n % 5))
        for n in range(300)
    ]

    chunks = chunks_of("\n\n".join(paragraphs), ChunkPlan(256, 32), count_as_the_model)

    assert sum(chunk.tokens for chunk in chunks) / len(chunks) >= 0.65 * 256


def test_a_word_longer_than_a_chunk_is_cut_between_whole_characters() -> None:
    text = "e\u0301\u0323" * 400

    chunks = chunks_of(text, ChunkPlan(32, 0), count_unevenly)

    assert len(chunks) > 10
    assert all(not unicodedata.combining(chunk.text[0]) for chunk in chunks)


@pytest.mark.parametrize("text", ["a" * 200_000, "\u200b" * 200_000, "x" + " " * 200_000 + "y"])
def test_a_chunk_never_holds_more_characters_than_its_budget_could_mean(text: str) -> None:
    # The model takes 200,000 letters without a space for one unknown token.
    chunks = chunks_of(text, ChunkPlan(64, 8), count_as_the_model)

    assert max(len(chunk.text) for chunk in chunks) <= 64 * 32


def test_counting_is_asked_for_in_few_calls() -> None:
    calls = 0

    def counting(batch: Sequence[str]) -> list[int]:
        nonlocal calls
        calls += 1
        return count_words(batch)

    text = "\n\n".join(f"Paragraph {number} has words. And more of them." for number in range(5_000))
    chunks = chunks_of(text, ChunkPlan(64, 8), counting)

    assert len(chunks) > 500
    assert calls < 12


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (ChunkPlan(100, 51), "more than half"),
        (ChunkPlan(0, 0), "must be positive"),
        (ChunkPlan(100, -1), "not be negative"),
        (ChunkPlan(2, 0), "no room for text"),
        (ChunkPlan(3, 0), "Raise the chunk size"),
    ],
)
def test_a_plan_that_cannot_be_says_what_to_change(plan: ChunkPlan, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        chunks_of("水泵🇩🇪", plan, count_unevenly)


PAGES = (Place("page", "1", 0, 10), Place("page", "2", 12, 20), Place("page", "3", 20, 30))


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 5, ("page", "1", "1")),
        (9, 13, ("page", "1", "2")),
        (0, 30, ("page", "1", "3")),
        (10, 12, None),
        (12, 20, ("page", "2", "2")),
        (19, 21, ("page", "2", "3")),
        (30, 40, None),
        (5, 5, None),
        (28, 99, ("page", "3", "3")),
    ],
)
def test_a_place_is_found_by_offsets(start: int, end: int, expected: tuple[str, str, str] | None) -> None:
    assert place_of(PAGES, start, end) == expected


def test_no_places_give_no_place() -> None:
    assert place_of((), 0, 10) is None


def test_a_remembering_counter_counts_each_word_once_and_the_same() -> None:
    asked: list[str] = []

    def recording(batch: Sequence[str]) -> list[int]:
        asked.extend(batch)
        return count_unevenly(batch)

    remembering = remembering_words(recording)
    text = "The pump stops when pressure falls. " * 50

    first = chunks_of(text, ChunkPlan(64, 8), remembering)
    asked_first = list(asked)
    asked.clear()

    assert (
        chunks_of(text, ChunkPlan(64, 8), remembering)
        == first
        == chunks_of(text, ChunkPlan(64, 8), count_unevenly)
    )
    assert " pump" in asked_first
    assert " pump" not in asked
