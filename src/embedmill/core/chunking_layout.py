"""The layout of a text: its headings, paragraphs, fences, tables and lists, found line by line in one pass.

Owns where the parts of a document begin. Knows nothing of tokens. Headings follow CommonMark at the top
level; a heading inside a quote or a list item is prose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from embedmill.core.chunking_parts import Kind, Part, Section, Strength
from embedmill.core.markdown import (
    BLANK_LINE,
    LONGEST_TITLE,
    atx_heading,
    fence_mark,
    front_matter_end,
    html_block_end,
)

_LINE = re.compile(r"\S[^\n\r]*")
_ITEM = re.compile(r"(?:[-*+•‣◦]|\d{1,9}[.)])(?=[ \t]|$)")
_LONGEST_MARK = 2000


def read_layout(text: str, sections: list[Section], *, is_markdown: bool) -> Iterator[Part]:
    """All parts in order, together holding every non-whitespace character; appends to `sections`, to which the
    parts refer by index, while they are read."""
    reader = _Reader(text, is_markdown, sections)
    sections.append(Section(()))
    first_line = front_matter_end(text) if is_markdown else 0
    if first_line:
        reader.add(0, first_line, Strength.BLOCK, Kind.WHOLE)
    for match in _LINE.finditer(text, first_line):
        reader.read_line(match.start(), match.end())
        if reader.parts:
            yield from reader.parts
            reader.parts.clear()
    reader.close_part()
    yield from reader.parts


@dataclass(slots=True)
class _Reader:
    """Reads one line after another; `start` is that of the open part, -1 between parts."""

    text: str
    is_markdown: bool
    sections: list[Section]
    parts: list[Part] = field(default_factory=list)
    parts_end: int = 0
    titles: list[tuple[int, str]] = field(default_factory=list)
    start: int = -1
    end: int = 0
    last_line: int = 0
    strength: int = Strength.BLOCK
    is_paragraph: bool = False
    is_code: bool = False
    fence: str = ""
    html_end: str = ""
    in_table: bool = False
    in_list: bool = False
    item_indent: int = 0
    after_heading: int = 0

    def read_line(self, start: int, raw_end: int) -> None:
        indent, blank = self._gap(start)
        if blank and self.html_end == BLANK_LINE:
            self._close(Kind.WHOLE)
            self.html_end = ""
        if self.fence or self.html_end:
            self._read_verbatim(start, raw_end, indent)
            return
        if blank:
            self.close_part()
            self.in_table = False
        first = self.text[start]
        if self.is_markdown and first in "#`~<=-*_|:" and self._read_mark(first, start, raw_end, indent):
            return
        width = 0
        if first in "-*+•‣◦" or first.isdigit():
            width = self._item_width(start, raw_end, indent)
        if width:
            self._open_item(start, indent, width, blank)
        elif self.in_table:
            self._table_row(start, raw_end)
            return
        elif self.start < 0 or (self.is_markdown and self._ends_paragraph(first, indent)):
            self.close_part()
            self._open_paragraph(start, indent)
        self.last_line = start
        self.end = raw_end

    def _gap(self, start: int) -> tuple[int, bool]:
        """Columns of indentation, and whether a blank line (or the start of the text) stands before."""
        text, before = self.text, self.end
        if start - before == 1 and before:
            return (0, False) if text[before] in "\n\r" else (1, False)
        breaks = max(text.count("\n", before, start), text.count("\r", before, start))
        line_start = max(text.rfind("\n", before, start), text.rfind("\r", before, start), before - 1) + 1
        indent = start - line_start
        if indent and "\t" in text[line_start : line_start + 8]:
            indent += 3 * text.count("\t", line_start, start)
        return indent, breaks > 1 or before == 0

    def _read_mark(self, first: str, start: int, raw_end: int, indent: int) -> bool:
        """A line that may open something other than a paragraph; False when it does not."""
        if first in "`~" and (indent < 4 or self.in_list):
            return self._open_fence(start, raw_end, indent)
        nested = self.in_list and indent >= self.item_indent
        if first == "#" and (indent < 4 or nested):
            return self._read_atx(start, raw_end, nested=nested)
        if indent >= 4:
            return False
        if first == "<":
            return self._open_html(start, raw_end, indent)
        return raw_end - start <= _LONGEST_MARK and self._read_rule(first, start, raw_end)

    def _read_rule(self, first: str, start: int, raw_end: int) -> bool:
        """A setext underline, a thematic break, or the delimiter row of a table."""
        line = self.text[start:raw_end].rstrip()
        if first in "=-" and self.is_paragraph and self.start >= 0 and not line.strip(first):
            return self._read_setext(start + len(line), 1 if first == "=" else 2)
        bare = line.replace(" ", "").replace("\t", "")
        if first in "-*_" and len(bare) > 2 and not bare.strip(first):
            self.close_part()
            self.in_list = self.in_table = False
            self.add(start, start + len(line), Strength.RULE, Kind.WHOLE)
            return True
        return "|" in line and "-" in line and not line.strip("|:- \t") and self._open_table(raw_end)

    # Headings

    def _read_atx(self, start: int, raw_end: int, *, nested: bool) -> bool:
        heading = atx_heading(self.text[start : min(raw_end, start + LONGEST_TITLE + 100)])
        if heading is None or raw_end - start > LONGEST_TITLE + 100:
            return False
        level, title = heading
        self.close_part()
        if nested:
            self.add(start, raw_end, Strength.SUBITEM, Kind.PROSE)
        else:
            self._heading(start, raw_end, level, title)
        return True

    def _read_setext(self, end: int, level: int) -> bool:
        start = self.start
        title = " ".join(self.text[start : min(self.end, start + 2 * LONGEST_TITLE)].split())
        if len(title) > LONGEST_TITLE or self.end - start > 2 * LONGEST_TITLE:
            return False
        self.start = -1
        self._heading(start, end, level, title)
        return True

    def _heading(self, start: int, end: int, level: int, title: str) -> None:
        while self.titles and self.titles[-1][0] >= level:
            self.titles.pop()
        if title:
            self.titles.append((level, title))
        self.sections.append(Section(tuple(title for _, title in self.titles)))
        deeper = 0 < self.after_heading < level
        self.add(start, end, Strength.GLUED if deeper else level, Kind.HEADING)
        self.after_heading = level
        self.in_list = self.in_table = False

    # Verbatim blocks and tables

    def _open_fence(self, start: int, raw_end: int, indent: int) -> bool:
        mark = fence_mark(self.text[start:raw_end])
        if not mark:
            return False
        self._leave(indent)
        self.fence = mark
        self._open(start, Strength.SUBITEM if self.in_list else Strength.BLOCK)
        self.end = raw_end
        return True

    def _open_html(self, start: int, raw_end: int, indent: int) -> bool:
        between = not self.in_table and (self.start < 0 or self.is_code)
        end = html_block_end(self.text, start, raw_end, between_blocks=between)
        if not end:
            return False
        self._leave(indent)
        self._open(start, Strength.BLOCK)
        self.html_end = end
        self._read_verbatim(start, raw_end, 0)
        return True

    def _read_verbatim(self, start: int, raw_end: int, indent: int) -> None:
        self.end = raw_end
        if self.fence:
            mark = self.fence[0]
            closed = self.text[start] == mark and (indent < 4 or self.in_list)
            if closed:
                line = self.text[start:raw_end].rstrip()
                closed = len(line) >= len(self.fence) and not line.strip(mark)
        else:
            closed = self.html_end in self.text[start:raw_end].lower()
        if closed:
            self._close(Kind.WHOLE)
            self.fence = self.html_end = ""

    def _open_table(self, raw_end: int) -> bool:
        """The delimiter row of a table; its header is the line before, and stays with the first row."""
        if self.start < 0 or not self.is_paragraph or "|" not in self.text[self.last_line : self.end]:
            return False
        header = self.last_line
        if header > self.start:
            self.end = header
            self._close(Kind.PROSE)
            self._open(header, Strength.ITEM)
        self.is_paragraph = False
        self.end = raw_end
        self.in_table = True
        return True

    def _table_row(self, start: int, raw_end: int) -> None:
        if self.start >= 0 and self.is_paragraph:
            self._close(Kind.WHOLE)
        if self.start < 0:
            self._open(start, Strength.ITEM)
        self.end = raw_end
        self._close(Kind.WHOLE)

    def _leave(self, indent: int) -> None:
        """Ends what stands open before a block that may interrupt a paragraph."""
        self.close_part()
        self.in_table = False
        self.in_list = self.in_list and indent >= self.item_indent

    # Paragraphs and list items

    def _open_paragraph(self, start: int, indent: int) -> None:
        if indent < self.item_indent:
            self.in_list = False
        self._open(start, Strength.SUBITEM if self.in_list else Strength.BLOCK)
        self.is_paragraph = indent < 4 and not self.in_list and self.text[start] != ">"
        self.is_code = indent >= 4 and not self.in_list

    def _ends_paragraph(self, first: str, indent: int) -> bool:
        """A quote behind a paragraph, or a paragraph behind indented code, without a blank line between."""
        leaves_list = self.in_list and indent < self.item_indent
        return (first == ">" and (self.is_paragraph or leaves_list)) or (self.is_code and indent < 4)

    def _item_width(self, start: int, raw_end: int, indent: int) -> int:
        """Columns of a list marker with the space behind it; 0 when the line opens no item."""
        match = _ITEM.match(self.text, start, min(raw_end, start + 12))
        if match is None or (indent >= 4 and self.is_markdown and not self.in_list):
            return 0
        if self.is_paragraph and self.start >= 0 and match[0][:-1] not in ("", "1"):
            return 0  # a paragraph's wrapped line may well begin with a number
        behind = self.text[match.end() : match.end() + 5]
        spaces = len(behind) - len(behind.lstrip())
        return match.end() - start + (spaces if spaces < 5 else 1)

    def _open_item(self, start: int, indent: int, width: int, blank: bool) -> None:
        self.close_part()
        self.in_table = False
        inner = self.in_list and indent >= self.item_indent
        strength = Strength.SUBITEM if inner else Strength.ITEM
        self._open(start, Strength.BLOCK if blank and not self.in_list else strength)
        if not inner:
            self.item_indent = indent + width
        self.in_list = True

    # Parts

    def close_part(self) -> None:
        if self.start >= 0:
            whole = self.fence or self.html_end or self.in_table
            self._close(Kind.WHOLE if whole else Kind.PROSE)

    def add(self, start: int, end: int, strength: int, kind: Kind) -> None:
        self._open(start, strength)
        self.end = end
        self._close(kind)

    def _open(self, start: int, strength: int) -> None:
        self.start, self.strength = start, strength
        self.is_paragraph = self.is_code = False

    def _close(self, kind: Kind) -> None:
        start = self.start
        end = self.end
        while self.text[end - 1].isspace():
            end -= 1
        strength = self.strength
        if self.after_heading and kind is not Kind.HEADING:
            strength, self.after_heading = Strength.GLUED, 0
        elif strength == Strength.BLOCK and self.parts_end and self.text[self.parts_end - 1] in ":：":
            strength = Strength.ITEM  # what a colon announces stays with it where that costs nothing
        self.parts.append(Part(start, end, strength, kind, len(self.sections) - 1))
        self.start, self.parts_end = -1, end
