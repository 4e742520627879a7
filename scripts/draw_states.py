"""Draws the state machines of core/jobs.py into the pages that show them, as Mermaid diagrams between markers.

    python scripts/draw_states.py            write the diagrams
    python scripts/draw_states.py --check    fail where they differ from the tables

Owns the drawing only: what may become what is decided in core/jobs.py.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent
# The tables of this checkout, also where a copy of the repository is checked (tests/test_docs.py).
sys.path.insert(0, str(ROOT / "src"))

from embedmill.core.jobs import ITEM_TRANSITIONS, JOB_TRANSITIONS  # noqa: E402

Status = TypeVar("Status", bound=StrEnum)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing, fail where something differs")
    options = parser.parse_args(arguments)
    jobs, items = draw(JOB_TRANSITIONS), draw(ITEM_TRANSITIONS)
    stale = False
    for name, diagrams in (
        ("ARCHITECTURE.md", {"jobs": jobs, "items": items}),
        ("docs/explanation/jobs.md", {"jobs": jobs}),
    ):
        found = drawn = (ROOT / name).read_text(encoding="utf-8")
        for which, diagram in diagrams.items():
            drawn = replace_between(drawn, which, diagram, page=name)
        if drawn == found:
            continue
        if options.check:
            print(f"{name}: the state diagrams are not those of core/jobs.py: python scripts/draw_states.py")
            stale = True
        else:
            (ROOT / name).write_text(drawn, encoding="utf-8")
    return 1 if stale else 0


def draw(transitions: Mapping[Status, Mapping[Status, str]]) -> str:
    """A Mermaid state diagram: the first status is where all begins, one without a way out is an end."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {next(iter(transitions))}"]
    for status, ways in transitions.items():
        lines += [f"    {status} --> {target}: {_label(why)}" for target, why in ways.items()]
        if not ways:
            lines.append(f"    {status} --> [*]")
    return "\n".join([*lines, "```"])


def _label(why: str) -> str:
    """Mermaid ends a label at a colon or a semicolon, or refuses the diagram."""
    return why.replace(":", ",").replace(";", ",")


def replace_between(text: str, name: str, content: str, *, page: str) -> str:
    """`text` with `content` between the markers of that name. Raises SystemExit where they are missing."""
    begin, end = f"<!-- states of {name}: begin -->", f"<!-- states of {name}: end -->"
    pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise SystemExit(f"{page} needs the markers {begin} and {end} exactly once")
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)


if __name__ == "__main__":
    sys.exit(main())
