"""A real browser on the dashboard: Debian's chromium, headless. What a page says to its console, each request that
leaves the host and each page that is wider than its window are found at the end of every test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--headless",
    "--hide-scrollbars",
    "--mute-audio",
    "--force-color-profile=srgb",
    "--password-store=basic",
    "--disable-dev-shm-usage",
    "--disable-breakpad",
    "--disable-extensions",
    "--disable-popup-blocking",
    "--disable-field-trial-config",
    "--disable-back-forward-cache",
    # A page that nobody looks at shall be as quick as one in front.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
expect.set_options(timeout=30_000)
# The browser ends with its pipe of commands (3), through which nothing comes and which ends when we do, however we end.
_BEGIN = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 360, "height": 780}


class Watch:
    """What a page did that it should not. `excused`: beginnings of console messages that a test means to cause."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.excused: list[str] = []

    def follow(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(tuple(self.excused)):
            self.faults.append(f"console: {message.text} ({message.location['url']})")

    def _request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in {"data", "blob"} and address.hostname != "127.0.0.1":
            self.faults.append(f"a request left the host: {request.url}")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the one browser of this test process listens. Its start takes two seconds of a processor, which each test
    would pay; what is a test's own (cookies, storage, cache) is that of its context."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    profile = tmp_path_factory.mktemp("chromium")
    commands, answers = os.pipe(), os.pipe()
    command = [sys.executable, "-ISc", _BEGIN, str(commands[0]), str(answers[1])]
    command += [CHROMIUM, *ARGUMENTS, "--remote-debugging-pipe", "--remote-debugging-port=0"]
    with (
        (profile / "said").open("wb") as said,
        subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=(commands[0], answers[1]),
            start_new_session=True,
        ) as process,
    ):
        try:
            yield _address(process, profile)
        finally:
            with suppress(ProcessLookupError):  # it has ended by itself, as _address says
                os.killpg(process.pid, signal.SIGKILL)
            for end in (*commands, *answers):
                os.close(end)


def _address(process: subprocess.Popen[bytes], profile: Path) -> str:
    """Its address, once it listens."""
    told = profile / "DevToolsActivePort"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        lines = told.read_text().split() if told.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.02)
    raise RuntimeError(f"chromium did not start: {(profile / 'said').read_text(errors='replace')}")


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(chromium)
        try:
            yield browser
        finally:
            await browser.close()  # the connection; the browser goes on


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    watch = Watch()
    yield watch
    assert watch.faults == []


@pytest.fixture
async def page(browser: Browser, watch: Watch) -> AsyncIterator[Page]:
    """A wide window."""
    context = await browser.new_context(viewport=WIDE)
    page = await context.new_page()
    page.set_default_timeout(30_000)
    watch.follow(page)
    yield page
    await context.close()
