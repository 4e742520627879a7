"""`embedmill up` as its user runs it: a process with workers of its own, on a real socket, ended by a signal."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.support.commands import CommandLine

ROOT = Path(__file__).resolve().parents[2]
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is tested is who gets in then
DOCUMENTS = ROOT / "examples" / "documents"


class Up:
    """A running service. `said` is what it printed until it answered."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Exit status, and what it said since."""
        self.process.send_signal(how)
        out, error = self.process.communicate(timeout=60)
        return self.process.returncode, error + out


@contextmanager
def up(command: CommandLine, *arguments: str) -> Iterator[Up]:
    process = command.start("up", "--port", "0", *arguments)
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 60)
        line = process.stdout.readline() if ready else "nothing"
        found = re.search(r"embedmill answers on (http://\S+); Ctrl-C ends it", line)
        assert found, f"it said {line!r}"
        yield Up(process, found[1])
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database)


def get(url: str, **headers: str) -> httpx2.Response:
    with httpx2.Client(trust_env=False, timeout=30) as client:
        return client.get(url, headers=headers)


def test_the_service_answers_without_keys_and_ends_in_order(command: CommandLine) -> None:
    with up(command, "--no-workers") as service:
        assert get(f"{service.address}/healthz").json() == {"status": "ok"}
        assert get(f"{service.address}/readyz").json()["status"] == "ready"
        assert get(f"{service.address}/api/v1/whoami").json()["role"] == "operator"
        foreign = get(f"{service.address}/api/v1/whoami", Host="evil.example")
        assert foreign.json()["code"] == "not_allowed", "a name that leads here is not this machine"
        status, said = service.end()
        assert (status, said.splitlines()[-1]) == (0, "stopped")


def test_once_there_is_a_key_everybody_needs_one_and_others_may_reach_it(command: CommandLine) -> None:
    refused = command.run("up", "--host", EVERYWHERE, "--port", "0", "--no-workers", status=1)
    assert "there is no API key yet" in refused.stderr
    key = command.run("keys", "create", "--tenant", "default", "--role", "reader").stdout.strip()
    with up(command, "--host", EVERYWHERE, "--no-workers") as service:
        url = service.address.replace(EVERYWHERE, "127.0.0.1") + "/api/v1/whoami"
        assert get(url).json()["code"] == "not_authenticated"
        assert get(url, Authorization=f"Bearer {key}").json()["role"] == "reader"


def test_a_port_that_is_taken_is_told_in_a_sentence(command: CommandLine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = command.run("up", "--no-workers", "--port", port, status=1)
    assert f"port {port} is taken" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="the example needs curl and jq")
def test_the_example_walks_a_document_from_upload_to_answer(command: CommandLine, database: str) -> None:
    with up(command, "--processes", "1") as service:
        walked = subprocess.run(
            [str(ROOT / "examples" / "rest.sh"), str(DOCUMENTS / "bzip2-manual.pdf")],
            env={**os.environ, "EMBEDMILL_URL": service.address, "no_proxy": "*"},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert walked.returncode == 0, walked.stdout + walked.stderr
        told = [json.loads(line) for line in walked.stdout.splitlines() if line.startswith('{"')]
        estimate, launched, cancelled, kept, rest, resumed, ended = told
        assert launched["status"] == resumed["status"] == "embedding_in_progress"
        assert cancelled == {"status": "cancelled", "isResumable": True}
        assert 0 < kept["progress"] < 100
        assert rest["chunks"] == estimate["totalChunks"] - kept["embeddedChunks"]
        assert kept["cost"]["paidTokens"] + rest["tokens"] == ended["cost"]["paidTokens"], (
            "nothing is paid twice"
        )
        assert ended["cost"]["paidTokens"] == estimate["estimate"]["tokens"]
        assert ended["status"] == "completed"
        assert walked.stdout.rstrip().endswith("204")
        assert service.end()[0] == 0
