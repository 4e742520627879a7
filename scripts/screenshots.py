"""Pictures of every page of the dashboard, wide and narrow, light and dark, of a service that has real work: documents,
a table that is half embedded, a feed, failures, a budget, webhooks, two workers. Owns what is shown and how; the pages
are visited in Debian's Chromium, and the service, its database and its provider end with the command.

    python scripts/screenshots.py [--into build/screenshots] [--keep]

`--keep` writes those of docs/images that README and docs show as well.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import psycopg
from playwright.async_api import Browser, async_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.dashboard.conftest import ARGUMENTS, CHROMIUM  # noqa: E402 - the repository's own
from tests.dashboard.every_page import addresses  # noqa: E402
from tests.support.provider import RunningProvider, start_provider  # noqa: E402

from embedmill.database.pool import Database  # noqa: E402

Pixels = npt.NDArray[np.uint8]
COMMAND = [sys.executable, "-m", "embedmill"]
IMAGES = ROOT / "docs" / "images"
KEPT = {
    "overview": "overview-wide-light",
    "job": "documents-jobs-one-wide-light",
    "sources": "sources-wide-light",
    "search": "search-wide-dark",
}
WINDOWS = {"wide": {"width": 1440, "height": 900}, "narrow": {"width": 360, "height": 780}}
MOST_BYTES = 150_000
ARTICLES = 3000
POISON = "unspeakable"
_TABLE = """
CREATE TABLE public.articles (id bigint PRIMARY KEY, title text NOT NULL, body text NOT NULL);
INSERT INTO public.articles
SELECT n, (ARRAY['Rye', 'Wheat', 'Barley', 'Oats', 'Spelt'])[n % 5 + 1] || ', delivery ' || n,
       'Load ' || n || ' came by ' || (ARRAY['barge', 'cart', 'rail'])[n % 3 + 1] || ' on day ' || n % 365
       || ' with ' || 10 + n % 30 || ' sacks; the miller graded it ' || (ARRAY['fine', 'coarse'])[n % 2 + 1] || '.'
       || CASE WHEN n % 400 = 7 THEN ' It held something UNSPEAKABLE.' ELSE '' END
  FROM generate_series(1, 3000) AS n
"""


# The browser reads a picture, so that nothing else must be installed for it.
_PIXELS = """
async (picture) => {
  const bytes = Uint8Array.from(atob(picture), (one) => one.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const data = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  let text = "";
  for (let at = 0; at < data.length; at += 32768) text += String.fromCharCode(...data.subarray(at, at + 32768));
  return [bitmap.width, bitmap.height, btoa(text)];
}
"""


class _Receiver(BaseHTTPRequestHandler):
    """Takes what webhooks send; /broken answers that it cannot."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(500 if self.path == "/broken" else 204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiver() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


class Installation:
    """A folder of its own with its embedded database; commands as a person types them."""

    def __init__(self, folder: Path) -> None:
        self.environment = {
            **os.environ,
            "EMBEDMILL_DATABASE_URL": "",
            "EMBEDMILL_DATA_DIR": str(folder),
            "EMBEDMILL_ALLOWED_HOSTS": "127.0.0.1",
            "EMBEDMILL_REQUESTS_PER_MINUTE": "100000",
            "OPENAI_API_KEY": "stand-in",
        }

    def run(self, *words: str, may_find: bool = False) -> str:
        """Its output. `may_find`: status 1 says that something was found."""
        done = subprocess.run(
            [*COMMAND, *words], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode not in ((0, 1) if may_find else (0,)):
            raise RuntimeError(f"embedmill {' '.join(words)}: {done.stderr or done.stdout}")
        return done.stdout

    @asynccontextmanager
    async def service(self) -> AsyncIterator[str]:
        """The address of `embedmill up` with two workers."""
        process = subprocess.Popen(  # noqa: ASYNC220 - nothing else is to be done meanwhile
            [*COMMAND, "up", "--port", "0", "--processes", "2"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None  # noqa: S101
        try:
            for line in process.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    # Somebody must read on, or the workers' lines fill the pipe.
                    Thread(target=process.stdout.read, daemon=True).start()
                    yield found[0]
                    return
            raise RuntimeError("the service did not start")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def prepare(installation: Installation, provider: RunningProvider) -> str:
    """Pipelines and configuration; the URL of the database."""
    url = installation.run("db", "url").strip().splitlines()[-1]
    installation.run(
        *("pipeline", "create", "articles", "--model", "text-embedding-3-small", "--dimensions", "64"),
        *("--base-url", provider.base_url, "--price-per-million-tokens", "20", "--calls-per-minute", "600"),
        *("--tokens-per-minute", "1000000", "--tokenizer", "cl100k_base"),
    )
    for key, value in {"alert_after_seconds": 0, "alert_dead_letters": 5, "alert_budget_percent": 50}.items():
        installation.run("config", "set", key, str(value))
    installation.run("budget", "set", "5")
    return url


async def work(client: httpx2.AsyncClient, installation: Installation, url: str, hook: str) -> None:
    """What a week of use leaves behind, in a minute."""
    documents = sorted(path for path in (ROOT / "examples" / "documents").iterdir() if path.is_file())
    for path in documents:
        await upload(client, path.name, path.read_bytes(), autoLaunch="true", pipeline="default")
    await upload(
        client, "harbour-mill-ledger.pdf", b"%PDF-1.7 cut off", autoLaunch="true", pipeline="default"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_TABLE)  # type: ignore[arg-type]
    installation.run("webhook", "add", f"{hook}/jobs", "--description", "the archive")
    installation.run("webhook", "add", f"{hook}/broken", "--description", "the old portal")
    installation.run(
        "table", "add", "public.articles", "-p", "articles", "--content", "$title\n\n$body", "--no-backfill"
    )
    installation.run("backfill", "public.articles", "--rows", str(ARTICLES // 2), "--detach")
    installation.run("shards", "create", "newsletters", "-p", "default")
    shards = [
        {
            "shardTypeId": "newsletters",
            "shardId": f"week-{n}",
            "content": f"Week {n}: the pond stood at {90 + n} cm.",
        }
        for n in range(1, 40)
    ]
    answer = await client.post("/api/v1/shards:batch", json={"shards": shards})
    answer.raise_for_status()
    await settled(client)
    preview = (ROOT / "examples" / "documents" / "bzip2-manual.pdf").read_bytes()
    await upload(client, "bzip2-manual-2nd-edition.pdf", preview + b"\n%%", pipeline="articles")
    installation.run("audit", may_find=True)
    await settled(client)
    installation.run("backfill", "public.articles", "--rate", "40", "--detach")


async def upload(client: httpx2.AsyncClient, name: str, content: bytes, **fields: str) -> None:
    answer = await client.post("/api/v1/ingestion-jobs", files={"file": (name, content)}, data=fields)
    answer.raise_for_status()


async def settled(client: httpx2.AsyncClient, seconds: float = 240) -> None:
    """Until nothing waits any more but what a person must launch."""
    async with asyncio.timeout(seconds):
        quiet = 0
        while quiet < 3:
            stats = (await client.get("/api/v1/embedding-jobs/stats")).json()["stats"]
            jobs = (await client.get("/api/v1/ingestion-jobs?limit=100")).json()["jobs"]
            ended = {"completed", "failed", "cancelled", "chunk_preview_ready"}
            is_quiet = (
                not stats["pending"] and not stats["processing"] and all(j["status"] in ended for j in jobs)
            )
            quiet = quiet + 1 if is_quiet else 0
            await asyncio.sleep(1)


async def shoot(browser: Browser, base: str, pages: dict[str, str], into: Path) -> None:
    for window, size in WINDOWS.items():
        for scheme in ("light", "dark"):
            context = await browser.new_context(
                viewport=size, color_scheme=scheme, locale="en-GB", timezone_id="UTC"
            )  # type: ignore[arg-type]
            page = await context.new_page()
            for name, address in pages.items():
                await page.goto(base + address)
                await page.wait_for_load_state("load")
                await page.wait_for_timeout(250)  # fonts and the first look of the stream
                whole = into / f"{name}-{window}-{scheme}.png"
                await page.screenshot(path=whole, full_page=True, animations="disabled")
                shown = into / "above-the-fold"
                await page.screenshot(path=shown / whole.name, animations="disabled")
            await context.close()


def name_of(route: str) -> str:
    plain = re.sub(r"{[^}]+}", "one", route).strip("/").replace("/", "-")
    return plain or "overview"


async def run(options: argparse.Namespace) -> None:
    into = Path(options.into)
    if CHROMIUM is None:
        raise SystemExit("no chromium on this machine: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        start_provider(dimensions=64) as provider,
    ):
        provider.configure(poison=POISON.upper())
        installation = Installation(Path(name))
        url = prepare(installation, provider)
        try:
            with receiver() as hook:
                async with (
                    installation.service() as base,
                    httpx2.AsyncClient(base_url=base, timeout=60) as client,
                ):
                    began = time.monotonic()
                    await work(client, installation, url, hook)
                    print(f"worked for {time.monotonic() - began:.0f} s", flush=True)
                    async with Database(url, max_connections=1) as owner, async_playwright() as playwright:
                        listed = await addresses(owner, 1)
                        pages = {
                            name_of(route): found[0]
                            for route, found in listed.items()
                            if found and not found[0].endswith("/None")
                        }
                        pages["documents-jobs-one"] = listed["/documents/jobs/{job_id}"][-1]  # at its preview
                        # A piece that a page of ours puts into its place, and nobody visits.
                        del pages["documents-jobs-one-preview"]
                        pages["search"] = "/search?q=when+may+I+take+leave%3F&pipeline=default"
                        pages["sources-add-table"] = "/sources/add?table=public.articles"
                        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
                        await shoot(browser, base, pages, into)
                        if options.keep:
                            await keep(into, browser)
                        await browser.close()
        finally:
            installation.run("db", "stop")


async def keep(into: Path, browser: Browser) -> None:
    """The pictures that README and docs show, in 256 colours."""
    page = await browser.new_page()
    for name, taken in KEPT.items():
        picture = (into / "above-the-fold" / f"{taken}.png").read_bytes()
        width, height, data = await page.evaluate(_PIXELS, base64.b64encode(picture).decode())
        pixels = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3]
        small = in_few_colours(pixels)
        if len(small) > MOST_BYTES:
            raise SystemExit(f"{taken} is larger than {MOST_BYTES} bytes: {len(small)}")
        (IMAGES / f"dashboard-{name}.png").write_bytes(small)
    await page.close()


def in_few_colours(pixels: Pixels) -> bytes:
    """A PNG with a palette: the 256 most frequent colours, all others as the nearest of these."""
    height, width, _ = pixels.shape
    packed = pixels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    colours, places, counts = np.unique(packed, return_inverse=True, return_counts=True)
    parts = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.int32)
    palette = parts[np.argsort(-counts, kind="stable")[:256]]
    nearest = np.array([((palette - one) ** 2).sum(axis=1).argmin() for one in parts], np.uint8)
    rows = nearest[places].reshape(height, width)
    lines = np.hstack([np.zeros((height, 1), np.uint8), rows])  # each without a filter
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 9)
    pieces = (
        (b"IHDR", header),
        (b"PLTE", palette.astype(np.uint8).tobytes()),
        (b"IDAT", body),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in pieces
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--into", default=str(ROOT / "build" / "screenshots"))
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    shutil.rmtree(options.into, ignore_errors=True)
    (Path(options.into) / "above-the-fold").mkdir(parents=True)
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
