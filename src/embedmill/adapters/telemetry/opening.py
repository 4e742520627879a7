"""Opens what this process is measured by. Owns which adapters there are, and a worker's own port; imports of the extras
stay where they are wanted."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import structlog

from embedmill.adapters.telemetry.process_telemetry import ProcessTelemetry
from embedmill.adapters.telemetry.several import SeveralTelemetry
from embedmill.errors import ConfigurationError
from embedmill.ports import Telemetry
from embedmill.settings import read_otel

_log = structlog.get_logger(__name__)


def open_telemetry(folder: Path) -> Telemetry:
    """A file in the folder; OpenTelemetry as well where its environment names a collector. Raises nothing: work goes on
    unmeasured, and a warning says why."""
    own = ProcessTelemetry(folder)
    signals = read_otel()
    if signals is None:
        return own
    if not _is_installed("opentelemetry.exporter.otlp.proto.http"):
        _log.warning(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and nothing is sent: pip install 'embedmill[telemetry]', or unset it"
        )
        return own
    from embedmill.adapters.telemetry.otel import OpenTelemetry  # noqa: PLC0415 - takes a while

    return SeveralTelemetry([own, OpenTelemetry(signals)])


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even what it is a part of
        return False


@contextmanager
def serve_processes(folder: Path, host: str, port: int) -> Iterator[int]:
    """Answer with the processes of the folder, in a thread, until the block ends; gives the port. Raises
    ConfigurationError where the port is taken or the extra is missing."""
    if find_spec("prometheus_client") is None:
        raise ConfigurationError("--metrics-port needs the extra `service`: pip install 'embedmill[service]'")
    from prometheus_client import start_http_server  # noqa: PLC0415 - an extra

    from embedmill.adapters.telemetry.exposition import ProcessPage  # noqa: PLC0415 - likewise

    try:
        server, thread = start_http_server(port, host, ProcessPage(folder))
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "the port is taken" if taken else str(error)
        raise ConfigurationError(f"metrics cannot be served on {host}:{port}: {reason}") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
