"""Work beside a block ends with it."""

from __future__ import annotations

import asyncio

import pytest

from embedmill.sources.beside import beside


async def test_work_is_awaited_at_the_end_of_the_block() -> None:
    told: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        told.append("work")

    async with beside(work()):
        told.append("block")
    assert told == ["block", "work"]


async def test_a_block_that_raises_cancels_the_work_and_its_error_comes_out_as_it_is() -> None:
    is_cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            is_cancelled.set()
            raise

    async def block() -> None:
        async with beside(work()):
            await asyncio.sleep(0)
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        await block()
    assert is_cancelled.is_set()


async def test_a_fault_of_the_work_ends_the_block_and_comes_out_as_it_is() -> None:
    async def work() -> None:
        raise KeyError("of the work")

    async def block() -> None:
        async with beside(work()):
            await asyncio.Event().wait()

    with pytest.raises(KeyError, match="of the work"):
        await block()
