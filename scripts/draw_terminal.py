"""Draws the README's picture of a terminal session: real commands, run here and now, as an SVG.

    python scripts/draw_terminal.py            writes docs/images/terminal.svg; takes a minute

The commands run in an emulated terminal on a database of their own in a temporary folder. The bars of a running
ingest vanish when it ends; the picture keeps them as they stood when about two thirds were done. Owns the
choice of commands and the drawing; prints nothing that a command did not print.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "terminal.svg"
EMBEDMILL = str(Path(sys.executable).with_name("embedmill"))
COLUMNS, ROWS = 100, 40
KEPT_SHARE = 0.67
QUESTION = "Why do I see rings of colour when I press on my eye?"

_ESCAPE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r\n|\n|\r|[^\x1b\r\n]+")
_DONE = re.compile(r"chunks\s.*?([\d,]+) of ([\d,]+)")


def main() -> int:
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    with tempfile.TemporaryDirectory(prefix="embedmill-picture-", ignore_cleanup_errors=True) as folder:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EMBEDMILL_")},
            "EMBEDMILL_DATA_DIR": folder,
            "TERM": "xterm-256color",
            "COLUMNS": str(COLUMNS),
        }
        try:
            for number, command in enumerate(
                (["ingest", "examples/documents"], ["search", QUESTION, "--limit", "1"])
            ):
                screens = list(run_in_terminal([EMBEDMILL, *command], environment))
                console.print(Text.assemble(("\n" * (number > 0) + "$ ", "green"), (_typed(command), "bold")))
                for screen in _kept(screens):
                    console.print(Text.from_ansi("\n".join(screen).rstrip() + "\n"))
                console.print(Text.from_ansi("\n".join(screens[-1]).rstrip()))
            subprocess.run([EMBEDMILL, "db", "stop"], env=environment, check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(error.cmd)} ended with {error.returncode}: {error.output}")
            return 1
    # Without the web fonts of rich's template: the picture asks no server for anything.
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(
        console.export_svg(title="embedmill", code_format=template, unique_id="terminal"), encoding="utf-8"
    )
    return 0


def run_in_terminal(command: Sequence[str], environment: dict[str, str]) -> Iterator[list[str]]:
    """The screen after each thing the command wrote; colours are kept as escape sequences. Raises
    CalledProcessError where it fails."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment, cwd=ROOT
    )
    os.close(theirs)
    screen = Screen()
    with open(ours, "rb", buffering=0) as output:  # noqa: PTH123 - a descriptor, not a path
        while written := _read(output):
            screen.write(written.decode("utf-8", "replace"))
            yield list(screen.lines)
    if process.wait() != 0:
        raise subprocess.CalledProcessError(process.returncode, command, "\n".join(screen.lines))
    yield list(screen.lines)


class Screen:
    """As much of a terminal as rich's live display needs: lines, cursor up, erase line."""

    def __init__(self) -> None:
        self.lines = [""]
        self._row = 0

    def write(self, text: str) -> None:
        for found in _ESCAPE.finditer(text):
            piece = found[0]
            match found[2]:
                case "A":
                    self._row = max(0, self._row - int(found[1] or 1))
                case "K":
                    self.lines[self._row] = ""
                case "m":
                    self.lines[self._row] += piece
                case None if piece == "\r":
                    pass  # what follows is an erased line
                case None if piece in ("\n", "\r\n"):
                    self._row += 1
                    if self._row == len(self.lines):
                        self.lines.append("")
                case None:
                    self.lines[self._row] += piece
                case _:
                    pass  # the cursor is shown or hidden


def _kept(screens: list[list[str]]) -> list[list[str]]:
    """The screen on which the bars stood nearest to the kept share; none where there were no bars."""
    found = [
        (abs(int(done.replace(",", "")) / int(total.replace(",", "")) - KEPT_SHARE), number)
        for number, screen in enumerate(screens)
        for done, total in _DONE.findall(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "\n".join(screen)))
        if int(total.replace(",", ""))
    ]
    return [screens[min(found)[1]]] if found else []


def _typed(command: Sequence[str]) -> str:
    return " ".join(["embedmill", *(f'"{part}"' if " " in part else part for part in command)])


def _read(output: io.FileIO) -> bytes:
    try:
        return output.read(65536) or b""
    except OSError:
        return b""  # Linux says so when the last process that held the terminal has gone


if __name__ == "__main__":
    sys.exit(main())
