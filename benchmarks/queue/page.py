"""Writes docs/explanation/queue-benchmark.md from the saved result: `python -m benchmarks.queue.page`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "queue.json"
PAGE = ROOT / "docs" / "explanation" / "queue-benchmark.md"
HEADS = {
    "embedmill": "embedmill",
    "procrastinate": "procrastinate",
    "pgqueuer": "PgQueuer",
    "pgmq_functions": "pgmq-style, functions",
    "pgmq_style": "pgmq-style, plain",
}
Row = dict[str, Any]


def main() -> None:
    result = json.loads(RESULT.read_text("utf-8"))
    systems = [name for name in HEADS if name in result["options"]["systems"]]
    rates = [row for row in result["rows"] if "ratio" in row]
    claims = [row for row in result["rows"] if "ratio" not in row]
    PAGE.write_text(_page(result, systems, rates, claims), "utf-8")


def _page(result: Row, systems: list[str], rates: list[Row], claims: list[Row]) -> str:
    options, machine = result["options"], result["machine"]
    versions = options["systems"]
    waiting = f"{options['waiting']:,} waiting"
    grown = {size: _growth(claims, size, waiting) for size in (1, 100)}
    return f"""# How fast the queue is, beside others

`make bench-peers` runs embedmill's queue, procrastinate {versions["procrastinate"]["version"]}, PgQueuer
{versions["pgqueuer"]["version"]} and two queues after pgmq's published algorithm on one embedded PostgreSQL, in one run,
by turns. The figures are those of the last run, `benchmarks/results/queue.json`: commit {machine["commit"]},
{machine["cores"]} cores (load {options["load"][0]} before){_stopped(options)}. This page is written from that file by
`python -m benchmarks.queue.page`.

All commit durably and say the same in a job: tenant, generation, source, priority, operation, estimated tokens,
metadata. Each client holds one connection: ours the one by which workers claim (`database/asking.py`), PgQueuer's
asyncpg on uvloop, procrastinate's and the pgmq-style ones' psycopg; "statements only" leaves the clients out.
"Functions" builds its statements at each call, as pgmq does; "plain" is the same algorithm in static statements, which
pgmq itself does not have. Neither fences a completion, keeps priorities, a cap for each tenant, leases with a worker, a
unique source, or counts.

## Jobs a second: enqueued, claimed and completed

Medians over the rounds.

{_table(rates, systems, "all three", lambda row: row["step"] == "all three")}

{_verdicts(rates, systems)}

One by one the processor decides beside the commits, and an item of ours costs the server more of it than a message that
is a number and a time: three lanes are looked at, a token is drawn, three indexes are written, the end goes to a
history of days and is counted. Decision 0029 says what was cut from it. Workers take items in batches; one that does not
can end an item and claim the next in one call and one commit (`exchange_embedding_batch`: "done and next in one call").

The server's processor, microseconds for a job, which the load of the machine falsifies less:

{_table(rates, systems, "server, us a job", lambda row: row["step"] == "server, us a job")}

## The steps in batches

{_table(rates, systems, "jobs a second", lambda row: row["measure"].startswith("batches") and row["step"] in ("enqueue", "claim", "complete"), with_step=True)}

## A claim, milliseconds of wall time

{_table(claims, systems, "", lambda row: row["step"] in ("claim of 1, p50", "claim of 1, p99", "claim of 100, p50", "claim of 100, p99"), with_step=True)}

By the server's processor, which the load of the machine falsifies less, a claim of one costs us {grown[1][0]} ms among
1,000 and {grown[1][1]} ms among {options["waiting"]:,} ({grown[1][1] / grown[1][0]:.2f} times), a claim of a hundred
{grown[100][0]} and {grown[100][1]} ms ({grown[100][1] / grown[100][0]:.2f} times). procrastinate fetches one job at a time.
"""  # noqa: E501


def _stopped(options: Row) -> str:
    """Where a run was cut short, the page says so."""
    return f"; it was stopped {options['stopped']}" if "stopped" in options else ""


def _growth(claims: list[Row], size: int, waiting: str) -> tuple[float, float]:
    found = {
        row["measure"]: float(row["embedmill"])
        for row in claims
        if row["step"] == f"claim of {size}, server p50"
    }
    return found["1,000 waiting"], found[waiting]


def _table(
    rows: Iterable[Row],
    systems: list[str],
    unit: str,
    wanted: Callable[[Row], bool],
    *,
    with_step: bool = False,
) -> str:
    first = [unit, "step"] if with_step else [unit]
    lines = [f"| {' | '.join([*first, *(HEADS[name] for name in systems)])} |"]
    lines.append(f"|{'---|' * len(first)}{'--:|' * len(systems)}")
    for row in rows:
        if wanted(row):
            said = [row["measure"], row["step"]] if with_step else [row["measure"]]
            lines.append(f"| {' | '.join([*said, *(_figure(row.get(name)) for name in systems)])} |")
    return "\n".join(lines)


def _verdicts(rates: list[Row], systems: list[str]) -> str:
    """For each peer, in how many of the measures we are ahead, and where not."""
    whole = [row for row in rates if row["step"] == "all three"]
    lines = []
    for peer in systems[1:]:
        behind = [row["measure"] for row in whole if row["embedmill"] < row[peer]]
        lines.append(
            f"- Beside {HEADS[peer]}: ahead in {len(whole) - len(behind)} of {len(whole)}"
            + (f"; behind in: {'; '.join(behind)}." if behind else ".")
        )
    return "\n".join(lines)


def _figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else "-"


if __name__ == "__main__":
    main()
