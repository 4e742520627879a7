"""docs/how-to/monitor.md does what it says, and the reference names every metric."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

from embedmill.adapters.telemetry.catalog import ALL_METRICS
from tests.support.console_blocks import ConsoleSession, plain_environment

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_the_how_to_does_what_it_says(data_dir: Path, tmp_path: Path) -> None:
    service, worker = free_port(), free_port()
    environment = plain_environment(
        tmp_path, Path(sys.executable).parent, EMBEDMILL_DATA_DIR=str(data_dir), EMBEDMILL_PORT=str(service)
    )
    stands_for = {
        "127.0.0.1:8080": f"127.0.0.1:{service}",
        "127.0.0.1:9464": f"127.0.0.1:{worker}",
        "--metrics-port 9464": f"--metrics-port {worker}",
        "127.0.0.1:4318": f"127.0.0.1:{free_port()}",
    }
    with ConsoleSession(tmp_path, environment, stands_for) as session:
        assert session.run_page(ROOT / "docs" / "how-to" / "monitor.md") >= 7


def test_no_metric_is_undocumented() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(embedmill_\w+)` \|", page, re.MULTILINE)) == {m.name for m in ALL_METRICS}


def test_metrics_are_named_as_prometheus_recommends() -> None:
    for metric in ALL_METRICS:
        assert re.fullmatch(r"embedmill_[a-z][a-z0-9_]*", metric.name), metric.name
        assert metric.name.endswith("_total") is (metric.kind == "counter"), metric.name
        assert not re.search(r"_(ms|milliseconds|minutes|mb|percent)(_|$)", metric.name), metric.name
        assert metric.help.endswith(".")
        assert not {"id", "item", "document", "job", "chunk", "source"} & set(metric.labels), metric.name
