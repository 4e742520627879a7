"""Names of uploads: as clients write them, and as people should see them."""

from __future__ import annotations

import pytest

from embedmill.api.file_names import clean_name
from embedmill.api.multipart import FormError
from tests.api.forms import form, part, read

E_ACUTE = "é".encode()


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\system.ini", "system.ini"),
        ("C:\\docs\\report.pdf", "report.pdf"),
        ("/etc/shadow", "shadow"),
        ("folder/", "folder"),
        ("a/..", "a"),
        ("", "unnamed"),
        (" ", "unnamed"),
        (".", "unnamed"),
        ("..", "unnamed"),
        ("../..//./", "unnamed"),
        (". /.. ", "unnamed"),
        ("\x00", "unnamed"),
        (".\x00.", "unnamed"),
        ("re\x00port.p\x1bdf\r\n", "report.pdf"),
        ("..\x00/pass\x00wd", "passwd"),
        ("gpj.\u202etxt.exe", "gpj.txt.exe"),
        ("\ufeffa.txt", "a.txt"),
        ("lone \ud800.txt", "lone .txt"),
        ("  spaced out.txt  ", "spaced out.txt"),
        (".gitignore", ".gitignore"),
        ("re\u0301sume\u0301.doc", "résumé.doc"),
        ("報告.pdf", "報告.pdf"),
        ("👩‍👩‍👧.png", "👩‍👩‍👧.png"),
        ("می‌خواهم.txt", "می‌خواهم.txt"),
        ("a" * 4000 + ".pdf", "a" * 251 + ".pdf"),
        ("a" * 4000, "a" * 255),
        ("." * 4000, "unnamed"),
        ("a." + "b" * 4000, "a." + "b" * 253),
        ("x" * 300 + ".tar.gz", "x" * 252 + ".gz"),
        ("<script>alert(1)</script>", "script>"),
    ],
)
def test_clean_names(raw: str, clean: str) -> None:
    assert clean_name(raw) == clean


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (b'filename="plain.txt"', "plain.txt"),
        (b"filename=bare.txt", "bare.txt"),
        (b"filename=" + E_ACUTE + b"\xc3\xa0.txt", "éà.txt"),
        (b"FileName = 'quoted.txt'", "'quoted.txt'"),
        (b'filename="semi;colon, comma.txt"', "semi;colon, comma.txt"),
        (b'filename="' + E_ACUTE + b'.txt"', "é.txt"),
        (b'filename="caf\xe9 \x80.txt"', "café €.txt"),
        (b'filename="\xff\x81.txt"', "ÿ\ufffd.txt"),
        (b'filename="a\\"b.txt"', 'a"b.txt'),
        (b'filename="a%22b%0D%0A.txt"', 'a"b.txt'),
        (b'filename="100%25.txt"', "100%25.txt"),
        (b'filename="C:\\docs\\new.txt"', "new.txt"),
        (b'filename="\\\\server\\share\\x.txt"', "x.txt"),
        (b'filename="../../etc/passwd"', "passwd"),
        (b"filename*=UTF-8''na%C3%AFve%20file.txt", "naïve file.txt"),
        (b"filename*=utf-8'en'%e2%82%ac.txt", "€.txt"),
        (b"filename*=iso-8859-1''caf%E9.txt", "café.txt"),
        (b"filename=\"fallback.txt\"; filename*=utf-8''real.txt", "real.txt"),
        (b"filename*=utf-8''real.txt; filename=\"fallback.txt\"", "real.txt"),
        (b"filename*=klingon''real.txt; filename=\"fallback.txt\"", "fallback.txt"),
        (b'filename*=nonsense; filename="fallback.txt"', "fallback.txt"),
        (b"filename*=nonsense", "unnamed"),
        (b"filename*=utf-8''..%2F..%2Fetc%2Fpasswd%00", "passwd"),
        (b"filename*=utf-8''%ff%fe.txt", "\ufffd\ufffd.txt"),
        (b'filename=""', "unnamed"),
        (b'filename="\x00"', "unnamed"),
        (b'filename="' + b"a" * 4000 + b'.pdf"', "a" * 251 + ".pdf"),
    ],
)
async def test_names_as_clients_write_them(parameters: bytes, name: str) -> None:
    body = form(part(b"content", b'Content-Disposition: form-data; name="file"; ' + parameters))
    (found,) = (await read(body)).files
    assert (found.part.name, found.part.field, found.content) == (name, "file", b"content")


@pytest.mark.parametrize(
    "parameters", [b'filename="a"; filename="b"', b'filename="a" x', b'filename="a', b"=a", b";x"]
)
async def test_names_that_two_readers_would_read_otherwise_are_refused(parameters: bytes) -> None:
    with pytest.raises(FormError) as raised:
        await read(form(part(b"", b'Content-Disposition: form-data; name="file"; ' + parameters)))
    assert raised.value.code == "malformed_form"
