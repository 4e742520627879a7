"""Storing an original of 2 GB: megabytes a second beside a plain copy of a file, and what it takes of memory.

    python -m benchmarks.originals [--size-mib 2048] [--bucket-size-mib 512]

Each runs in a process of its own. The plain copies write the same stream, once and with fsync; `file` and `hash`
alone are the limits. The bucket is moto's, on this machine, whose own work is counted in the time.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

from tests.adapters.blobs.bucket import Bucket, s3_server

from benchmarks.results import save_result, show_table
from embedmill.adapters.blobs.store import build_originals
from embedmill.ports import original_key

CHUNK = os.urandom(65_536)
CHUNKS_PER_MIB = 16
KEY = original_key(1, UUID(int=1))


async def stream(size_mib: int) -> AsyncIterator[bytes]:
    """As uvicorn hands a body on: 64 KiB at a time."""
    for _ in range(size_mib * CHUNKS_PER_MIB):
        yield CHUNK


async def put(folder: Path, url: str, size_mib: int) -> None:
    await build_originals(url or None, folder).put(KEY, stream(size_mib), max_bytes=1 << 40)


async def write_file(folder: Path, _: str, size_mib: int) -> None:
    with (folder / "plain").open("wb") as file:
        async for chunk in stream(size_mib):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


async def hash_only(_: Path, __: str, size_mib: int) -> None:
    digest = hashlib.sha256()
    async for chunk in stream(size_mib):
        digest.update(chunk)


KINDS = {"hash": hash_only, "file": write_file, "folder": put, "bucket": put}


def measured(kind: str, url: str, size_mib: int, environment: dict[str, str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.originals", "--child", kind, folder, url, str(size_mib)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ | environment)
    return {"kind": kind, "size_mib": size_mib} | json.loads(done.stdout)


def run_child(kind: str, folder: str, url: str, size_mib: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    asyncio.run(KINDS[kind](Path(folder), url, int(size_mib)))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = int(size_mib) * 1.048576 / seconds
    print(
        json.dumps({"mb_per_second": round(rate), "peak_mb": round(peak), "grown_mb": round(peak - before)})
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size-mib", type=int, default=2048)
    parser.add_argument("--bucket-size-mib", type=int, default=512)
    parser.add_argument("--child", nargs=4)
    options = parser.parse_args()
    if options.child:
        run_child(*options.child)
        return
    rows = [measured(kind, "", options.size_mib, {}) for kind in ("hash", "file", "folder")]
    with s3_server() as endpoint:
        bucket = Bucket(endpoint, f"bench-{uuid4().hex}")
        bucket.create()
        rows.append(measured("bucket", f"s3://{bucket.name}", options.bucket_size_mib, bucket.environment))
    show_table("Storing an original as it comes", rows)
    save_result("originals", rows, {"size_mib": options.size_mib, "bucket_size_mib": options.bucket_size_mib})


if __name__ == "__main__":
    main()
