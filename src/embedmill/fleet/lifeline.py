"""The child's side of the line to its supervisor: a pipe on standard input that nobody ever writes to. Its end says
that the supervisor is gone, however it died. Owns the waiting, and the exit status that says "drained"; must not know
what the process works on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable

_STDIN = 0
DRAINED_STATUS = 70
"""The exit status of a supervised process that somebody drained: it ended in order, and is not to be replaced."""


def follow_supervisor(stop: Callable[[], None], *, grace_seconds: float) -> None:
    """Call `stop()` in the running loop when the supervisor is gone; after the grace, end without asking: a loop
    that hangs must not outlive it. The leases of such a process are recovered by others."""
    loop = asyncio.get_running_loop()

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(_STDIN, 4096):
                pass
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(stop)
        time.sleep(grace_seconds)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
