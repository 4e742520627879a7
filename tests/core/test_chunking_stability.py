"""An edit changes the chunks beside it and no others; hostile sizes take linear time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from embedmill.core.documents import ChunkPlan
from tests.core.chunking_counters import (
    CountTokens,
    chunks_of,
    count_as_the_model,
    count_unevenly,
    count_words,
)

WORDS = ("pump", "valve", "pressure", "water", "stops", "starts", "falls", "because", "below", "two", "bar")
EDITS = 40


def _sentence(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(4, 18))).capitalize() + "."


def _paragraph(chance: random.Random) -> str:
    return " ".join(_sentence(chance) for _ in range(chance.randint(1, 7)))


def _prose(chance: random.Random) -> list[str]:
    return [_paragraph(chance) for _ in range(420)]


def _markdown(chance: random.Random) -> list[str]:
    heading = lambda: "#" * chance.randint(1, 4) + " " + _sentence(chance)  # noqa: E731
    return [heading() if chance.random() < 0.15 else _paragraph(chance) for _ in range(480)]


def _list(chance: random.Random) -> list[str]:
    return ["- " + _sentence(chance) for _ in range(1500)]


def _edit(paragraphs: Sequence[str], chance: random.Random) -> list[str]:
    edited = list(paragraphs)
    at = chance.randrange(len(edited))
    match chance.randrange(4):
        case 0:
            edited.insert(at, _paragraph(chance))
        case 1:
            del edited[at]
        case 2:
            edited[at] = _paragraph(chance)
        case _:
            edited[at] += " " + _sentence(chance)
    return edited


def _remembering(count_tokens: CountTokens) -> CountTokens:
    known: dict[str, int] = {}

    def count(batch: Sequence[str]) -> list[int]:
        fresh = [text for text in batch if text not in known]
        known.update(zip(fresh, count_tokens(fresh), strict=True))
        return [known[text] for text in batch]

    return count


@pytest.mark.parametrize(("write", "joint"), [(_prose, "\n\n"), (_markdown, "\n\n"), (_list, "\n")])
@pytest.mark.parametrize(
    ("count_tokens", "size", "overlap"),
    [(count_words, 192, 0), (count_unevenly, 600, 60), (count_as_the_model, 192, 24)],
)
def test_an_edited_paragraph_changes_three_chunks_nearly_always_and_never_many(
    write: Callable[[random.Random], list[str]],
    joint: str,
    count_tokens: CountTokens,
    size: int,
    overlap: int,
) -> None:
    chance = random.Random(11)
    paragraphs = write(chance)
    plan = ChunkPlan(size, overlap)
    count = _remembering(count_tokens)

    def texts(edited: Sequence[str]) -> Counter[str]:
        return Counter(chunk.text for chunk in chunks_of(joint.join(edited), plan, count))

    before = texts(paragraphs)
    changes = [(texts(_edit(paragraphs, chance)) - before).total() for _ in range(EDITS)]

    assert before.total() > 80
    assert sum(change > 3 for change in changes) <= EDITS * 0.05
    assert max(changes) <= 6


def test_text_before_and_behind_an_insertion_keeps_its_chunks() -> None:
    chance = random.Random(5)
    paragraphs = _prose(chance)
    plan = ChunkPlan(192, 24)
    before = chunks_of("\n\n".join(paragraphs), plan, count_words)
    after = chunks_of("\n\n".join(["A new beginning.", *paragraphs]), plan, count_words)

    assert [chunk.text for chunk in after][-len(before) + 4 :] == [chunk.text for chunk in before][4:]


MANY = 30_000
HOSTILE = {
    "newlines": "\n" * 10 * MANY,
    "one letter": "a" * 10 * MANY,
    "one line of words": "pump " * MANY,
    "spaces": "a" + " " * 10 * MANY + "b",
    "tiny paragraphs": "\n\n".join(map(str, range(MANY))),
    "headings": "# x\n" * MANY,
    "nested headings": "".join("#" * (n % 6 + 1) + " x\n" for n in range(MANY)),
    "deep list": "".join(" " * n + "- x\n" for n in range(1500)),
    "dots": "." * 10 * MANY,
    "quoted dots": '."' * MANY,
    "backticks": "`" * 10 * MANY,
    "pipes": "|" * MANY + "\n" + "|-" * MANY,
    "hashes": "#" * 10 * MANY,
    "dashes": "-\n" * MANY,
    "underlined": "a\n=\n" * MANY,
    "combining marks": "e" + "\u0301" * MANY,
    "flags": "\U0001f1e9" * MANY,
    "open comment": "<!--" * MANY,
    "table": "|a|\n|-|\n" + "|1|\n" * MANY,
}


@pytest.mark.timeout(30)  # a quadratic step would take minutes
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_chunked_in_linear_time(name: str) -> None:
    text = HOSTILE[name]

    chunks = chunks_of(text, ChunkPlan(256, 32), count_words)

    assert sum(len("".join(chunk.text.split())) for chunk in chunks) >= len("".join(text.split()))
    assert all(chunk.tokens <= 256 for chunk in chunks)
