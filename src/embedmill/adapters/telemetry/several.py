"""Tells several at once: Prometheus' files and OpenTelemetry. Owns the passing on only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from embedmill.ports import ProviderCall, Span, Telemetry


class SeveralTelemetry:
    """Each is told everything, in order."""

    def __init__(self, several: Sequence[Telemetry]) -> None:
        self._several = tuple(several)

    def claimed(self, *, items: int, seconds: float) -> None:
        for each in self._several:
            each.claimed(items=items, seconds=seconds)

    def called(self, call: ProviderCall) -> None:
        for each in self._several:
            each.called(call)

    def wrote(self, *, vectors: int, seconds: float) -> None:
        for each in self._several:
            each.wrote(vectors=vectors, seconds=seconds)

    def reused(self, *, vectors: int) -> None:
        for each in self._several:
            each.reused(vectors=vectors)

    def returned(self, *, items: int, reason: str) -> None:
        for each in self._several:
            each.returned(items=items, reason=reason)

    def rescued(self, *, items: int) -> None:
        for each in self._several:
            each.rescued(items=items)

    def parsed(self, *, outcome: str, seconds: float) -> None:
        for each in self._several:
            each.parsed(outcome=outcome, seconds=seconds)

    def delivered(self, *, outcome: str, seconds: float) -> None:
        for each in self._several:
            each.delivered(outcome=outcome, seconds=seconds)

    def answered(self, *, method: str, route: str, status: int, seconds: float) -> None:
        for each in self._several:
            each.answered(method=method, route=route, status=status, seconds=seconds)

    def span(
        self, name: str, *, parent: str | None = None, **facts: str | int | float
    ) -> AbstractContextManager[Span]:
        return self._spans(name, parent, facts)

    @contextmanager
    def _spans(self, name: str, parent: str | None, facts: dict[str, str | int | float]) -> Iterator[Span]:
        with ExitStack() as stack:
            yield _Spans(
                [stack.enter_context(each.span(name, parent=parent, **facts)) for each in self._several]
            )

    def close(self) -> None:
        for each in self._several:
            each.close()


class _Spans:
    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans

    def name(self, name: str) -> None:
        for span in self._spans:
            span.name(name)

    def note(self, **facts: str | int | float) -> None:
        for span in self._spans:
            span.note(**facts)

    def fail(self, kind: str) -> None:
        for span in self._spans:
            span.fail(kind)
