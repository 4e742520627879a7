"""Slides come in the order in which they are shown, each with its own notes."""

from __future__ import annotations

from embedmill.core.documents import ParsedDocument
from tests.adapters.parsers.conftest import Read
from tests.support import good_office as office

WORDS = ("grinding", "sifting", "packing", "resting")


def slides_of(document: ParsedDocument) -> list[str]:
    return [document.text[place.start : place.end] for place in document.places]


def test_notes_stand_by_the_slide_that_they_belong_to(read: Read) -> None:
    # The first slide has no notes: numbers in the names of parts are one apart from then on.
    deck = office.pptx(WORDS, notes={2: "About sifting.", 4: "About resting."})
    slides = slides_of(read(deck, "a.pptx"))
    assert [("Notes:" in slide) for slide in slides] == [False, True, False, True]
    assert slides[1].endswith("sifting\n\nNotes: About sifting.")
    assert slides[3].endswith("resting\n\nNotes: About resting.")


def test_the_number_of_the_slide_is_no_part_of_its_notes(read: Read) -> None:
    assert slides_of(read(office.pptx(("a", "b"), notes={2: "Say it."}), "a.pptx"))[1].endswith("Say it.")


def test_slides_that_were_moved_come_as_they_are_shown(read: Read) -> None:
    deck = office.pptx(WORDS, shown=(4, 1, 3, 2), notes={1: "About grinding.", 4: "About resting."})
    document = read(deck, "a.pptx")
    assert [place.label for place in document.places] == ["1", "2", "3", "4"]
    slides = slides_of(document)
    for slide, word in zip(slides, ("resting", "grinding", "packing", "sifting"), strict=True):
        assert word in slide
    assert "About resting." in slides[0]
    assert "About grinding." in slides[1]


def test_a_deck_of_more_than_nine_slides_is_in_order(read: Read) -> None:
    words = tuple(f"word{n}x" for n in range(1, 13))
    slides = slides_of(read(office.pptx(words, notes={11: "eleven"}), "a.pptx"))
    assert all(word in slide for word, slide in zip(words, slides, strict=True))
    assert "Notes: eleven" in slides[10]


def test_notes_that_are_missing_from_the_file_cost_nothing_else(read: Read) -> None:
    import io
    import zipfile

    deck = office.pptx(WORDS, notes={1: "gone", 2: "here"})
    kept = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(deck)) as source, zipfile.ZipFile(kept, "w") as archive:
        for name in source.namelist():
            if name != "ppt/notesSlides/notesSlide1.xml":
                archive.writestr(name, source.read(name))
    slides = slides_of(read(kept.getvalue(), "a.pptx"))
    assert "Notes: here" in slides[1]
    assert len(slides) == 4
