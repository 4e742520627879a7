"""Work that is done beside a block and never outlives it. Owns how the two end together; must not know what is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """`work` is awaited at the end of the block, or cancelled where the block raises; an error comes out as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work)
            yield
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
