"""Names from strangers: read as the standards say, and harmless."""

from __future__ import annotations

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.adapters.outbound.naming import MAX_NAME_BYTES, cleaned, name_in_disposition, name_of


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="a b.pdf"', "a b.pdf"),
        ("attachment; filename=a.pdf", "a.pdf"),
        ("attachment;filename=a.pdf;size=3", "a.pdf"),
        ('inline; FILENAME="a;b.pdf"', "a;b.pdf"),
        (r'attachment; filename="say \"hi\".txt"', 'say "hi".txt'),
        ("attachment; filename*=UTF-8''%e2%82%ac%20rates.pdf", "€ rates.pdf"),
        ("attachment; filename*=iso-8859-1'en'%A3.pdf", "£.pdf"),
        ("attachment; filename=EURO.pdf; filename*=utf-8''%e2%82%ac.pdf", "€.pdf"),
        ("attachment; filename*=utf-8''%e2%82%ac.pdf; filename=EURO.pdf", "€.pdf"),
        ("attachment; filename=EURO.pdf; filename*=utf-8''%ff%ff", "EURO.pdf"),
        ("attachment; filename=EURO.pdf; filename*=klingon''x", "EURO.pdf"),
        ('attachment; filename="naïve.pdf"', "naïve.pdf"),
        ('attachment; filename=""', None),
        ("attachment; filename", None),
        ("attachment", None),
        ('attachment; x="filename=evil.exe"', None),
        (None, None),
    ],
)
def test_the_header_is_read_as_the_standards_say(header: str | None, name: str | None) -> None:
    assert name_in_disposition(header) == name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("../../etc/passwd", "passwd"), ("..\\..\\boot.ini", "boot.ini"), ("/", ""), ("..", ""), (".", ""), ("", ""),
        ("a\x00b\r\nc.txt", "abc.txt"), ("  a  b .txt ", "a b .txt"), ("evil\u202efdp.exe", "evilfdp.exe"),
        (".htaccess", "htaccess"), ('a<b>:"|?*.txt', "a_b______.txt"), ("e\u0301.txt", "é.txt"),
        ("a\ud800.txt", "a.txt"),
    ],
)  # fmt: skip
def test_names_are_cleaned(given: str, name: str) -> None:
    assert cleaned(given) == name


def test_long_names_keep_their_ending() -> None:
    assert cleaned("é" * 300 + ".pdf") == "é" * 125 + ".pdf"
    assert cleaned("a" * 300) == "a" * 255


@given(st.text(st.characters(exclude_categories=[])))
def test_a_cleaned_name_is_a_files_name_and_stays_it(text: str) -> None:
    name = cleaned(text)
    assert len(name.encode()) <= MAX_NAME_BYTES
    assert not set(name) & set('/\\\0\r\n<>:"|?*')
    assert name not in (".", "..")
    assert cleaned(name) == name


@pytest.mark.parametrize(
    ("final", "first", "media_type", "name"),
    [
        ("https://a.example/b/c%20d.pdf?x=/y", "https://a.example/", None, "c d.pdf"),
        ("https://a.example/b/", "https://a.example/report.docx", None, "report.docx"),
        ("https://a.example/", "https://a.example/", "text/html", "a.example.html"),
        ("https://a.example/..%2f..%2fetc%2fpasswd", "https://a.example/", None, "passwd"),
        ("https://a.example/%ff.pdf", "https://a.example/", None, "\ufffd.pdf"),
        ("https://[2606:4700::1111]/", "https://[2606:4700::1111]/", None, "2606_4700__1111"),
    ],
)
def test_without_a_header_the_address_names_it(
    final: str, first: str, media_type: str | None, name: str
) -> None:
    headers = {"content-type": media_type} if media_type else {}
    assert name_of(httpx2.Response(200, headers=headers), httpx2.URL(final), httpx2.URL(first)) == name


def test_a_name_in_the_bytes_of_another_time_is_read() -> None:
    for encoding in ("utf-8", "latin-1"):
        raw = [(b"Content-Disposition", 'attachment; filename="müde.txt"'.encode(encoding))]
        url = httpx2.URL("https://a.example/")
        assert name_of(httpx2.Response(200, headers=raw), url, url) == "müde.txt"
