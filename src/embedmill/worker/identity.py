"""Who a worker is, and which of its neighbours are dead. Owns the reading of process tables; must not decide
what happens to a dead worker's items."""

from __future__ import annotations

import os
import socket
import sys
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
    pid = os.getpid()
    return Identity(uuid4(), socket.gethostname(), _host_id(), pid, started_at(pid))


def is_alive(pid: int, pid_started_at: float) -> bool:
    """Whether that very process runs, and not a later one of the same number. One that may not be looked at
    counts as alive: its heartbeat decides."""
    try:
        is_same = abs(started_at(pid) - pid_started_at) < 1.0
        return is_same and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def started_at(pid: int) -> float:
    """When a process started: in seconds since the boot on Linux, since the epoch elsewhere.

    Not psutil's create_time on Linux: that is reckoned from a boot time which moves when the wall clock is put
    right, and all workers of a host would take each other for dead. Raises psutil.NoSuchProcess, AccessDenied.
    """
    if not sys.platform.startswith("linux"):
        return psutil.Process(pid).create_time()
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError) as error:
        # A /proc mounted with hidepid shows no processes of others.
        raise (psutil.AccessDenied if psutil.pid_exists(pid) else psutil.NoSuchProcess)(pid) from error
    # The name in brackets may hold spaces and brackets; `starttime` is the 20th field behind it.
    ticks = stat[stat.rindex(b")") + 2 :].split()[19]
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def _host_id() -> str:
    """The kernel's boot id and our pid namespace; elsewhere than on Linux, the host's name and boot time."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - it is no path but a name
    except OSError:
        return f"{socket.gethostname()}/{psutil.boot_time():.0f}"
    return f"{boot}/{namespace}"
