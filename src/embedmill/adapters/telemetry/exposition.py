"""The text of /metrics: what the processes of this machine counted, and what is true of the fleet. Owns the way from
figures to prometheus-client's families; must not measure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from embedmill import __version__
from embedmill.adapters.telemetry.catalog import ALL_METRICS as _ALL
from embedmill.adapters.telemetry.catalog import PREFIX, PROCESS_METRICS, Kind, Metric, Origin
from embedmill.adapters.telemetry.fleet import Fleet, Reading
from embedmill.adapters.telemetry.process_folder import Machine, read_machine
from embedmill.adapters.telemetry.process_telemetry import read_key, take_over

_log = structlog.get_logger(__name__)

Rows = dict[str, list[tuple[tuple[str, ...], list[float]]]]


class Page(Collector):
    """One answer: collected when it is encoded."""

    def __init__(self, rows: Rows, metrics: tuple[Metric, ...]) -> None:
        self._rows = rows
        self._metrics = metrics

    def collect(self) -> Iterable[Family]:
        for metric in self._metrics:
            series = self._rows.get(metric.name, [])
            if series:
                yield _family(metric, series)


class Exposition:
    """For the service: its machine's processes, and the fleet."""

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        self._folder = folder
        self._fleet = fleet

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The page, and its media type, as whoever asks understands it best."""
        machine, reading = await asyncio.gather(
            asyncio.to_thread(read_folder, self._folder), self._fleet.read()
        )
        rows = _process_rows(machine)
        for name, labels, value in reading.rows:
            rows.setdefault(name, []).append((labels, [value]))
        for name, labels, value in _of_scrape(machine, reading):
            rows[PREFIX + name] = [(labels, [value])]
        return _encode(rows, _ALL, accept)


class ProcessPage(Collector):
    """For a worker's own port: the processes of its folder, read anew each time; nothing of the fleet, or whoever sums
    over workers would count it many times."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Family]:
        machine = read_folder(self._folder)
        rows = _process_rows(machine)
        rows[f"{PREFIX}build_info"] = [((__version__,), [1.0])]
        rows[f"{PREFIX}processes"] = [((), [float(machine.processes)])]
        metrics = tuple(each for each in _ALL if each.origin is not Origin.FLEET)
        yield from Page(rows, metrics).collect()


def read_folder(folder: Path) -> Machine:
    """The processes of a folder; none where it cannot be read, which is logged."""
    try:
        return read_machine(folder, take_over)
    except OSError as error:
        _log.warning("metrics of processes cannot be read", error=error.strerror or type(error).__name__)
        return Machine({}, 0)


def _encode(rows: Rows, metrics: tuple[Metric, ...], accept: str) -> tuple[bytes, str]:
    encoder, media_type = choose_encoder(accept)
    return encoder(Page(rows, metrics)), media_type


def _process_rows(machine: Machine) -> Rows:
    rows: Rows = {metric.name: [] for metric in PROCESS_METRICS}
    for key, values in sorted(machine.series.items()):
        found = read_key(key, len(values))
        if found is not None:
            rows[found[0].name].append((found[1], values))
    return rows


def _of_scrape(machine: Machine, reading: Reading) -> list[tuple[str, tuple[str, ...], float]]:
    return [
        ("build_info", (__version__,), 1.0),
        ("database_up", (), float(reading.is_up)),
        ("fleet_read_seconds", (), reading.seconds),
        ("processes", (), float(machine.processes)),
    ]


def _family(metric: Metric, series: list[tuple[tuple[str, ...], list[float]]]) -> Family:
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
        for labels, (total, *counts) in series:
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            histogram.add_metric(labels, buckets, sum_value=total)
        return histogram
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, (value,) in series:
        family.add_metric(labels, value)
    return family
