"""Every figure in README, docs and RESULTS.md comes from a committed result file; and what holds them to that can fail.

The pages as they stand are looked at first. Then the rules are tried on a page and a result of our own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from benchmarks import claims, figures, plots, report
from benchmarks.drawing import Group, Line, bars, lines
from benchmarks.queue import page as queue_page

MACHINE = {
    "processor": "Abacus",
    "cores": 2,
    "memory_gib": 24,
    "system": "Linux 6",
    "python": "3.11.7",
    "load_before": 0.5,
    "commit": "abc1234",
    "versions": {"psycopg": "3.3"},
}
ROWS = [
    {"storage": "vector", "clients": 1, "rows_per_second": 4848, "ratio": 0.705, "steps": {"read ms": 1.5}},
    {"storage": "halfvec", "clients": 1, "rows_per_second": 5744, "ratio": 0.815},
    {"storage": "halfvec", "clients": 4, "rows_per_second": 1234567, "ratio": 0.9},
]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with one result of our own; pages are read against it."""
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(figures, "RESULTS", folder)
    monkeypatch.setattr(report, "RESULTS", folder)
    monkeypatch.setattr(plots, "RESULTS", folder)
    save(folder, "writing")
    yield folder
    figures.record_of.cache_clear()


def save(folder: Path, name: str, **changes: object) -> None:
    record = {"command": f"python -m benchmarks.{name} ", "options": {"chunks": 40000}, "machine": MACHINE}
    (folder / f"{name}.json").write_text(json.dumps(record | {"rows": ROWS} | changes))
    figures.record_of.cache_clear()


def faults(text: str, *unmeasured: str) -> list[str]:
    return [fault for _, fault in claims.faults_of(text, unmeasured)]


def test_every_figure_of_the_pages_stands_in_a_result_file() -> None:
    assert list(report.faults()) == []


def test_every_picture_is_as_its_result_says() -> None:
    assert list(plots.stale_plots()) == []


def test_the_page_of_the_queue_is_as_its_result_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written whole from its result, which is why its figures have no marks."""
    committed = queue_page.PAGE.read_text()
    monkeypatch.setattr(queue_page, "PAGE", tmp_path / "page.md")
    queue_page.main()
    assert (tmp_path / "page.md").read_text() == committed


@pytest.mark.parametrize(
    "text",
    [
        "0.82<!-- = writing / halfvec / clients=1 / ratio --> of it",
        "0.815<!-- = writing / halfvec / clients=1 / ratio -->",
        "4,848<!-- = writing / vector / rows_per_second --> rows/s",
        "1,234,567<!-- = writing / halfvec / clients=4 / rows_per_second --> rows/s",
        "82<!-- = percent of writing / halfvec / clients=1 / ratio -->%",
        "0.71<!-- = lowest of writing / ratio --> to 0.9<!-- = highest of writing / ratio -->",
        "0.8<!-- = lowest of writing / half* / ratio -->",
        "1.2<!-- = writing / halfvec / clients=1 / ratio over writing / vector / ratio --> times",
        "40,000<!-- = writing / options / chunks --> chunks on 2<!-- = writing / machine / cores --> cores",
        "1.5<!-- = writing / vector / steps.read ms --> ms",
    ],
)
def test_a_figure_may_be_rounded_and_reckoned_from_a_result(results: Path, text: str) -> None:
    assert faults(text) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("0.71<!-- = writing / halfvec / clients=1 / ratio -->", "not as the result says"),
        ("0.81<!-- = writing / halfvec / clients=1 / ratio -->", "not as the result says"),
        ("4848<!-- = writing / vector / rows_per_second --> rows/s", "not as the result says"),
        ("0.8<!-- = reading / vector / ratio -->", "there is no result file reading.json"),
        ("0.8<!-- = writing / bit / ratio -->", "no row answers to 'writing / bit'"),
        ("0.8<!-- = writing / vector / speed -->", "no figure 'speed' in 'writing / vector'"),
        ("0.8<!-- = writing / halfvec / ratio -->", "2 rows answer to"),
        ("most<!-- = writing / vector / ratio -->", "no figure stands right before the mark"),
        ("0.7 <!-- = writing / vector / ratio -->", "no figure stands right before the mark"),
        ("<!-- table: writing | speed -->\n<!-- end of table -->", "the rows of 'writing' have no ['speed']"),
        ("<!-- result: reading -->\n<!-- end of result -->", "there is no result file reading.json"),
    ],
)
def test_a_mark_that_leads_elsewhere_is_a_fault(results: Path, text: str, fault: str) -> None:
    assert any(said.startswith(fault) for said in faults(text)), faults(text)


@pytest.mark.parametrize(
    "figure",
    ["12 ms", "12ms", "0.4 s", "80 µs", "9,000 rows/s", "300 rows a second", "20 per second", "77 MB", "2 GiB", "97%",
     "1.18 times", "8x", "3 microseconds", "60 calls a minute", "40-80 ms"],
)  # fmt: skip
def test_a_measure_without_a_mark_is_a_fault_on_any_page(figure: str) -> None:
    assert len(faults(f"# Fast\n\nIt takes {figure}, **{figure}** or\n\n| so | {figure} |\n")) == 3


@pytest.mark.parametrize(
    "text",
    [
        "PostgreSQL 15 to 18, page 9, version 3.10.0, 2026-11-22, SHA-256, UTF8, p99, 500 chunks, 2 workers.",
        "`12 ms`, `--seconds 12`",
        "```console\n$ embedmill status\ndone in 16.4 s\n```",
        "Typed:\n\n    embedmill config set x 12 ms\n",
        "<!-- 12 ms -->",
        "[this](12%25.md)",
    ],
)
def test_what_is_code_or_no_measure_needs_no_mark(text: str) -> None:
    assert faults(text) == []


def test_in_a_section_that_names_a_result_every_number_needs_a_mark(results: Path) -> None:
    text = (
        "# A page\n\nIt has 3 parts.\n\n## Measured\n\nFrom `benchmarks/results/writing.json`: 3, and 4,848"
        "<!-- = writing / vector / rows_per_second -->.\n\n## After\n\n4 more.\n"
    )
    assert list(claims.faults_of(text)) == [
        (7, "'3' has no mark that leads to a result file (benchmarks/figures.py)")
    ]


def test_numbers_that_nobody_measured_are_named_with_a_reason_and_only_while_they_stand() -> None:
    text = "A stream says so every 15 s, a\nlease ends after 90 s."
    assert faults(text, "every 15 s", "a lease ends after 90 s") == []
    assert len(faults(text, "every 15 s")) == 1
    assert faults(text, "every 15 s", "90 s", "30 s") == [
        "benchmarks/unmeasured.toml: the page no longer says '30 s'"
    ]
    assert all(reason for page in claims.read_unmeasured().values() for reason in page.values())


def test_filling_in_writes_figures_tables_and_origins_and_a_second_time_nothing(results: Path) -> None:
    text = (
        "Fast: 9.99<!-- = writing / vector / ratio -->, 1<!-- = reading / gone -->.\n\n"
        "<!-- table: writing / vector | storage as Kind; rows_per_second as Rows; ratio -->\n"
        "<!-- end of table -->\n\n<!-- result: writing -->\n<!-- end of result -->\n"
    )
    filled = figures.filled(text)
    assert "Fast: 0.71<!-- = writing / vector / ratio -->, 1<!-- = reading / gone -->." in filled
    assert "| Kind | Rows | ratio |\n|---|--:|--:|\n| vector | 4,848 | 0.705 |\n<!-- end" in filled
    for origin in (
        "`python -m benchmarks.writing`",
        "Abacus, 2 cores, 24 GiB",
        "commit abc1234",
        "psycopg 3.3",
    ):
        assert origin in filled
    assert figures.filled(filled) == filled
    assert faults(filled) == ["there is no result file reading.json"]


def test_a_result_that_the_report_does_not_tell_of_gets_a_section(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "REPORT", tmp_path / "RESULTS.md")
    monkeypatch.setattr(claims, "pages", lambda: [])
    monkeypatch.setattr(claims, "read_unmeasured", dict)
    report.REPORT.write_text("# Results\n")
    save(results, "writing", rows=ROWS[1:])
    assert list(report.faults()) == [
        "benchmarks/RESULTS.md does not tell of results/writing.json (python -m benchmarks.report)"
    ]
    report.add_missing_sections()
    assert list(report.faults()) == []
    text = figures.filled(report.REPORT.read_text())
    assert "## writing\n\n<!-- result: writing -->\nChunks through the whole path" in text
    assert "| halfvec | 4 | 1,234,567 | 0.9 |" in text


def test_rows_of_several_shapes_get_a_table_for_each_kind(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "REPORT", tmp_path / "RESULTS.md")
    report.REPORT.write_text("# Results\n")
    save(
        results,
        "writing",
        rows=[{"measure": "speed", "rows": 9}, {"measure": "memory", "mb": 77, "last": ""}],
    )
    report.add_missing_sections()
    text = figures.filled(report.REPORT.read_text())
    assert "| measure | rows |\n|---|--:|\n| speed | 9 |\n" in text
    assert "| measure | mb | last |\n|---|--:|--:|\n| memory | 77 |  |\n" in text


def test_a_result_that_does_not_say_where_it_comes_from_is_a_fault(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "pages", lambda: [])
    monkeypatch.setattr(claims, "read_unmeasured", dict)
    save(results, "writing", command="", machine=MACHINE | {"commit": "", "versions": {}})
    lacking = "benchmarks/results/writing.json does not say its command, machine.versions, machine.commit"
    assert lacking in list(report.faults())


def test_a_picture_that_its_result_has_left_behind_is_found(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "ROOT", tmp_path)
    monkeypatch.setattr(plots, "FOLDER", tmp_path / "plots")
    rows = [{"measure": "one", "step": "all three", "embedmill": 9, "procrastinate": 3}]
    save(results, "queue", rows=rows)
    plots.write(plots.stale_plots())
    assert not plots.stale_plots()
    save(results, "queue", rows=[rows[0] | {"embedmill": 10}])
    assert list(plots.stale_plots()) == [plots.FOLDER / "queue.svg"]


def test_bars_are_as_long_as_their_figures_and_lines_as_high() -> None:
    drawn = ET.fromstring(bars("A < B", "on 2 cores", [Group("one", [("us", 200), ("them", 50)])], "us"))  # noqa: S314
    widths = [float(bar.attrib["width"]) for bar in drawn if bar.attrib.get("class") in ("ours", "other")]
    assert widths[0] == pytest.approx(4 * widths[1], abs=0.5)
    assert {"A < B", "us", "them", "200", "50"} <= {text.text for text in drawn.iter() if text.text}

    series = [Line("p50", [(1000, 5), (100_000, 5), (10_000_000, 10)])]
    drawn = ET.fromstring(lines("Latency", "on 2 cores", series, "rows", limit=(10, "at most")))  # noqa: S314
    (way,) = [line.attrib["points"].split() for line in drawn if line.attrib.get("class") == "line c0"]
    (x0, y0), (x1, y1), (x2, y2) = [map(float, point.split(",")) for point in way]
    (limit,) = [line for line in drawn if line.attrib.get("class") == "limit"]
    assert y0 == y1
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2), "the sizes stand on a logarithmic axis"
    assert float(limit.attrib["y1"]) == y2
