"""E-mail comes as people read it: the headers that matter, the lines as they were written."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from embedmill.adapters.parsers.mail_headers import without_technical_headers
from embedmill.errors import DocumentError
from tests.adapters.parsers.conftest import Read

HEADERS = (
    b"Return-Path: <x@example.org>\r\nReceived: from a by b;\r\n\tFri, 13 Mar 2026 10:00:00 +0000\r\n"
    b"DKIM-Signature: v=1; a=rsa-sha256; d=example.org\r\nMessage-ID: <4411@example.org>\r\n"
    b"In-Reply-To: <1@example.org>\r\nReferences: <1@example.org>\r\n <2@example.org>\r\n"
    b"From: Gwen Parry <gwen@example.org>\r\nTo: All hands <all@example.org>,\r\n Abdi <abdi@example.org>\r\n"
    b"Cc: marit@example.org\r\nDate: Fri, 13 Mar 2026 16:42:07 +0000\r\n"
    b"Subject: Stone No. 2 =?utf-8?b?4oCT?= report and\r\n what we change\r\n"
    b"X-Spam: no\r\nMIME-Version: 1.0\r\n"
)


def mail(**bodies: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "gwen@example.org"
    message["Subject"] = "Report"
    for subtype, text in bodies.items():
        if message.is_multipart() or message.get_content_type() != "text/plain" or message.get_payload():
            message.add_alternative(text, subtype=subtype)
        else:
            message.set_content(text, subtype=subtype)
    return message


def test_only_the_headers_that_people_read_stand_above_the_text(read: Read) -> None:
    document = read(HEADERS + b"Content-Type: text/plain\r\n\r\nDear all,\r\n", "a.eml")
    assert document.text == (
        "From: Gwen Parry <gwen@example.org>\nTo: All hands <all@example.org>, Abdi <abdi@example.org>\n"
        "Cc: marit@example.org\nDate: Fri, 13 Mar 2026 16:42:07 +0000\n"
        "Subject: Stone No. 2 – report and what we change\n\nDear all,"
    )
    assert document.title == "Stone No. 2 – report and what we change"
    assert document.metadata["to"] == "all@example.org, abdi@example.org"


def test_a_plain_text_keeps_its_lines(read: Read) -> None:
    body = "1. one\n2. two\n\nname   price\nrye       12\n\n> quoted\n> again\n-- \nGwen\nHead miller\n"
    document = read(mail(plain=body).as_bytes(), "a.eml")
    assert document.text.endswith(body.rstrip("\n"))
    assert not document.is_markdown


def test_a_line_break_in_html_is_a_line_break(read: Read) -> None:
    document = read(mail(html="<p>Regards<br>Gwen<br />Head miller</p><p>End</p>").as_bytes(), "a.eml")
    assert document.text.endswith("Regards\nGwen\nHead miller\n\nEnd")
    assert document.is_markdown


def test_of_two_versions_the_richer_is_read_once(read: Read) -> None:
    text = read(mail(plain="The plain one", html="<h2>The rich one</h2>").as_bytes(), "a.eml").text
    assert "## The rich one" in text
    assert "The plain one" not in text


def test_an_empty_html_version_does_not_hide_the_plain_one(read: Read) -> None:
    message = mail(plain="All is said here.", html="<html><body><img src='cid:1'></body></html>")
    assert "All is said here." in read(message.as_bytes(), "a.eml").text


def test_attachments_are_named_and_a_forwarded_message_is_read(read: Read) -> None:
    message = mail(plain="See below.")
    message.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="Müller.pdf")
    message.add_attachment(mail(plain="The forwarded words."))
    document = read(message.as_bytes(), "a.eml")
    assert document.text.index("See below.") < document.text.index("The forwarded words.")
    assert document.text.endswith("Attachments: Müller.pdf")
    assert document.metadata["attachments"] == "Müller.pdf"


@pytest.mark.parametrize("charset", ["iso-8859-1", "utf-8", "x-unknown", "hex", "ascii"])
def test_a_wrong_or_unknown_charset_does_not_garble_the_text(charset: str, read: Read) -> None:
    encoded = "Grüße aus Łódź" if charset != "iso-8859-1" else "Grüße aus Köln"
    body = encoded.encode("iso-8859-1" if charset == "iso-8859-1" else "utf-8")
    head = f"Subject: x\nContent-Type: text/plain; charset={charset}\nMIME-Version: 1.0\n\n".encode()
    assert encoded in read(head + body, "a.eml").text


def test_headers_in_raw_utf8_or_in_an_unknown_encoding_are_read(read: Read) -> None:
    head = "Subject: Grüße\nFrom: =?x-none?q?abc?= <a@example.org>\nCc: =?ütf-8?q?abc?=\n\nbody"
    text = read(head, "a.eml").text
    assert "Subject: Grüße" in text
    assert "a@example.org" in text


def test_parts_nested_beyond_reason_are_refused(read: Read) -> None:
    lines = ["Subject: deep"]
    for level in range(3000):
        lines += [f'Content-Type: multipart/mixed; boundary="b{level}"', "", f"--b{level}"]
    with pytest.raises(DocumentError) as caught:
        read("\n".join([*lines, "", "text"]), "a.eml")
    assert caught.value.reason == "corrupt"


def test_the_technical_headers_of_an_outlook_message_are_left_out() -> None:
    rendered = (
        "**Subject**: S\n\n**From**: a\n\n**Message-ID**: 1\n\n**References**: 2\n\nHello\n\n**To**: you"
    )
    assert without_technical_headers(rendered) == "Subject: S\nFrom: a\n\nHello\n\n**To**: you"
