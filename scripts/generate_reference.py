"""Writes docs/reference from the code, a page for each entry of `makers` in main.

    python scripts/generate_reference.py            write the pages
    python scripts/generate_reference.py --check    fail, with a diff, where a page differs from the code
    python scripts/generate_reference.py rest.md    this page alone

Owns the layout of the pages; every fact in them stands in the code. What the code does not explain (a setting
without a docstring, a command or an option without help) is a fault here and not an empty cell.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import msgspec
from reference_events import events_page
from reference_metrics import metrics_page
from reference_queue import configuration_page
from reference_rest import rest_page
from reference_sql import sql_page
from reference_tables import tables_page

ROOT = Path(__file__).resolve().parent.parent
# The code of this checkout, also where a copy of the repository is checked (tests/test_docs.py).
sys.path.insert(0, str(ROOT / "src"))

SOURCE = ROOT / "src" / "embedmill"
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Written by scripts/generate_reference.py from the code; do not edit. -->"
# A default that is worked out at run time has no value that a table could show.
COMPUTED_DEFAULTS = {"data_dir": "`embedmill` in `$XDG_DATA_HOME`, or in `~/.local/share`"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing, fail where a page differs")
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="only these, such as rest.md")
    makers: dict[str, Callable[[], str]] = {
        "settings.md": settings_page,
        "cli.md": cli_page,
        "metrics.md": lambda: metrics_page(NOTE),
        "rest.md": lambda: rest_page(SOURCE, NOTE),
        "sql.md": lambda: sql_page(SOURCE / "database", NOTE),
        "tables.md": lambda: tables_page(SOURCE / "database", NOTE),
        "events.md": lambda: events_page(SOURCE, NOTE),
        "configuration.md": lambda: configuration_page(SOURCE, NOTE),
    }
    options = parser.parse_args(arguments)
    if unknown := set(options.pages) - makers.keys():
        parser.error(f"no page {', '.join(sorted(unknown))}: there are {', '.join(makers)}")
    pages = {name: makers[name]() for name in options.pages or makers}
    stale = [name for name, text in pages.items() if _read(REFERENCE / name) != text]
    for name in stale:
        if options.check:
            _print_difference(name, _read(REFERENCE / name), pages[name])
        else:
            (REFERENCE / name).write_text(pages[name], encoding="utf-8")
    if stale and options.check:
        print(
            f"docs/reference: {', '.join(stale)} not as the code says: python scripts/generate_reference.py"
        )
        return 1
    return 0


def settings_page() -> str:
    """One row for each field of settings.Settings, with its docstring."""
    from embedmill.settings import Settings  # noqa: PLC0415 - after the path is set

    said = _field_docstrings(SOURCE / "settings.py", "Settings")
    lines = [
        "# Settings",
        "",
        NOTE,
        "",
        "Settings come from the environment and nowhere else. An empty value counts as unset. A wrong value ends the",
        "command with a sentence that names the variable; `embedmill doctor` names variables that no setting has.",
        "",
        "| Variable | Value | Default | Meaning |",
        "|---|---|---|---|",
    ]
    for field in msgspec.inspect.type_info(Settings).fields:  # type: ignore[attr-defined]
        if not said.get(field.name):
            raise SystemExit(f"settings.py: {field.name} has no docstring: say below it what it is for")
        cells = (f"`EMBEDMILL_{field.name.upper()}`", _kind(field.type), _default(field), said[field.name])
        lines.append(_row(cells))
    lines += [
        "",
        "## Keys",
        "",
        "Keys are no settings: they are read when a call is made, and never stored or logged. A pipeline names its",
        "variable with `--api-key-env`; the name must end in `API_KEY` or `TOKEN`. Without it, a pipeline of the",
        "provider `openai` takes `EMBEDMILL_OPENAI_API_KEY`, and, only where it has no `--base-url`,",
        "`OPENAI_API_KEY`.",
        "",
        "`EMBEDMILL_PEPPER_TOKEN` is the secret of the service under which API keys are hashed and webhooks signed:",
        "32 characters or more. Unset: the file `pepper` under `EMBEDMILL_DATA_DIR`, made when it is first needed.",
        "Service processes that share a database must share it.",
        "",
        "A bucket for originals takes the credentials of its provider: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,",
        "`AWS_REGION`, `AWS_ENDPOINT`; `GOOGLE_APPLICATION_CREDENTIALS`; `AZURE_STORAGE_ACCOUNT_NAME`,",
        "`AZURE_STORAGE_ACCOUNT_KEY`.",
        "",
        "## For the tests",
        "",
        "`EMBEDMILL_TEST_DATABASE_URL` runs the test suite on a PostgreSQL of your own (CONTRIBUTING.md).",
        "",
    ]
    return "\n".join(lines)


def cli_page() -> str:
    """One section for each command."""
    from embedmill.cli.main import app  # noqa: PLC0415 - after the path is set

    lines = [
        "# Commands",
        "",
        NOTE,
        "",
        "Every command takes `--help`. Listings take `--json` and then print one JSON document on standard output.",
        "Progress goes to standard error. Exit status: 0 done, 1 done with failures or an error told in a",
        "sentence, 2 wrong usage, 130 interrupted.",
        "",
    ]
    for name, command in _commands("embedmill", app):
        lines += _command_section(name, command)
    return "\n".join(lines)


def _commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """The leaves of the tree of commands, in the order of their registration."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    for part, child in command.commands.items():
        yield from _commands(f"{name} {part}", child)


def _command_section(name: str, command: click.Command) -> list[str]:
    if not (command.help or "").strip():
        raise SystemExit(f"{name} has no help: give its function a docstring")
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    usage = [name, *(_placeholder(argument) for argument in arguments)]
    # Paragraphs stay apart, lines within one are joined.
    paragraphs = [" ".join(paragraph.split()) for paragraph in str(command.help).split("\n\n")]
    lines = [f"## {name}", "", f"    {' '.join(usage)}{' [OPTIONS]' if options else ''}", ""]
    lines += [line for paragraph in paragraphs for line in (paragraph, "")]
    if options:
        lines += ["| Option | Default | Meaning |", "|---|---|---|"]
        lines += [_option_row(name, option) for option in options] + [""]
    return lines


def _placeholder(argument: click.Argument) -> str:
    said = argument.make_metavar(click.Context(click.Command("embedmill")))
    return said[1:-1] if said.startswith("[") and said.endswith("]") else said


def _option_row(command: str, option: click.Option) -> str:
    if not (option.help or "").strip() and not isinstance(option.type, click.Choice):
        raise SystemExit(f"{command}: {option.opts[0]} has no help")
    value = "" if option.is_flag else f" {_value(option)}"
    default = "required" if option.required else _shown_default(option)
    return _row((f"`{', '.join(option.opts)}{value}`", default, " ".join((option.help or "").split())))


def _value(option: click.Option) -> str:
    """What stands behind the option: the choices, or the kind of value in capitals."""
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    kinds = {"integer": "NUMBER", "integer range": "NUMBER", "float": "NUMBER", "float range": "NUMBER"}
    return option.metavar or kinds.get(option.type.name, option.type.name.upper())


def _shown_default(option: click.Option) -> str:
    default = option.to_info_dict()["default"]
    return "" if default in (None, False, ()) or option.is_flag else f"`{default}`"


def _field_docstrings(path: Path, class_name: str) -> dict[str, str]:
    """The string below each field of a class: what a docstring of a field is, which no runtime keeps."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    said: dict[str, str] = {}
    for field, below in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            said[field.target.id] = " ".join(str(below.value.value).split())
    return said


def _kind(kind: Any) -> str:
    """What values a setting takes, in words."""
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = next(part for part in kind.types if not isinstance(part, msgspec.inspect.NoneType))
    words = {msgspec.inspect.IntType: "whole number", msgspec.inspect.FloatType: "number"}.get(type(kind))
    if words is None:
        return "path" if isinstance(kind, msgspec.inspect.CustomType) else "text"
    if kind.gt is not None:
        words += f" over {kind.gt:g}"
    if kind.ge is not None and kind.le is not None:
        return f"{words}, {kind.ge} to {kind.le}"
    return f"{words}, {kind.ge} or more" if kind.ge is not None else words


def _default(field: Any) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        if field.name not in COMPUTED_DEFAULTS:
            raise SystemExit(
                f"generate_reference.py: say in COMPUTED_DEFAULTS what {field.name} is by default"
            )
        return COMPUTED_DEFAULTS[field.name]
    if field.default is None:
        return "unset"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _print_difference(name: str, found: str, wanted: str) -> None:
    sys.stdout.writelines(
        difflib.unified_diff(
            found.splitlines(keepends=True),
            wanted.splitlines(keepends=True),
            fromfile=f"docs/reference/{name}",
            tofile="the code",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
