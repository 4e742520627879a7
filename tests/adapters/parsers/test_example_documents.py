"""The documents of examples/, which people try first, are read as their authors meant them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embedmill.adapters.parsers.reading import Reader
from embedmill.core.documents import ParsedDocument

DOCUMENTS = Path(__file__).parents[3] / "examples" / "documents"


def parsed(reader: Reader, name: str) -> ParsedDocument:
    return reader.read_file(str(DOCUMENTS / name), name, None, 2**30)


@pytest.fixture(scope="module")
def manual(reader: Reader) -> ParsedDocument:
    return parsed(reader, "bzip2-manual.pdf")


def heading_path(text: str, passage: str) -> list[str]:
    path: dict[int, str] = {}
    for line in text[: text.index(passage)].split("\n"):
        if match := re.fullmatch(r"(#{1,6}) (.+)", line):
            level = len(match.group(1))
            path = {above: title for above, title in path.items() if above < level} | {level: match.group(2)}
    return list(path.values())


def test_a_passage_of_the_manual_stands_under_its_chapter_and_its_whole_section(
    manual: ParsedDocument,
) -> None:
    assert heading_path(manual.text, "recover data from the undamaged blocks") == [
        "2. How to use bzip2",
        "2.6. RECOVERING DATA FROM DAMAGED FILES",
    ]
    assert heading_path(manual.text, "Releases all memory associated with a compression stream") == [
        "3. Programming with libbzip2",
        "3.3. Low-level interface",
        "3.3.3. BZ2_bzCompressEnd",
    ]


def test_every_section_of_the_manual_is_a_heading(manual: ParsedDocument) -> None:
    found = re.findall(r"^#+ (\d[\d.]*)", manual.text, re.MULTILINE)
    sections = {2: 9, 3: 8, 4: 5}
    wanted = [f"{n}." for n in range(1, 5)] + [
        f"{c}.{n}." for c, last in sections.items() for n in range(1, last + 1)
    ]
    assert set(wanted) <= set(found)


def test_the_manual_loses_no_words_and_brings_no_rows_of_dots(manual: ParsedDocument) -> None:
    assert "Look for\n\nthem at http://www.zlib.org and http://www.gzip.org respectively." in manual.text
    assert "http://www.cs.arizona.edu/people/gene/PAPERS/suffix.ps" in manual.text
    assert ". . . ." not in manual.text
    # The running title comes once, not on each page of the chapter.
    assert manual.text.split("\n").count("Programming with libbzip2") == 1


def test_the_last_table_of_the_maintenance_guide_keeps_its_rows(reader: Reader) -> None:
    text = parsed(reader, "harbour-mill-millstone-maintenance.pdf").text
    table = text[text.index("What the baker says") :]
    assert re.search(
        r"^Gritty +magnets, then whether the stones\n +were fed stone flour", table, re.MULTILINE
    )
    assert re.search(r"blunt\n\nAfter dressing, the first 40 kg", table)
    assert heading_path(text, "Dough is slack") == ["Getting flour that is right"]


def test_the_notes_of_the_slides_stand_by_their_slides(reader: Reader) -> None:
    document = parsed(reader, "harbour-mill-onboarding.pptx")
    slides = [document.text[place.start : place.end] for place in document.places]
    assert "Notes:" not in slides[0]
    for slide, note in (
        (1, "Give this on the first morning"),
        (2, "about 19 kilowatts"),
        (7, "The decision rule"),
    ):
        assert note in slides[slide]
        assert not re.search(r"\d$", slides[slide])


def test_the_mails_have_the_headers_that_people_read(reader: Reader) -> None:
    report = parsed(reader, "harbour-mill-incident-report.eml").text
    contract = parsed(reader, "harbour-mill-wheat-contract.eml").text
    assert report.startswith("From: Gwen Parry <gwen.parry@harbourmill.example>\nTo: All hands")
    assert "Gwen\nHead miller" in report
    assert "> Owen, we can promise a floor price" in contract.split("\n")[-5]
    for text in (report, contract):
        assert not re.search("message-id|references|in-reply-to|mime-version", text, re.IGNORECASE)
