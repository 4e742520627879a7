"""The settings of the embedded PostgreSQL, and the folder of its socket. Writes files only; starts nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from pathlib import Path

from embedmill.database.embedded_account import Account
from embedmill.database.embedded_cluster import ClusterFiles
from embedmill.errors import DatabaseError

PORT = 5432
SOCKET_PATH_LIMIT = 107
SOCKET_NAME = f".s.PGSQL.{PORT}"
SHORT_FOLDERS = Path("/tmp")  # noqa: S108 - not $TMPDIR, which may be long; ownership is checked
# What a container may have of the machine's memory: cgroup v2, v1.
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_MIB = 1024 * 1024
_FEWEST_BUFFERS_MB, _MOST_BUFFERS_MB = 128, 8192


def write_settings(files: ClusterFiles, account: Account, socket_folder: Path) -> None:
    """Write the included settings file; `postgresql.conf` and ALTER SYSTEM still win over it."""
    cores = os.cpu_count() or 1
    settings: dict[str, str | int] = {
        "listen_addresses": "",
        "port": PORT,
        "unix_socket_directories": str(socket_folder),
        "unix_socket_permissions": "0700",
        "cluster_name": "embedmill",
        "max_connections": 200,
        "shared_buffers": f"{buffers_mb(memory_bytes())}MB",
        "maintenance_work_mem": "256MB",
        "max_worker_processes": max(8, cores),
        "max_parallel_maintenance_workers": min(4, cores),
        "max_wal_size": "4GB",
        "wal_compression": "on",
        "checkpoint_timeout": "15min",
        "synchronous_commit": "on",
        "random_page_cost": "1.1",
        "jit": "off",
        "autovacuum_naptime": "15s",
        "autovacuum_vacuum_scale_factor": "0.05",
        "autovacuum_vacuum_insert_scale_factor": "0.1",
        "autovacuum_analyze_scale_factor": "0.02",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "lc_messages": "C",
        # One file for each day of the week, written over when its day comes round again.
        "logging_collector": "on",
        "log_directory": "../log",
        "log_filename": "postgresql-%a.log",
        "log_truncate_on_rotation": "on",
        "log_rotation_age": "1d",
        "log_rotation_size": 0,
        # What people's documents say does not belong in a log.
        "log_min_error_statement": "panic",
    }
    if sys.platform == "linux":
        # /dev/shm has 64 MB in a container by default, less than one parallel index build wants, and
        # systemd-logind empties it at logout. System V memory, which the server needs anyway, has neither.
        settings["dynamic_shared_memory_type"] = "sysv"
    lines = [f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
    draft = files.settings.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with draft.open("x") as stream:
        stream.write(
            "# Written by embedmill at each start of the server; edit data/postgresql.conf instead.\n"
        )
        stream.writelines(lines)
    account.own(draft)
    draft.replace(files.settings)


def buffers_mb(memory: int) -> int:
    """The pages that the server keeps at hand, for a machine of so many bytes: an eighth, since workers, parsers and
    models share it (PostgreSQL's manual gives a machine of its own a quarter). What is not used is not taken. An index
    of a million vectors, and the chunks that it finds, are 3 GB: from the system's cache each page costs a copy."""
    return min(max(memory // 8 // _MIB, _FEWEST_BUFFERS_MB), _MOST_BUFFERS_MB)


def memory_bytes(limits: tuple[Path, ...] = MEMORY_LIMITS) -> int:
    """Of the machine, or what its container may have."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in limits:
        with contextlib.suppress(OSError, ValueError):  # not there, or `max`
            found.append(int(limit.read_text("ascii")))
    return min(found)


def socket_folder(files: ClusterFiles, account: Account) -> Path:
    """A folder for the socket that only the account (and root) may enter.

    Beside the cluster, or, where that path is too long for a socket (107 bytes) or holds a character that
    libpq or the server's settings take for something else (a comma separates hosts), a short one in the
    system's temporary folder. Raises DatabaseError where somebody else holds that name.
    """
    beside = files.root / "socket"
    fits = len(os.fsencode(beside / SOCKET_NAME)) <= SOCKET_PATH_LIMIT
    if fits and str(beside).isprintable() and not set(",\"'\\") & set(str(beside)):
        beside.mkdir(mode=0o700, exist_ok=True)
        account.own(beside)
        return beside
    # With the inode: a data directory that was deleted and made again must not meet its old server's socket.
    identity = f"{files.root}\0{files.root.stat().st_ino}".encode(errors="surrogateescape")
    short = SHORT_FOLDERS / f"embedmill-{account.uid}-{hashlib.sha256(identity).hexdigest()[:12]}"
    try:
        short.mkdir(mode=0o700)
        account.own(short)
    except FileExistsError:
        facts = short.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != account.uid or facts.st_mode & 0o077:
            raise DatabaseError(
                f"{short} should hold the socket of the embedded PostgreSQL but is not a private folder of "
                f"{account.name}: remove it, or set EMBEDMILL_DATA_DIR to a shorter path."
            ) from None
    return short
