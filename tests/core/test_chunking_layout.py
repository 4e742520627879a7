"""Markdown structure: heading paths as CommonMark has them, and what is kept whole."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from embedmill.core.chunking_layout import read_layout
from embedmill.core.chunking_parts import Section
from embedmill.core.documents import ChunkPlan
from embedmill.core.markdown import LONGEST_TITLE
from tests.core.chunking_counters import chunks_of, count_as_the_model, count_words

_LINES = """\
# One|## Two ##|### Three #3|#### Four|#hash|####### seven|#|   # indented|    # code|Title|two words|===|---|--
***|> quoted|> # quoted~|- item|  # in the item|1. first|```|~~~|````|``` python|<!-- note|end -->|<div>|</div>
<pre>|</pre>|\tcode|2020. A year|* * *|== =|+ plus|||"""
_lines = st.one_of(
    st.sampled_from(
        [line.replace("~", "\n") for line in _LINES.replace("\n", "|").split("|") if line != "~~~"]
    ),
    st.sampled_from(["~~~", "| a | b |", "|---|---|", "text | more", "", ""]),
)
_markdown = st.lists(_lines, max_size=25).map("\n".join)


def _paths_by_the_reference(text: str) -> list[tuple[str, ...]]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    stack: list[tuple[int, str]] = []
    paths = []
    for heading, inline in itertools.pairwise(tokens):
        if heading.type == "heading_open" and heading.level == 0:
            level = int(heading.tag[1])
            stack = [entry for entry in stack if entry[0] < level]
            if title := " ".join(inline.content.split()):
                stack.append((level, title))
            paths.append(tuple(title for _, title in stack))
    return paths


def _paths(text: str) -> list[tuple[str, ...]]:
    sections: list[Section] = []
    list(read_layout(text, sections, is_markdown=True))
    return [section.path for section in sections[1:]]


@settings(max_examples=400, deadline=None, derandomize=True)  # rare corners of CommonMark are let go
@given(_markdown.filter(lambda text: not text.startswith("---")))
def test_headings_are_those_of_commonmark(text: str) -> None:
    assert _paths(text) == _paths_by_the_reference(text)


@settings(max_examples=150, deadline=None)
@given(
    sections=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 60)), min_size=1, max_size=12),
    size=st.integers(16, 64),
)
def test_the_heading_path_of_a_chunk_is_what_the_paths_of_its_words_share(
    sections: list[tuple[int, int]], size: int
) -> None:
    parts, stack, path_of_word = [], [], {}
    for number, (level, words) in enumerate(sections):
        stack = [entry for entry in stack if entry[0] < level] + [(level, f"Heading {number}")]
        body = [f"w{number}x{word}" for word in range(words)]
        path_of_word |= {word: tuple(title for _, title in stack) for word in body}
        parts += ["#" * level + f" Heading {number}", " ".join(body)]

    for chunk in chunks_of("\n\n".join(parts), ChunkPlan(size, size // 4), count_words):
        paths = [path_of_word[word] for word in re.findall(r"w\d+x\d+", chunk.text)]
        if paths:
            shared = [titles[0] for titles in zip(*paths, strict=False) if len(set(titles)) == 1]
            assert list(chunk.heading_path) == shared


def test_front_matter_makes_no_heading() -> None:
    text = "---\ntitle: Pumps\n# a comment\n---\n\n# Real\n\nBody."

    assert _paths(text) == [("Real",)]


def test_a_heading_too_long_for_a_title_is_prose() -> None:
    text = "# " + "a" * (LONGEST_TITLE + 1) + "\n\n# Real\n\n" + "b " * 3000 + "\n---\n"

    assert _paths(text) == [("Real",)]


@pytest.mark.parametrize("break_", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_ends_a_heading(break_: str) -> None:
    assert _paths(break_.join(["# A", "text", "", "B", "==", "text"])) == [("A",), ("B",)]


def test_plain_text_has_no_headings() -> None:
    chunks = chunks_of("# not a heading\n\ntext", ChunkPlan(32, 0), count_words, is_markdown=False)

    assert [chunk.heading_path for chunk in chunks] == [()]


def test_a_document_of_headings_alone_keeps_them() -> None:
    chunks = chunks_of("# A\n\n## B\n\n### C", ChunkPlan(32, 0), count_words)

    assert [(chunk.text, chunk.heading_path) for chunk in chunks] == [("# A\n\n## B\n\n### C", ("A",))]


def test_a_heading_goes_with_the_text_below_it() -> None:
    body = "Pumps stop when pressure falls. " * 20
    text = "".join(f"# Chapter {number}\n\n## Section {number}\n\n{body}\n\n" for number in range(10))

    chunks = chunks_of(text, ChunkPlan(64, 8), count_as_the_model)

    assert not any(re.search(r"^#.*\Z", chunk.text.splitlines()[-1]) for chunk in chunks)
    assert all(len(chunk.heading_path) == 2 for chunk in chunks)


def test_sections_of_some_size_share_no_chunk() -> None:
    body = "Pumps stop when pressure falls. " * 10
    text = "\n\n".join(f"## Section {number}\n\n{body}" for number in range(20))

    chunks = chunks_of(text, ChunkPlan(256, 32), count_as_the_model)

    assert [chunk.heading_path for chunk in chunks] == [(f"Section {number}",) for number in range(20)]


def test_tiny_sections_are_merged_under_what_they_share() -> None:
    text = "# Glossary\n\n" + "\n\n".join(f"## Term {number}\n\nA short meaning." for number in range(60))

    chunks = chunks_of(text, ChunkPlan(256, 32), count_as_the_model)

    assert len(chunks) < 20
    assert {chunk.heading_path for chunk in chunks} == {("Glossary",)}
    assert all(chunk.text.startswith("#") for chunk in chunks)


def test_a_fence_that_fits_is_kept_whole() -> None:
    fence = "```python\n" + "value = pump(pressure)  # two bar.\n\n" * 12 + "```"
    prose = "Pumps stop when pressure falls. They start again by themselves. " * 9
    text = f"\n\n{prose}\n\n{fence}" * 12

    chunks = chunks_of(text, ChunkPlan(256, 32), count_as_the_model)

    assert sum(chunk.text.count(fence) for chunk in chunks) >= 12
    assert all(chunk.text.count("```") % 2 == 0 for chunk in chunks)


def test_tables_are_cut_between_rows_and_lists_between_items() -> None:
    rows = "| name | value |\n|---|---|\n" + "".join(f"| pump {n} | {n} bar. Off |\n" for n in range(120))
    items = "".join(f"- item {n}. It has two sentences.\n" for n in range(120))

    chunks = chunks_of(f"{rows}\n{items}", ChunkPlan(96, 0), count_as_the_model)

    assert len(chunks) > 20
    assert all(chunk.text.startswith(("| name", "| pump", "- item")) for chunk in chunks)


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("The pump of Dr. Smith fails, e.g. in winter, at 2.5 bar of pressure! " * 40, "The pump"),
        ("水泵在压力低于两巴时停止，尤其是在冬天。" * 60, "水泵"),
        ("The pump stops when the pressure falls\nbelow two bar of water. " * 40, "The pump"),
        ("2026-11-22 pump one stopped\n" * 120, "2026-11-22"),
    ],
)
def test_plain_text_is_cut_at_sentences_and_records(text: str, beginning: str) -> None:
    chunks = chunks_of(text, ChunkPlan(64, 0), count_as_the_model, is_markdown=False)

    assert len(chunks) > 8
    assert all(chunk.text.startswith(beginning) for chunk in chunks)
