"""The embedded PostgreSQL: one server for each data directory, started by whoever needs it first.

It is shared by all processes of that directory and stays when they end. Owns starting, finding and stopping
it; knows nothing of schemas. Whether a server lives is read from a lock that all its processes inherit
(`server.lock`), not from process ids: those are reused, left over by kill -9, and mean nothing in another
container.

The fast way (the server is up) reads one file and knocks at the socket. Everything else is done by one
process at a time, which holds `postgres.lock`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from embedmill.database.embedded_account import Account, choose_account
from embedmill.database.embedded_cluster import (
    DATABASE,
    SUPERUSER,
    ClusterFiles,
    check_version,
    create_cluster,
    failure,
    find_programs,
    prepare_folders,
    run,
)
from embedmill.database.embedded_liveness import (
    PidFile,
    answers,
    end_processes,
    is_of_server,
    lives,
    read_pid_file,
    send_signal,
)
from embedmill.database.embedded_settings import (
    PORT,
    SHORT_FOLDERS,
    SOCKET_NAME,
    socket_folder,
    write_settings,
)
from embedmill.errors import DatabaseError

_POLL_SECONDS = 0.05
_ORPHAN_GRACE_SECONDS = 5.0
_STOP_SECONDS = 600.0
_UNSEEN_SECONDS = 60.0
_NOTICE_SECONDS = 10.0
_STARTUP_LOG = "../log/startup.log"
_log = logging.getLogger(__name__)


def ensure_running(data_dir: Path, *, connection_failed: bool = False) -> str:
    """Return the address (a postgresql:// URL) of the database `embedmill` of this data directory.

    Makes the cluster and starts the server where that is needed, and waits for a crash recovery however
    long it takes. With the server up this costs well under 10 ms and looks no further than its socket; say
    `connection_failed=True` when a connection to the address failed all the same, to have it looked after
    thoroughly. Raises ConfigurationError where the wheel is missing, DatabaseError where no server can run.
    """
    files = ClusterFiles(_absolute(data_dir))
    if not connection_failed and answers(files):
        return _address(read_pid_file(files))
    with _turn(files) as turn:
        if connection_failed or not answers(files):
            _look_after(files, turn)
        return _address(read_pid_file(files))


def is_running(data_dir: Path) -> bool:
    """Whether a server takes connections for this data directory at this moment."""
    return answers(ClusterFiles(_absolute(data_dir)))


def stop(data_dir: Path) -> bool:
    """Stop the server of this data directory; its clients are disconnected, what is committed stays.

    Returns False where none was running. Raises DatabaseError if it does not end.
    """
    files = ClusterFiles(_absolute(data_dir))
    if not files.data.exists():
        return False
    with _turn(files):
        if not lives(files):
            return False
        folder = Path(read_pid_file(files).socket_folder)
        _stop_server(files)
        if folder.parent == SHORT_FOLDERS:
            with suppress(OSError):
                folder.rmdir()
        return True


def _address(found: PidFile) -> str:
    folder = quote(os.fsencode(found.socket_folder), safe="")
    return f"postgresql://{SUPERUSER}@/{DATABASE}?host={folder}"


@contextmanager
def _turn(files: ClusterFiles) -> Iterator[int]:
    """Hold `postgres.lock`: one process at a time starts or stops the server. Yields its descriptor."""
    try:
        files.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(files.turn, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unusable(files, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    except OSError as error:
        raise _unusable(files, error) from error
    finally:
        os.close(descriptor)


def _look_after(files: ClusterFiles, turn: int) -> None:
    """The slow way, under the lock: from whatever was left behind to a server that answers."""
    account = choose_account(files.data_dir, files.data)
    if files.data_dir.stat().st_uid == account.uid:
        account.own(files.turn)
    programs = find_programs(account)
    prepare_folders(files, account)
    if not files.data.exists():
        create_cluster(files, account, programs, turn)
    check_version(files)
    if not _settle(files, account, programs):
        folder = socket_folder(files, account)
        _clear_traces(files, folder)
        write_settings(files, account, folder)
        _start(files, account, programs)


def _settle(files: ClusterFiles, account: Account, programs: Path) -> bool:
    """Wait for, mend or clear away what an earlier server left. True: it answers; False: nothing lives."""
    waiting = _Patience(files)
    while lives(files):
        found = read_pid_file(files)
        if not is_of_server(found.pid, files) and not answers(files):
            _end_orphans(files)
        elif found.status == "ready" and not answers(files):
            # Alive, yet its socket was swept from /tmp or its programs were uninstalled.
            _stop_server(files)
        elif found.status == "ready" and _accepts(files, account, programs, found):
            return True
        else:
            waiting.a_little()
    return False


def _clear_traces(files: ClusterFiles, folder: Path) -> None:
    """Remove what a dead server left. PostgreSQL would trust the process numbers in it: it refuses to start
    while such a number is in use, be it by a stranger or by a dead process that init has not reaped yet."""
    for trace in (files.pid_file, folder / SOCKET_NAME, folder / f"{SOCKET_NAME}.lock"):
        trace.unlink(missing_ok=True)


def _start(files: ClusterFiles, account: Account, programs: Path) -> None:
    """Start the server and wait until it takes connections, or until it is known to have ended."""
    (files.data / _STARTUP_LOG).unlink(missing_ok=True)
    read_before = {log: log.stat().st_size for log in files.log.glob("*.log")}
    command: list[str | Path] = [programs / "pg_ctl", "start", "--silent", "--no-wait"]
    life = os.open(files.life, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        account.own(files.life)
        # The lock belongs to the descriptor, which the server inherits: it lasts as long as the last of its
        # processes. Closing our copy does not give it up.
        fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Relative, for pg_ctl pastes both into a shell's command line.
        answer = run([*command, "-D", ".", "-l", _STARTUP_LOG], account, cwd=files.data, keep_open=[life])
    finally:
        os.close(life)
    waiting = _Patience(files)
    while not answers(files):
        if not lives(files):
            raise failure(
                "PostgreSQL could not be started", files, answer.stderr + _last_words(files, read_before)
            )
        waiting.a_little()


class _Patience:
    """Waits in short steps without an end of its own, and says once that it takes long."""

    def __init__(self, files: ClusterFiles) -> None:
        self._files = files
        self._notice_at = time.monotonic() + _NOTICE_SECONDS
        self._said = False

    def a_little(self) -> None:
        time.sleep(_POLL_SECONDS)
        if not self._said and time.monotonic() > self._notice_at:
            self._said = True
            _log.warning(
                "PostgreSQL is not ready yet (after a crash it repairs its files first); waiting. Log: %s",
                self._files.log,
            )


def _accepts(files: ClusterFiles, account: Account, programs: Path, found: PidFile) -> bool:
    """Whether the server takes a session; it listens during the recovery after a backend's crash, too."""
    command: list[str | Path] = [
        programs / "pg_isready",
        "--quiet",
        "-h",
        found.socket_folder,
        "-p",
        str(PORT),
    ]
    return run([*command, "-d", DATABASE, "-U", SUPERUSER], account, cwd=files.root).returncode == 0


def _end_orphans(files: ClusterFiles) -> None:
    """Wait until the processes that a killed postmaster left behind are gone; after a grace, end them."""
    began = time.monotonic()
    while lives(files) and not is_of_server(read_pid_file(files).pid, files) and not answers(files):
        waited = time.monotonic() - began
        if waited > _UNSEEN_SECONDS:
            raise DatabaseError(
                f"Processes that cannot be seen from here (of another container?) still hold {files.data}: "
                "stop them, or set EMBEDMILL_DATA_DIR to another folder."
            )
        if waited > _ORPHAN_GRACE_SECONDS:
            end_processes(files)
        time.sleep(_POLL_SECONDS)


def _stop_server(files: ClusterFiles) -> None:
    """Fast shutdown: clients are disconnected, a checkpoint is written."""
    pid = read_pid_file(files).pid
    if not is_of_server(pid, files):
        _end_orphans(files)
        return
    send_signal(pid, signal.SIGINT)
    deadline = time.monotonic() + _STOP_SECONDS
    while lives(files):
        if time.monotonic() > deadline:
            raise DatabaseError(f"PostgreSQL (process {pid}) does not stop. Its log is in {files.log}.")
        time.sleep(_POLL_SECONDS)


def _last_words(files: ClusterFiles, read_before: dict[Path, int]) -> str:
    """What the server wrote in this start, before it gave up: an older complaint would mislead."""
    words = ""
    for log in sorted(files.log.glob("*.log"), key=lambda path: path.stat().st_mtime):
        with log.open("rb") as stream:
            stream.seek(read_before.get(log, 0))
            words += stream.read(100_000).decode(errors="replace")
    return words


def _absolute(data_dir: Path) -> Path:
    return data_dir.expanduser().resolve()


def _unusable(files: ClusterFiles, error: OSError) -> DatabaseError:
    causes = {
        errno.EACCES: "this account may not write there",
        errno.EPERM: "this account may not write there",
        errno.EROFS: "it is on a read-only file system",
        errno.ENOSPC: "its disk is full",
        errno.EDQUOT: "its disk quota is used up",
        errno.ENOTDIR: "a part of the path is a file",
        errno.EEXIST: "it is a file",
        errno.ELOOP: "a link stands where a file should",
    }
    cause = causes.get(error.errno or 0, str(error.strerror or error))
    place = f" ({error.filename})" if error.filename else ""
    return DatabaseError(
        f"The data directory {files.data_dir} cannot be used: {cause}{place}. Set EMBEDMILL_DATA_DIR to "
        "another folder, or EMBEDMILL_DATABASE_URL to a PostgreSQL of your own."
    )
