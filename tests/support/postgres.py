"""Real servers and fresh databases for tests. Owns where they live and when they end; knows no fixture.

All xdist workers of a run share one embedded server in the run's temporary folder. A database is a copy of a
template that was migrated once for the SQL files as they are.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psutil
import psycopg
from psycopg import sql

from embedmill.database import embedded, migrator
from embedmill.database.embedded_account import Account, choose_account
from embedmill.database.embedded_cluster import ENVIRONMENT

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
EXTENSIONS_OF_DEBIAN_15 = Path("/usr/share/postgresql/15/extension")
_MEMORY = Path("/dev/shm")  # noqa: S108 - each of us makes a folder of its own there
_ROOM_BYTES = 3 << 30


def servers_folder() -> Path:
    """Where the servers of tests stand: in memory where there is room, for there a template is copied in a twentieth
    of the time; else in the temporary folder."""
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK):
        room = min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available // 2)
        if room >= _ROOM_BYTES:
            return _MEMORY
    return Path(tempfile.gettempdir())


class TestServer:
    """A server on which this run makes its databases. `url` leads to a database that only administers."""

    __test__ = False

    def __init__(self, url: str, lock: Path) -> None:
        self.url = url
        self._lock = lock

    def create(self, *, migrated: bool) -> str:
        """A new database, and the URL of it."""
        name = f"test_{uuid.uuid4().hex}"
        template = self._template() if migrated else "template0"
        self._execute("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", name, template)
        return with_database(self.url, name)

    def drop(self, url: str) -> None:
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", urlsplit(url).path.lstrip("/"))

    def _template(self) -> str:
        """The migrated template, made by the first worker that needs it."""
        name = f"embedmill_template_{_hash_of_sql()}"
        with locked(self._lock):
            if not self._exists(name):
                draft = f"{name}_{uuid.uuid4().hex[:8]}"
                self._execute("CREATE DATABASE {} TEMPLATE template0", draft)
                with psycopg.connect(with_database(self.url, draft), autocommit=True) as connection:
                    migrator.migrate(connection)
                self._execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", draft)
                self._execute("ALTER DATABASE {} RENAME TO {}", draft, name)
        return name

    def _exists(self, name: str) -> bool:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).rowcount == 1

    def _execute(self, statement: Any, *names: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def shared_server(run_folder: Path, own_url: str | None) -> Iterator[TestServer]:
    """The server of this run: one's own where a URL is given, else an embedded one, stopped and removed by
    the last worker that uses it. `run_folder` is the same for all workers of the run."""
    for left in run_folder.parent.glob("embedmill-test-*/users"):
        _end_run(left.parent)
    data_dir, users = run_folder / "server", run_folder / "users"
    users.mkdir(parents=True, exist_ok=True)
    me = users / str(os.getpid())
    with locked(run_folder / "lock"):
        me.touch()
        url = own_url or start_without_fsync(data_dir)
    try:
        yield TestServer(url, run_folder / "template.lock")
    finally:
        with locked(run_folder / "lock"):
            me.unlink()
        _end_run(run_folder, is_mine=True)


def _end_run(run_folder: Path, *, is_mine: bool = False) -> None:
    """Stop and remove the server of a run that nobody uses any more, be it ours or one whose workers were killed."""
    try:
        with locked(run_folder / "lock"):
            users = list((run_folder / "users").iterdir())
            # Where there is no user at all, somebody may be about to become the first.
            if (users or is_mine) and not any(map(_lives, users)):
                embedded.stop(run_folder / "server")
                shutil.rmtree(run_folder)
    except (FileNotFoundError, PermissionError):
        return  # another was faster, or it is another account's


def start_without_fsync(data_dir: Path) -> str:
    """An embedded server; its URL. What it loses in a power cut is no loss, kill -9 it survives all the same; and it
    keeps little of its journal, for it may stand in memory."""
    url = embedded.ensure_running(data_dir)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("ALTER SYSTEM SET full_page_writes = off")
        connection.execute("ALTER SYSTEM SET max_wal_size = '512MB'")
        connection.execute("SELECT pg_reload_conf()")
    return url


@contextmanager
def own_postgres(programs: Path) -> Iterator[str]:
    """A PostgreSQL as a person would run it: over TCP on 127.0.0.1, with a password. Yields the URL of its
    database `postgres`; the server and its folder are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="embedmill-own-", dir=servers_folder()) as name:
        folder = Path(name)
        account = choose_account(folder, folder / "data")
        account.own(folder)
        data, secret = folder / "data", folder / "password"
        password = f"{uuid.uuid4().hex} @/%"
        secret.write_text(password)
        account.own(secret)
        initdb: list[str | Path] = [programs / "initdb", "-D", data, "-U", "owner", "--pwfile", secret]
        _run(
            [*initdb, "--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"],
            account,
            folder,
        )
        port = _free_port()
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
        control: list[str | Path] = [programs / "pg_ctl", "-D", data, "-w", "-t", "120"]
        _run([*control, "-l", folder / "log", "-o", options, "start"], account, folder)
        try:
            yield f"postgresql://owner:{quote(password, safe='')}@127.0.0.1:{port}/postgres"
        finally:
            _run([*control, "-m", "immediate", "stop"], account, folder)


def _lives(user: Path) -> bool:
    """Whether the worker that left this file still runs; one that was killed could not take it away."""
    try:
        os.kill(int(user.name), 0)
    except ProcessLookupError:
        return False
    return True


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _run(command: list[str | Path], account: Account, folder: Path) -> None:
    answer = subprocess.run(
        [str(part) for part in command],
        check=False,
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # pg_ctl's server would keep a pipe open
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        user=account.uid if account.switch else None,
        group=account.gid if account.switch else None,
        extra_groups=[] if account.switch else None,
    )
    if answer.returncode != 0:
        log = folder / "log"
        said = log.read_text() if log.exists() else ""
        raise RuntimeError(f"{command[0]} ended with {answer.returncode}: {said}")


def _hash_of_sql() -> str:
    digest = hashlib.sha256()
    for folder in (migrator.shipped_migrations(), migrator.shipped_functions()):
        for file in sorted(folder.iterdir(), key=_name):
            digest.update(f"{file.name}\0{file.read_text()}\0".encode())
    return digest.hexdigest()[:16]


def _name(file: Traversable) -> str:
    return file.name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
