"""What holds for every form: how the network cuts it changes nothing, and nothing but FormError comes out."""

from __future__ import annotations

import asyncio
import unicodedata
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from embedmill.api.file_names import clean_name
from embedmill.api.multipart import Form, FormError, FormLimits
from tests.api.forms import BOUNDARY, TYPE, Read, file, form, part, read, text

EDGE = b"\r\n--" + BOUNDARY.encode()
# Bytes that come close to a boundary, as often as others.
NEAR = st.sampled_from(
    [EDGE[:n] for n in range(1, len(EDGE))]
    + [EDGE + b"x", EDGE + b"-x", EDGE + b"\rx", EDGE[2:], b"\r", b"\n", b"--"]
)
# A boundary at the start of a line ends a part whatever is meant: contents hold it only as a part of a line.
CONTENT = (
    st.lists(st.one_of(NEAR, st.binary(max_size=20)), max_size=12)
    .map(b"".join)
    .filter(
        lambda content: (
            not any(EDGE + end in b"\r\n" + content + EDGE[:2] for end in (b"\r\n", b"--", b" ", b"\t"))
        )
    )
)
FILE_NAME = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters='"\\\r\n'), min_size=1, max_size=30
)
FIELD_VALUE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r\n"), max_size=50)
PARTS = st.lists(
    st.one_of(
        st.tuples(st.just("file"), FILE_NAME, CONTENT), st.tuples(st.just("text"), st.just("a"), FIELD_VALUE)
    ),
    max_size=5,
)
CUTS = st.lists(st.integers(0, 2000), max_size=30)


def at(body: bytes, cuts: list[int]) -> list[bytes]:
    """The body in chunks, empty ones among them."""
    places = [0, *sorted(min(place, len(body)) for place in cuts), len(body)]
    return [body[start:end] for start, end in pairwise(places)]


def outcome(chunks: list[bytes], content_type: str = TYPE) -> Form[Read] | None:
    """What was read, None where the form was refused; any other error is a failure of the test."""
    limits = FormLimits(max_field_bytes=300, max_header_bytes=300, max_files=4)
    try:
        return asyncio.run(read(chunks, content_type, limits))
    except FormError:
        return None


@settings(max_examples=150, deadline=None)
@given(PARTS, CUTS)
def test_a_form_is_read_as_it_was_written_however_it_is_cut(
    parts: list[tuple[str, str, bytes | str]], cuts: list[int]
) -> None:
    body = form(
        *(file(name, value) if isinstance(value, bytes) else text(name, value) for _, name, value in parts)
    )
    limits = FormLimits(max_header_bytes=1000)
    found = asyncio.run(read(at(body, cuts), limits=limits))
    assert [one.content for one in found.files] == [value for kind, _, value in parts if kind == "file"]
    assert found.fields.get("a", []) == [value for kind, _, value in parts if kind == "text"]


PIECES = st.sampled_from(
    [
        b"--" + BOUNDARY.encode(), BOUNDARY.encode(), b"--", b"\r\n", b"\r", b"\n", b":", b";", b" ", b"\t", b'"',
        b"\\", b"Content-Disposition: form-data; ", b'name="a"', b'filename="b"', b"filename*=utf-8''%e2%82%ac",
        b"x" * 400, b"Content-Type: text/plain; charset=utf-8", b"Content-Transfer-Encoding: base64", b"\x00",
        b"\xff", file("b.txt", b"content"), text("a", "b"), part(b""), form(),
    ]
)  # fmt: skip
GARBAGE = st.lists(st.one_of(PIECES, PIECES, st.binary(max_size=10)), max_size=20).map(b"".join)


@settings(max_examples=250, deadline=None)
@given(GARBAGE, CUTS)
def test_garbage_raises_nothing_but_a_form_error_however_it_is_cut(body: bytes, cuts: list[int]) -> None:
    assert outcome(at(body, cuts)) == outcome([body])


@settings(max_examples=150, deadline=None)
@given(PARTS, st.data(), CUTS)
def test_a_form_with_one_byte_changed_does_not_depend_on_the_cuts(
    parts: list[tuple[str, str, bytes | str]], data: st.DataObject, cuts: list[int]
) -> None:
    body = bytearray(form(*(file("n", value if isinstance(value, bytes) else b"") for _, _, value in parts)))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(at(bytes(body), cuts)) == outcome([bytes(body)])


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text(max_size=60).map("multipart/form-data; boundary={}".format)))
def test_any_header_of_a_form_is_read_or_refused(content_type: str) -> None:
    outcome([form(text("a", "b"))], content_type)


ODD_NAMES = st.lists(
    st.one_of(
        st.sampled_from(["..", "."]),
        st.sampled_from(["/", "\\", "\x00", " ", "\u202e", "\ud800", "C:", "a" * 300, ".pdf", "é", "👩‍👩‍👧"]),
        st.text(max_size=10),
    ),
    max_size=12,
).map("".join)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(ODD_NAMES)
def test_a_clean_name_is_harmless_and_stays_as_it_is(raw: str) -> None:
    name = clean_name(raw)
    assert 1 <= len(name) <= 255
    assert name == name.strip()
    assert not {"/", "\\"} & set(name)
    assert name.strip(".")
    assert not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in name)
    name.encode()
    assert clean_name(name) == name
