"""Holds the documentation to the code: `make check` runs it, and each fault is one line that says where.

It runs the --check of every page that is drawn or generated, and then looks at every Markdown file: links that
lead nowhere, commands, options, settings, make targets, files and names that do not exist, decisions without
an entry in their index. Last it looks at every file for what belongs to this machine alone: the host of a
package registry, an absolute path. Changes nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

ROOT = Path(__file__).resolve().parent.parent
# The code of this checkout, also where a copy of the repository is checked (tests/test_docs.py).
sys.path.insert(0, str(ROOT / "src"))

# Each is told --check; it prints its faults, and ends with 1 where there are any.
STEPS = (
    "scripts/draw_states.py",
    "scripts/generate_reference.py",
    "-m benchmarks.report",
    "-m benchmarks.plots",
)
SKIPPED_FOLDERS = {".git", ".venv", ".embedmill", ".peers", "__pycache__", "build", "dist", "node_modules"}
LARGEST_READ_BYTES = 4_000_000
# Texts by others, which are shipped as they are.
FOREIGN = ("examples/documents/", "examples/licences/", "LICENSE")
# Variables that are no settings: the tests' own, and any that holds a key.
OTHER_VARIABLES = re.compile(r"EMBEDMILL_(TEST_DATABASE_URL|\w*(API_KEY|TOKEN))|EMBEDMILL_")
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted\.org|registry\.npmjs\.org|crates\.io|proxy\.golang\.org|repo\.anaconda\.com",
    re.IGNORECASE,
)

_FENCE = re.compile(
    r"^(?P<fence>```+|~~~+)(?P<kind>[^\n]*)\n(?P<body>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL
)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)|\b(?:src|href)=\"([^\"]+)\"", re.MULTILINE
)
_COMMAND = re.compile(r"^(?:\$ )?(?:\w+=\S* )*(?:\.venv/bin/|\./)?embedmill(?= |$)(?P<rest>[^|;&#>]*)")
_MAKE = re.compile(r"^(?:\$ )?make(?: \w+=\S+)* (?P<target>[a-z][\w-]*)")
_FILE = re.compile(r"^(?P<path>[\w./-]+\.(?:py|sql|toml|md|txt))(?:: (?P<name>\w+))?$")


def main() -> int:
    faults = [*stale_pages()]
    for path in sorted(path for path in all_files() if path.suffix == ".md" and not _is_foreign(path)):
        text = path.read_text(encoding="utf-8")
        faults += [f"{path.relative_to(ROOT)}: {fault}" for fault in faults_of(path, text)]
    faults += [*unlisted_decisions(), *unlisted_version(), *leaks()]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def stale_pages() -> Iterator[str]:
    """Pages that are not as the code or a result file says, in the words of what makes them."""
    for step in STEPS:
        command = [sys.executable, *step.split(), "--check"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            yield from (done.stdout + done.stderr).strip().splitlines() or [f"{step} failed"]


def faults_of(path: Path, text: str) -> Iterator[str]:
    """What one Markdown file says that is not so."""
    prose = _FENCE.sub("", text)
    yield from broken_links(path, prose)
    spans = _SPAN.findall(prose)
    lines = [line.strip() for line in _shell_lines(text)]
    for code in (*spans, *lines):
        yield from wrong_command(code)
    for code in spans:
        yield from missing_file(path, code)
    yield from unknown_settings(text)


def broken_links(path: Path, prose: str) -> Iterator[str]:
    """Relative links to a file or a heading that is not there."""
    for groups in _LINK.findall(_SPAN.sub("", prose)):
        link = next(filter(None, groups))
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.exists():
            yield f"the link {link} leads nowhere"
        elif parts.fragment and target.suffix == ".md" and unquote(parts.fragment) not in _anchors(target):
            yield f"the link {link} leads to no heading"


def wrong_command(code: str) -> Iterator[str]:
    """A command line of embedmill or make whose command or option does not exist."""
    made = _MAKE.match(code)
    if made and made["target"] not in _make_targets():
        yield f"`make {made['target']}`: the Makefile has no such target"
    found = _COMMAND.match(code)
    if found is None:
        return
    from embedmill.cli.main import app  # noqa: PLC0415 - after the path is set

    command: click.Command = app
    for word in _words(found["rest"]):
        if command.context_settings.get("ignore_unknown_options"):
            return  # what follows is another program's
        if word.startswith("-") and word != "-":
            if not _has_option(command, word.partition("=")[0]):
                yield f"`{code}`: there is no option {word.partition('=')[0]}"
        elif isinstance(command, click.Group) and word.islower():
            if word not in command.commands:
                yield f"`{code}`: there is no command {word!r}"
                return
            command = command.commands[word]


def missing_file(path: Path, code: str) -> Iterator[str]:
    """A file that is named (`queue/items.py`), or a name in a file (`queue/items.py: claim_items`), that is not
    there. A path is read from the repository, from src/embedmill, or from the page itself."""
    found = _FILE.match(code)
    if found is None or ("/" not in found["path"] and not found["name"]):
        return
    roots = (ROOT, ROOT / "src" / "embedmill", path.parent)
    files = [root / found["path"] for root in roots if (root / found["path"]).is_file()]
    if not files:
        yield f"`{code}`: there is no such file"
    elif found["name"] and not re.search(rf"\b{found['name']}\b", files[0].read_text(encoding="utf-8")):
        yield f"`{code}`: the file holds no such name"


def unknown_settings(text: str) -> Iterator[str]:
    """Variables that no setting has."""
    from embedmill.settings import Settings  # noqa: PLC0415

    known = {f"EMBEDMILL_{name.upper()}" for name in Settings.__struct_fields__}
    for name in sorted(set(re.findall(r"\bEMBEDMILL_[A-Z_]*", text)) - known):
        if not OTHER_VARIABLES.fullmatch(name):
            yield f"{name} is no setting"


def unlisted_decisions() -> Iterator[str]:
    """Records that docs/decisions/README.md does not list, and numbers given twice."""
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    seen: dict[str, str] = {}
    for record in sorted(folder.glob("[0-9]*.md")):
        number = record.name[:4]
        if number in seen:
            yield f"docs/decisions: {record.name} has the number of {seen[number]}"
        seen[number] = record.name
        if f"({record.name})" not in index:
            yield f"docs/decisions/README.md does not list {record.name}"


def unlisted_version() -> Iterator[str]:
    """A version that the changelog says nothing of."""
    from embedmill import __version__  # noqa: PLC0415

    if f"## [{__version__}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        yield f"CHANGELOG.md has no section for the version {__version__}"


def leaks() -> Iterator[str]:
    """Lines of any file that name a package registry, or a path or a mirror of this machine."""
    own = [re.escape(host) for host in _registries_of_this_machine()]
    own += [
        re.escape(str(path)) + r"(?![\w-])"
        for path in {ROOT, Path.home(), Path(sys.prefix)}
        if len(path.parts) > 1
    ]
    private = re.compile("|".join(own))
    for path in all_files():
        content = path.read_bytes() if path.stat().st_size <= LARGEST_READ_BYTES else b"\0"
        if _is_foreign(path) or b"\0" in content[:8192]:
            continue
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
            found = REGISTRIES.search(line) or private.search(line)
            if found:
                yield f"{path.relative_to(ROOT)}:{number}: {found[0]!r} belongs to a machine, not into a file"


def all_files() -> list[Path]:
    """What git has or would take; in a copy without git, all but what is ignored everywhere."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
            "\0"
        )
        return [ROOT / name for name in names if name and (ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not SKIPPED_FOLDERS & set(path.relative_to(ROOT).parts)
    ]


def _registries_of_this_machine() -> set[str]:
    """The hosts from which pip is told to install here."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    hosts = {urlsplit(url).hostname for url in re.findall(r"https?://[^\s'\"]+", said)}
    return {host for host in hosts if host and host not in ("localhost", "127.0.0.1")}


def _shell_lines(text: str) -> Iterable[str]:
    """The lines of fenced blocks that a person would type, continued lines joined."""
    for block in _FENCE.finditer(text):
        kind = block["kind"].strip()
        if kind in ("", "sh", "bash", "console", "shell"):
            lines = block["body"].replace("\\\n", " ").splitlines()
            # In a console, what is typed stands behind a dollar; the rest is what was printed.
            yield from (line for line in lines if kind != "console" or line.startswith("$ "))


def _words(rest: str) -> list[str]:
    """Split as a shell would, good enough to find commands and options: what is quoted is left out."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "TEXT", rest).split()


def _has_option(command: click.Command, option: str) -> bool:
    names = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    return option in names | {"--help", "-h"}


def _make_targets() -> set[str]:
    return set(
        re.findall(r"^([a-z][\w-]*):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )


def _anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    prose = _FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#{1,6}\s+(.*?)\s*#*$", prose, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def _is_foreign(path: Path) -> bool:
    return path.relative_to(ROOT).as_posix().startswith(FOREIGN)


if __name__ == "__main__":
    sys.exit(main())
