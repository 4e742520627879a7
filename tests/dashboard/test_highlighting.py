"""What is marked in a passage, where it is cut, and that nothing of it is ever markup."""

from __future__ import annotations

import html
import random
import re

import pytest

from embedmill.dashboard.highlighting import EXCERPT_CHARACTERS, show_passage, words_in


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("a wheel, wheels", {"wheel"}, "a <mark>wheel</mark>, wheels"),
        ("wheel wheels", {"wheel", "wheels"}, "<mark>wheel</mark> <mark>wheels</mark>"),
        ("<mark>x</mark>", {"x"}, "&lt;mark&gt;<mark>x</mark>&lt;/mark&gt;"),
        ("a < b & c", {"b"}, "a &lt; <mark>b</mark> &amp; c"),
        ("lt amp", {"amp"}, "lt <mark>amp</mark>"),
        ("C++ and x.y", {"x.y"}, "C++ and <mark>x.y</mark>"),
        ("nothing", set(), "nothing"),
        ("", {"a"}, ""),
    ],
)
def test_words_are_marked_where_they_stand_alone(text: str, words: set[str], expected: str) -> None:
    passage = show_passage(text, words)
    assert str(passage.whole) == str(passage.excerpt) == expected


def test_a_long_passage_is_cut_around_its_first_word() -> None:
    text = "filler " * 200 + "wheel " + "filler " * 200
    passage = show_passage(text, {"wheel"})
    assert passage.is_cut
    assert "<mark>wheel</mark>" in passage.excerpt
    assert passage.excerpt.startswith("… ")
    assert passage.excerpt.endswith(" …")
    assert len(passage.excerpt) < EXCERPT_CHARACTERS + 40
    assert re.sub(r"</?mark>", "", str(passage.whole)) == text
    begins = show_passage("filler " * 200, set())
    assert not begins.excerpt.startswith("…")


def test_whatever_a_text_holds_it_comes_out_as_that_text() -> None:
    chance = random.Random(3)
    pieces = [
        "<",
        ">",
        "&",
        "'",
        '"',
        "a",
        "wheel",
        " ",
        "\n",
        "<script>",
        "\ue000",
        "\u202e",
        "é",
        "&lt;",
        "</mark>",
    ]
    for _ in range(500):
        text = "".join(chance.choices(pieces, k=chance.randrange(400)))
        passage = show_passage(text, set(chance.sample(["a", "wheel", "é", "script", "<", "&"], 3)))
        for shown in (passage.whole, passage.excerpt):
            bare = re.sub(r"</?mark>", "", str(shown))
            assert not set(bare) & set("<>\"'")
        assert html.unescape(re.sub(r"</?mark>", "", str(passage.whole))) == text


def test_single_letters_are_marked_only_where_there_is_nothing_else() -> None:
    assert words_in("\ue000a\ue001 \ue000wheel\ue001 \ue000 \ue001") == {"wheel"}
    assert words_in("\ue000a\ue001 b") == {"a"}
    assert words_in("\ue000磨\ue001 \ue000mill\ue001") == {"磨", "mill"}
