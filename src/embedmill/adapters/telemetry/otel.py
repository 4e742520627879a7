"""Traces and metrics to an OpenTelemetry collector, over OTLP/HTTP. Owns names and attributes by the conventions (HTTP
server; generative AI clients, as released with 1.37); where to send and how often is the SDK's to read from OTEL_*.

A span for a batch, a call, a write, a document, a request; never for a chunk. Threads of the SDK send, from bounded
queues: a collector that is away costs what is not sent, and no work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from embedmill import __version__
from embedmill.ports import ProviderCall, ProviderSpec, Span
from embedmill.settings import OtelSignals

_SCOPE = "embedmill"
_CLOSE_SECONDS = 3.0
_COMPLAINT_SECONDS = 300.0
_EXPORTERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
)
# Facts that a convention has a name for; the others are ours.
_CONVENTIONAL = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
}
_CALL_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_CALL_TOKENS = tuple(float(4**n) for n in range(14))
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class OpenTelemetry:
    """One for each process."""

    def __init__(self, signals: OtelSignals) -> None:
        resource = Resource(
            {"service.name": "embedmill", "service.version": __version__, "service.instance.id": str(uuid4())}
        ).merge(OTELResourceDetector().detect())
        _complain_seldom()
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        if signals.traces:
            self._traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        readers = [PeriodicExportingMetricReader(OTLPMetricExporter())] if signals.metrics else []
        self._meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        self._tracer = self._traces.get_tracer(_SCOPE, __version__)
        meter = self._meters.get_meter(_SCOPE, __version__)
        self._call_seconds = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_CALL_SECONDS,
        )
        self._call_tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input tokens used.",
            explicit_bucket_boundaries_advisory=_CALL_TOKENS,
        )
        self._request_seconds = meter.create_histogram(
            "http.server.request.duration",
            "s",
            "Until the answer began.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._claim_seconds = meter.create_histogram(
            "embedmill.claim.duration",
            "s",
            "How long a claim takes.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._write_seconds = meter.create_histogram(
            "embedmill.write.duration",
            "s",
            "How long a write takes.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._items = meter.create_counter("embedmill.items.claimed", "{item}", "Items claimed.")
        self._returned = meter.create_counter(
            "embedmill.items.returned", "{item}", "Items given back, by reason."
        )
        self._rescued = meter.create_counter("embedmill.items.rescued", "{item}", "Items of dead workers.")
        self._vectors = meter.create_counter("embedmill.vectors.written", "{vector}", "Vectors written.")
        self._reused = meter.create_counter("embedmill.vectors.reused", "{vector}", "Vectors copied.")
        self._parsed = meter.create_counter(
            "embedmill.documents.parsed", "{document}", "Documents, by outcome."
        )
        self._delivered = meter.create_counter(
            "embedmill.webhooks.called", "{call}", "Webhook calls, by outcome."
        )
        self._propagator = TraceContextTextMapPropagator()
        self._is_closed = False

    def claimed(self, *, items: int, seconds: float) -> None:
        self._claim_seconds.record(seconds)
        if items:
            self._items.add(items)
            self._past_span("claim", seconds, {"embedmill.items": items})

    def called(self, call: ProviderCall) -> None:
        facts = _call_facts(call)
        self._call_seconds.record(call.seconds, facts)
        details: dict[str, str | int | float] = {
            "gen_ai.embeddings.dimension.count": call.spec.dimensions,
            "embedmill.inputs": call.inputs,
            "embedmill.purpose": call.purpose.value,
        }
        if call.model:
            details["gen_ai.response.model"] = call.model
        if call.tokens is not None:
            self._call_tokens.record(call.tokens, {**facts, "gen_ai.token.type": "input"})
            details["gen_ai.usage.input_tokens"] = call.tokens
        kind = None if call.outcome == "ok" else call.outcome
        self._past_span(
            f"embeddings {call.spec.model}", call.seconds, {**facts, **details}, SpanKind.CLIENT, error=kind
        )

    def wrote(self, *, vectors: int, seconds: float) -> None:
        self._write_seconds.record(seconds)
        self._vectors.add(vectors)
        self._past_span("write", seconds, {"embedmill.vectors": vectors})

    def reused(self, *, vectors: int) -> None:
        self._reused.add(vectors)

    def returned(self, *, items: int, reason: str) -> None:
        self._returned.add(items, {"embedmill.reason": reason})

    def rescued(self, *, items: int) -> None:
        self._rescued.add(items)

    def parsed(self, *, outcome: str, seconds: float) -> None:
        del seconds  # the span has it
        self._parsed.add(1, {"embedmill.outcome": outcome})

    def delivered(self, *, outcome: str, seconds: float) -> None:
        self._delivered.add(1, {"embedmill.outcome": outcome})
        self._past_span("webhook", seconds, {"embedmill.outcome": outcome}, SpanKind.CLIENT)

    def answered(self, *, method: str, route: str, status: int, seconds: float) -> None:
        self._request_seconds.record(
            seconds, {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        )

    def span(
        self, name: str, *, parent: str | None = None, **facts: str | int | float
    ) -> AbstractContextManager[Span]:
        return self._span(name, parent, facts)

    @contextmanager
    def _span(self, name: str, parent: str | None, facts: dict[str, str | int | float]) -> Iterator[Span]:
        context = None if parent is None else self._propagator.extract({"traceparent": parent})
        kind = SpanKind.SERVER if "method" in facts else SpanKind.INTERNAL
        with self._tracer.start_as_current_span(
            name,
            context,
            kind,
            {_key(fact): value for fact, value in facts.items()},
            # A message may hold what no span may: only the kind of an error is told.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield _Span(span)
            except BaseException as error:
                _fail(span, type(error).__name__)
                raise

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        # Beside us, since a collector that hangs would hold up our end.
        closing = threading.Thread(target=self._shut_down, name="telemetry-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _shut_down(self) -> None:
        self._traces.shutdown()
        self._meters.shutdown(timeout_millis=_CLOSE_SECONDS * 1000)

    def _past_span(
        self,
        name: str,
        seconds: float,
        facts: dict[str, str | int | float],
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        error: str | None = None,
    ) -> None:
        """A span of what is over, in whatever is under way."""
        ended = time.time_ns()
        started = ended - int(seconds * 1e9)
        span = self._tracer.start_span(name, kind=kind, attributes=facts, start_time=started)
        if error is not None:
            _fail(span, error)
        span.end(ended)


class _Span:
    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def name(self, name: str) -> None:
        self._span.update_name(name)

    def note(self, **facts: str | int | float) -> None:
        for fact, value in facts.items():
            self._span.set_attribute(_key(fact), value)

    def fail(self, kind: str) -> None:
        _fail(self._span, kind)


def _fail(span: trace.Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _key(fact: str) -> str:
    return _CONVENTIONAL.get(fact, f"embedmill.{fact}")


def _call_facts(call: ProviderCall) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": provider_name(call.spec),
        "gen_ai.request.model": call.spec.model,
    }
    address = urlsplit(call.spec.base_url or "")
    if address.hostname:
        facts["server.address"] = address.hostname
        facts["server.port"] = address.port or (80 if address.scheme == "http" else 443)
    if call.outcome != "ok":
        facts["error.type"] = call.outcome
    return facts


def provider_name(spec: ProviderSpec) -> str:
    """Who is called, as the conventions name it: servers that speak OpenAI's protocol are told by their host."""
    if spec.provider != "openai" or not spec.base_url:
        return spec.provider
    host = urlsplit(spec.base_url).hostname or ""
    known = {
        "openai.azure.com": "azure.ai.openai",
        "services.ai.azure.com": "azure.ai.inference",
        "cohere.com": "cohere",
        "mistral.ai": "mistral_ai",
        "googleapis.com": "gcp.gen_ai",
        "amazonaws.com": "aws.bedrock",
    }
    return next(
        (name for end, name in known.items() if host == end or host.endswith(f".{end}")), spec.provider
    )


class _Seldom(logging.Filter):
    """One complaint of each logger in five minutes: a collector may be away for days."""

    def __init__(self) -> None:
        super().__init__()
        self._until: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._until.get(record.name, float("-inf")):
            return False
        self._until[record.name] = now + _COMPLAINT_SECONDS
        return True


def _complain_seldom() -> None:
    for name in _EXPORTERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Seldom) for each in logger.filters):
            logger.addFilter(_Seldom())
