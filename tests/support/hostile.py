"""Every hostile file that embedmill must survive, made in code. Owns what is hostile and which reasons are
right for it; good files to spoil come from `good_documents.py`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from tests.support import good_documents as good
from tests.support import good_office as office
from tests.support import good_pdfs as pdfs
from tests.support.sentences import PAGES

PARSES: frozenset[str] = frozenset()
"""Looks hostile, must be read right all the same: no reason is expected."""

GIB = 1024**3
_BOMB_BYTES = 300 * 1024 * 1024  # more than any one part may unfold to
_FLATE_BOMB_BYTES = 160 * 1024 * 1024  # in text, three times that in memory
_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY l9 "lol">'
    + "".join(f'<!ENTITY l{n} "{f"&l{n + 1};" * 10}">' for n in range(8, -1, -1))
    + "]>"
)
_XXE = '<?xml version="1.0"?><!DOCTYPE d [<!ENTITY l0 SYSTEM "file:///etc/passwd">]>'


def write_hostile(folder: Path) -> dict[str, frozenset[str]]:
    """Write all hostile files; returns for each name the reasons of which one must be given, PARSES where the
    file must be read. The giant is sparse. An unreadable file is there only for users whom modes bind."""
    folder.mkdir(parents=True, exist_ok=True)
    expected: dict[str, frozenset[str]] = {}
    for name, (make, reasons) in HOSTILE.items():
        (folder / name).write_bytes(make())
        expected[name] = reasons
    return expected | _write_odd_paths(folder)


def _write_odd_paths(folder: Path) -> dict[str, frozenset[str]]:
    """What is not a file with bytes: a giant, a pipe, a folder, a link to nowhere, a locked file."""
    with (folder / "giant.txt").open("wb") as file:
        file.truncate(GIB)
    os.mkfifo(folder / "pipe.pdf")
    (folder / "folder.pdf").mkdir()
    (folder / "dangling.txt").symlink_to(folder / "nowhere.txt")
    expected = dict.fromkeys(("pipe.pdf", "folder.pdf", "dangling.txt"), frozenset({"unreadable"}))
    if os.geteuid() != 0:
        (folder / "locked.txt").write_bytes(good.plain())
        (folder / "locked.txt").chmod(0)
        expected["locked.txt"] = frozenset({"unreadable"})
    return expected | {"giant.txt": frozenset({"too_large"})}


def encrypted_pdf(password: str, *, pages: tuple[str, ...] = PAGES) -> bytes:
    """A PDF under the standard handler, revision 2, 40-bit RC4; an empty password opens for everybody."""
    file_id = bytes(range(16))
    permissions = struct.pack("<i", -4)
    padded = (password.encode("latin-1") + _PADDING)[:32]
    owner = _rc4(hashlib.md5(padded).digest()[:5], padded)  # noqa: S324 -- the format's own
    key = hashlib.md5(padded + owner + permissions + file_id).digest()[:5]  # noqa: S324
    encryption = (
        f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{owner.hex()}> "
        f"/U <{_rc4(key, _PADDING).hex()}> /P -4 >> "
        f"/ID [<{file_id.hex()}> <{file_id.hex()}>]"
    )
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{' '.join(f'{4 + 2 * n} 0 R' for n in range(len(pages)))}] "
        f"/Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for at, line in enumerate(pages):
        number = 5 + 2 * at
        object_key = hashlib.md5(key + struct.pack("<I", number)[:3] + b"\0\0").digest()[:10]  # noqa: S324
        stream = _rc4(object_key, f"BT /F1 12 Tf 72 720 Td ({line}) Tj ET".encode())
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode(),
            b"<< /Length %d >>\nstream\n" % len(stream) + stream + b"\nendstream",
        ]
    return pdfs.pdf_of_objects(objects, trailer=encryption)


_PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")


def _rc4(key: bytes, data: bytes) -> bytes:
    box, j = list(range(256)), 0
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) % 256
        box[i], box[j] = box[j], box[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        out.append(byte ^ box[(box[i] + box[j]) % 256])
    return bytes(out)


def compound(*streams: str) -> bytes:
    """An OLE compound file with these (empty) streams in its directory."""
    header = bytearray(512)
    header[:8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
    struct.pack_into("<HHHHH", header, 24, 0x3E, 3, 0xFFFE, 9, 6)
    struct.pack_into("<IIIIIIIII", header, 44, 1, 1, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0, 0)
    struct.pack_into("<109I", header, 76, 0, *[0xFFFFFFFF] * 108)
    fat = struct.pack("<128I", 0xFFFFFFFD, 0xFFFFFFFE, *[0xFFFFFFFF] * 126)
    entries = bytearray()
    for at, name in enumerate(("Root Entry", *streams)):
        wide = name.encode("utf-16-le")
        entry = bytearray(128)
        entry[: len(wide)] = wide
        struct.pack_into("<HBB", entry, 64, len(wide) + 2, 2 if at else 5, 1)
        right = at + 1 if 0 < at < len(streams) else 0xFFFFFFFF
        struct.pack_into("<III", entry, 68, 0xFFFFFFFF, right, 0xFFFFFFFF if at else 1)
        struct.pack_into("<I", entry, 116, 0xFFFFFFFE)
        entries += entry
    return bytes(header) + fat + bytes(entries.ljust(512, b"\0"))


@cache
def flate_bomb_pdf() -> bytes:
    """A page whose content stream unfolds a thousandfold, twice over."""
    packer = zlib.compressobj(1)
    block = b"BT /F1 1 Tf (x) Tj ET\n" * 50_000
    once = b"".join(packer.compress(block) for _ in range(_FLATE_BOMB_BYTES // len(block))) + packer.flush()
    twice = zlib.compress(once, 9)
    return pdfs.pdf_of_objects(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources "
            b"<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
            b"<< /Length %d /Filter [/FlateDecode /FlateDecode] >>\nstream\n" % len(twice)
            + twice
            + b"\nendstream",
        ]
    )


def _page_tree_loop() -> bytes:
    return pdfs.pdf_of_objects(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R 2 0 R] /Count 99999 /Parent 3 0 R >>",
            b"<< /Type /Pages /Kids [2 0 R 3 0 R] /Count 99999 /Parent 2 0 R >>",
        ]
    )


def _bomb(good_file: bytes, part: str) -> bytes:
    """An Office file of which one part is a few hundred megabytes of the same byte."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(good_file)) as good_archive,
        # The quickest compression still makes a hundredth of it.
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for member in good_archive.infolist():
            content = good_archive.read(member)
            with archive.open(member.filename, "w") as file:
                file.write(content)
                if member.filename == part:
                    for _ in range(_BOMB_BYTES // (1024 * 1024)):
                        file.write(b" " * 1024 * 1024)
    return buffer.getvalue()


def _encrypted_zip() -> bytes:
    data = bytearray(office.pack({"secret.txt": "not for you"}))
    data[6] |= 1  # the flag in the local header
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # and in the directory
    return bytes(data)


def _nested(opening: str, closing: str, levels: int = 50_000) -> bytes:
    return (opening * levels + "deep words" + closing * levels).encode()


def _random_bytes() -> bytes:
    return random.Random(7).randbytes(50_000)


def _one_line_csv() -> bytes:
    return b",".join(b"cell %d" % n for n in range(400_000))


def _paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def _png() -> bytes:
    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixel = part(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)) + part(
        b"IDAT", zlib.compress(bytes(4))
    )
    return b"\x89PNG\r\n\x1a\n" + pixel + part(b"IEND", b"")


_UNREAL = frozenset({"corrupt", "no_text", "too_large", "memory", "timeout"})
"""For bombs and knots: which limit stops them first may differ between machines."""

HOSTILE: Mapping[str, tuple[Callable[[], bytes], frozenset[str]]] = {
    "encrypted.pdf": (lambda: encrypted_pdf("secret"), frozenset({"encrypted"})),
    "open_password.pdf": (lambda: encrypted_pdf(""), PARSES),
    "encrypted.docx": (lambda: compound("EncryptionInfo", "EncryptedPackage"), frozenset({"encrypted"})),
    "damaged.doc": (lambda: compound("WordDocument", "1Table"), frozenset({"corrupt", "no_text"})),
    "truncated.pdf": (lambda: pdfs.pdf()[:400], frozenset({"corrupt", "no_text"})),
    "header_only.pdf": (lambda: b"%PDF-1.7\n", frozenset({"corrupt"})),
    "truncated.docx": (lambda: office.docx()[:-300], frozenset({"corrupt"})),
    "truncated.epub": (lambda: office.epub()[:500], frozenset({"corrupt"})),
    "bomb.docx": (lambda: _bomb(office.docx(), "word/document.xml"), frozenset({"too_large", "memory"})),
    "bomb.xlsx": (
        lambda: _bomb(office.xlsx(), "xl/worksheets/sheet1.xml"),
        frozenset({"too_large", "memory"}),
    ),
    "nested.zip": (lambda: office.pack({"a.zip": office.pack({"b.zip": b"PK"})}), frozenset({"unsupported"})),
    "encrypted.zip": (_encrypted_zip, frozenset({"encrypted", "unsupported"})),
    "laughs.docx": (lambda: office.docx(_paragraph("&l0;"), prolog=_LAUGHS), frozenset({"corrupt"})),
    "laughs.epub": (lambda: office.epub(("<p>&l0;</p>", "<p>b</p>"), prolog=_LAUGHS), frozenset({"corrupt"})),
    "laughs.html": (f"{_LAUGHS}<html><body>&l0;</body></html>".encode, frozenset({"corrupt"})),
    "laughs.svg": (f"{_LAUGHS}<svg>&l0;</svg>".encode, frozenset({"unsupported", "corrupt"})),
    "xxe.docx": (lambda: office.docx(_paragraph("&l0;"), prolog=_XXE), frozenset({"corrupt"})),
    "xxe.html": (f"{_XXE}<html><body>&l0;</body></html>".encode, frozenset({"corrupt"})),
    "empty.txt": (lambda: b"", frozenset({"empty"})),
    "empty.pdf": (lambda: b"", frozenset({"empty"})),
    "blank.txt": (lambda: b" \t\r\n \n" * 100, frozenset({"empty"})),
    "newlines.txt": (lambda: b"\n" * 5_000_000, frozenset({"empty"})),
    "spaces.md": (lambda: b" " * 5_000_000, frozenset({"empty"})),
    "binary.txt": (_random_bytes, frozenset({"unsupported"})),
    "program.txt": (lambda: b"\x7fELF\2\1\1" + bytes(500), frozenset({"unsupported"})),
    "noise.pdf": (_random_bytes, frozenset({"corrupt"})),
    "image.png": (_png, frozenset({"unsupported"})),
    "image.pdf": (_png, frozenset({"unsupported"})),
    "scan.pdf": (lambda: pdfs.pdf(("", "")), frozenset({"no_text"})),
    "really_a_pdf.docx": (pdfs.pdf, PARSES),
    "really_a_docx.pdf": (office.docx, PARSES),
    "really_html.pdf": (good.html, PARSES),
    "really_text.docx": (good.plain, PARSES),
    "utf16.txt": (lambda: good.plain().decode().encode("utf-16"), PARSES),
    "utf16_unmarked.txt": (lambda: good.plain().decode().encode("utf-16-le"), PARSES),
    "cp1252.txt": (lambda: "\n".join((*PAGES, "Grüße – „naïve“ café")).encode("cp1252"), PARSES),
    "cp1252.html": (lambda: "<p>".join((*PAGES, "Grüße – café")).encode("cp1252"), PARSES),
    "flate_bomb.pdf": (flate_bomb_pdf, _UNREAL),
    "page_loop.pdf": (_page_tree_loop, _UNREAL),
    "deep.html": (lambda: _nested("<div>", "</div>"), PARSES),
    "deep.docx": (lambda: office.docx(_nested("<w:p>", "</w:p>").decode()), _UNREAL),
    "deep.json": (lambda: b"[" * 200_000, frozenset({"corrupt"})),
    "deep_closed.json": (lambda: b"[" * 200_000 + b"]" * 200_000, frozenset({"corrupt"})),
    "deep.xml": (lambda: _nested("<a>", "</a>"), PARSES),
    "numbers.json": (
        lambda: json.dumps({"t": PAGES}).encode()[:-1] + b',"n":[NaN,1e999,' + b"9" * 9000 + b"]}",
        PARSES,
    ),
    "one_line.csv": (_one_line_csv, PARSES),
}
"""File name to the function that makes its bytes and the reasons of which one must be given."""
