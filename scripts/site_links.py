"""What mkdocs does not do by itself for the site (a hook, mkdocs.yml). Owns how a link that is right in the repository
leads to the same thing on the site, and how what only the repository draws is shown there. Changes no file of docs/.

- A link out of docs/ (../README.md, ../../examples/rest.sh) leads to a page under repository/: the Markdown itself, the
  file as a block of code, or a list of what a folder holds.
- Mermaid is drawn by a script of another host, which the site does not ask: diagrams of states are tables there.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = "docs/"
OUTSIDE = "repository/"
KINDS = {
    ".py": "python",
    ".sh": "bash",
    ".sql": "sql",
    ".toml": "toml",
    ".json": "json",
    ".yml": "yaml",
    ".yaml": "yaml",
}
LARGEST_SHOWN_BYTES = 100_000

_CODE = re.compile(
    r"^(?P<fence>```+|~~~+)[^\n]*\n.*?^(?P=fence)[ \t]*$|(?<!`)`[^`\n]+`(?!`)", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"(?P<before>\]\(\s*<?)(?P<link>[^)\s>]+)(?P<after>>?[^)]*\))")
_DIAGRAM = re.compile(r"^```mermaid\nstateDiagram-v2\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_WAY = re.compile(r"^\s*(?P<source>\S+) --> (?P<target>[^\s:]+)(?:: (?P<when>.*))?$")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every file outside docs/ that a page names, and that those name in their turn."""
    waiting = [path for file in files.documentation_pages() for path in _links_of(DOCS + file.src_uri)]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        is_listed = not (ROOT / path).is_file() and path.endswith("/README.md")
        if path.startswith(DOCS) or path in seen or not (is_listed or (ROOT / path).is_file()):
            continue
        seen.add(path)
        if is_listed:
            held = sorted(found.relative_to(ROOT).as_posix() for found in _held_by(ROOT / path))
            waiting += held
            files.append(File.generated(config, _uri_of(path), content=_listing(path, held)))
        else:
            waiting += _links_of(path) if path.endswith(".md") else []
            files.append(File.generated(config, _uri_of(path), content=_shown(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """The page with its links as they are on the site."""
    uri = page.file.src_uri
    here = _path_of(uri)

    def moved(found: re.Match[str]) -> str:
        link = found["link"]
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or not parts.path:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), unquote(parts.path)))
        if (path.startswith(DOCS) and uri.startswith(OUTSIDE)) or not path.startswith(DOCS):
            if (ROOT / path).is_dir():
                path = posixpath.join(path, "README.md")
            to = posixpath.relpath(_uri_of(path), posixpath.dirname(uri) or ".")
            link = to + (f"#{parts.fragment}" if parts.fragment and path.endswith(".md") else "")
        return found["before"] + link + found["after"]

    return _outside_code(_DIAGRAM.sub(_table_of_states, markdown), lambda text: _LINK.sub(moved, text))


def _links_of(path: str) -> list[str]:
    """Paths in the repository that a page of it links to; a folder means its README."""
    text = _CODE.sub("", (ROOT / path).read_text(encoding="utf-8"))
    found = []
    for match in _LINK.finditer(text):
        parts = urlsplit(match["link"])
        if parts.scheme or parts.netloc or not parts.path:
            continue
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(parts.path)))
        found.append(posixpath.join(target, "README.md") if (ROOT / target).is_dir() else target)
    return found


def _held_by(readme: Path) -> list[Path]:
    """What a folder without a README holds: small texts that git would take."""
    return [
        path
        for path in readme.parent.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.stat().st_size <= LARGEST_SHOWN_BYTES
    ]


def _listing(readme: str, held: list[str]) -> str:
    folder = posixpath.dirname(readme)
    rows = [f"- [{path}]({posixpath.relpath(path, folder)})" for path in held]
    return "\n".join([f"# {folder}", "", *rows, ""])


def _uri_of(path: str) -> str:
    """Where a file of the repository stands on the site."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    is_page = path.endswith((".md", ".svg", ".png"))
    return OUTSIDE + (path if is_page else f"{path}.md")


def _path_of(uri: str) -> str:
    """The file of the repository that a page of the site shows."""
    return uri.removeprefix(OUTSIDE) if uri.startswith(OUTSIDE) else DOCS + uri


def _shown(path: str) -> str | bytes:
    """What stands on the page of a file outside docs/."""
    content = (ROOT / path).read_bytes()
    if path.endswith((".svg", ".png")):
        return content
    text = content[:LARGEST_SHOWN_BYTES].decode("utf-8", "replace")
    if path.endswith(".md"):
        return text
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"# {path}\n\n{fence}{KINDS.get(Path(path).suffix, 'text')}\n{text}\n{fence}\n"


def _table_of_states(found: re.Match[str]) -> str:
    ways = [way for line in found["body"].splitlines() if (way := _WAY.match(line))]
    lines = ["| From | To | When |", "|---|---|---|"]
    for way in ways:
        source, target = (_state(way[end]) for end in ("source", "target"))
        lines.append(f"| {source} | {target} | {way['when'] or ''} |")
    return "\n".join(lines)


def _state(name: str) -> str:
    return "" if name == "[*]" else f"`{name}`"


def _outside_code(markdown: str, change: Any) -> str:
    """The text with everything changed but blocks and spans of code."""
    parts, at = [], 0
    for code in _CODE.finditer(markdown):
        parts += [change(markdown[at : code.start()]), code[0]]
        at = code.end()
    return "".join([*parts, change(markdown[at:])])
