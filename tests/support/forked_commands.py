"""Runs the command line in processes that begin where its imports have ended. Owns the process from which they are
forked; a command is as much a process of its own as one that a shell starts, less the half second of reading modules,
which tests of what a command does pay hundreds of times.

Whoever calls run_forked() holds one such process for as long as he lives. `python -m tests.support.forked_commands`
is its program: for each connection it forks a waiter, which forks the command and tells how it ended.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

import msgspec

REPOSITORY = Path(__file__).resolve().parents[2]
# What commands import; not the service, nor engines and parsers, which start threads of their own.
_PACKAGES = (
    "cli", "queue", "usage", "access", "webhooks", "ingest", "search", "worker", "fleet", "database", "embed"
)  # fmt: skip
_MODULES = ("embedmill.app", "embedmill.adapters.providers.openai", "rich.console", "rich.table")
_NUMBER = struct.Struct("!i")


class Request(msgspec.Struct):
    """In bytes: an argument need be no UTF-8."""

    arguments: list[bytes]
    environment: dict[bytes, bytes]
    folder: bytes


def run_forked(
    arguments: Sequence[str], environment: Mapping[str, str], *, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run `arguments` (the first is the program's name) to the end. Raises subprocess.TimeoutExpired."""
    request = msgspec.msgpack.encode(
        Request(
            [os.fsencode(argument) for argument in arguments],
            {os.fsencode(name): os.fsencode(value) for name, value in environment.items()},
            os.fsencode(Path.cwd()),
        )
    )
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.connect(_forker())
        socket.send_fds(connection, [_NUMBER.pack(len(request))], [out.fileno(), err.fileno()])
        connection.sendall(request)
        pid = _receive_number(connection)
        connection.settimeout(seconds)
        try:
            status = _receive_number(connection)
        except TimeoutError as error:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(arguments), seconds, _content(out), _content(err)) from error
        return subprocess.CompletedProcess(
            list(arguments), status, _content(out).decode(), _content(err).decode()
        )


@cache
def _forker() -> str:
    """Start the process that forks; where it listens. It ends with us."""
    folder = tempfile.mkdtemp(prefix="embedmill-forker-")
    path = f"{folder}/socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked_commands", str(listener.fileno())],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )

    def end() -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        Path(path).unlink()
        Path(folder).rmdir()

    atexit.register(end)
    return path


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _receive_number(connection: socket.socket) -> int:
    number: int = _NUMBER.unpack(connection.recv(_NUMBER.size, socket.MSG_WAITALL))[0]
    return number


def main() -> None:
    """In each command's process this returns; in the process that forks, never."""
    _import_all()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environb.update(request.environment)
    os.chdir(request.folder)
    sys.argv = [os.fsdecode(argument) for argument in request.arguments]
    from embedmill.__main__ import main as command

    command()


def _import_all() -> None:
    gc.disable()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for package in _PACKAGES:
        for module in pkgutil.walk_packages(
            importlib.import_module(f"embedmill.{package}").__path__, f"embedmill.{package}."
        ):
            importlib.import_module(module.name)
    for name in _MODULES:
        importlib.import_module(name)
    gc.freeze()
    assert threading.active_count() == 1, "a fork would lose these threads"


def _serve(listener: socket.socket) -> Request:
    """Fork for each connection, until whoever started us is gone. Returns in the forked processes only."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # waiters are not waited for
    while True:
        ready, _, _ = select.select([listener, sys.stdin.fileno()], [], [])
        if listener not in ready:
            sys.exit()
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _wait_for_command(connection)
        connection.close()


def _wait_for_command(connection: socket.socket) -> Request:
    """Fork the command, in which this returns; the waiter tells its number and how it ended, and ends."""
    size, files, _, _ = socket.recv_fds(connection, _NUMBER.size, 2)
    content = connection.recv(_NUMBER.unpack(size)[0], socket.MSG_WAITALL)
    request = msgspec.msgpack.decode(content, type=Request)
    pid = os.fork()
    if pid == 0:
        connection.close()
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 0)
        for number, file in enumerate(files, 1):
            os.dup2(file, number)
            os.close(file)
        return request
    connection.sendall(_NUMBER.pack(pid))
    _, status = os.waitpid(pid, 0)
    connection.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


if __name__ == "__main__":
    main()
