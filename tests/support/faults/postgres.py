"""An embedded PostgreSQL of the crash suite's own, that may be restarted at any moment. Owns the server's life;
what stands in it is the tests'."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Literal

from embedmill.database import embedded
from tests.support.embedded_processes import postmasters, server_processes
from tests.support.postgres import TestServer, start_without_fsync

ShutdownMode = Literal["fast", "immediate"]
_SECONDS = 60.0


class FragileServer:
    """The server of one data directory. `url` is the address of its own database; it outlives a restart."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        # A postmaster that is shot leaves the kernel's pages alone: there is no power to lose here.
        self.url = start_without_fsync(data_dir)
        self.databases = TestServer(self.url, data_dir / "template.lock")

    def restart(self, mode: ShutdownMode, *, away_seconds: float = 0.0) -> None:
        """Shut down (immediate: no word to anybody, crash recovery at the next start), stay away, start."""
        if mode == "fast":
            embedded.stop(self._data_dir)
        else:
            self._shut_down_at_once()
        time.sleep(away_seconds)
        if embedded.ensure_running(self._data_dir) != self.url:
            raise RuntimeError("the server has another address after its restart")

    def _shut_down_at_once(self) -> None:
        for postmaster in postmasters(self._data_dir):
            os.kill(postmaster.pid, signal.SIGQUIT)
        deadline = time.monotonic() + _SECONDS
        while server_processes(self._data_dir):
            if time.monotonic() > deadline:
                raise RuntimeError("the server does not end")
            time.sleep(0.02)

    def stop(self) -> None:
        embedded.stop(self._data_dir)
