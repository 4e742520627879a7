"""Who reads a file of a form pulls the request: back-pressure, reading less, errors on both sides, no task left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from embedmill.api.multipart import FilePart, FormError, FormLimits, read_form
from tests.api.forms import TYPE, chunked, cut, file, form, text, whole

BODY = form(file("a", b"A" * 100_000), text("x", "y"), file("b", b"B" * 100))


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()


class Counted:
    """A stream that counts what was pulled of it."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks: Iterator[bytes] = iter(chunks)
        self.pulled_bytes = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        try:
            chunk = next(self._chunks)
        except StopIteration:
            raise StopAsyncIteration from None
        self.pulled_bytes += len(chunk)
        return chunk


async def test_nothing_is_pulled_before_it_is_read() -> None:
    stream = Counted(cut(BODY, 1000))
    ahead: list[int] = []

    async def on_file(part: FilePart, content: AsyncIterator[bytes]) -> None:
        read_bytes = 0
        async for chunk in content:
            read_bytes += len(chunk)
            ahead.append(stream.pulled_bytes - read_bytes)

    await read_form(stream, TYPE, on_file=on_file, limits=FormLimits())
    assert max(ahead[:90]) < 1300


async def test_a_huge_chunk_of_the_network_is_handed_on_in_portions() -> None:
    sizes: list[int] = []

    async def on_file(part: FilePart, content: AsyncIterator[bytes]) -> None:
        sizes.extend([len(chunk) async for chunk in content])

    await read_form(chunked([form(file("a", bytes(3_000_000)))]), TYPE, on_file=on_file, limits=FormLimits())
    assert sum(sizes) == 3_000_000
    assert max(sizes) <= 256 * 1024


@pytest.mark.parametrize("wanted", [0, 1, 3])
async def test_what_is_left_unread_is_passed_over(wanted: int) -> None:
    async def on_file(part: FilePart, content: AsyncIterator[bytes]) -> str:
        for _ in range(wanted):
            await anext(content, b"")
        return part.name

    for size in (1000, len(BODY)):
        found = await read_form(chunked(cut(BODY, size)), TYPE, on_file=on_file, limits=FormLimits())
        assert (found.files, found.fields) == (["a", "b"], {"x": ["y"]})


async def test_what_on_file_raises_ends_the_reading_at_once() -> None:
    stream = Counted(cut(BODY, 1000))

    async def on_file(part: FilePart, content: AsyncIterator[bytes]) -> None:
        await anext(content)
        raise LookupError(part.name)

    with pytest.raises(LookupError, match="a"):
        await read_form(stream, TYPE, on_file=on_file, limits=FormLimits())
    assert stream.pulled_bytes == 1000


async def test_a_swallowed_error_is_raised_all_the_same() -> None:
    async def on_file(part: FilePart, content: AsyncIterator[bytes]) -> str:
        try:
            await whole(part, content)
        except FormError:
            return "fine"
        return "whole"

    with pytest.raises(FormError) as raised:
        await read_form(chunked([BODY[:5000]]), TYPE, on_file=on_file, limits=FormLimits())
    assert raised.value.code == "truncated_form"


async def test_an_error_is_raised_again_to_who_asks_again() -> None:
    codes: list[str] = []

    async def on_file(part: FilePart, content: AsyncIterator[bytes]) -> None:
        for _ in range(3):
            try:
                await whole(part, content)
            except FormError as error:
                codes.append(error.code)

    with pytest.raises(FormError):
        await read_form(chunked([BODY[:5000]]), TYPE, on_file=on_file, limits=FormLimits())
    assert codes == ["truncated_form"] * 3


async def test_a_file_ends_once_and_stays_ended() -> None:
    async def on_file(part: FilePart, content: AsyncIterator[bytes]) -> list[bytes]:
        await whole(part, content)
        return [chunk async for chunk in content]

    found = await read_form(chunked(cut(BODY, 50)), TYPE, on_file=on_file, limits=FormLimits())
    assert found.files == [[], []]


async def test_a_file_is_not_readable_after_its_turn() -> None:
    async def on_file(part: FilePart, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return content

    found = await read_form(chunked([BODY]), TYPE, on_file=on_file, limits=FormLimits())
    with pytest.raises(RuntimeError, match="while on_file runs"):
        await anext(found.files[0])


async def test_a_cancellation_passes_through() -> None:
    reached = asyncio.Event()

    async def on_file(part: FilePart, content: AsyncIterator[bytes]) -> None:
        reached.set()
        await asyncio.Event().wait()

    reading = asyncio.create_task(read_form(chunked([BODY]), TYPE, on_file=on_file, limits=FormLimits()))
    await reached.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
