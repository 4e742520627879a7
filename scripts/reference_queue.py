"""The page of the configuration: what is changed while it runs, and what the leader does by the clock.

Owns the reading of 15_config.sql (keys with their ranges and words) and of worker/sweeps.py (tasks with their periods;
what each does stands in reference_words.toml). Used by generate_reference.py.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

_WORDS = Path(__file__).with_name("reference_words.toml")
_KEY = re.compile(
    r"^    \('(?P<key>\w+)', '(?P<default>[^']*)'(?:::jsonb)?, '(?P<kind>\w+)', (?P<minimum>[\w:]+), "
    r"(?P<maximum>[\w:]+),\s+'(?P<said>(?:[^']|'')*)'\)",
    re.MULTILINE,
)
_BEGINS = re.compile(r"^    \('(\w+)',", re.MULTILINE)


def configuration_page(source: Path, note: str) -> str:
    """The page in Markdown. `source` is the package's folder."""
    words = tomllib.loads(_WORDS.read_text(encoding="utf-8"))
    text = (source / "database" / "functions" / "15_config.sql").read_text(encoding="utf-8")
    keys = [found.groupdict() for found in _KEY.finditer(text)]
    unread = set(_BEGINS.findall(text.partition("AS defined")[0])) - {key["key"] for key in keys}
    if unread:
        raise SystemExit(f"reference_queue.py cannot read {', '.join(sorted(unread))} in 15_config.sql")
    lines = [
        "# Configuration",
        "",
        note,
        "",
        "What may change while everything runs, in `embedding_queue_config`; workers take it up within seconds.",
        "`embedmill config list` shows it, `embedmill config set KEY VALUE` checks and changes it,",
        "`embedmill config log` says who did. It holds for all tenants. What a process must know before it starts is a",
        "[setting](settings.md).",
        "",
        "| Key | Default | Value | Meaning |",
        "|---|---|---|---|",
    ]
    for key in keys:
        said = key["said"].replace("''", "'").replace("|", "\\|")
        lines.append(f"| `{key['key']}` | `{key['default']}` | {_range(key)} | {said} |")
    lines += [
        "",
        "## Sweeps",
        "",
        "Periodic work, done by one worker at a time, the leader; each tick happens once, whoever dies"
        " (`sweeps` holds what came of it). Dead workers' items are given back by every worker, all the time.",
        "",
        "| Task | Every | What it does |",
        "|---|---|---|",
    ]
    periods = sweep_periods(source / "worker" / "sweeps.py")
    said_of = words["sweep_tasks"]
    if set(periods) != set(said_of):
        raise SystemExit(
            f"reference_words.toml: [sweep_tasks] lacks {', '.join(sorted(set(periods) - set(said_of))) or 'none'},"
            f" and has {', '.join(sorted(set(said_of) - set(periods))) or 'none'} that no leader runs"
        )
    lines += [f"| `{task}` | {period} | {said_of[task]} |" for task, period in periods.items()]
    return "\n".join([*lines, ""])


def sweep_periods(path: Path) -> dict[str, str]:
    """Each task of the leader and its period in words, from the table in worker/sweeps.py."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if names == ["periods"]:
                pairs = zip(node.value.keys, node.value.values, strict=True)
                return {str(ast.literal_eval(key)): _period(value) for key, value in pairs if key is not None}
    raise SystemExit("worker/sweeps.py no longer holds the table `periods` of its tasks")


def _period(value: ast.expr) -> str:
    if isinstance(value, ast.Constant) and isinstance(value.value, int | float):
        seconds = value.value
        return f"{seconds / 3600:g} h" if seconds % 3600 == 0 else f"{seconds:g} s"
    found = re.match(r"config\.(\w+)_hours", ast.unparse(value))
    if found is None:
        raise SystemExit(f"reference_queue.py cannot say what {ast.unparse(value)} is as a period")
    return f"`{found[1]}_hours`"


def _range(key: dict[str, str]) -> str:
    if key["kind"] == "boolean":
        return "`true` or `false`"
    words = "whole number" if key["kind"] == "integer" else 'JSON: `{"high": n, "medium": n, "low": n}`, each'
    return f"{words}, {int(key['minimum']):,} to {int(key['maximum']):,}"
