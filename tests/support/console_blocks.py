"""Runs the fenced `console` blocks of a page, in order, as a reader would type them, and holds what is printed against
the page. Owns the session (one shell's folder and variables, processes in the background) and its end; what a page may
say stands in tests/support/console_pages.py. Must not know any page.

    with ConsoleSession(folder, environment, stands_for={"127.0.0.1:8080": f"127.0.0.1:{port}"}) as session:
        session.run_page(ROOT / "docs/tutorials/first-search.md")
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.console_pages import Command, FileBlock, Interrupt, Names, Watch, read_page

LONGEST_SECONDS = 120.0
_LOOK_AGAIN_SECONDS = 0.05
# What a shell keeps from one command to the next: its folder and its variables.
_KEEPING = """
__finish() {{ status=$?; declare -p > {state}; pwd > {where}; exit $status; }}
trap __finish EXIT
set -o pipefail
[ -f {state} ] && . {state} 2>/dev/null  # what is read-only in every shell cannot be set again, and need not
cd "$(cat {where})"
{command}
"""


class ConsoleMismatchError(AssertionError):
    """A page says one thing and the command another; the message says where, and shows both."""


class Background:
    """A command that goes on running; what it has printed so far, and how much of it the page has shown."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], output: Path) -> None:
        self.name = name
        self.process = process
        self.shown = 0
        self._output = output

    def printed(self) -> str:
        """Everything since the page last showed some of it."""
        return self._output.read_text(encoding="utf-8", errors="replace")[self.shown :]


class ConsoleSession:
    """One reader at one machine. `folder` is the reader's home and where the commands begin; `environment` what the
    shell starts with, wholly; `stands_for` says what a text of the page is in this run (an address, a folder)."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        stands_for: Mapping[str, str] | None = None,
        *,
        seconds: float = LONGEST_SECONDS,
    ) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.names = Names(stands_for or {})
        self._seconds = seconds
        self._state = folder / ".console"
        self._background: dict[str, Background] = {}

    def __enter__(self) -> Self:
        self._state.mkdir(parents=True)
        (self._state / "where").write_text(f"{self.folder}\n", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Everything in the background is ended as Ctrl-C would; one that then ends badly fails a good session."""
        bad = [said for one in list(self._background) if (said := self._interrupt(one)) is not None]
        if bad and kind is None:
            raise ConsoleMismatchError("\n".join(bad))

    def run_page(self, page: Path) -> int:
        """Everything that the page has its reader do; the number of commands that were run."""
        count = 0
        for step in read_page(page):
            if isinstance(step, FileBlock):
                self._write(step)
            elif isinstance(step, Watch):
                self._await_lines(step.place, self._background[step.name], step.output)
            elif isinstance(step, Interrupt):
                said = self._interrupt(step.name)
                if said is not None:
                    raise ConsoleMismatchError(f"{step.place}: {said}")
            else:
                self.run(step)
                count += 1
        return count

    def run(self, command: Command) -> None:
        """One command of a page: it ends as the page says and prints what the page shows."""
        if command.background is not None:
            self._start(command)
            return
        deadline = time.monotonic() + self._seconds
        while True:
            status, printed = self._shell(command)
            printed = _as_every_jq(printed) if "jq" in command.line else printed
            fits = self.names.take(command.output, printed)
            if fits and status == command.status:
                return
            if not command.is_awaited or time.monotonic() > deadline:
                raise ConsoleMismatchError(_difference(command, self.names, status, printed))
            time.sleep(_LOOK_AGAIN_SECONDS)

    def _shell(self, command: Command) -> tuple[int, str]:
        """Its exit status, and what it printed on both streams, as a terminal shows it."""
        with (self._state / "output").open("w+b") as output:
            process = self._popen(command, output.fileno())
            try:
                status = process.wait(timeout=self._seconds)
            except subprocess.TimeoutExpired:
                _end(process, signal.SIGKILL)
                process.wait()
                raise ConsoleMismatchError(
                    f"{command.place}: `{command.line}` did not end within {self._seconds:g} s; it printed\n"
                    + (self._state / "output").read_text(encoding="utf-8", errors="replace")
                ) from None
        return status, (self._state / "output").read_text(encoding="utf-8", errors="replace")

    def _start(self, command: Command) -> None:
        assert command.background is not None
        path = self._state / f"output of {len(self._background)}"
        with path.open("wb") as output:
            process = self._popen(command, output.fileno())
        one = Background(command.background, process, path)
        self._background[one.name] = one
        self._await_lines(command.place, one, command.output)

    def _popen(self, command: Command, output: int) -> subprocess.Popen[bytes]:
        state, where = self._state / "variables", self._state / "where"
        line = self.names.in_this_run(command.line)
        if command.background is None:
            script = _KEEPING.format(
                state=shlex.quote(str(state)), where=shlex.quote(str(where)), command=line
            )
        else:
            known = f". {shlex.quote(str(state))} 2>/dev/null; " if state.exists() else ""
            script = f'{known}cd "$(cat {shlex.quote(str(where))})"\nexec {line}'
        return subprocess.Popen(
            # Whoever started us may have us ignore Ctrl-C, and a shell cannot take that back.
            ["env", "--default-signal=INT", "bash", "-c", script],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _await_lines(self, place: str, one: Background, lines: tuple[str, ...]) -> None:
        """Until the process has printed these lines next."""
        deadline = time.monotonic() + self._seconds
        while True:
            has_ended = one.process.poll() is not None
            printed = one.printed()
            length = self.names.take_next(lines, printed)
            if length is not None:
                one.shown += length
                return
            if has_ended or time.monotonic() > deadline:
                what = "ended" if has_ended else f"did not print this within {self._seconds:g} s"
                wanted = "\n".join(lines)
                raise ConsoleMismatchError(
                    f"{place}: {one.name} {what}\n-- wanted\n{wanted}\n-- printed\n{printed}"
                )
            time.sleep(_LOOK_AGAIN_SECONDS)

    def _interrupt(self, name: str) -> str | None:
        """End it by Ctrl-C; what was wrong with its end."""
        one = self._background.pop(name)
        _end(one.process, signal.SIGINT)
        try:
            status = one.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            _end(one.process, signal.SIGKILL)
            one.process.wait()
            return f"{name} did not end within 30 s of Ctrl-C; it printed\n{one.printed()}"
        if status in (0, 130, -signal.SIGINT):
            return None
        return f"{name} ended with {status}; it printed\n{one.printed()}"

    def _write(self, block: FileBlock) -> None:
        where = Path((self._state / "where").read_text(encoding="utf-8").rstrip("\n"))
        path = where / block.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.names.in_this_run(block.content), encoding="utf-8")


def plain_environment(home: Path, *folders: Path, **variables: str) -> dict[str, str]:
    """What a fresh login has: `folders` before the usual PATH, and nothing of embedmill's but `variables`."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)])
    return {
        "PATH": path,
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "COLUMNS": "120",
        "PSQLRC": "/dev/null",
        "PAGER": "cat",
        "NO_PROXY": "*",
        **variables,
    }


def _as_every_jq(printed: str) -> str:
    """From 1.7 on jq leaves a number as it came (50.0), before it does not (50)."""
    return re.sub(r"(?<=[:,\[ ])(-?\d+)\.0(?=[],}\s])", r"\1", printed)


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """The whole session that it began, as a terminal would."""
    if process.poll() is None:
        os.killpg(process.pid, number)


def _difference(command: Command, names: Names, status: int, printed: str) -> str:
    shown = [line.rstrip() for line in printed.splitlines()]
    # A line that fits is shown as it was printed, so that what is marked is what does not fit.
    wanted = [
        next((line for line in shown if names.fits(said, line)), names.in_this_run(said))
        for said in command.output
    ]
    lines = difflib.unified_diff(wanted, shown, "the page", "this run", lineterm="", n=50)
    ended = "" if status == command.status else f"\nit ended with {status}, not {command.status}"
    told = re.sub(r"^--- .*\n\+\+\+ .*\n", "", "\n".join(lines))
    return f"{command.place}: $ {command.line}{ended}\n{told}"
