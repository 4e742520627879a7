"""Every hostile file gets a reason, in a sentence, and harms nobody else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from embedmill.adapters.parsers.reading import Reader
from embedmill.errors import DocumentError
from embedmill.ingest.parsing import ParserPool
from embedmill.ingest.parsing_protocol import MIB, ParseRequest
from tests.adapters.parsers.conftest import Read
from tests.support import good_documents as good
from tests.support import good_office as office
from tests.support import good_pdfs as pdfs
from tests.support.hostile import PARSES, encrypted_pdf
from tests.support.sentences import PAGES

CHILD = (sys.executable, "-m", "embedmill.adapters.parsers.child", "--memory-bytes", str(256 * MIB))


async def test_each_hostile_file_gets_its_reason_and_its_neighbours_are_read(
    hostile: tuple[Path, dict[str, frozenset[str]]], tmp_path: Path
) -> None:
    folder, expected = hostile
    neighbour = tmp_path / "neighbour.txt"
    neighbour.write_bytes(good.plain())
    wrong = {}
    async with ParserPool(CHILD, size=1, deadline_seconds=60) as pool:
        for name, reasons in sorted(expected.items()):
            try:
                await pool.parse(ParseRequest(name=name, path=str(folder / name)))
                given, message = "", ""
            except DocumentError as error:
                given, message = error.reason, str(error)
            if (reasons == PARSES) != (given == "") or (given and given not in reasons):
                wrong[name] = (given, message)
            elif given:
                assert message.endswith("."), message
                assert "\n" not in message, message
                assert 20 < len(message) < 250, message
            read = await pool.parse(ParseRequest(name="n.txt", path=str(neighbour)))
            assert PAGES[1] in read.document.text
    assert wrong == {}


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (pdfs.pdf(), "report.docx"),
        (office.docx(), "report.pdf"),
        (good.html(), "report.pdf"),
        (good.plain(), "report.docx"),
        (encrypted_pdf(""), "open.pdf"),
        (good.plain().decode().encode("utf-16"), "wide.txt"),
        ("\n".join((*PAGES, "Grüße – café")).encode("cp1252"), "old.txt"),
        ("<p>".join((*PAGES, "Grüße – café")).encode("cp1252"), "old.html"),
    ],
)
def test_what_only_looks_wrong_is_read_for_what_it_is(data: bytes, name: str, read: Read) -> None:
    document = read(data, name)
    for sentence in PAGES:
        assert sentence in document.text
    if name.startswith("old"):
        assert "Grüße – café" in document.text


def test_no_file_of_this_machine_is_read_through_an_entity(read: Read, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret word")
    for tail, name in (("<a>&x;</a>", "a.xml"), ("<html><body>&x;</body></html>", "noname")):
        source = f'<!DOCTYPE d [<!ENTITY x SYSTEM "{secret.as_uri()}">]>{tail}'
        try:
            text = read(source, name).text
        except DocumentError:
            continue
        assert "secret word" not in text


def test_text_that_unfolds_beyond_the_limit_is_refused_while_it_unfolds(tmp_path: Path) -> None:
    header = ",".join(f"{'column ' * 15}{n}" for n in range(1000))
    row = ",".join("1" * 1000)
    (tmp_path / "wide.csv").write_text("\n".join([header, *[row] * 200]))
    with pytest.raises(DocumentError) as caught:
        Reader(5_000_000).read_file(str(tmp_path / "wide.csv"), "wide.csv", None, MIB)
    assert caught.value.reason == "too_large"
