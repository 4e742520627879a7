"""A process that puts a made stream into a store and says what that took: for limits, memory and kill -9.

python -m tests.adapters.blobs.putting_child DATA_DIR URL SIZE_MIB [--file-limit-mib N] [--stand-still] [--as-nobody]

It prints one line of JSON: {"stored": bytes or null, "reason", "retryable", "message", "grown_mb"}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import psutil

from embedmill.adapters.blobs.store import build_originals
from embedmill.errors import StorageError
from embedmill.ports import original_key

KEY = original_key(1, UUID(int=1))
CHUNK = os.urandom(65_536)


async def made_stream(size_mib: int, stand_still: bool) -> AsyncIterator[bytes]:
    for _ in range(size_mib * 16):
        await asyncio.sleep(0)
        yield CHUNK
    if stand_still:
        print("standing", flush=True)
        await asyncio.Event().wait()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("url")
    parser.add_argument("size_mib", type=int)
    parser.add_argument("--file-limit-mib", type=int)
    parser.add_argument("--stand-still", action="store_true")
    parser.add_argument("--as-nobody", action="store_true")
    options = parser.parse_args()
    originals = build_originals(options.url or None, options.data_dir)
    if options.file_limit_mib:
        limit = options.file_limit_mib * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if options.as_nobody:
        await asyncio.to_thread(peak_mb)  # loads what this account may no longer read afterwards
        os.setuid(65_534)
    before = max(peak_mb(), psutil.Process().memory_info().rss / 1e6)
    said: dict[str, object] = {"stored": None}
    try:
        stream = made_stream(options.size_mib, options.stand_still)
        said["stored"] = (await originals.put(KEY, stream, max_bytes=1 << 40)).size_bytes
    except StorageError as error:
        said |= {"reason": error.reason, "retryable": error.retryable, "message": str(error)}
    print(json.dumps(said | {"grown_mb": round(peak_mb() - before)}))


if __name__ == "__main__":
    asyncio.run(main())
