"""Notices HTML that nests deeper than the converter follows, which leaves out what stands below, and reads
its words without their structure instead. Owns that way out only; ordinary pages are xberg's."""

from __future__ import annotations

import re
from html.parser import HTMLParser

MAX_DEPTH = 200
"""Levels of elements as they are written, below what xberg is told to follow (it adds some of its own)."""

CONVERTER_DEPTH = 300
"""xberg stops at 60 by itself, without a word; from some 600 on it overflows its stack."""

_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9:-]*)([^<>]*)>")
_LEVELS = {
    **dict.fromkeys(
        [
            "area",
            "base",
            "br",
            "col",
            "embed",
            "hr",
            "img",
            "input",
            "link",
            "meta",
            "param",
            "source",
            "track",
            "wbr",
        ],
        0,
    ),
    # Their ends may be left out and are not counted; what must hold them counts for them.
    **dict.fromkeys(
        [
            "p",
            "li",
            "dt",
            "dd",
            "option",
            "tr",
            "td",
            "th",
            "thead",
            "tbody",
            "tfoot",
            "html",
            "head",
            "body",
        ],
        0,
    ),
    **{"ul": 2, "ol": 2, "dl": 2, "table": 4},
}
_BLOCKS = frozenset(
    [
        "p",
        "div",
        "section",
        "article",
        "header",
        "footer",
        "main",
        "aside",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "table",
        "tr",
        "blockquote",
        "pre",
        "br",
        "hr",
        "figure",
        "figcaption",
        "form",
        "title",
    ]
)


def is_deep(source: str) -> bool:
    """Whether elements stand more than MAX_DEPTH deep in each other; an over-estimate for broken pages."""
    if source.count("<") <= MAX_DEPTH // 4:
        return False
    depth = 0
    for tag in _TAG.finditer(source):
        closes, name, attributes = tag.groups()
        levels = _LEVELS.get(name.lower(), 1)
        if closes:
            depth = max(0, depth - levels)
        elif not attributes.endswith("/"):
            depth += levels
            if depth > MAX_DEPTH:
                return True
    return False


def words_of_html(source: str) -> str:
    """The words of a page in order, a paragraph for each block, without headings, links and tables."""
    collector = _Words()
    collector.feed(source)
    collector.close()
    return collector.text()


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag in ("script", "style"):
            self._hidden += 1
        if tag in _BLOCKS:
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style") and self._hidden:
            self._hidden -= 1
        if tag in _BLOCKS:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(data)

    def text(self) -> str:
        lines = (" ".join(line.split()) for line in "".join(self._parts).split("\n"))
        return "\n\n".join(line for line in lines if line)
