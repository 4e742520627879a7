"""docs/reference/metrics.md: every metric of /metrics, from the catalogue by which they are exposed. Owns the layout of
the page; generate_reference.py writes it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

_OPENING = """\
What `GET /metrics` of the service tells, and a worker's `--metrics-port`. How Prometheus is given it, and what
OpenTelemetry is sent: [How to monitor](../how-to/monitor.md).

Labels have bounds: no metric names a document, an item or a job. Histograms have `_bucket`, `_sum` and `_count`;
seconds are seconds, costs US dollars."""


def metrics_page(note: str) -> str:
    """The page. A metric that no sentence describes is a fault of the catalogue (ValueError)."""
    # The code of this checkout, which the generator has put on the path by now.
    return "\n".join(_lines(import_module("embedmill.adapters.telemetry.catalog"), note)) + "\n"


def _lines(catalog: Any, note: str) -> Iterator[str]:
    yield from ("# Metrics", "", note, "", _OPENING)
    for origin, heading, words in (
        (
            catalog.Origin.PROCESSES,
            "What processes count",
            "Each process for itself. The service shows those of its machine together (those of one "
            "EMBEDMILL_DATA_DIR), what ended ones have counted included: no counter goes back. Sum them over "
            f"instances. A process names {catalog.MOST_OPEN_SETS} sets of labels that users make up; the rest is "
            "`other`.",
        ),
        (
            catalog.Origin.FLEET,
            "What is true of the fleet",
            "Read from the database, at most every two seconds. Each service tells the same: take the largest "
            "(`max by`), and do not sum over instances. The tenants, pipelines, budgets and quotas with the most are "
            f"named, {catalog.MOST_NAMED} of each. Counters are two seconds behind, as long as any worker is alive.",
        ),
        (catalog.Origin.SCRAPE, "Of the page itself", "Of the service, or worker, that answers."),
    ):
        yield from ("", f"## {heading}", "", words, "")
        yield from ("| Metric | Kind | Labels | What it tells |", "|---|---|---|---|")
        for metric in catalog.ALL_METRICS:
            if metric.origin is origin:
                if not metric.help.endswith("."):
                    raise ValueError(f"{metric.name} is not described by a sentence")
                labels = ", ".join(f"`{label}`" for label in metric.labels)
                yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help.replace('|', '/')} |"
