"""Plain text, tables and JSON: decoding, cleaning and rendering."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.adapters.parsers.decoding import decode_named
from embedmill.adapters.parsers.text import MAX_TITLE_CHARS, TextBuilder, clean, document
from embedmill.errors import DocumentError
from tests.adapters.parsers.conftest import Read

GERMAN = "Die Mühle mahlt Weizen – „schöne Grüße“ für alle, naïve cafés. Das kostet 5 € täglich. "
POLISH = "Młyn miele pszenicę, a rzeka obraca koło. Zażółć gęślą jaźń, proszę bardzo. "
CZECH = "Mlýn mele pšenici a řeka otáčí kolem. Příliš žluťoučký kůň úpěl ďábelské ódy. "
FRENCH = "Le moulin broie le blé, la rivière tourne la roue ; où était l’œuvre du maître ? "
RUSSIAN = "Мельница перемалывает пшеницу, а река вращает колесо. Это обычный русский текст. "
JAPANESE = "水車小屋は小麦を挽きます。川は車輪を回します。日本語の文章です。"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (GERMAN, "utf-8"),
        (GERMAN, "utf-8-sig"),
        (GERMAN, "utf-16"),
        (GERMAN, "utf-16-le"),
        (GERMAN, "utf-16-be"),
        (GERMAN, "utf-32"),
        (GERMAN, "cp1252"),
        (GERMAN * 200, "cp1252"),
        (POLISH * 3, "cp1250"),
        (CZECH * 3, "cp1250"),
        (FRENCH * 3, "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN * 3, "koi8_r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "utf-16"),
    ],
)
def test_text_is_read_in_the_encoding_that_it_is_written_in(text: str, encoding: str) -> None:
    assert decode_named(text.encode(encoding))[0] == text


def test_a_broken_byte_does_not_turn_utf8_into_another_encoding() -> None:
    data = (GERMAN * 5).encode()
    assert decode_named(data[:-3] + b"\xff")[0].startswith(GERMAN)
    assert decode_named((GERMAN * 5).encode()[: data.rindex("ä".encode()) + 1])[1] == "utf-8"


def test_random_bytes_are_no_text() -> None:
    with pytest.raises(DocumentError, match="binary"):
        decode_named(random.Random(1).randbytes(2000))


def test_cleaning_keeps_all_but_what_cannot_be_stored_or_cut() -> None:
    assert clean("a\0b\r\nc\rd\ud800e") == "ab\nc\nd\ufffde"
    assert clean("a" + "\n" * 9 + "b\n\n\nc\n \t\n\n  \nd") == "a\n\n\nb\n\n\nc\n\n\nd"
    assert clean("a" + " " * 5000 + "b    c") == "a b    c"
    assert clean("e\u0301 é ﬁ") == "e\u0301 é ﬁ"


@given(st.text(st.characters(codec=None), max_size=300))
def test_cleaning_is_done_once_and_leaves_text_that_a_database_takes(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert "\0" not in cleaned.encode().decode()
    assert "\n\n\n\n" not in cleaned


def test_titles_labels_and_metadata_are_bounded() -> None:
    long = "word " * 100_000
    made = document(
        "x", "text/plain", title=long, metadata={f"{long}{n}": long for n in range(99)} | {"": "x"}
    )
    assert made.title is not None
    assert len(made.title) <= MAX_TITLE_CHARS
    assert len(json.dumps(made.metadata)) < 50_000
    builder = TextBuilder(100)
    builder.add_place("sheet", "a\n\0b" * 1000, "text")
    assert len(builder.places[0].label) <= 200
    assert "\n" not in builder.places[0].label


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_table_names_its_columns_in_each_record(separator: str, read: Read) -> None:
    rows = [["Name", "Note, long", "Price"], ["Rye", "a\nb", "1.5"], ["Oat", "", "2"]]
    source = "\r\n".join(separator.join(f'"{cell}"' for cell in row) for row in rows)
    made = read(source, "t.csv")
    assert made.text == "Name: Rye\nNote, long: a\nb\nPrice: 1.5\n\nName: Oat\nPrice: 2"
    assert [made.text[place.start : place.end][:9] for place in made.places] == ["Name: Rye", "Name: Oat"]


def test_rows_that_leave_out_their_last_cells_still_name_their_columns(read: Read) -> None:
    source = "version,name,created,release,eol,lts\n1,Buzz,1993,1996,1997\n2,Rex,1996\n3,Bo,1997,1998\n"
    assert read(source, "t.csv").text.split("\n\n")[1] == "version: 2\nname: Rex\ncreated: 1996"


def test_a_table_without_a_header_keeps_its_first_row(read: Read) -> None:
    assert read("1,2\n3,4\n", "t.csv").text == "1, 2\n\n3, 4"


def test_many_records_share_places(read: Read) -> None:
    made = read("a,b\n" + "".join(f"x{n},{n}\n" for n in range(5000)), "t.csv")
    assert len(made.places) == 1000
    assert made.places[1].label == "6-10"
    assert made.text[made.places[1].start :].startswith("a: x5\n")


def test_json_comes_as_paths_and_values_with_numbers_as_they_are_spelled(read: Read) -> None:
    source = '{"title": "T", "a": {"b": [1.10, NaN, 12345678901234567890123]},'
    source += '"l": [{"x": "y"}, {"x": null}], "t": true}'
    made = read(source, "a.json")
    assert made.title == "T"
    assert made.text == "title: T\na.b: 1.10, NaN, 12345678901234567890123\nt: true\n\nl[0]\nx: y\n\nl[1]"


def test_what_is_not_quite_json_is_still_text(read: Read) -> None:
    made = read('{\n  // a comment\n  "a": 1,\n}', "a.json")
    assert "// a comment" in made.text
    assert "not valid JSON" in made.metadata["note"]


def test_a_broken_line_does_not_spoil_json_lines(read: Read) -> None:
    made = read('{"a": 1}\n{"a": \n\n{"a": "\\ud800"}\n', "a.jsonl")
    assert made.text == 'a: 1\n\n{"a": \n\na: \ufffd'
    assert [place.label for place in made.places] == ["1", "2", "4"]


@pytest.mark.parametrize(
    "text",
    ["ID3 tags are explained here.", "BZh is a prefix.", "MZ is no program.", "PAR1 of a book.", "BM: memo"],
)
def test_words_that_begin_like_a_binary_format_are_words(text: str, read: Read) -> None:
    assert read(text).text == text


def test_a_declared_media_type_decides_where_name_and_content_do_not(read: Read) -> None:
    assert read("# T\n\ntext", "upload", "text/markdown").is_markdown
    assert not read("# T\n\ntext", "script.sh", None).is_markdown
