"""Uploads of real files to a real `embedmill up`: how soon each is answered, and what the service takes of memory.

    python -m benchmarks.uploads [--files 100] [--large-mb 200] [--seed 1]

PDF, DOCX, HTML, Markdown and text of 5 KB to 4 MB, each made in code and no two alike, stored in a folder with fsync.
First one after the other, then all at once, again and again to the same process; then a large one; then all at once to
a service whose two workers parse and embed (on the stand-in) what has come in. The client and the database run on the
same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import psutil
from tests.support.good_office import docx
from tests.support.good_pdfs import pdf
from tests.support.prose import paragraphs
from tests.support.provider import start_provider
from tests.support.work import app_on, stand_in_pipeline

from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database

EMBEDMILL = str(Path(sys.executable).with_name("embedmill"))
SMALLEST_BYTES, LARGEST_BYTES = 5_000, 4_000_000
SAMPLE_SECONDS = 0.02
KINDS = ("pdf", "docx", "html", "md", "txt")
File = tuple[str, bytes]


class Corpus:
    """Files that differ from each other, cut from one long text."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._text = paragraphs(6000, seed=seed).split("\n\n")
        self._made = 0

    def files(self, count: int) -> list[File]:
        return [self._file(KINDS[number % len(KINDS)]) for number in range(count)]

    def _file(self, kind: str) -> File:
        self._made += 1
        size = int(math.exp(self._chance.uniform(math.log(SMALLEST_BYTES), math.log(LARGEST_BYTES))))
        parts = [f"Report number {self._made}"]
        while size > 0:
            parts.append(self._text[self._chance.randrange(len(self._text))])
            size -= len(parts[-1])
        return f"{self._made}.{kind}", self._content(kind, parts)

    def _content(self, kind: str, parts: Sequence[str]) -> bytes:
        match kind:
            case "pdf":
                return pdf(tuple(parts))
            case "docx":
                # A picture, as most have one: text alone would be packed to a tenth.
                picture = self._chance.randbytes(sum(map(len, parts)))
                body = "".join(f"<w:p><w:r><w:t>{part}</w:t></w:r></w:p>" for part in parts)
                return docx(body, extra={"word/media/image1.png": picture})
            case "html":
                body = "".join(f"<p>{part}</p>\n" for part in parts)
                return f"<!DOCTYPE html><html><head><title>Report</title></head><body>{body}</body></html>".encode()
            case _:
                return "\n\n".join(parts).encode()


class Memory:
    """Resident memory of a process, in MB, sampled while the block lasts; and its processor time."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.before = self.peak = self.after = self.now()
        self._cpu_before = self._cpu_seconds()
        self.cpu_seconds = 0.0

    def now(self) -> float:
        return self._process.memory_info().rss / 1e6

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def end(self) -> None:
        self.after = self.now()
        self.cpu_seconds = self._cpu_seconds() - self._cpu_before

    async def sample(self) -> None:
        while True:
            self.peak = max(self.peak, self.now())
            await asyncio.sleep(SAMPLE_SECONDS)


@asynccontextmanager
async def sampled(pid: int) -> AsyncIterator[Memory]:
    memory = Memory(pid)
    sampling = asyncio.create_task(memory.sample())
    try:
        yield memory
    finally:
        sampling.cancel()
        memory.end()


@contextmanager
def running_service(url: str, folder: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """Its address and process; stopped in order with the block."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("EMBEDMILL_")},
        "EMBEDMILL_DATABASE_URL": url,
        "EMBEDMILL_DATA_DIR": str(folder),
    }
    command = [EMBEDMILL, "up", "--port", "0", *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if " answers on " not in line:
                raise RuntimeError(f"the service does not start: {line}")
            yield line.split(" answers on ")[1].partition(";")[0], process.pid
        finally:
            process.terminate()
            process.communicate(timeout=120)


async def upload(client: httpx2.AsyncClient, file: File, seconds: list[float]) -> None:
    started = time.perf_counter()
    response = await client.post(
        "/api/v1/ingestion-jobs", files={"file": file}, data={"pipeline": "standin", "autoLaunch": "true"}
    )
    seconds.append(time.perf_counter() - started)
    if response.status_code != 202 or response.json()["status"] == "failed":
        raise RuntimeError(f"{file[0]} was not accepted: {response.status_code} {response.text}")


def row_of(
    what: str, sizes: Sequence[int], seconds: list[float], took: float, memory: Memory
) -> dict[str, object]:
    ordered = sorted(seconds)
    return {
        "uploads": what,
        "accepted": len(ordered),
        "mb": round(sum(sizes) / 1e6, 1),
        "seconds": round(took, 2),
        "mb_per_second": round(sum(sizes) / 1e6 / took, 1),
        "p50_ms": round(statistics.median(ordered) * 1000),
        "p95_ms": round(ordered[math.ceil(len(ordered) * 0.95) - 1] * 1000),
        "max_ms": round(ordered[-1] * 1000),
        "cpu_ms_each": round(memory.cpu_seconds / len(ordered) * 1000, 1),
        "rss_before_mb": round(memory.before),
        "rss_peak_mb": round(memory.peak),
        "rss_after_mb": round(memory.after),
    }


async def measure(what: str, address: str, pid: int, files: list[File], *, at_once: int) -> dict[str, object]:
    seconds: list[float] = []
    limits = httpx2.Limits(max_connections=at_once)
    async with (
        sampled(pid) as memory,
        httpx2.AsyncClient(base_url=address, timeout=300, trust_env=False, limits=limits) as client,
    ):
        started = time.perf_counter()
        if at_once == 1:
            for file in files:
                await upload(client, file, seconds)
        else:
            await asyncio.gather(*(upload(client, file, seconds) for file in files))
        took = time.perf_counter() - started
    return row_of(what, [len(content) for _, content in files], seconds, took, memory)


async def compare(options: argparse.Namespace) -> list[dict[str, object]]:
    corpus = Corpus(options.seed)
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        benchmark_database() as url,
        start_provider(dimensions=64) as provider,
    ):
        async with app_on(url, Path(folder)) as app:
            await stand_in_pipeline(app, provider.base_url, max_inputs_per_call=500)
        with running_service(url, Path(folder), "--no-workers") as (address, pid):
            await measure("warming up", address, pid, corpus.files(5), at_once=5)
            few = corpus.files(options.files)
            rows.append(await measure("1 after the other", address, pid, few, at_once=1))
            for time_of in ("first", "second", "third"):
                many = corpus.files(options.files)
                rows.append(
                    await measure(f"all at once, {time_of} time", address, pid, many, at_once=options.files)
                )
            large = [("large.bin", random.Random(options.seed).randbytes(options.large_mb * 1_000_000))]
            rows.append(await measure(f"one of {options.large_mb} MB", address, pid, large, at_once=1))
        with running_service(url, Path(folder), "--processes", "2") as (address, pid):
            many = corpus.files(options.files)
            rows.append(
                await measure("all at once, 2 workers busy", address, pid, many, at_once=options.files)
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--large-mb", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows = asyncio.run(compare(options))
    show_table("Uploads: from the first byte sent to the answer", rows)
    save_result("uploads", rows, vars(options))


if __name__ == "__main__":
    main()
