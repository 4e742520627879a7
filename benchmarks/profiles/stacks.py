"""Where our Python is while it runs: stacks of all its processes, sampled by py-spy on the processor only, and folded
into places. Owns py-spy and what a place is."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.profiles.shares import Seen

PY_SPY = Path(sys.executable).with_name("py-spy")
SAMPLES_A_SECOND = 100
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>[^()]+)\)")
_OURS = "embedmill/"
_DRIVER = ("embedmill/database/pool.py", "embedmill/database/asking.py")
_LOOP = ("BaseEventLoop._run_once", "asyncio/base_events.py")
_IMPORTING = "<frozen importlib"
# Who is found here has only just been woken, and waits for a processor.
_WAITING = {
    ("EpollSelector.select", "selectors.py"),
    ("Condition.wait", "threading.py"),
    ("_worker", "concurrent/futures/thread.py"),
}


@contextmanager
def sampled_stacks(pid: int) -> Iterator[Seen]:
    """Of a process and its children while the block lasts; filled in when it has ended. Linux asks for root, or for
    kernel.yama.ptrace_scope = 0."""
    if not PY_SPY.exists():
        raise SystemExit("py-spy is not installed: pip install -r requirements-dev.lock")
    seen: Seen = Counter()
    with tempfile.TemporaryDirectory() as folder:
        stacks = Path(folder) / "stacks"
        # Without pausing: a process that is stopped and woken a hundred times a second is busy waking.
        options = [
            "--subprocesses",
            "--nonblocking",
            "--nolineno",
            "--format",
            "raw",
            "--rate",
            str(SAMPLES_A_SECOND),
        ]
        command = [str(PY_SPY), "record", "--pid", str(pid), *options, "--output", str(stacks)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as spy:
            assert spy.stdout is not None
            begun = spy.stdout.readline()
            if " Sampling " not in begun:
                raise SystemExit(f"py-spy cannot look: {begun}{spy.stdout.read()}")
            yield seen
            spy.send_signal(signal.SIGINT)
            said, _ = spy.communicate(timeout=60)
        if not stacks.exists():
            raise SystemExit(f"py-spy has seen nothing: {said}")
        seen.update(fold(stacks.read_text("utf-8", "replace")))


def fold(stacks: str) -> Seen:
    """Samples of each place beside the library at work there, from lines of `frame;frame;frame count`."""
    seen: Seen = Counter()
    for line in stacks.splitlines():
        stack, _, times = line.rpartition(" ")
        frames = [
            (found["function"], found["file"]) for found in map(_FRAME.fullmatch, stack.split(";")) if found
        ]
        if frames and frames[-1] not in _WAITING:
            seen[place_of(frames)] += int(times)
    return seen


def place_of(frames: list[tuple[str, str]]) -> tuple[str, str]:
    """The innermost function of ours that waits for it, else the library itself; and the library that is at work. Who
    started the event loop waits for everything, and is not looked at; our driver asks for others, who are named."""
    library = _library(frames[-1][1])
    for function, file in reversed(frames):
        if file.startswith(_IMPORTING):
            return "imports", library
        if file.startswith(_OURS) and file not in _DRIVER:
            return f"{file.removeprefix(_OURS)} {function.partition('.<locals>')[0]}", library
        if (function, file) == _LOOP:
            break
    return library, library


def _library(file: str) -> str:
    """The package of a file, as py-spy names it: from the package's folder on."""
    if file in _DRIVER:
        return "driver"
    if file.startswith(_OURS):
        return "itself"
    if file.startswith(_IMPORTING):
        return "imports"
    return file.partition("/")[0].removesuffix(".py")
