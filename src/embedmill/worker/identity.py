"""Who a worker is, and which of its neighbours are dead. Owns the reading of process tables; must not decide
what happens to a dead worker's items."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import psutil


class Identity(msgspec.Struct, frozen=True):
    """One process start. `host_id` names the boot and the pid namespace: only there does `pid` mean anything."""

    worker_id: UUID
    hostname: str
    host_id: str
    pid: int
    pid_started_at: float


def current_identity() -> Identity:
    """A new identity for this process."""
    process = psutil.Process()
    return Identity(uuid4(), socket.gethostname(), _host_id(), process.pid, process.create_time())


def is_alive(pid: int, pid_started_at: float) -> bool:
    """Whether that very process runs, and not a later one of the same number."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - pid_started_at) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _host_id() -> str:
    """The kernel's boot id and our pid namespace; elsewhere than on Linux, the host's name and boot time."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - it is no path but a name
    except OSError:
        return f"{socket.gethostname()}/{psutil.boot_time():.0f}"
    return f"{boot}/{namespace}"
