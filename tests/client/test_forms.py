"""Forms as they are made here are read by the service's own reader, whatever their files are called."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from embedmill.api.multipart import FilePart as ReadPart
from embedmill.api.multipart import FormLimits, read_form
from embedmill.client.forms import FileChangedError, FilePart, Form
from embedmill.client.uploads import MOST_FILES, fields_of, json_of, requests_of

_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
# The reader takes folders off a name: what is behind the last slash or backslash is the name.
_NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zs", "Zl", "Zp", "Mn"], exclude_characters="/\\%"),
    min_size=1,
    max_size=20,
).filter(lambda name: name.strip(".") != "")


async def read(form: Form) -> tuple[dict[str, list[str]], list[tuple[str, bytes]]]:
    async def blocks() -> AsyncIterator[bytes]:
        for block in form.blocks():
            yield block

    async def on_file(part: ReadPart, content: AsyncIterator[bytes]) -> tuple[str, bytes]:
        return part.name, b"".join([piece async for piece in content])

    found = await read_form(blocks(), form.content_type, on_file=on_file, limits=FormLimits())
    return found.fields, found.files


@given(
    st.dictionaries(st.sampled_from(["metadata", "pipeline"]), _TEXTS),
    st.lists(st.tuples(_NAMES, st.binary(max_size=300)), max_size=3),
)
async def test_what_is_written_is_read_and_as_long_as_was_said(
    fields: dict[str, str], files: list[tuple[str, bytes]]
) -> None:
    form = Form(list(fields.items()), [FilePart.of(content, name) for name, content in files])
    assert form.length == sum(len(block) for block in form.blocks())
    read_fields, read_files = await read(form)
    assert read_fields == {name: [value] for name, value in fields.items()}
    assert [content for _, content in read_files] == [content for _, content in files]
    assert [len(name) for name, _ in read_files] == [len(name) for name, _ in files]


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ('a "quoted".txt', 'a "quoted".txt'),
        ("ends with a backslash\\", "ends with a backslash"),
        ("new\r\nX-Header: y.txt", "newX-Header: y.txt"),
        ("naïve 日本.pdf", "naïve 日本.pdf"),
        ("odd \udcff bytes.txt", "odd ? bytes.txt"),
    ],
)
async def test_no_name_can_break_out_of_its_header(name: str, seen: str) -> None:
    fields, files = await read(Form([("pipeline", "p")], [FilePart.of(b"content", name)]))
    assert fields == {"pipeline": ["p"]}
    assert files == [(seen, b"content")]


def test_a_file_that_became_shorter_is_told_and_one_that_grew_is_sent_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"x" * 100)
    part = FilePart.of(path)
    path.write_bytes(b"x" * 150)
    assert b"".join(part.blocks()) == b"x" * 100
    path.write_bytes(b"x" * 50)
    with pytest.raises(FileChangedError, match="shorter"):
        list(part.blocks())


def test_a_named_pipe_is_sent_without_a_length_and_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    part = FilePart.of(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"through the pipe",))
    writer.start()
    assert b"".join(part.blocks()) == b"through the pipe"
    writer.join()
    assert not part.is_repeatable
    assert Form([], [part]).length is None


def test_an_open_file_is_read_from_where_it_stands_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "open.txt"
    path.write_bytes(b"head and tail")
    with path.open("rb") as file:
        file.seek(9)
        part = FilePart.of(file)
        assert (part.name, part.size) == ("open.txt", 4)
        assert [b"".join(part.blocks()) for _ in range(2)] == [b"tail", b"tail"]


def test_large_files_are_read_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(3_000_000)
    assert max(len(block) for block in FilePart.of(path).blocks()) <= 65536
    assert max(len(block) for block in FilePart.of(io.BytesIO(b"x" * 300_000), "a").blocks()) <= 65536


def test_wishes_are_the_same_in_a_form_and_in_json() -> None:
    wishes = {
        "auto_launch": True,
        "metadata": {"a": [1, "x"]},
        "chunk_tokens": 64,
        "budget_usd": 0.5,
        "user_id": None,
    }
    assert json_of(wishes) == {
        "autoLaunch": True,
        "metadata": {"a": [1, "x"]},
        "chunkTokens": 64,
        "budgetUsd": 0.5,
    }
    assert fields_of(wishes) == [
        ("autoLaunch", "true"),
        ("metadata", '{"a":[1,"x"]}'),
        ("chunkTokens", "64"),
        ("budgetUsd", "0.5"),
    ]


def test_many_files_are_shared_out_in_their_order() -> None:
    parts = [FilePart.of(b"x", f"{number}.txt") for number in range(2 * MOST_FILES + 3)]
    groups = list(requests_of(parts))
    assert [len(group) for group in groups] == [MOST_FILES, MOST_FILES, 3]
    assert [part for group in groups for part in group] == parts
    huge = FilePart("huge.bin", b"", 10**12, 0)
    assert [len(group) for group in requests_of([parts[0], huge, parts[1]])] == [1, 1, 1]
