"""Pictures of committed results, in docs/images/plots. Owns what is drawn; how it looks is `drawing.py`'s. A result
that is not there yet has no picture.

    python -m benchmarks.plots            # writes them
    python -m benchmarks.plots --check    # changes nothing, and names those that are not as the results say
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.drawing import Group, Line, bars, lines
from benchmarks.figures import RESULTS, ROOT, record_of, rows_at
from benchmarks.queue.page import HEADS

FOLDER = ROOT / "docs" / "images" / "plots"
OURS = "embedmill"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots")
    parser.add_argument("--check", action="store_true", help="change nothing, name what is stale")
    stale = stale_plots()
    if not parser.parse_args().check:
        write(stale)
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)} is not as its result says (python -m benchmarks.plots)")
    return 1 if stale else 0


def stale_plots() -> dict[Path, str]:
    """Pictures that are missing or not as their results say, with what they should be."""
    drawn = {
        FOLDER / f"{name}.svg": draw() for name, draw in PLOTS.items() if (RESULTS / f"{name}.json").is_file()
    }
    return {path: svg for path, svg in drawn.items() if not path.is_file() or path.read_text("utf-8") != svg}


def write(pictures: dict[Path, str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, svg in pictures.items():
        path.write_text(svg, "utf-8")
        print(path.relative_to(ROOT))


def peers() -> str:
    rows = rows_at("peers")
    groups = [
        Group(
            f"a provider that takes {latency} ms",
            [(row["system"], row["rows_per_second"]) for row in rows if row["latency_ms"] == latency],
        )
        for latency in dict.fromkeys(row["latency_ms"] for row in rows)
    ]
    return bars("Bulk embedding beside others: rows a second", _source("peers"), groups, OURS)


def queue() -> str:
    groups = [
        Group(row["measure"], [(head, row[name]) for name, head in HEADS.items() if name in row])
        for row in rows_at("queue / all three")
    ]
    title = "The queue beside others: jobs a second, enqueued, claimed and completed"
    return bars(title, _source("queue"), groups, OURS)


def backlog() -> str:
    rows = rows_at("backlog")
    costs = {"server and worker": "cpu_us_a_row", "server": "server_us_a_row", "worker": "worker_us_a_row"}
    return lines(
        "The cost of a row as the backlog grows: microseconds of processor time",
        _source("backlog"),
        [Line(name, [(row["waiting"], row[key]) for row in rows]) for name, key in costs.items()],
        "items waiting",
        limit=(1.5 * float(rows[0]["cpu_us_a_row"]), "1.5 times the cost among the fewest"),
    )


def scaling() -> str:
    rows = rows_at("scaling / measure=processes")
    sizes = dict.fromkeys(row["inputs_per_call"] for row in rows)
    return lines(
        "Rows a second by worker processes, with a provider that takes 100 ms",
        _source("scaling"),
        [
            Line(
                f"calls of {size}",
                [(row["workers"], row["rows_per_second"]) for row in rows if row["inputs_per_call"] == size],
            )
            for size in sizes
        ],
        "worker processes",
    )


def _source(name: str) -> str:
    machine = record_of(name)["machine"]
    cores = f"{machine['cores']} cores ({machine['processor']})"
    return f"{cores}, commit {machine['commit']}: benchmarks/results/{name}.json"


PLOTS: dict[str, Callable[[], str]] = {"peers": peers, "queue": queue, "backlog": backlog, "scaling": scaling}


if __name__ == "__main__":
    sys.exit(main())
