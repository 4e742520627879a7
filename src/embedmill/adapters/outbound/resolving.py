"""From a host's name to its addresses. Owns the threads that wait for the name servers, so that names which nobody
answers for hold up no other blocking work of the process; judges no address."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""From host and port to addresses in the order to try them; raises OSError where there are none."""

THREADS = 16


async def resolve(host: str, port: int) -> list[str]:
    """The addresses as the operating system finds them. Raises OSError (socket.gaierror)."""
    found = await asyncio.get_running_loop().run_in_executor(
        _threads(), lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="resolve")
