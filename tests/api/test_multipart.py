"""Forms as they arrive: what is handed on, what is refused, what is never taken for whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.requests import ClientDisconnect

from embedmill.api.multipart import FilePart, FormError, FormLimits, read_form
from tests.api.forms import BOUNDARY, TYPE, Read, chunked, cut, file, form, part, read, text, whole


async def refused(body: bytes, content_type: str = TYPE, limits: FormLimits | None = None) -> FormError:
    """The error, which must be of the same code for any size of chunk."""
    errors = []
    for size in (1, 7, 100, len(body) or 1):
        with pytest.raises(FormError) as raised:
            await read(cut(body, size), content_type, limits)
        errors.append(raised.value)
    assert len({(error.code, error.status) for error in errors}) == 1
    return errors[0]


async def test_fields_and_files_in_any_order() -> None:
    body = form(
        text("pipeline", "default"), file("a.txt", b"first"), text("tag", "één"), text("tag", "zwei"),
        file("b.pdf", b"", "application/PDF; x=y"), text("empty", ""),
    )  # fmt: skip
    for size in (1, 3, 64, len(body)):
        found = await read(cut(body, size))
        assert found.fields == {"pipeline": ["default"], "tag": ["één", "zwei"], "empty": [""]}
        assert found.files == [
            Read(FilePart("file", "a.txt", "text/plain", 0), b"first"),
            Read(FilePart("file", "b.pdf", "application/pdf", 1), b""),
        ]


@pytest.mark.parametrize(
    "body", [form(), b"\r\n\r\n" + form(), form() + b"epilogue\r\n--" + BOUNDARY.encode()]
)
async def test_a_form_without_parts_is_empty(body: bytes) -> None:
    for size in (1, 5, len(body)):
        found = await read(cut(body, size))
        assert (found.fields, found.files) == ({}, [])


async def test_a_file_box_in_which_nothing_was_chosen_is_no_file() -> None:
    found = await read(form(file("", b"", "application/octet-stream"), file("", b"nameless"), text("a", "b")))
    assert [(one.part.name, one.content) for one in found.files] == [("unnamed", b"nameless")]
    assert found.fields == {"a": ["b"]}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 31, 4096])
async def test_what_looks_like_a_boundary_survives_in_a_file(size: int) -> None:
    edge = BOUNDARY.encode()
    content = (
        b"\r\n--" + edge[:-1] + b"\r\n--" + edge + b"x\n" + b"--" + edge + b"--\r\n--" + edge + b"-x"
        b"\r\n\r\n-\r\n--\r\r\n\n--" + edge + b"\r-\r\n--" + edge[:4] + b"\r\n" + b"\r"
    )  # fmt: skip
    found = await read(cut(form(file("odd", content), file("next", b"--" + edge)), size))
    assert [one.content for one in found.files] == [content, b"--" + edge]


async def test_every_cut_short_body_is_truncated_and_its_file_never_whole() -> None:
    body = form(text("a", "b"), file("one", b"content of one\r\n--"), file("two", b"content of two"))
    end_of_one = body.index(b"content of two")
    for length in range(len(body) - len(b"--\r\n") + 1):
        finished: list[str] = []

        async def on_file(
            part: FilePart, content: AsyncIterator[bytes], finished: list[str] = finished
        ) -> None:
            await whole(part, content)
            finished.append(part.name)

        with pytest.raises(FormError) as raised:
            await read_form(chunked([body[:length]]), TYPE, on_file=on_file, limits=FormLimits())
        assert (raised.value.code, raised.value.status) == ("truncated_form", 400)
        assert "two" not in finished
        assert "one" not in finished or length > end_of_one - 100


async def test_a_client_that_goes_away_is_a_truncated_form() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield form(file("a", b"content"))[:-30]
        raise ClientDisconnect

    with pytest.raises(FormError) as raised:
        await read_form(stream(), TYPE, on_file=whole, limits=FormLimits())
    assert raised.value.code == "truncated_form"


async def test_an_error_of_the_stream_passes() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield form(file("a", b"content"))[:-30]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await read_form(stream(), TYPE, on_file=whole, limits=FormLimits())


@pytest.mark.parametrize(
    ("limits", "code", "parts"),
    [
        (FormLimits(max_files=2), "too_many_files", [file(f"{n}", b"x") for n in range(3)]),
        (FormLimits(max_fields=2), "too_many_fields", [text(f"{n}", "x") for n in range(3)]),
        (FormLimits(max_fields=2), "too_many_fields", [file("", b"")] * 3),
        (FormLimits(max_field_bytes=9), "field_too_large", [text("a", "x" * 10)]),
        (FormLimits(max_header_bytes=200), "headers_too_large", [file("x" * 200, b"")]),
        (FormLimits(max_header_bytes=200), "headers_too_large", [part(b"", *[b"X-%d: x" % n for n in range(99)])]),
        (FormLimits(max_total_bytes=199), "form_too_large", [file("a", b"x" * 200)]),
        (FormLimits(max_files=0), "too_many_files", [file("a", b"x")]),
    ],
)  # fmt: skip
async def test_limits(limits: FormLimits, code: str, parts: list[bytes]) -> None:
    error = await refused(form(*parts), limits=limits)
    assert (error.code, error.status) == (code, 413)


async def test_exactly_the_limits_is_fine() -> None:
    body = form(file("a", b"x"), text("b", "x" * 9))
    limits = FormLimits(
        max_files=1, max_fields=1, max_field_bytes=9, max_header_bytes=90, max_total_bytes=len(body)
    )
    assert len((await read(body, limits=limits)).files) == 1


async def test_an_endless_epilogue_or_header_ends_at_a_limit() -> None:
    async def endless(start: bytes, more: bytes) -> AsyncIterator[bytes]:
        yield start
        while True:
            await asyncio.sleep(0)
            yield more

    head = b"--" + BOUNDARY.encode() + b"\r\n"
    for start, more in (
        (form(), b"x" * 1000), (b"\r\n", b"\r\n" * 500), (head, b"x" * 1000), (head + b"a:", b" " * 60_000),
        (head + b"a: ", b"x" * 1000), (file("a", b"x"), text("a", "b")),
    ):  # fmt: skip
        limits = FormLimits(max_total_bytes=2_000_000)
        with pytest.raises(FormError):
            await read_form(endless(start, more), TYPE, on_file=whole, limits=limits)


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        ("", "not_multipart"),
        ("application/json", "not_multipart"),
        ("multipart/mixed; boundary=x", "not_multipart"),
        ("multipart/form-data", "missing_boundary"),
        ("multipart/form-data; charset=utf-8", "missing_boundary"),
        ("multipart/form-data; boundary=", "missing_boundary"),
        ('multipart/form-data; boundary=""', "missing_boundary"),
        ("multipart/form-data; boundary=" + "x" * 201, "missing_boundary"),
        ("multipart/form-data; boundary=a; boundary=b", "missing_boundary"),
        ("multipart/form-data; boundary=\xe9", "missing_boundary"),
        ('multipart/form-data; boundary="a\nb"', "missing_boundary"),
        ("multipart/form-data;" + "; " * 30_000, "missing_boundary"),
    ],
)  # fmt: skip
async def test_the_header_of_the_form(content_type: str, code: str) -> None:
    error = await refused(form(text("a", "b")), content_type)
    assert (error.code, error.status) == (code, 415 if code == "not_multipart" else 400)


@pytest.mark.parametrize(
    "header", ['Multipart/Form-Data;BOUNDARY="{}"', "multipart/form-data; x=y;; boundary={} ;"]
)
async def test_the_header_may_be_written_otherwise(header: str) -> None:
    assert (await read(form(text("a", "b")), header.format(BOUNDARY))).fields == {"a": ["b"]}


NAMED = b'Content-Disposition: form-data; name="a"'


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("malformed_form", b"no form at all"),
        ("malformed_form", b"preamble\r\n" + form(text("a", "b"))),
        (
            "malformed_form",
            b"--" + BOUNDARY.encode() + b"\n" + NAMED + b"\n\nb\n--" + BOUNDARY.encode() + b"--",
        ),
        ("malformed_form", form(part(b"b"))),
        ("malformed_form", form(part(b"b", b"Content-Type: text/plain"))),
        ("malformed_form", form(part(b"b", b"Content-Disposition: form-data"))),
        ("malformed_form", form(part(b"b", b'Content-Disposition: attachment; name="a"'))),
        ("malformed_form", form(part(b"b", b'Content-Disposition: form-data; name="a'))),
        ("malformed_form", form(part(b"b", b'Content-Disposition: form-data; name="a"; name="b"'))),
        ("malformed_form", form(part(b"b", NAMED, NAMED))),
        ("malformed_form", form(part(b"b", b"no colon"))),
        ("malformed_form", form(part(b"b", b": no name"))),
        ("unsupported_encoding", form(part(b"YQ==", NAMED, b"Content-Transfer-Encoding: base64"))),
        ("field_not_text", form(text("a", b"\xff\xfe"))),
        ("field_not_text", form(text("a", b"nul\x00"))),
        ("field_not_text", form(part(b"b", NAMED, b"Content-Type: text/plain; charset=rot13"))),
        ("truncated_form", b""),
        ("truncated_form", b"\r\n"),
    ],
)
async def test_what_is_no_form(code: str, body: bytes) -> None:
    assert (await refused(body)).code == code


async def test_fields_say_their_charset() -> None:
    body = form(
        part(
            b"caf\xe9",
            NAMED,
            b"Content-Type: text/plain; charset=ISO-8859-1",
            b"Content-Transfer-Encoding: 8bit",
        )
    )
    assert (await read(body)).fields == {"a": ["café"]}
