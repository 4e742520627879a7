"""Knows just enough Markdown to undo what converters do to plain words and to find a title."""

from __future__ import annotations

import re

# Converters escape what might be read as markup; a reader, a model and an index want the word itself.
# '#' stays escaped: without its backslash a paragraph would become a heading.
_ESCAPED = re.compile(r"\\([\\*_<>`\[\].()|~!+-])")
_CODE_SPAN = re.compile(r"(`+)(?:(?!\1).)+\1")
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*")
_TITLE_WITHIN_CHARS = 20_000


def unescaped(markdown: str) -> str:
    """The Markdown with its needless backslashes taken out, everywhere but in code."""
    if "\\" not in markdown:
        return markdown
    fenced = False
    lines = markdown.split("\n")
    for at, line in enumerate(lines):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and "\\" in line:
            lines[at] = _outside_code(line)
    return "\n".join(lines)


def first_heading(markdown: str) -> str | None:
    """The words of the first heading, if there is one near the top: one far down is no title."""
    fenced = False
    for line in markdown[:_TITLE_WITHIN_CHARS].split("\n"):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        match = None if fenced or "#" not in line[:4] else _HEADING.fullmatch(line[:2000])
        if match:
            return match.group(1)
    return None


def _outside_code(line: str) -> str:
    if "`" not in line or len(line) > 10_000:
        return _ESCAPED.sub(r"\1", line)
    parts, at = [], 0
    for span in _CODE_SPAN.finditer(line):
        parts += [_ESCAPED.sub(r"\1", line[at : span.start()]), span.group()]
        at = span.end()
    return "".join(parts) + _ESCAPED.sub(r"\1", line[at:])
