"""Headings of PDF files: found by their letters, whole, and at the level that their number tells."""

from __future__ import annotations

from embedmill.adapters.parsers.pdf_headings import levelled, with_headings
from tests.adapters.parsers.conftest import Read
from tests.support import good_pdfs as pdfs

BODY = "The mill grinds wheat by day and rests the stones by night, as the tide will have it."


def page(*lines: tuple[float, str]) -> list[tuple[float, float, float, str]]:
    """Lines one below the other, of letters of that size; each heading has room around it."""
    placed, y, before = [], 72.0, 10.0
    for size, words in lines:
        y += size * 1.2 if size == before else size * 2
        placed.append((72.0, y, size, words))
        before = size
    return placed


def headings_of(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith("#")]


def test_a_heading_over_two_lines_is_one_heading(read: Read) -> None:
    lines = page((10, BODY), (20, "2.6. RECOVERING DATA FROM DAMAGED"), (20, "FILES"), (10, BODY), (10, BODY))
    text = read(pdfs.pdf_of_lines([lines]), "a.pdf").text
    assert [heading.lstrip("# ") for heading in headings_of(text)] == [
        "2.6. RECOVERING DATA FROM DAMAGED FILES"
    ]


def test_two_headings_that_follow_each_other_stay_two(read: Read) -> None:
    lines = page((20, "2. Bread"), (20, "2.1. Dough"), (10, BODY), (10, BODY), (10, BODY))
    text = read(pdfs.pdf_of_lines([lines]), "a.pdf").text
    assert headings_of(text) == ["# 2. Bread", "## 2.1. Dough"]


def test_numbers_tell_the_levels_of_headings() -> None:
    pages = [
        "# 1. One\n\n### 1.1. A\n\n###### 1.1.1. B",
        "####### 2. Two\n\n## 2.1 C\n\n## Not numbered\n\ntext",
    ]
    assert [headings_of(text) for text in levelled(pages)] == [
        ["# 1. One", "## 1.1. A", "### 1.1.1. B"],
        ["# 2. Two", "## 2.1 C", "## Not numbered"],
    ]


def test_chapters_below_a_title_stay_below_it() -> None:
    assert headings_of(levelled(["# Title\n\n## 1 One\n\n#### 1.1 A\n\n## 2 Two"])[0]) == [
        "# Title",
        "## 1 One",
        "### 1.1 A",
        "## 2 Two",
    ]


def test_a_number_that_counts_something_tells_no_level() -> None:
    page = "## 10 things to know\n\ntext\n\n### 3 ways to bake\n\n```\n# 1.1. code\n```"
    assert levelled([page]) == [page]


def test_what_reads_as_a_heading_becomes_one_and_nothing_else_does() -> None:
    markdown = "2. **How to mill**\n\ntext about how to mill\n\n- How to mill\n\n```\nHow to mill\n```"
    marked = with_headings(markdown, ["2. How to mill", "How to mill"])
    assert (
        marked == "####### 2. How to mill\n\ntext about how to mill\n\n- How to mill\n\n```\nHow to mill\n```"
    )


def test_large_letters_everywhere_make_no_headings(read: Read) -> None:
    lines = page(
        (30, "Every line of this poster"), (30, "is as large as the others"), (10, "printed in Saltby")
    )
    text = read(pdfs.pdf_of_lines([lines]), "a.pdf").text
    assert "#######" not in text
    assert "Every line of this poster" in text
