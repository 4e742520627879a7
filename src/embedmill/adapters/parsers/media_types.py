"""The media types that embedmill reads, by family, and what the ending of a name suggests. Tables only."""

from __future__ import annotations

PDF = "application/pdf"
EPUB = "application/epub+zip"
HTML = "text/html"
EML = "message/rfc822"
RTF = "application/rtf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
ODT = "application/vnd.oasis.opendocument.text"
ODP = "application/vnd.oasis.opendocument.presentation"
ODS = "application/vnd.oasis.opendocument.spreadsheet"
DOC = "application/msword"
PPT = "application/vnd.ms-powerpoint"
XLS = "application/vnd.ms-excel"
MSG = "application/vnd.ms-outlook"
IPYNB = "application/x-ipynb+json"

PLAIN = "text/plain"
MARKDOWN = "text/markdown"
CSV = "text/csv"
TSV = "text/tab-separated-values"
JSON = "application/json"
JSONL = "application/x-ndjson"

ARCHIVED = frozenset({EPUB, DOCX, PPTX, XLSX, ODT, ODP, ODS})
"""Kinds that are a zip archive inside."""

OFFICE = frozenset({HTML, RTF, DOCX, PPTX, XLSX, ODT, ODP, ODS, DOC, PPT, XLS, MSG, IPYNB})
"""Kinds that the office parser reads."""

BINARY_BY_ENDING = {
    "pdf": PDF,
    "epub": EPUB,
    "docx": DOCX,
    "docm": DOCX,
    "dotx": DOCX,
    "pptx": PPTX,
    "pptm": PPTX,
    "ppsx": PPTX,
    "xlsx": XLSX,
    "xlsm": XLSX,
    "odt": ODT,
    "odp": ODP,
    "ods": ODS,
    "doc": DOC,
    "dot": DOC,
    "ppt": PPT,
    "pps": PPT,
    "xls": XLS,
    "msg": MSG,
}
"""Endings whose files are never text: a text of that name is read as the text that it is."""

TEXT_BY_ENDING = {
    "html": HTML,
    "htm": HTML,
    "xhtml": HTML,
    "eml": EML,
    "rtf": RTF,
    "ipynb": IPYNB,
    "md": MARKDOWN,
    "markdown": MARKDOWN,
    "mdown": MARKDOWN,
    "mdx": MARKDOWN,
    "rmd": MARKDOWN,
    "qmd": MARKDOWN,
    "csv": CSV,
    "tsv": TSV,
    "tab": TSV,
    "json": JSON,
    "geojson": JSON,
    "jsonl": JSONL,
    "ndjson": JSONL,
}
"""Endings that say how a text is to be read; every other text is plain text."""

MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\0\0\1\0", "an icon"),
    (b"8BPS", "a Photoshop image"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"\0\0\1\xba", "an MPEG video"),
    (b"\0\0\1\xb3", "an MPEG video"),
    (b"FLV\1", "a Flash video"),
    (b"ID3", "an MP3 recording"),
    (b"\xff\xfb", "an MP3 recording"),
    (b"fLaC", "a FLAC recording"),
    (b"OggS", "an Ogg recording"),
    (b"\x7fELF", "a program"),
    (b"\xfe\xed\xfa\xce", "a program"),
    (b"\xfe\xed\xfa\xcf", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"\0asm", "a WebAssembly program"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"(\xb5/\xfd", "a zstd archive"),
    (b"7z\xbc\xaf'\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"!<arch>\n", "an ar archive"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"wOFF", "a font"),
    (b"wOF2", "a font"),
    (b"OTTO\0", "a font"),
    (b"\0\1\0\0\0", "a font"),
    (b"%!PS", "a PostScript file"),
    (b"PAR1", "a Parquet file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x80\x04\x95", "a Python pickle"),
)
"""First bytes that no readable document has, and what they are called in the refusal."""
