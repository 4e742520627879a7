"""Small, right documents of every supported format, made in code, each holding sentences that tests look
for. Owns what a good file looks like; `hostile.py` spoils it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from pathlib import Path

from tests.support import good_office as office
from tests.support import good_pdfs as pdfs
from tests.support.sentences import PAGES, UNICODE


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
    "good.pdf": pdfs.pdf,
    "good.docx": office.docx,
    "good.pptx": office.pptx,
    "good.xlsx": office.xlsx,
    "good.epub": office.epub,
    "good.odt": office.odt,
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
