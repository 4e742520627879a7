"""A real S3 over a real socket: moto's server in a process of its own, and what stands in one of its buckets."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2


@dataclass(frozen=True)
class Bucket:
    endpoint: str
    name: str

    @property
    def url(self) -> str:
        return f"{self.endpoint}/{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        """What a person sets to use it."""
        return {
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "not secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def create(self) -> None:
        httpx2.put(self.url).raise_for_status()

    def remove(self) -> None:
        httpx2.delete(self.url).raise_for_status()

    def contents(self) -> list[str]:
        """Keys of the objects, and of uploads that were begun and not ended."""
        listed = httpx2.get(self.url, params={"list-type": "2"}).raise_for_status().text
        uploads = httpx2.get(self.url, params={"uploads": ""}).raise_for_status().text
        return sorted(
            re.findall(r"<Key>(.*?)</Key>", listed)
            + [f"upload of {key}" for key in re.findall(r"<Key>(.*?)</Key>", uploads)]
        )


@contextmanager
def s3_server() -> Iterator[str]:
    """Its endpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        endpoint = f"http://127.0.0.1:{port}"
        try:
            _await_answer(endpoint, server)
            yield endpoint
        finally:
            server.terminate()


def _await_answer(endpoint: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx2.get(f"{endpoint}/moto-api/")
        except httpx2.TransportError:
            assert server.poll() is None, "moto's server ended"
            assert time.monotonic() < deadline, "moto's server does not answer"
            time.sleep(0.05)
        else:
            return
