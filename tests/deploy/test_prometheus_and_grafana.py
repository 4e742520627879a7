"""The dashboard and the alert rules ask for metrics that exist, by labels that they have, and that move when something
happens."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from embedmill.adapters.telemetry.catalog import ALL_METRICS, BY_NAME, Kind
from tests.deploy.metrics_read import OF_PROMETHEUS, aggregated, panels, questions, rules, selectors
from tests.deploy.moving_everything import tell_story
from tests.support.postgres import TestServer
from tests.support.provider import RunningProvider
from tests.support.scraping import Samples
from tests.support.work import DIMENSIONS

RUNBOOK = Path(__file__).resolve().parents[2] / "docs" / "runbook.md"
# These say the same all along; that it is 0 while the database is away is shown in tests/api/test_metrics.py.
STILL = {"embedmill_build_info", "embedmill_database_max_connections", "embedmill_database_up"}
QUESTIONS = questions()


@pytest.fixture(scope="module")
def snapshots(
    test_server: TestServer, tmp_path_factory: pytest.TempPathFactory, provider_process: RunningProvider
) -> list[Samples]:
    """What Prometheus would have read through the whole story."""
    provider_process.reset(dimensions=DIMENSIONS)
    url = test_server.create(migrated=True)
    try:
        return asyncio.run(tell_story(url, tmp_path_factory.mktemp("story") / "data", provider_process))
    finally:
        test_server.drop(url)
        provider_process.reset(dimensions=DIMENSIONS)


@pytest.fixture(scope="module")
def series(snapshots: list[Samples]) -> dict[str, list[dict[str, str]]]:
    """The label sets that each name was seen with."""
    seen: dict[str, list[dict[str, str]]] = defaultdict(list)
    for name, labels in {key for samples in snapshots for key in samples}:
        seen[name].append(dict(labels))
    return seen


def name_of(sample: str) -> str:
    """Of a histogram's parts, what it is called itself."""
    return re.sub(r"_(bucket|count|sum)$", "", sample) if sample not in BY_NAME else sample


def test_every_metric_that_is_asked_for_is_exposed(series: dict[str, list[dict[str, str]]]) -> None:
    asked = {selector.metric for question in QUESTIONS for selector in selectors(question.expression)}
    assert len(asked) > 40
    assert asked <= series.keys()


def test_every_label_that_is_asked_for_has_such_a_value(series: dict[str, list[dict[str, str]]]) -> None:
    faults = []
    for question in QUESTIONS:
        for selector in selectors(question.expression):
            matching = series[selector.metric]
            for label, operator, value in selector.labels:
                if label in OF_PROMETHEUS:
                    continue
                assert operator in ("MatchOp.Equal", "MatchOp.Re"), "another operator needs a rule here"
                fits = re.compile(value if operator == "MatchOp.Re" else re.escape(value)).fullmatch
                matching = [labels for labels in matching if label in labels and fits(labels[label])]
            # Errors of the service are what no story should need.
            if not matching and ("status", "MatchOp.Re", "5..") not in selector.labels:
                faults.append(f"{question.place}: {selector}")
    assert faults == []


def test_what_is_summed_by_and_shown_are_labels_of_the_metric() -> None:
    faults = []
    for question in QUESTIONS:
        known = set(OF_PROMETHEUS)
        for selector in selectors(question.expression):
            known |= {"le", *BY_NAME[name_of(selector.metric)].labels}
        faults += [
            f"{question.place}: {label}"
            for label in {*aggregated(question.expression), *question.shown}
            if label not in known
        ]
    assert faults == []


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_metric_moves_when_something_happens(snapshots: list[Samples], name: str) -> None:
    sample = f"{name}_count" if BY_NAME[name].kind is Kind.HISTOGRAM else name
    seen = {labels for samples in snapshots for one, labels in samples if one == sample}
    assert seen, f"{name} was never exposed"
    moved = [
        labels for labels in seen if len({samples.get((sample, labels), 0.0) for samples in snapshots}) > 1
    ]
    assert bool(moved) is (name not in STILL)


def test_no_counter_ever_went_back(snapshots: list[Samples]) -> None:
    counters = {m.name for m in ALL_METRICS if m.kind is Kind.COUNTER}
    faults = []
    for before, after in pairwise(snapshots):
        for key, value in before.items():
            if key[0] in counters and after.get(key, 0.0) < value:
                faults.append((key, value, after.get(key)))
    assert faults == []


def test_each_metric_is_on_the_dashboard() -> None:
    asked = {
        name_of(s.metric)
        for q in QUESTIONS
        if q.place.startswith("dashboard")
        for s in selectors(q.expression)
    }
    assert set(BY_NAME) - asked == set()


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
    rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
    assert rows == ["Overview", "Queue", "Provider", "Cost", "Coverage", "Workers", "Service", "Database"]


def test_rules_say_how_bad_it_is_and_what_to_do() -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
        for line in RUNBOOK.read_text("utf-8").splitlines()
        if line.startswith("#")
    }
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    missing = set()
    for rule in rules():
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}, rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        assert rule["annotations"]["description"], rule["alert"]
        page, _, heading = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/runbook.md"
        missing |= {heading} - headings
    assert missing == set()
