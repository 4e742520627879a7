"""What deploy/ asks Prometheus for: every metric with its labels, in dashboard and rules. Owns the reading
of expressions only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "embedmill.json"
RULES = DEPLOY / "prometheus" / "alerts.yml"

# What Grafana puts in place of its variables.
_VARIABLES = {"$__rate_interval": "5m", "$__range": "6h", "$job": ".*"}
# What Prometheus adds to each sample by itself.
OF_PROMETHEUS = {"job", "instance"}
_AGGREGATED = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
_SHOWN = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}|\{\{\s*\$labels\.(\w+)")


class Selector(NamedTuple):
    """A metric that is asked for, and the labels it is chosen by."""

    metric: str
    labels: tuple[tuple[str, str, str], ...]
    """(label, operator, value)"""


class Question(NamedTuple):
    """An expression, where it stands, and the labels that the text beside it shows."""

    place: str
    expression: str
    shown: frozenset[str]


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    return list(dashboard["panels"])


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def questions() -> list[Question]:
    """All of the dashboard's and the rules'."""
    asked = []
    for panel in panels():
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in _VARIABLES.items():
                expression = expression.replace(name, value)
            shown = frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            asked.append(Question(f"dashboard: {panel['title']}", expression, shown))
    for rule in rules():
        words = " ".join(rule["annotations"].values())
        asked.append(Question(rule["alert"], rule["expr"], frozenset(re.findall(r"\$labels\.(\w+)", words))))
    return asked


def selectors(expression: str) -> list[Selector]:
    """Raises ValueError for what Prometheus would not read."""
    found: list[Selector] = []

    def visit(node: object) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            labels = [(m.name, str(m.op), m.value) for m in node.matchers.matchers]
            found.append(Selector(str(node.name), tuple(labels)))
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def aggregated(expression: str) -> Iterator[str]:
    """The labels that it sums or takes the largest by."""
    for labels in _AGGREGATED.findall(expression):
        yield from (label.strip() for label in labels.split(",") if label.strip())


def metrics_asked_for() -> set[str]:
    return {selector.metric for question in questions() for selector in selectors(question.expression)}
