"""The heartbeat: says "alive" on its own thread and connection, so that a busy loop cannot fake a death.
Owns the worker's row; must not touch the queue's items."""

from __future__ import annotations

import threading
import time
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
    """What the worker says of itself; written by the worker's loop, read by the heartbeat's thread. `troubles`:
    by generation, why it is left alone for now."""

    current_work: str | None = None
    tasks_processed: int = 0
    chunks_embedded: int = 0
    total_processing_ms: int = 0
    errors: int = 0
    rate_limits_hit: int = 0
    last_error: str | None = None
    troubles: dict[int, str] = {}


class Heartbeat:
    """Registers the worker, beats every `interval_seconds`, and signs off. `session_name`: what the worker's own
    connections are called, so that they can be ended when it freezes."""

    def __init__(
        self,
        url: str,
        identity: Identity,
        pulse: Pulse,
        *,
        interval_seconds: float,
        session_name: str | None = None,
    ) -> None:
        self._url = url
        self._session_name = session_name
        self._identity = identity
        self._pulse = pulse
        self._interval = interval_seconds
        self._is_stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._beaten_at = time.monotonic()

    @property
    def interval_seconds(self) -> float:
        return self._interval

    def start(self) -> None:
        """Register, then beat in the background. Raises DatabaseError where there is no database."""
        self._connection = connect(self._url, application_name="embedmill heartbeat")
        row = {
            **msgspec.structs.asdict(self._identity),
            "heartbeat_interval_ms": self._interval_ms,
            "version": __version__,
            "session_name": self._session_name,
        }
        self._connection.execute(_SQL["register"], row)
        self._beaten_at = time.monotonic()
        self._thread.start()

    def age_seconds(self) -> float:
        """Since the last beat that the database has taken. Counts on while the process is frozen."""
        return time.monotonic() - self._beaten_at

    def change_interval(self, seconds: float) -> None:
        """From now on beat so often; the others learn of it by the beat that follows at once."""
        if seconds != self._interval:
            self._interval = seconds
            self._wake.set()

    def beat_now(self) -> None:
        """There is news that should not wait for the next beat."""
        self._wake.set()

    def stop(self) -> None:
        """Sign off: the items are given back by now."""
        self._is_stopping = True
        self._wake.set()
        self._thread.join()
        try:
            self._execute("beat", self._row())
            self._execute("deregister", {"worker_id": self._identity.worker_id})
        except (psycopg.Error, DatabaseError) as error:
            _log.warning("could not sign off; the others will notice", error=str(error).strip())
        self._close()

    @property
    def _interval_ms(self) -> int:
        return int(self._interval * 1000)

    def _beat_until_stopped(self) -> None:
        while True:
            self._wake.wait(self._interval)
            if self._is_stopping:
                return
            self._wake.clear()
            begun = time.monotonic()
            try:
                self._execute("beat", self._row())
                self._beaten_at = begun
            except (psycopg.Error, DatabaseError) as error:
                _log.warning("heartbeat missed", error=str(error).strip())
                self._close()

    def _execute(self, name: str, parameters: dict[str, Any]) -> None:
        if self._connection is None:
            self._connection = connect(self._url, application_name="embedmill heartbeat")
        self._connection.execute(_SQL[name], parameters)

    def _row(self) -> dict[str, Any]:
        pulse = msgspec.structs.asdict(self._pulse)
        troubles = {str(generation): text for generation, text in pulse.pop("troubles").items()}
        return {
            **pulse,
            "troubles": msgspec.json.encode(troubles).decode(),
            "status": "active" if self._pulse.current_work else "idle",
            "worker_id": self._identity.worker_id,
            "heartbeat_interval_ms": self._interval_ms,
        }

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
