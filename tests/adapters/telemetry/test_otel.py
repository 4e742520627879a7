"""What an OpenTelemetry collector is sent: decoded from what a real OTLP/HTTP server received."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import structlog
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from embedmill.adapters.telemetry.opening import open_telemetry
from embedmill.adapters.telemetry.otel import OpenTelemetry, provider_name
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.ports import ProviderCall, ProviderSpec, Purpose
from embedmill.settings import OtelSignals, read_otel
from tests.support.provider import RunningProvider
from tests.support.serving import serving
from tests.support.work import add_document

CANARY = "canary-text-of-a-document"


class Collector:
    """What came, decoded. `wait_for` waits until a span of that name did."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: dict[str, list[Any]] = {}
        self.resources: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.came = threading.Condition()

    def take(self, path: str, body: bytes) -> None:
        with self.came:
            self.bodies.append(body)
            if path.endswith("/v1/traces"):
                request = ExportTraceServiceRequest.FromString(body)
                for part in request.resource_spans:
                    self.resources.append(facts(part.resource))
                    self.spans += [span for scope in part.scope_spans for span in scope.spans]
            else:
                for one in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    for scope in one.scope_metrics:
                        for metric in scope.metrics:
                            self.metrics[metric.name] = list(
                                metric.histogram.data_points or metric.sum.data_points
                            )
            self.came.notify_all()

    def named(self, name: str) -> list[Any]:
        with self.came:
            return [span for span in self.spans if span.name == name]


def facts(of: Any) -> dict[str, Any]:
    """Attributes as a dict."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in of.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    received = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            received.take(self.path, body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield received
    server.shutdown()
    server.server_close()
    thread.join()


async def test_work_is_traced_by_batches_and_calls_by_the_conventions(
    collector: Collector, database: str, tmp_path: Any, provider: RunningProvider
) -> None:
    from tests.support.work import DIMENSIONS, stand_in_pipeline

    provider.configure(faults=["429"], retry_after_seconds=0.05)
    async with serving(database, tmp_path / "data") as service:
        pipeline = await stand_in_pipeline(
            service.app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=10, timeout_seconds=2.0
        )
        await add_document(service.app, pipeline, "d", [f"{CANARY} {n}" for n in range(25)])
        upload = f"{CANARY} in an upload".encode()
        job = await service.upload("wheat.txt", upload, pipeline="standin", autoLaunch="true")
        await service.until(job["jobId"])
        traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        response = await service.client.post(
            "/search", json={"query": CANARY, "pipeline": "standin"}, headers={"traceparent": traceparent}
        )
        assert response.status_code == 200, response.text

    calls = collector.named("embeddings stand-in")
    good = [call for call in calls if "error.type" not in facts(call)]
    assert len(good) >= 4
    assert {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "stand-in",
        "server.address": "127.0.0.1",
        "gen_ai.embeddings.dimension.count": DIMENSIONS,
    }.items() <= facts(good[0]).items()
    assert facts(good[0])["gen_ai.usage.input_tokens"] > 0
    assert all(call.kind == 3 for call in calls)  # CLIENT
    (limited,) = [call for call in calls if facts(call).get("error.type") == "rate_limited"]
    assert limited.status.code == 2

    # One span for each batch, call and write: never for a chunk.
    batches = {span.span_id: span for span in collector.named("embed")}
    assert len(batches) <= len(good)
    in_batches = [call for call in calls if call.parent_span_id in batches]
    assert len(in_batches) >= 4
    assert {span.parent_span_id for span in collector.named("write")} <= batches.keys()
    assert facts(collector.named("parse")[0])["embedmill.outcome"] == "ok"
    assert sum(facts(span)["embedmill.items"] for span in collector.named("claim")) >= 2

    (search,) = collector.named("POST /api/v1/search")
    assert search.trace_id.hex() == traceparent.split("-")[1]
    assert search.parent_span_id.hex() == traceparent.split("-")[2]
    assert search.kind == 2  # SERVER
    assert facts(search)["http.response.status_code"] == 200
    assert [call.parent_span_id for call in calls if facts(call)["embedmill.purpose"] == "query"] == [
        search.span_id
    ]

    durations = collector.metrics["gen_ai.client.operation.duration"]
    assert sum(point.count for point in durations) >= 1
    assert {
        facts(point)["gen_ai.token.type"] for point in collector.metrics["gen_ai.client.token.usage"]
    } == {"input"}
    assert "http.server.request.duration" in collector.metrics
    assert collector.resources[0]["service.name"] == "embedmill"
    assert not any(CANARY.encode() in body or b"wheat" in body for body in collector.bodies)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://10.255.255.1:4318"])
async def test_a_collector_that_is_away_neither_slows_nor_stops_work(
    app: App, pipeline: Pipeline, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    telemetry = OpenTelemetry(OtelSignals(traces=True, metrics=True))
    call = ProviderCall(ProviderSpec("openai", "m", 8), Purpose.DOCUMENT, 3, 7, "m", 0.01, "ok")
    started = time.perf_counter()
    for _ in range(20_000):  # many times what its queue holds
        telemetry.called(call)
    assert time.perf_counter() - started < 60  # 3 ms a call on whatever machine: it is not waited for
    closing = time.perf_counter()
    telemetry.close()
    assert time.perf_counter() - closing < 60  # it gives up


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, OtelSignals(traces=True, metrics=True)),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/v1/traces"},
            OtelSignals(traces=True, metrics=False),
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "none"},
            OtelSignals(traces=True, metrics=False),
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "  "}, None),
    ],
)
def test_opentelemetry_is_switched_by_its_own_variables(
    environment: dict[str, str], expected: OtelSignals | None
) -> None:
    assert read_otel(environment) == expected


def test_without_the_extra_a_sentence_says_what_to_install(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with structlog.testing.capture_logs() as lines:
        telemetry = open_telemetry(tmp_path)
    assert "pip install 'embedmill[telemetry]'" in lines[0]["event"]
    telemetry.claimed(items=1, seconds=0.1)
    telemetry.close()


def test_without_an_endpoint_nothing_of_the_sdk_is_loaded() -> None:
    code = (
        "import sys; from pathlib import Path; from embedmill.adapters.telemetry.opening import open_telemetry;"
        "import tempfile; open_telemetry(Path(tempfile.mkdtemp())).close();"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'prometheus_client', 'requests'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("base_url", "name"),
    [
        (None, "openai"),
        ("https://my.openai.azure.com/openai", "azure.ai.openai"),
        ("https://api.mistral.ai/v1", "mistral_ai"),
        ("https://notmistral.ai/v1", "openai"),
    ],
)
def test_providers_are_called_as_the_conventions_do(base_url: str | None, name: str) -> None:
    assert provider_name(ProviderSpec("openai", "m", 8, base_url=base_url)) == name
