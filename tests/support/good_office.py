"""Small, right files of the formats that are zip archives inside, made in code: Office, OpenDocument, EPUB."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence

from tests.support.sentences import PAGES, UNICODE

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


def pptx(
    slides: Sequence[str] = PAGES,
    *,
    shown: Sequence[int] | None = None,
    notes: Mapping[int, str] | None = None,
) -> bytes:
    """A deck of slide1.xml, slide2.xml, ... as they were made; `shown` is the order in which they are shown,
    from 1. Notes, by the number of the slide, stand in notesSlide1.xml, notesSlide2.xml, ... in their order,
    above the slide's number."""
    notes = notes or {}
    numbers = range(1, len(slides) + 1)
    ids = "".join(f'<p:sldId id="{255 + n}" r:id="rId{n}"/>' for n in shown or numbers)
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
        parts[f"ppt/slides/slide{number}.xml"] = _page(
            "sld",
            _shape(1, "Title", '<p:ph type="title"/>', f"Slide {number}")
            + _shape(2, "Body", '<p:ph type="body" idx="1"/>', text),
        )
    for at, (slide, text) in enumerate(sorted(notes.items()), start=1):
        parts[f"ppt/slides/_rels/slide{slide}.xml.rels"] = _relationships(
            {"notesSlide": f"../notesSlides/notesSlide{at}.xml"}
        )
        parts[f"ppt/notesSlides/notesSlide{at}.xml"] = _page(
            "notes",
            _shape(1, "Notes", '<p:ph type="body" idx="1"/>', text)
            + _shape(2, "Number", '<p:ph type="sldNum" idx="10"/>', str(slide)),
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


def _page(kind: str, shapes: str) -> str:
    return (
        f'{_XML}<p:{kind} xmlns:p="{_SLIDES}" xmlns:a="{_DRAWING}"><p:cSld><p:spTree>{shapes}'
        f"</p:spTree></p:cSld></p:{kind}>"
    )


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
