"""Writes what the results say into the pages that tell of it. Owns benchmarks/RESULTS.md, where each result file has a
section, and how a section begins; what a person writes into it afterwards stays, and its marks are filled in.

    python -m benchmarks.report            # fills README, docs and RESULTS.md; tells what has no mark
    python -m benchmarks.report --check    # changes nothing
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from benchmarks import claims
from benchmarks.figures import RESULT, RESULTS, ROOT, at, filled, record_of

REPORT = ROOT / "benchmarks" / "RESULTS.md"
# Without these nobody can measure it again, or tell why it came out otherwise.
FACTS = (
    "command",
    "rows",
    "machine.processor",
    "machine.cores",
    "machine.memory_gib",
    "machine.system",
    "machine.python",
    "machine.versions",
    "machine.commit",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("--check", action="store_true", help="change nothing, tell what is not so")
    if not parser.parse_args().check:
        add_missing_sections()
        for page in claims.pages():
            page.write_text(filled(page.read_text("utf-8")), "utf-8")
    found = [*faults()]
    print("\n".join(found) or "every figure is as its result file says")
    return 1 if found else 0


def faults() -> Iterator[str]:
    """Figures that no result file holds, results that are not told of, results that do not say where they come from; a
    line each."""
    yield from claims.faults_of_pages(claims.pages())
    for name in _untold():
        yield f"benchmarks/RESULTS.md does not tell of results/{name}.json (python -m benchmarks.report)"
    for path in sorted(RESULTS.rglob("*.json")):
        name = path.relative_to(RESULTS).with_suffix("").as_posix()
        lacking = [fact for fact in FACTS if not at(record_of(name), fact)]
        if lacking:
            yield f"benchmarks/results/{name}.json does not say its {', '.join(lacking)}"


def add_missing_sections() -> None:
    """Append a section for each result that has none."""
    for name in _untold():
        with REPORT.open("a", encoding="utf-8") as report:
            report.write(_section(name))


def _untold() -> list[str]:
    told = {found["name"] for found in RESULT.finditer(REPORT.read_text("utf-8"))}
    return sorted({path.stem for path in RESULTS.glob("*.json")} - told)


def _section(name: str) -> str:
    """The benchmark's own words, the machine, and the rows."""
    tables = "".join(f"\n<!-- table: {address} -->\n<!-- end of table -->\n" for address in _tables(name))
    return f"\n## {name}\n\n<!-- result: {name} -->\n<!-- end of result -->\n{tables}"


def _tables(name: str) -> list[str]:
    """One for all rows, or, where they differ in shape, one for each value of the column that comes first."""
    rows = record_of(name)["rows"]
    first = next(iter(rows[0]))
    if len({tuple(row) for row in rows}) == 1 or not all(first in row for row in rows):
        return [name]
    return [f"{name} / {first}={value}" for value in dict.fromkeys(row[first] for row in rows)]


if __name__ == "__main__":
    sys.exit(main())
