"""What the tests of the parsers share: the hostile files, made once, and how one document is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedmill.adapters.parsers.reading import Reader
from embedmill.core.documents import ParsedDocument
from tests.support.hostile import write_hostile


@pytest.fixture(scope="session")
def reader() -> Reader:
    return Reader(max_text_chars=50_000_000)


class Read:
    """Reads bytes as if they were a file of that name."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self._reader = reader
        self._folder = folder

    def __call__(
        self, data: bytes | str, name: str = "note.txt", media_type: str | None = None
    ) -> ParsedDocument:
        path = self._folder / "document"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return self._reader.read_file(str(path), name, media_type, 2**30)


@pytest.fixture
def read(reader: Reader, tmp_path: Path) -> Read:
    return Read(reader, tmp_path)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, frozenset[str]]]]:
    folder = tmp_path_factory.mktemp("hostile")
    yield folder, write_hostile(folder)
    (folder / "giant.txt").unlink()
