"""Good files of every format are read right, and places say where each part stands."""

from __future__ import annotations

import pytest

from embedmill.core.documents import ParsedDocument
from tests.adapters.parsers.conftest import Read
from tests.support import good_documents as good
from tests.support import good_office as office
from tests.support import good_pdfs as pdfs
from tests.support.sentences import PAGES, UNICODE


@pytest.mark.parametrize("name", good.GOOD)
def test_a_good_file_yields_its_sentences_in_order_and_clean(name: str, read: Read) -> None:
    document = read(good.GOOD[name](), name)
    first, second = (document.text.index(sentence) for sentence in PAGES)
    assert first < second
    assert "\0" not in document.text
    assert "\r" not in document.text
    assert_places_in_order(document)


@pytest.mark.parametrize(
    ("name", "kind", "labels"),
    [
        ("good.pdf", "page", ["1", "2"]),
        ("good.pptx", "slide", ["1", "2"]),
        ("good.xlsx", "sheet", ["Prices 2024", "Water & wheels"]),
        ("good.epub", "chapter", ["Chapter 1", "Chapter 2"]),
        ("good.jsonl", "record", ["1", "2"]),
    ],
)
def test_each_sentence_stands_in_the_place_it_came_from(
    name: str, kind: str, labels: list[str], read: Read
) -> None:
    document = read(good.GOOD[name](), name)
    assert [(place.kind, place.label) for place in document.places] == [(kind, label) for label in labels]
    for place, sentence in zip(document.places, PAGES, strict=True):
        assert sentence in document.text[place.start : place.end]


def test_a_page_without_text_keeps_its_number_and_is_named(read: Read) -> None:
    document = read(pdfs.pdf(("First.", "", "Third.")), "a.pdf")
    third = document.places[2]
    assert (third.label, document.text[third.start : third.end]) == ("3", "Third.")
    assert document.metadata["pages_without_text"] == "2"


def test_more_pages_than_liteparse_reads_by_itself_are_all_read(read: Read) -> None:
    document = read(pdfs.pdf(tuple(f"This is page {n}." for n in range(1, 1204))), "long.pdf")
    assert len(document.places) == 1203
    last = document.places[-1]
    assert document.text[last.start : last.end] == "This is page 1203."


def test_a_line_that_every_page_repeats_is_not_lost_where_it_is_all_there_is(read: Read) -> None:
    document = read(pdfs.pdf(("The same words.",) * 5), "same.pdf")
    assert all(document.text[place.start : place.end] == "The same words." for place in document.places)


@pytest.mark.parametrize("name", ["good.docx", "good.html", "good.md"])
def test_headings_come_as_markdown(name: str, read: Read) -> None:
    document = read(good.GOOD[name](), name)
    assert document.is_markdown
    assert "## Water" in document.text.split("\n")
    assert document.title == "The mill handbook"


def test_properties_become_metadata_and_a_mail_its_headers(read: Read) -> None:
    assert read(office.docx(), "a.docx").metadata["authors"] == "A. Miller"
    mail = read(good.eml(), "a.eml")
    assert mail.title == "Grüße from the mill"
    assert mail.metadata["from"] == "miller@example.org"
    assert UNICODE in mail.text


def test_html_brings_neither_scripts_nor_styles_and_keeps_its_tables(read: Read) -> None:
    text = read(good.html(), "a.html").text
    assert "hidden" not in text
    assert "color" not in text
    assert "| Rye | 12.50 |" in text


@pytest.mark.parametrize("levels", [20, 61, 190, 250, 700, 3000, 20_000])
@pytest.mark.parametrize(
    ("opening", "closing"),
    [("<div>", "</div>"), ("<table><tr><td>", "</td></tr></table>"), ("<ul><li>", "</li></ul>"), ("<b>", "")],
)
def test_no_words_are_lost_however_deep_they_stand(
    levels: int, opening: str, closing: str, read: Read
) -> None:
    # xberg leaves out what stands below its limit, and overflows its stack where that is raised.
    source = f"<body><p>top</p>{opening * levels}<p>deep words</p>{closing * levels}<p>the end</p></body>"
    text = read(source, "a.html").text
    assert text.index("top") < text.index("deep words") < text.index("the end")


def test_a_long_page_of_unclosed_items_keeps_its_structure(read: Read) -> None:
    source = "<h1>Items</h1><ul>" + "<li>item <br><img src=x>" * 2000 + "</ul><p>one<p>two" * 500
    assert read(source, "a.html").text.startswith("# Items\n\n- item")


def test_words_are_not_escaped_but_code_stays_as_it_is(read: Read) -> None:
    source = r"<p>snake_case_name &lt;b&gt; 2 * 3 C:\temp</p><pre>a\*b \\n</pre>"
    text = read(source, "a.html").text
    assert r"snake_case_name <b> 2 * 3 C:\temp" in text
    assert r"a\*b \\n" in text


def test_a_raised_number_does_not_run_into_the_one_before(read: Read) -> None:
    text = read("<p>2<sup><small>48</small></sup> bytes, 10<sup>-6</sup> m, E<sup>2</sup></p>", "a.html").text
    assert "2^48 bytes, 10^-6 m, E" in text


def test_a_form_letter_that_compresses_three_hundredfold_is_no_bomb(read: Read) -> None:
    paragraph = "<w:p><w:r><w:t>The same paragraph again and again.</w:t></w:r></w:p>"
    assert read(office.docx(paragraph * 40_000), "a.docx").text.count("again and again") == 40_000


def test_a_sheet_of_more_than_a_hundred_thousand_cells_is_read_whole(read: Read) -> None:
    rows = (("Item", "Price"), *((f"item {n}", f"{n}.50") for n in range(60_000)))
    text = read(office.xlsx(rows), "a.xlsx").text
    assert "Item: item 59999\nPrice: 59999.50" in text


def assert_places_in_order(document: ParsedDocument) -> None:
    end = 0
    for place in document.places:
        assert end <= place.start <= place.end <= len(document.text)
        end = place.end
