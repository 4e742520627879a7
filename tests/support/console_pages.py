"""What a page tells its reader to do, read from its Markdown, and how a line of the page fits one of a run. Pure.

Read are the fenced blocks of kind `console` (lines that begin with "$ " are typed, "> " continues a line, the others
are what is printed) and, with a word before them, others. The word stands in a comment that no reader sees, on the line
before the block:

    <!-- file: orders.sql -->           the block is the content of this file, which the reader saves
    <!-- run: background service -->    its one command goes on running under this name, once it has printed the lines
    <!-- run: watch service -->         a block, of any kind, of what that process prints next
    <!-- run: interrupt service -->     no block: Ctrl-C there
    <!-- run: until -->                 typed again until it prints this
    <!-- run: status 1 -->              ends with this exit status
    <!-- run: not, for this reason -->  shown only

Printed lines are those of both streams. What differs from run to run is known by its shape: times, durations ("1.4 s")
and process numbers fit any other; a UUID, an API key or a webhook's secret stands for that of the run, the same one
wherever the page names it again, in commands too. "…" fits anything within a line; a line of "…" alone, any lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"(?:^<!-- (?P<word>run|file): (?P<how>[^\n]+?) -->\n)?"
    r"^(?P<indent> *)(?P<fence>```+)(?P<kind>[\w-]*)[^\n]*\n(?P<body>.*?)^ *(?P=fence)[ \t]*$"
    r"|^<!-- run: interrupt (?P<interrupt>[\w-]+) -->$",
    re.MULTILINE | re.DOTALL,
)
_LEFT = re.compile(r"^\$ .*$", re.MULTILINE)
_STATUS = re.compile(r"status (\d+)")
_HEREDOC = re.compile(r"<<-?\s*'?\"?(\w+)")
# A thing of the run that the page names by one of its own: the same wherever it stands.
_NAMED = (
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
    r"\bem_[A-Za-z0-9_-]{43}",
    r"\bwhsec_[A-Za-z0-9+/]{43}=",
)
# What is different every time and never named again.
_VARYING = (
    r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d(?::?\d\d)?)?",
    r"\b\d+(?:\.\d+)? (?:ms|s|seconds|min)\b",
    r"\bpid \d+\b",
)
_ANYTHING = "…"
_SHAPES = re.compile(
    "|".join([*(f"(?P<n{i}>{shape})" for i, shape in enumerate(_NAMED)), *_VARYING, _ANYTHING])
)


@dataclass(frozen=True)
class Command:
    """`place` is page:line for messages. `background` is the name under which it goes on running."""

    place: str
    line: str
    output: tuple[str, ...]
    status: int = 0
    background: str | None = None
    is_awaited: bool = False


@dataclass(frozen=True)
class FileBlock:
    """A file that the reader saves, relative to the folder where he is."""

    place: str
    name: str
    content: str


@dataclass(frozen=True)
class Watch:
    """What a process in the background prints next."""

    place: str
    name: str
    output: tuple[str, ...]


@dataclass(frozen=True)
class Interrupt:
    """Ctrl-C for a process in the background."""

    place: str
    name: str


Step = Command | FileBlock | Watch | Interrupt


def read_page(path: Path) -> list[Step]:
    """The steps of a page in their order. Raises ValueError for a word that it does not know."""
    return list(steps_of(path.read_text(encoding="utf-8"), path.name))


def steps_of(text: str, name: str) -> Iterator[Step]:
    """`name` is what messages call the page."""
    left = _LEFT.search(_FENCE.sub("", text))
    if left:
        raise ValueError(f"{name}: `{left[0]}` stands outside a block: a fence is missing")
    for found in _FENCE.finditer(text):
        first = text.count("\n", 0, found.start("body") if found["fence"] else found.start()) + 1
        if found["interrupt"]:
            yield Interrupt(f"{name}:{first}", found["interrupt"])
            continue
        lines = [line.removeprefix(found["indent"]) for line in found["body"].splitlines()]
        if found["word"] == "file":
            yield FileBlock(f"{name}:{first}", found["how"], "\n".join(lines) + "\n")
        elif found["how"] and found["how"].startswith("watch "):
            yield Watch(f"{name}:{first}", found["how"].removeprefix("watch "), _printed(lines))
        elif found["kind"] == "console":
            yield from _console(name, first, lines, found["how"] or "")
        elif found["word"]:
            raise ValueError(f"{name}:{first}: only a console block can be run")


def _console(name: str, first: int, lines: list[str], how: str) -> Iterator[Step]:
    word, _, rest = how.partition(" ")
    if word == "not,":
        return
    commands = list(_commands(name, first, lines))
    status = _STATUS.fullmatch(how)
    if how and not (status or how == "until" or (word == "background" and rest)):
        raise ValueError(f"{name}:{first}: no such word: {how}")
    if how and len(commands) != 1:
        raise ValueError(f"{name}:{first}: `{how}` is for a block of one command")
    for place, line, output in commands:
        yield Command(
            place,
            line,
            output,
            status=int(status[1]) if status else 0,
            background=rest if word == "background" else None,
            is_awaited=word == "until",
        )


def _commands(name: str, first: int, lines: list[str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Each command with where it stands and the lines that it prints."""
    at = 0
    while at < len(lines):
        if not lines[at].startswith("$ "):
            raise ValueError(f"{name}:{first + at}: a console block begins with a command: $ ...")
        place, typed = f"{name}:{first + at}", [lines[at].removeprefix("$ ")]
        at += 1
        while at < len(lines) and (lines[at].startswith("> ") or lines[at] == ">" or _goes_on(typed)):
            typed.append(
                lines[at].removeprefix("> ").removeprefix(">") if lines[at][:1] == ">" else lines[at]
            )
            at += 1
        begins = at
        while at < len(lines) and not lines[at].startswith("$ "):
            at += 1
        yield place, "\n".join(typed), _printed(lines[begins:at])


def _printed(lines: list[str]) -> tuple[str, ...]:
    """Without blanks at the ends of lines, and without blank lines at the end: nobody sees them."""
    text = "\n".join(line.rstrip() for line in lines).rstrip()
    return tuple(text.split("\n")) if text else ()


def _goes_on(typed: list[str]) -> bool:
    """Whether a shell would wait for more: after a backslash, or within a here-document."""
    if typed[-1].endswith("\\"):
        return True
    opened = _HEREDOC.search(typed[0])
    return opened is not None and typed[-1].strip() != opened[1]


class Names:
    """What the page's names are in this run. Owns nothing else."""

    def __init__(self, stands_for: Mapping[str, str]) -> None:
        self._here = dict(stands_for)

    def in_this_run(self, text: str) -> str:
        """A text of the page with the names of the run."""
        for there, here in sorted(self._here.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(there, here)
        return text

    def take(self, lines: tuple[str, ...], printed: str) -> bool:
        """Whether this is what the page shows; what it names for the first time is known from then on."""
        found = self._pattern(lines).fullmatch(_trimmed(printed))
        return found is not None and self._learn(found)

    def fits(self, line: str, shown: str) -> bool:
        """Whether one line of the page and one of the run are the same but for what differs by its nature."""
        return self._pattern((line,)).fullmatch(_trimmed(shown)) is not None

    def take_next(self, lines: tuple[str, ...], printed: str) -> int | None:
        """How much of `printed` the lines are, where it begins with them."""
        found = self._pattern(lines).match(printed)
        return found.end() if found is not None and self._learn(found) else None

    def _learn(self, found: re.Match[str]) -> bool:
        for group, there in self._new.items():
            self._here[there] = found[group]
        return True

    def _pattern(self, lines: tuple[str, ...]) -> re.Pattern[str]:
        """A pattern of whole lines; `self._new` says which group of it is which name of the page."""
        self._new: dict[str, str] = {}
        groups: dict[str, str] = {}
        said = []
        for line in lines:
            if line.strip() == _ANYTHING:
                said.append(r"(?:[^\n]*\n)*?")
            else:
                said.append(self._line(line, groups) + r"[ \t]*\n")
        self._new = {group: there for there, group in groups.items()}
        return re.compile("".join(said))

    def _line(self, line: str, groups: dict[str, str]) -> str:
        parts, at = [], 0
        for found in _SHAPES.finditer(line):
            parts.append(re.escape(self.in_this_run(line[at : found.start()])))
            parts.append(self._shape(found, groups))
            at = found.end()
        return "".join([*parts, re.escape(self.in_this_run(line[at:]))])

    def _shape(self, found: re.Match[str], groups: dict[str, str]) -> str:
        text = found[0]
        if text == _ANYTHING:
            return r"[^\n]*?"
        if found.lastgroup is None:
            return next(f"(?:{shape})" for shape in _VARYING if re.fullmatch(shape, text))
        if text in self._here:
            return re.escape(self._here[text])
        if text in groups:
            return f"(?P={groups[text]})"
        groups[text] = f"name{len(groups)}"
        return f"(?P<{groups[text]}>{_NAMED[int(found.lastgroup[1:])]})"


def _trimmed(printed: str) -> str:
    """Whole lines; no blank ones at the end, which no page shows."""
    text = printed.rstrip()
    return f"{text}\n" if text else ""
