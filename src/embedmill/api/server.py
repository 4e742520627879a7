"""Listens: the application on a socket, until it is told to stop. Owns binding and the graceful end; must not know an
endpoint or a signal."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from embedmill.access.keys import has_keys
from embedmill.api.application import build_application
from embedmill.errors import ConfigurationError
from embedmill.service import ServiceApp

# Requests under way get so long at a stop; streams of events are ended at once.
GRACE_SECONDS = 10
_BACKLOG = 2048


class _Server(uvicorn.Server):
    """Signals belong to whoever runs us: the workers of the same command hear of them too."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """The service on a bound socket. `address` is where it answers."""

    def __init__(self, service: ServiceApp, bound: socket.socket, application: FastAPI) -> None:
        self.socket = bound
        self._service = service
        self._server = _Server(
            uvicorn.Config(
                application,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
                backlog=_BACKLOG,
                http="h11",
                ws="none",
            )
        )

    @property
    def address(self) -> str:
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def run(self) -> None:
        """Until `stop()`."""
        await self._server.serve(sockets=[self.socket])

    def stop(self) -> None:
        """Take no more requests, end streams, finish what is under way."""
        self._service.stopping.set()
        self._server.should_exit = True

    def end_at_once(self) -> None:
        self._server.force_exit = True
        self.stop()


async def listen(
    service: ServiceApp,
    host: str,
    port: int,
    *,
    furnish: Callable[[FastAPI], None] = lambda application: None,
) -> Listener:
    """Bind. `furnish` adds to the application what is not the API. Raises ConfigurationError where the address is
    taken, or where others could reach a service to which nobody has a key."""
    family, address = _resolve(host, port)
    is_local = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
    if not is_local and not await has_keys(service.operator):
        raise ConfigurationError(
            f"{host} can be reached by others, and there is no API key yet: make one with `embedmill keys create "
            "--tenant default --role admin`, or listen on 127.0.0.1"
        )
    application = build_application(service, needs_keys=not is_local)
    furnish(application)
    return Listener(service, _bind(family, address, host), application)


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"--host {host!r} is no address of this machine: {error}") from error
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


def _bind(family: socket.AddressFamily, address: tuple[str, int], host: str) -> socket.socket:
    # By its full name: asyncio sets TCP_NODELAY only where it is told that this is TCP, and without it each answer of
    # two writes waits 40 ms for the other side's delayed acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {address[1]} is taken: another service may run already; choose another --port (0: any)"
            ) from error
        raise ConfigurationError(f"cannot listen on {host}:{address[1]}: {error.strerror}") from error
    bound.listen(_BACKLOG)
    bound.setblocking(False)
    return bound
