"""The heartbeat: says "alive" on its own thread and connection, so that a busy loop cannot fake a death.
Owns the worker's row; must not touch the queue's items."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import psycopg
import structlog

from embedmill import __version__
from embedmill.database.pool import connect
from embedmill.database.queries import load_queries
from embedmill.errors import DatabaseError
from embedmill.worker.identity import Identity

_SQL = load_queries("embedmill.worker", "worker.sql")
_log = structlog.get_logger(__name__)


class Pulse(msgspec.Struct):
    """What the worker says of itself; written by the worker's loop, read by the heartbeat's thread."""

    current_work: str | None = None
    tasks_processed: int = 0
    chunks_embedded: int = 0
    total_processing_ms: int = 0
    errors: int = 0
    rate_limits_hit: int = 0
    last_error: str | None = None


class Heartbeat:
    """Registers the worker, beats every `interval_seconds`, and signs off."""

    def __init__(self, url: str, identity: Identity, pulse: Pulse, *, interval_seconds: float) -> None:
        self._url = url
        self._identity = identity
        self._pulse = pulse
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def start(self) -> None:
        """Register, then beat in the background. Raises DatabaseError where there is no database."""
        self._connection = connect(self._url, application_name="embedmill heartbeat")
        row = {
            **msgspec.structs.asdict(self._identity),
            "heartbeat_interval_ms": int(self._interval * 1000),
            "version": __version__,
        }
        self._connection.execute(_SQL["register"], row)
        self._thread.start()

    def stop(self) -> None:
        """Sign off: the items are given back by now."""
        self._stop.set()
        self._thread.join()
        try:
            self._execute("beat", self._row())
            self._execute("deregister", {"worker_id": self._identity.worker_id})
        except (psycopg.Error, DatabaseError) as error:
            _log.warning("could not sign off; the others will notice", error=str(error).strip())
        self._close()

    def _beat_until_stopped(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._execute("beat", self._row())
            except (psycopg.Error, DatabaseError) as error:
                _log.warning("heartbeat missed", error=str(error).strip())
                self._close()

    def _execute(self, name: str, parameters: dict[str, Any]) -> None:
        if self._connection is None:
            self._connection = connect(self._url, application_name="embedmill heartbeat")
        self._connection.execute(_SQL[name], parameters)

    def _row(self) -> dict[str, Any]:
        status = "active" if self._pulse.current_work else "idle"
        return {
            **msgspec.structs.asdict(self._pulse),
            "status": status,
            "worker_id": self._identity.worker_id,
        }

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
