"""Figures that no mark leads to a result file: which pages are looked at, what of them is prose, and what looks like a
measurement. Owns the rule; the marks themselves are `figures.py`'s.

A number with a unit of time, size, rate or share is a figure, and needs a mark. In a section that names a result file
every number is one. Numbers that nobody measured (a limit, a default, what a benchmark was run with) stand in
`unmeasured.toml` with their reason; an entry whose words a page no longer has is a fault too. Not looked at:

- blocks and spans of code: what somebody typed, or what a command once printed, and no claim;
- docs/reference, which is drawn from the code: names, defaults, limits;
- the page of the queue beside others, written whole from its result file (tests/docs/test_figures.py compares).
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from benchmarks.figures import MARKED, NUMBER, RESULT, ROOT, TABLE, wrong_marks

UNMEASURED = ROOT / "benchmarks" / "unmeasured.toml"
NOT_LOOKED_AT = ("docs/reference/", "docs/explanation/queue-benchmark.md")

_UNITS = (
    "ms|µs|us|s|milliseconds?|microseconds?|seconds?|[kKMGT]i?B|bytes|%|percent|per cent|times|x|×|"
    r"\w+/s|(?:\w+ )?(?:a|per) (?:second|minute)"
)
MEASURE = re.compile(rf"{NUMBER} ?(?:{_UNITS})(?!\w)")
ANY_NUMBER = re.compile(rf"{NUMBER}(?!\w)")
NAMES_A_RESULT = re.compile(r"benchmarks/results/\w+\.json|<!-- result: ")

_NOT_PROSE = tuple(
    re.compile(pattern, re.MULTILINE | re.DOTALL)
    for pattern in (
        r"^(?P<fence>```+|~~~+)[^\n]*\n.*?^(?P=fence)[ \t]*$",
        r"(?<=\n\n)(?: {4}[^\n]*\n)+(?:\n+(?: {4}[^\n]*\n)+)*",
        r"(?<!`)`[^`\n]+`(?!`)",
        r"<!--.*?-->",
        r"\]\([^)\s]+\)",
        r"^\s*\d+\. ",
    )
)
_HEADING = re.compile(r"^(#+) .*$", re.MULTILINE)


def pages() -> list[Path]:
    """Where somebody who decides whether to use this reads figures."""
    found = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "benchmarks" / "RESULTS.md"]
    found += sorted((ROOT / "docs").rglob("*.md"))
    return [path for path in found if not _name(path).startswith(NOT_LOOKED_AT)]


def faults_of_pages(paths: Iterable[Path]) -> Iterator[str]:
    """Wrong marks and figures without one, a line each."""
    unmeasured = read_unmeasured()
    for path in paths:
        text = path.read_text("utf-8")
        for line, fault in faults_of(text, unmeasured.get(_name(path), {})):
            yield f"{_name(path)}:{line}: {fault}"
    for name in unmeasured.keys() - {_name(path) for path in paths}:
        yield f"benchmarks/unmeasured.toml: no page {name} is looked at"


def faults_of(text: str, unmeasured: Iterable[str] = ()) -> Iterator[tuple[int, str]]:
    """Of one page: the line and what is wrong there. `unmeasured` are words that hold no measurement."""
    for place, fault in wrong_marks(text):
        yield _line(text, place), fault
    prose = prose_of(text)
    for words in unmeasured:
        places = [found.span() for found in re.finditer(r"\s+".join(map(re.escape, words.split())), text)]
        if not places:
            yield 1, f"benchmarks/unmeasured.toml: the page no longer says {words!r}"
        for begin, end in places:
            prose = prose[:begin] + _blank(text[begin:end]) + prose[end:]
    for place, figure in sorted(_figures_in(text, prose)):
        yield (
            _line(text, place),
            f"{figure!r} has no mark that leads to a result file (benchmarks/figures.py)",
        )


def prose_of(text: str) -> str:
    """The page with blanks for all that is marked, code, or not read; each place stays where it is."""
    for pattern in (TABLE, RESULT, MARKED, *_NOT_PROSE):
        text = pattern.sub(lambda found: _blank(found[0]), text)
    return text


@cache
def read_unmeasured() -> dict[str, dict[str, str]]:
    """For each page the words that hold numbers which nobody measured, each with the reason."""
    return tomllib.loads(UNMEASURED.read_text("utf-8"))


def _figures_in(text: str, prose: str) -> set[tuple[int, str]]:
    found = {(match.start(), match[0].strip()) for match in MEASURE.finditer(prose)}
    known = {place for place, _ in found}
    for begin, end in _strict_sections(text, prose):
        numbers = ANY_NUMBER.finditer(prose, begin, end)
        found |= {(match.start(), match[0]) for match in numbers if match.start() not in known}
    return found


def _strict_sections(text: str, prose: str) -> Iterator[tuple[int, int]]:
    """Where sections that name a result file begin and end."""
    headings = [0, *(match.start() for match in _HEADING.finditer(prose)), len(text)]
    for begin, end in itertools.pairwise(headings):
        if NAMES_A_RESULT.search(text, begin, end):
            yield begin, end


def _blank(text: str) -> str:
    """Nothing to read, as long as it was, and its lines where they were."""
    return re.sub(r"[^\n]", " ", text)


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
