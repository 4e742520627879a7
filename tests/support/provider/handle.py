"""The stand-in as a test holds it: a child process, its address, its counts. Owns starting and stopping;
must not be imported by the server."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.support.provider.ledger import SeenRequest
from tests.support.provider.options import Options, merged
from tests.support.provider.vectors import digest_of

REPOSITORY = Path(__file__).resolve().parents[3]


class RunningProvider:
    """A stand-in that answers at `base_url` (".../v1")."""

    def __init__(self, base_url: str, port: int, pid: int) -> None:
        self.base_url = base_url
        self.port = port
        self.pid = pid

    def configure(self, **changes: object) -> Options:
        """Change options; what is not named stays. Raises ValueError for an unknown or wrong one."""
        return msgspec.convert(self._ask("POST", "/_control", changes), Options)

    def reset(self, **changes: object) -> None:
        """Back to the default options, with these changes, and to counts of nothing."""
        self.configure(**{**msgspec.to_builtins(Options()), **changes})
        self._ask("POST", "/_reset", {})

    def forget_counts(self) -> None:
        """Counts of nothing; the options stay."""
        self._ask("POST", "/_reset", {})

    def stats(self) -> dict[str, Any]:
        """calls, calls_by_status, calls_paid, inputs_paid, distinct_inputs_paid, most_paid_for_one_input,
        tokens_paid, in_flight, max_in_flight, connections, max_connections, max_inputs_in_a_call,
        calls_by_second."""
        return msgspec.convert(self._ask("GET", "/_stats"), dict[str, Any])

    def paid(self) -> dict[bytes, int]:
        """How often each text was paid for, by `digest_of(text)`."""
        answer = msgspec.convert(self._ask("GET", "/_paid"), dict[str, int])
        return {bytes.fromhex(digest): count for digest, count in answer.items()}

    def paid_for(self, texts: Sequence[str]) -> list[int]:
        """How often each of these texts was paid for."""
        paid = self.paid()
        return [paid.get(digest_of(text), 0) for text in texts]

    def requests(self) -> list[SeenRequest]:
        """The last 64 calls: target, headers and parameters, without the texts."""
        return msgspec.convert(self._ask("GET", "/_requests"), list[SeenRequest])

    def _ask(self, method: str, path: str, body: dict[str, object] | None = None) -> object:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, None if body is None else msgspec.json.encode(body))
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer.decode(errors="replace"))
        return msgspec.json.decode(answer)


@contextmanager
def start_provider(**options: object) -> Iterator[RunningProvider]:
    """A stand-in in a process of its own, with these Options; it ends with the block, or with its parent."""
    merged(Options(), options)  # a wrong option fails here, where it was written
    command = [sys.executable, "-m", "tests.support.provider", "--until-stdin-ends"]
    command += ["--options", msgspec.json.encode(options).decode()]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("the provider stand-in did not start; what it said stands above")
            ready = msgspec.json.decode(line)
            yield RunningProvider(ready["base_url"], ready["port"], process.pid)
        finally:
            process.terminate()
            process.wait(timeout=10)
