"""The Markdown of a PDF page is held against its plain text: no word is lost, no row taken apart."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.adapters.parsers.pdf_pieces import running_lines
from embedmill.adapters.parsers.pdf_reconciliation import reconciled
from tests.adapters.parsers.conftest import Read
from tests.support import good_pdfs as pdfs

NOTHING: frozenset[str] = frozenset()
WORDS = (
    "mill",
    "river",
    "wheel",
    "stone",
    "grain",
    "flour",
    "water",
    "sluice",
    "gate",
    "bread",
    "dough",
    "rye",
)


def test_a_table_whose_columns_were_torn_apart_keeps_its_rows() -> None:
    plain = """Faults
What he says         What to do
Dough is slack       look at the wheat
Gritty               magnets

Then rest."""
    markdown = """# Faults

What he says

Dough is slack

Gritty Then rest.

What to do look at the wheat magnets"""
    text = reconciled(markdown, plain, NOTHING)
    assert text.startswith("# Faults\n\nWhat he says         What to do\n")
    assert re.search(r"^Dough is slack +look at the wheat$", text, re.MULTILINE)
    assert text.endswith("magnets\n\nThen rest.")


def test_a_table_without_rules_in_a_real_file_keeps_its_rows(read: Read) -> None:
    rows = [
        ("Flour is specked", "resting time"),
        ("Dough is slack", "meal temperature"),
        ("Gritty", "magnets"),
    ]
    lines = [(72.0, 72.0, 20.0, "Faults")]
    for at, (left, right) in enumerate(rows):
        lines += [(72.0, 110 + 28.0 * at, 10.0, left), (320.0, 110 + 28.0 * at, 10.0, right)]
        lines.append((320.0, 122 + 28.0 * at, 10.0, f"and then the rest of row {at}"))
    lines += [
        (72.0, 210 + 12.0 * at, 10.0, f"After that, sentence {at} of a paragraph that runs.")
        for at in range(4)
    ]
    text = read(pdfs.pdf_of_lines([lines]), "a.pdf").text
    for at, (left, right) in enumerate(rows):
        assert (
            text.index(left) < text.index(right) < text.index(f"rest of row {at}") < text.index("After that")
        )


def test_words_that_the_markdown_lost_are_put_back_where_they_stood() -> None:
    plain = "First line.\n\nLook for them at http://example.org\n\nLast line.\n"
    text = reconciled("First line.\n\nLook for\n\nLast line.", plain, NOTHING)
    assert text == "First line.\n\nLook for them at http://example.org\n\nLast line."


def test_a_table_with_rules_is_believed_where_it_has_the_same_words() -> None:
    table = "| Part | To do |\n|---|---|\n| The wheel | grease it well every day |"
    plain = "Part         To do\n             grease it well\nThe wheel    every day\n\nEnd."
    assert reconciled(f"{table}\n\nEnd.", plain, NOTHING) == f"{table}\n\nEnd."


@pytest.mark.parametrize("rows", [30, 8])
def test_text_in_columns_is_read_column_by_column(rows: int) -> None:
    chance = random.Random(5)
    columns = [
        [" ".join(chance.choices(WORDS, k=7))[:38].ljust(38, "n") for _ in range(40)] for _ in range(2)
    ]
    left, right = columns[0], columns[1][:rows]
    plain = "\n".join(f"{a}     {b}" for a, b in zip(left, right + [""] * (40 - rows), strict=True))
    markdown = f"{' '.join(left)}\n\n{' '.join(right)}"
    assert reconciled(markdown, plain, NOTHING) == markdown
    lost = reconciled(markdown.replace(left[3], ""), plain, NOTHING)
    assert left[3] in lost or all(word in lost for word in left[3].split())


def test_a_word_cut_at_the_end_of_a_line_is_no_loss() -> None:
    assert (
        reconciled("A decompression of it.", "A decompres-\nsion of it.", NOTHING) == "A decompression of it."
    )


def test_paragraphs_that_were_run_together_are_parted_where_the_page_parts_them() -> None:
    plain = "One ends here.\n\nTwo goes on and\nends.\n\n• item\n\nAfter it."
    assert reconciled("One ends here. Two goes on and ends.\n\n- item After it.", plain, NOTHING) == (
        "One ends here.\n\nTwo goes on and ends.\n\n- item\n\nAfter it."
    )


def test_rows_of_dots_are_left_out() -> None:
    text = reconciled("Intro *. . . . . . . .* 7", "Intro . . . . . . . . 7", NOTHING)
    assert text == "Intro … 7"


def test_a_line_that_begins_with_a_hash_sign_is_no_heading() -> None:
    plain = "# generated, do not edit\n55:text"
    assert reconciled("# generated, do not edit 55:text", plain, NOTHING).startswith("\\# generated")
    assert not re.search("^# ", reconciled("", plain, NOTHING), re.MULTILINE)


def test_a_table_of_one_column_is_no_table() -> None:
    text = reconciled("| one; |\n|---|\n| two (a || b) |", "one;\ntwo (a || b)", NOTHING)
    assert text == "one;\n\ntwo (a || b)"


def test_running_lines_come_once_and_lines_that_only_look_alike_stay() -> None:
    pages = [f"The Mill Manual\n\nNULL is refused\n\nText {n} of it.\n\n{n}" for n in range(1, 6)]
    running = running_lines(pages, ["Contents"])
    texts = [
        reconciled(page.rpartition("\n\n")[0], page, lines)
        for page, lines in zip(pages, running, strict=True)
    ]
    assert [text.count("The Mill Manual") for text in texts] == [1, 0, 0, 0, 0]
    assert all("NULL is refused" in text for text in texts)
    assert (
        running_lines(["Contents\n\na b", "Contents\n\nc d", "Contents\n\ne f"], ["Contents"])[2] == NOTHING
    )


@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_no_word_is_ever_lost_whatever_the_markdown_does(chance: random.Random, count: int) -> None:
    words = [chance.choice(WORDS) for _ in range(count)]
    plain = "".join(word + chance.choice((" ", " ", "    ", "\n", "\n\n")) for word in words)
    spoilt = [word for word in words if chance.random() < 0.8]
    if chance.random() < 0.5:
        chance.shuffle(spoilt)
    marks = ("", "", "# ", "- ", "| ", "```\n", "**", "---\n")
    markdown = "".join(chance.choice(marks) + word + chance.choice((" ", "\n\n", "\n")) for word in spoilt)
    text = reconciled(markdown, plain, NOTHING)
    assert not set(words) - set(re.findall(r"\w+", text))


def test_a_page_of_one_word_repeated_takes_no_time_to_compare() -> None:
    plain, markdown = "x " * 40_000, "x " * 39_000 + "\n\ny"
    assert Counter(reconciled(markdown, plain, NOTHING).split())["x"] >= 39_000
