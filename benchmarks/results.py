"""Result files: benchmarks/results/<name>.json with the machine, versions and command beside the figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine

FOLDER = Path(__file__).parent / "results"


def save_result(name: str, rows: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """Write the last result of a benchmark."""
    FOLDER.mkdir(exist_ok=True)
    record = {
        "benchmark": name,
        # Where on the machine it ran is nobody's business.
        "command": " ".join(
            [f"python -m benchmarks.{name}", *("FOLDER" if "/" in a else a for a in sys.argv[1:])]
        ),
        "options": options,
        "machine": describe_machine(),
        "rows": rows,
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def show_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows of equal keys as a table."""
    print(f"\n{title}")
    if not rows:
        return
    columns = list(rows[0])
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(c), *(len(line[i]) for line in cells)) for i, c in enumerate(columns)]
    for line in [columns, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    sys.stdout.flush()
