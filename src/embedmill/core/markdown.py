"""The marks of Markdown that one line shows by itself: headings, fences, HTML blocks, front matter.

Owns the syntax, after CommonMark. What a line means where it stands is for its reader to say.
"""

from __future__ import annotations

import re

LONGEST_TITLE = 500
"""Characters. A longer "heading" is prose: its title would be repeated with every chunk below it."""

_ATX = re.compile(r"(#{1,6})(?:[ \t]+(.*))?\Z", re.DOTALL)
_FENCE = re.compile(r"(`{3,})[^`]*\Z|(~{3,})")
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?=[\w\"'#-])")
_FRONT_MATTER_END = re.compile(r"^(?:---|\.\.\.)[ \t]*\r?$", re.MULTILINE)
_HTML = re.compile(
    r"<(?:(!--)|(pre|script|style|textarea)(?=[\s>]|$)|/?(?:address|article|aside|blockquote|body|center|col"
    r"|colgroup|dd|details|dialog|dir|div|dl|dt|fieldset|figcaption|figure|footer|form|frame|h[1-6]|head|header"
    r"|hr|html|iframe|legend|li|link|main|menu|nav|ol|option|p|param|search|section|summary|table|tbody|td"
    r"|tfoot|th|thead|title|tr|track|ul)(?=[\s>]|/>|$))",
    re.IGNORECASE,
)
_LONE_TAG = re.compile(r"<(?:/[a-zA-Z][\w-]*[ \t]*|[a-zA-Z][\w-]*(?:[ \t]+[^<>\n\r]*)?)>[ \t]*(?=[\n\r]|$)")

BLANK_LINE = "\n"
"""What `html_block_end` gives for a block that ends at the next blank line."""


def atx_heading(line: str) -> tuple[int, str] | None:
    """Level and title of a line such as `## Title ##`, indentation removed."""
    match = _ATX.match(line.rstrip())
    if match is None:
        return None
    title = (match[2] or "").strip()
    without_closing = title.rstrip("#")
    if not without_closing or without_closing[-1] in " \t":
        title = without_closing.rstrip()
    return (len(match[1]), title) if len(title) <= LONGEST_TITLE else None


def fence_mark(line: str) -> str:
    """The backticks or tildes that open a fence; empty if the line opens none."""
    match = _FENCE.match(line)
    return (match[1] or match[2]) if match else ""


def html_block_end(text: str, start: int, line_end: int, *, between_blocks: bool) -> str:
    """What ends the HTML block that begins at `start`, in lower case; empty if none begins. A tag that is not of
    a block opens one only where it stands alone in its line, between other blocks."""
    match = _HTML.match(text, start, min(line_end, start + 20))
    if match is None:
        return BLANK_LINE if between_blocks and _LONE_TAG.match(text, start, line_end) else ""
    comment, verbatim = match.groups()
    return "-->" if comment else f"</{verbatim.lower()}>" if verbatim else BLANK_LINE


def front_matter_end(text: str) -> int:
    """The end of YAML front matter, whose closing `---` is no setext underline and whose `#` no heading."""
    opening = _FRONT_MATTER.match(text)
    closing = _FRONT_MATTER_END.search(text, opening.end()) if opening else None
    return len(text[: closing.end()].rstrip()) if closing else 0
