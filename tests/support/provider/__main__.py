"""The stand-in as a process: prints one JSON line with its address when it listens, and serves until it is
told to stop, or until its standard input ends when it was started by a handle."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import signal
import sys
import time

import msgspec

from tests.support.provider.http import Connection
from tests.support.provider.options import Options, merged
from tests.support.provider.service import Service
from tests.support.provider.vectors import SMALLEST_BANKED_DIMENSIONS, bank_for


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.provider", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--options", default="{}", help="a JSON object of tests.support.provider.Options")
    parser.add_argument("--until-stdin-ends", action="store_true", help="end when the parent does")
    arguments = parser.parse_args()
    try:
        options = merged(Options(), msgspec.json.decode(arguments.options, type=dict[str, object]))
    except msgspec.DecodeError as error:
        parser.error(str(error))
    if options.dimensions >= SMALLEST_BANKED_DIMENSIONS:
        bank_for(options.dimensions)
    # What lives now lives for ever: the collector need not look at the bank again.
    gc.freeze()
    asyncio.run(_serve(options, arguments.host, arguments.port, until_stdin_ends=arguments.until_stdin_ends))


async def _serve(options: Options, host: str, port: int, *, until_stdin_ends: bool) -> None:
    service = Service(options, time.monotonic, time.time)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if until_stdin_ends:
        loop.add_reader(sys.stdin.fileno(), stopped.set)
    server = await loop.create_server(lambda: Connection(service), host, port, backlog=1024)
    address, bound_port = server.sockets[0].getsockname()[:2]
    print(f'{{"base_url":"http://{address}:{bound_port}/v1","port":{bound_port}}}', flush=True)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
