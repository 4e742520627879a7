"""Originals in a bucket: what goes wrong there, in words; copies for parsers; flat memory."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from embedmill.adapters.blobs.remote import STALE_SECONDS
from embedmill.adapters.blobs.store import build_originals
from embedmill.errors import StorageError
from embedmill.ports import Originals, original_key
from tests.adapters.blobs.bucket import Bucket, s3_server
from tests.adapters.blobs.streams import MIB, made_bytes, stream_of

KEY = original_key(1, uuid4())


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket(endpoint, f"test-{uuid4().hex}")
    made.create()
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@contextmanager
def refusing_server(status: int, code: str) -> Iterator[tuple[str, list[str]]]:
    """Answers every request with the error; its endpoint and what was asked."""
    asked: list[str] = []

    class Refusing(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = f"<Error><Code>{code}</Code><Message>secret words</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "reason", "advice", "retryable"),
    [
        (403, "InvalidAccessKeyId", "credentials", "AWS_ACCESS_KEY_ID", False),
        (403, "SignatureDoesNotMatch", "credentials", "AWS_ACCESS_KEY_ID", False),
        (403, "AccessDenied", "forbidden", "allow them", False),
        (401, "AuthenticationFailed", "credentials", "AZURE_STORAGE_ACCOUNT_KEY", False),
        (404, "NoSuchBucket", "no_bucket", "Create it", False),
        (400, "AuthorizationHeaderMalformed", "failed", "region", False),
        (503, "SlowDown", "unreachable", "network", True),
    ],
)
async def test_a_refusal_says_what_to_do_and_nothing_of_the_servers(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    status: int, code: str, reason: str, advice: str, retryable: bool,
) -> None:  # fmt: skip
    with refusing_server(status, code) as (endpoint, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        originals = build_originals(f"s3://{bucket.name}", tmp_path)
        for size in (10, 20 * MIB):
            with pytest.raises(StorageError, match=advice) as refused:
                await originals.put(KEY, stream_of(made_bytes(size)), max_bytes=size)
            assert (refused.value.reason, refused.value.retryable) == (reason, retryable)
            assert code in str(refused.value)
            assert "secret" not in str(refused.value)
    assert (len(asked) > 4) is retryable, "obstore tries again what may pass, and only that"


@pytest.mark.parametrize("method", ["check", "put", "get", "delete", "list"])
async def test_a_missing_bucket_is_said_by_every_method(bucket: Bucket, tmp_path: Path, method: str) -> None:
    originals = build_originals("s3://no-such-bucket/prefix", tmp_path)
    with pytest.raises(StorageError, match="no such bucket: s3://no-such-bucket/prefix") as missing:
        await METHODS[method](originals)
    assert missing.value.reason == "no_bucket"


async def _open(originals: Originals) -> None:
    async with originals.open_path(KEY):
        pass


async def _list(originals: Originals) -> None:
    async for _ in originals.list_older("tenants/", datetime.now(UTC)):
        pass


METHODS: dict[str, Callable[[Originals], object]] = {
    "check": lambda originals: originals.check(),
    "put": lambda originals: originals.put(KEY, stream_of(b"x"), max_bytes=1),
    "get": _open,
    "delete": lambda originals: originals.delete(KEY),
    "list": _list,
}


async def test_a_server_that_is_not_there_may_be_tried_again(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    originals = build_originals(f"s3://{bucket.name}", tmp_path)
    with pytest.raises(StorageError, match="does not answer") as unreachable:
        await originals.check()
    assert (unreachable.value.reason, unreachable.value.retryable) == ("unreachable", True)


async def test_a_bucket_that_goes_in_the_middle_of_an_upload_ends_it(bucket: Bucket, tmp_path: Path) -> None:
    originals = build_originals(f"s3://{bucket.name}", tmp_path)

    async def stream() -> AsyncIterator[bytes]:
        async for chunk in stream_of(made_bytes(20 * MIB)):
            yield chunk
        await asyncio.to_thread(bucket.remove)
        async for chunk in stream_of(made_bytes(60 * MIB)):
            yield chunk

    with pytest.raises(StorageError):
        await originals.put(KEY, stream(), max_bytes=1 << 40)


async def test_a_reader_gets_a_copy_that_goes_with_it(bucket: Bucket, tmp_path: Path) -> None:
    originals = build_originals(f"s3://{bucket.name}", tmp_path)
    await originals.put(KEY, stream_of(made_bytes(9 * MIB)), max_bytes=9 * MIB)
    seen: list[Path] = []

    async def parse() -> None:
        async with originals.open_path(KEY) as path:
            seen.append(path)
            assert path.read_bytes() == made_bytes(9 * MIB)
            assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
            raise RuntimeError("parser")

    with pytest.raises(RuntimeError, match="parser"):
        await parse()
    (path,) = seen
    assert not path.exists()
    assert list(path.parent.iterdir()) == []


async def test_copies_of_a_killed_process_go_with_time(bucket: Bucket, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name, age in (
        ("original-old", STALE_SECONDS + 60),
        ("original-new", 60),
        ("other", STALE_SECONDS * 2),
    ):
        (scratch / name).touch()
        os.utime(scratch / name, (time.time() - age,) * 2)
    originals = build_originals(f"s3://{bucket.name}", tmp_path)
    with pytest.raises(StorageError):
        await _open(originals)
    assert sorted(path.name for path in scratch.iterdir()) == ["original-new", "other"]


def test_memory_is_flat(bucket: Bucket, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.adapters.blobs.putting_child",
        str(tmp_path),
        f"s3://{bucket.name}",
    ]
    done = subprocess.run([*command, "300"], stdout=subprocess.PIPE, text=True, check=True, timeout=200)
    said = json.loads(done.stdout)
    assert said["stored"] == 300 * MIB
    assert said["grown_mb"] < 90
