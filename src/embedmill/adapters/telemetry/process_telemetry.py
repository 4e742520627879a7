"""Counts and measures into this process's file. Owns which metric an event is; the file is process_file.py's, the names
catalog.py's. Cheap: a look-up and an addition for each; children are kept."""

from __future__ import annotations

import tempfile
from bisect import bisect_left
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import structlog

from embedmill.adapters.telemetry import catalog
from embedmill.adapters.telemetry.catalog import BY_NAME, MOST_OPEN_SETS, OTHER, Metric
from embedmill.adapters.telemetry.process_file import ProcessFile
from embedmill.adapters.telemetry.process_folder import Series, read_machine
from embedmill.ports import SILENT, ProviderCall, Span

_log = structlog.get_logger(__name__)
# Of a metric, in what all processes that ended have left: models and routes come and go for years.
_MOST_SETS_LEFT = 200


class ProcessTelemetry:
    """This process's figures. Where the folder cannot be used, they are kept in one of its own, for whoever asks this
    process (`own_folder`), and a warning says so once."""

    def __init__(self, folder: Path) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.folder = folder
        try:
            self._file = ProcessFile(folder)
        except OSError as error:
            self._temporary = tempfile.TemporaryDirectory(prefix="embedmill-metrics-")
            self.folder = Path(self._temporary.name)
            self._file = ProcessFile(self.folder)
            _log.warning(
                "metrics of this process cannot be shared: EMBEDMILL_DATA_DIR must be writable",
                error=error.strerror or type(error).__name__,
            )
        # Also where nobody ever asks for metrics, what ended processes have left must not pile up.
        try:
            read_machine(self.folder, take_over)
        except OSError as error:
            _log.info("files of ended processes left as they are", error=error.strerror)
        self._children: dict[tuple[str, ...], int | None] = {}
        self._open_sets: dict[str, set[tuple[str, ...]]] = {}
        self._is_closed = False
        for metric in catalog.PROCESS_METRICS:
            if not metric.labels:  # they are there from the start, so that a first increase is seen as one
                self._child(metric, ())

    def claimed(self, *, items: int, seconds: float) -> None:
        self._observe(catalog.CLAIM_SECONDS, seconds)
        self._count(catalog.CLAIMED_ITEMS, items)

    def called(self, call: ProviderCall) -> None:
        spec = call.spec
        self._observe(catalog.CALL_SECONDS, call.seconds, spec.provider, spec.model)
        self._count(catalog.CALLS, 1, spec.provider, spec.model, call.purpose.value, call.outcome)
        if call.outcome == "ok":
            self._count(catalog.CALL_INPUTS, call.inputs, spec.provider, spec.model)
            self._count(catalog.CALL_TOKENS, call.tokens or 0, spec.provider, spec.model)

    def wrote(self, *, vectors: int, seconds: float) -> None:
        self._observe(catalog.WRITE_SECONDS, seconds)
        self._count(catalog.WRITTEN_VECTORS, vectors)

    def reused(self, *, vectors: int) -> None:
        self._count(catalog.REUSED_VECTORS, vectors)

    def returned(self, *, items: int, reason: str) -> None:
        self._count(catalog.RETURNED_ITEMS, items, reason)

    def rescued(self, *, items: int) -> None:
        self._count(catalog.RESCUED_ITEMS, items)

    def parsed(self, *, outcome: str, seconds: float) -> None:
        self._observe(catalog.PARSE_SECONDS, seconds)
        self._count(catalog.PARSED_DOCUMENTS, 1, outcome)

    def delivered(self, *, outcome: str, seconds: float) -> None:
        self._observe(catalog.WEBHOOK_SECONDS, seconds)
        self._count(catalog.WEBHOOK_CALLS, 1, outcome)

    def answered(self, *, method: str, route: str, status: int, seconds: float) -> None:
        self._observe(catalog.HTTP_SECONDS, seconds, method, route)
        self._count(catalog.HTTP_REQUESTS, 1, method, route, str(status))

    def span(
        self, name: str, *, parent: str | None = None, **facts: str | int | float
    ) -> AbstractContextManager[Span]:
        return SILENT.span(name)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._file.close()
            if self._temporary is not None:
                self._temporary.cleanup()

    def _count(self, metric: Metric, number: float, *labels: str) -> None:
        at = self._child(metric, labels)
        if at is not None:
            self._file.values[at] += number

    def _observe(self, metric: Metric, value: float, *labels: str) -> None:
        at = self._child(metric, labels)
        if at is not None:
            values = self._file.values
            values[at] += value
            values[at + 1 + bisect_left(metric.buckets, value)] += 1

    def _child(self, metric: Metric, labels: tuple[str, ...]) -> int | None:
        """Where a series stands; None where there is no room for it, or we are closed."""
        if self._is_closed:
            return None
        child = (metric.name, *labels)
        try:
            return self._children[child]
        except KeyError:
            pass
        bounded = bounded_labels(
            metric, labels, self._open_sets.setdefault(metric.name, set()), MOST_OPEN_SETS
        )
        at = self._children.get((metric.name, *bounded))
        if at is None:
            at = self._file.add(series_key(metric, bounded), metric.width)
            self._children[(metric.name, *bounded)] = at
        if len(self._children) < 10 * MOST_OPEN_SETS * len(catalog.PROCESS_METRICS):
            self._children[child] = at
        return at


def bounded_labels(
    metric: Metric, labels: tuple[str, ...], known: set[tuple[str, ...]], most: int
) -> tuple[str, ...]:
    """The labels, or `other` in place of those that users make up, where as many sets of them are `known` already."""
    if not metric.open_labels:
        return labels
    made_up = tuple(
        value for name, value in zip(metric.labels, labels, strict=True) if name in metric.open_labels
    )
    if made_up not in known and len(known) >= most:
        pairs = zip(metric.labels, labels, strict=True)
        return tuple(OTHER if name in metric.open_labels else value for name, value in pairs)
    known.add(made_up)
    return labels


def series_key(metric: Metric, labels: tuple[str, ...]) -> str:
    """How a series is called in files."""
    return msgspec.json.encode([metric.name, *labels]).decode()


def read_key(key: str, width: int) -> tuple[Metric, tuple[str, ...]] | None:
    """The metric and labels of a series; None for one of another version, which this one does not know."""
    name, *labels = msgspec.json.decode(key, type=list[str])
    metric = BY_NAME.get(name)
    if metric is None or len(labels) != len(metric.labels) or width != metric.width:
        return None
    return metric, tuple(labels)


def take_over(into: Series, of: Series) -> None:
    """Add the series of a process that has ended, within bounds; those of versions that are unknown are let go."""
    known: dict[str, set[tuple[str, ...]]] = {}
    for key, values in into.items():
        found = read_key(key, len(values))
        if found is not None:
            bounded_labels(*found, known.setdefault(found[0].name, set()), _MOST_SETS_LEFT)
    for key, values in of.items():
        found = read_key(key, len(values))
        if found is None:
            continue
        metric, labels = found
        labels = bounded_labels(metric, labels, known.setdefault(metric.name, set()), _MOST_SETS_LEFT)
        name = series_key(metric, labels)
        sums = into.setdefault(name, [0.0] * len(values))
        into[name] = [one + other for one, other in zip(sums, values, strict=True)]
