"""Small, right documents of every supported format, made in code, each holding sentences that tests look
for. Owns what a good file looks like; `hostile.py` spoils it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from pathlib import Path

PAGES = ("The mill grinds wheat on page one.", "The river turns the wheel on page two.")
"""Two sentences: the first stands on the first page, slide, sheet or chapter, the second on the second."""

UNICODE = "Grüße aus Łódź – naïve café, 東京 and Ελλάδα."

_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
_SLIDES = "http://schemas.openxmlformats.org/presentationml/2006/main"
_SHEETS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument"
_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'


def pack(members: Mapping[str, str | bytes], *, stored: tuple[str, ...] = ()) -> bytes:
    """A zip archive of the members, in order; those named in `stored` are not compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            how = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), content, how)
    return buffer.getvalue()


def pdf(pages: tuple[str, ...] = PAGES, *, title: str = "The mill handbook") -> bytes:
    """A PDF with one line of text a page, uncompressed, with a right cross-reference table."""
    first_page = 5
    kids = " ".join(f"{first_page + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        f"<< /Title ({title}) /Author (A. Miller) >>".encode(),
    ]
    for number, line in enumerate(pages):
        shown = line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)").encode("cp1252", "replace")
        stream = b"BT /F1 12 Tf 72 720 Td (" + shown + b") Tj ET" if line else b""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            f"/Contents {first_page + 2 * number + 1} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n" % len(stream) + stream + b"\nendstream")
    return pdf_of_objects(objects, trailer="/Info 4 0 R")


def pdf_of_objects(objects: list[bytes], *, trailer: str = "") -> bytes:
    """A PDF file around the bodies of objects 1, 2, ..., of which object 1 is the catalogue."""
    out = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += (
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()
    )
    return bytes(out)


def docx(
    body: str | None = None, *, prolog: str = _XML, extra: Mapping[str, str | bytes] | None = None
) -> bytes:
    if body is None:
        body = (
            '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Milling</w:t></w:r></w:p>'
            f"<w:p><w:r><w:t>{PAGES[0]}</w:t></w:r></w:p>"
            '<w:p><w:pPr><w:pStyle w:val="Heading2"/></w:pPr><w:r><w:t>Water</w:t></w:r></w:p>'
            f"<w:p><w:r><w:t>{PAGES[1]}</w:t></w:r></w:p><w:p><w:r><w:t>{UNICODE}</w:t></w:r></w:p>"
            "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>Grain</w:t></w:r></w:p></w:tc>"
            "<w:tc><w:p><w:r><w:t>Price</w:t></w:r></w:p></w:tc></w:tr>"
            "<w:tr><w:tc><w:p><w:r><w:t>Rye</w:t></w:r></w:p></w:tc>"
            "<w:tc><w:p><w:r><w:t>12.50</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
        )
    headings = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/></w:style>'
        for n in (1, 2)
    )
    return pack(
        {
            "[Content_Types].xml": _content_types(
                {
                    "/word/document.xml": f"{_TYPE}.wordprocessingml.document.main+xml",
                    "/word/styles.xml": f"{_TYPE}.wordprocessingml.styles+xml",
                    "/docProps/core.xml": "application/vnd.openxmlformats-package.core-properties+xml",
                }
            ),
            "_rels/.rels": _relationships(
                {"officeDocument": "word/document.xml", "core-properties": "docProps/core.xml"}
            ),
            "docProps/core.xml": f'{_XML}<cp:coreProperties xmlns:cp="{_PACKAGE}/metadata/core-properties" '
            'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The mill handbook</dc:title>'
            "<dc:creator>A. Miller</dc:creator></cp:coreProperties>",
            "word/_rels/document.xml.rels": _relationships({"styles": "styles.xml"}),
            "word/styles.xml": f'{_XML}<w:styles xmlns:w="{_WORD}">{headings}</w:styles>',
            "word/document.xml": f'{prolog}<w:document xmlns:w="{_WORD}">'
            f"<w:body>{body}</w:body></w:document>",
            **(extra or {}),
        }
    )


def pptx(slides: tuple[str, ...] = PAGES) -> bytes:
    numbers = range(1, len(slides) + 1)
    ids = "".join(f'<p:sldId id="{255 + n}" r:id="rId{n}"/>' for n in numbers)
    parts: dict[str, str | bytes] = {
        "[Content_Types].xml": _content_types(
            {"/ppt/presentation.xml": f"{_TYPE}.presentationml.presentation.main+xml"}
            | {f"/ppt/slides/slide{n}.xml": f"{_TYPE}.presentationml.slide+xml" for n in numbers}
        ),
        "_rels/.rels": _relationships({"officeDocument": "ppt/presentation.xml"}),
        "ppt/presentation.xml": f'{_XML}<p:presentation xmlns:p="{_SLIDES}" xmlns:r="{_OFFICE}">'
        f"<p:sldIdLst>{ids}</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": _relationships(
            {f"slide#{n}": f"slides/slide{n}.xml" for n in numbers}
        ),
    }
    for number, text in zip(numbers, slides, strict=True):
        parts[f"ppt/slides/slide{number}.xml"] = (
            f'{_XML}<p:sld xmlns:p="{_SLIDES}" xmlns:a="{_DRAWING}"><p:cSld><p:spTree>'
            + _shape(1, "Title", '<p:ph type="title"/>', f"Slide {number}")
            + _shape(2, "Body", '<p:ph type="body" idx="1"/>', text)
            + "</p:spTree></p:cSld></p:sld>"
        )
    return pack(parts)


def xlsx(rows: tuple[tuple[str, str], ...] | None = None) -> bytes:
    sheets = (
        ("Prices 2024", rows or (("Grain", "Sentence"), ("Rye", PAGES[0]))),
        ("Water & wheels", (("Part", "Sentence"), ("Wheel", PAGES[1]))),
    )
    listed = "".join(
        f'<sheet name="{name.replace("&", "&amp;")}" sheetId="{n}" r:id="rId{n}"/>'
        for n, (name, _) in enumerate(sheets, start=1)
    )
    parts: dict[str, str | bytes] = {
        "[Content_Types].xml": _content_types(
            {"/xl/workbook.xml": f"{_TYPE}.spreadsheetml.sheet.main+xml"}
            | {f"/xl/worksheets/sheet{n}.xml": f"{_TYPE}.spreadsheetml.worksheet+xml" for n in (1, 2)}
        ),
        "_rels/.rels": _relationships({"officeDocument": "xl/workbook.xml"}),
        "xl/workbook.xml": f'{_XML}<workbook xmlns="{_SHEETS}" xmlns:r="{_OFFICE}">'
        f"<sheets>{listed}</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": _relationships(
            {f"worksheet#{n}": f"worksheets/sheet{n}.xml" for n in (1, 2)}
        ),
    }
    for number, (_, cells) in enumerate(sheets, start=1):
        lines = "".join(
            f'<row r="{r}">'
            + "".join(
                f'<c r="{"AB"[c]}{r}" t="inlineStr"><is><t>{cell}</t></is></c>' for c, cell in enumerate(row)
            )
            + "</row>"
            for r, row in enumerate(cells, start=1)
        )
        parts[f"xl/worksheets/sheet{number}.xml"] = (
            f'{_XML}<worksheet xmlns="{_SHEETS}"><sheetData>{lines}</sheetData></worksheet>'
        )
    return pack(parts)


def epub(chapters: tuple[str, ...] | None = None, *, prolog: str = "") -> bytes:
    bodies = chapters or tuple(f"<h1>Chapter {n}</h1><p>{text}</p>" for n, text in enumerate(PAGES, start=1))
    numbers = range(1, len(bodies) + 1)
    items = "".join(
        f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>' for n in numbers
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in numbers)
    return pack(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<?xml version="1.0"?><container version="1.0" '
            'xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile '
            'full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
            "book.opf": '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0" '
            'unique-identifier="id"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
            '<dc:identifier id="id">urn:x</dc:identifier><dc:title>The mill handbook</dc:title>'
            "<dc:language>en</dc:language><dc:creator>A. Miller</dc:creator></metadata>"
            f"<manifest>{items}</manifest><spine>{spine}</spine></package>",
            **{
                f"c{n}.xhtml": f'{prolog}<html xmlns="http://www.w3.org/1999/xhtml"><head><title>c{n}</title>'
                f"</head><body>{body}</body></html>"
                for n, body in zip(numbers, bodies, strict=True)
            },
        },
        stored=("mimetype",),
    )


def odt() -> bytes:
    return pack(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "content.xml": '<?xml version="1.0"?><office:document-content '
            'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
            'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"><office:body><office:text>'
            f'<text:h text:outline-level="1">Milling</text:h><text:p>{PAGES[0]}</text:p>'
            f"<text:p>{PAGES[1]}</text:p></office:text></office:body></office:document-content>",
        },
        stored=("mimetype",),
    )


def eml() -> bytes:
    message = EmailMessage()
    message["Subject"] = "Grüße from the mill"
    message["From"] = "miller@example.org"
    message["To"] = "baker@example.org"
    message["Date"] = "Fri, 22 Nov 2024 10:00:00 +0000"
    message.set_content(f"{PAGES[0]}\n{UNICODE}\n{PAGES[1]}\n")
    message.add_alternative(f"<p>{PAGES[0]}</p><p>{UNICODE}</p><p>{PAGES[1]}</p>", subtype="html")
    message.add_attachment(b"Flour, 3 sacks", maintype="text", subtype="plain", filename="order.txt")
    return message.as_bytes()


def html() -> bytes:
    return (
        "<!DOCTYPE html><html><head><meta charset='utf-8'><title>The mill handbook</title>"
        "<style>p{color:red}</style><script>var hidden = 1;</script></head><body><h1>Milling</h1>"
        f"<p>{PAGES[0]}</p><h2>Water</h2><p>{PAGES[1]}</p><p>{UNICODE}</p>"
        "<table><tr><th>Grain</th><th>Price</th></tr><tr><td>Rye</td><td>12.50</td></tr></table>"
        "</body></html>"
    ).encode()


def rtf() -> bytes:
    return rb"{\rtf1\ansi\deff0{\fonttbl{\f0 Arial;}}" + rf"\f0 {PAGES[0]}\par {PAGES[1]}\par}}".encode()


def plain() -> bytes:
    return f"{PAGES[0]}\n\n{UNICODE}\n\n{PAGES[1]}\n".encode()


def markdown() -> bytes:
    return f"# The mill handbook\n\n{PAGES[0]}\n\n## Water\n\n{UNICODE}\n\n{PAGES[1]}\n".encode()


def csv(separator: str = ",") -> bytes:
    rows = (
        ("grain", "price", "note"),
        ("rye", "12.50", PAGES[0]),
        ("wheat", "14", PAGES[1]),
        ("oat", "9", UNICODE),
    )
    return "\r\n".join(
        separator.join(f'"{cell}"' if separator in cell else cell for cell in row) for row in rows
    ).encode()


def json_records() -> list[dict[str, object]]:
    return [
        {"id": 1, "text": PAGES[0], "tags": ["a", "b"]},
        {"id": 2, "text": PAGES[1], "more": {"u": UNICODE}},
    ]


GOOD: Mapping[str, Callable[[], bytes]] = {
    "good.pdf": pdf,
    "good.docx": docx,
    "good.pptx": pptx,
    "good.xlsx": xlsx,
    "good.epub": epub,
    "good.odt": odt,
    "good.eml": eml,
    "good.html": html,
    "good.rtf": rtf,
    "good.txt": plain,
    "good.md": markdown,
    "good.csv": csv,
    "good.tsv": lambda: csv("\t"),
    "good.json": lambda: json.dumps({"title": "The mill", "items": json_records()}).encode(),
    "good.jsonl": lambda: "\n".join(
        json.dumps(record, ensure_ascii=False) for record in json_records()
    ).encode(),
    "good.py": f'"""{PAGES[0]}"""\n\n\ndef wheel() -> str:\n    return "{PAGES[1]}"\n'.encode,
}
"""File name to the function that makes its bytes. Each holds both of PAGES."""


def write_good(folder: Path) -> dict[str, tuple[str, ...]]:
    """Write one good file of each format; returns the sentences that each must yield."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in GOOD.items():
        (folder / name).write_bytes(make())
    return dict.fromkeys(GOOD, PAGES)


def _shape(number: int, name: str, placeholder: str, text: str) -> str:
    return (
        f'<p:sp><p:nvSpPr><p:cNvPr id="{number}" name="{name}"/><p:cNvSpPr/><p:nvPr>{placeholder}</p:nvPr>'
        f"</p:nvSpPr><p:spPr/><p:txBody><a:bodyPr/><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"
    )


def _content_types(overrides: Mapping[str, str]) -> str:
    parts = "".join(f'<Override PartName="{part}" ContentType="{kind}"/>' for part, kind in overrides.items())
    return (
        f'{_XML}<Types xmlns="{_PACKAGE}/content-types">'
        '<Default Extension="xml" ContentType="application/xml"/>'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f"{parts}</Types>"
    )


def _relationships(targets: Mapping[str, str]) -> str:
    """Ids count from rId1 in order; '#n' after a type only keeps the keys apart."""
    listed = "".join(
        f'<Relationship Id="rId{n}" Type="{_OFFICE}/{kind.partition("#")[0]}" Target="{target}"/>'
        for n, (kind, target) in enumerate(targets.items(), start=1)
    )
    return f'{_XML}<Relationships xmlns="{_PACKAGE}/relationships">{listed}</Relationships>'
