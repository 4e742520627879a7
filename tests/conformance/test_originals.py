"""What every store of originals keeps, a folder and a bucket alike: whole or not at all, whatever happens."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from embedmill.adapters.blobs.store import build_originals
from embedmill.errors import DocumentError, StorageError
from embedmill.ports import Originals, StoredOriginal, original_key
from tests.adapters.blobs.bucket import Bucket, s3_server
from tests.adapters.blobs.streams import MIB, failing_stream, made_bytes, standing_stream, stream_of

PART = 8 * MIB
NO_LIMIT = 1 << 40


@dataclass(frozen=True)
class Kept:
    originals: Originals
    contents: Callable[[], list[str]]
    """All that stands in the store, remains included."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["local", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    if request.param == "local":
        folder = tmp_path / "originals"
        return Kept(
            build_originals(None, tmp_path),
            lambda: sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
        )
    bucket = Bucket(request.getfixturevalue("endpoint"), f"test-{uuid4().hex}")
    bucket.create()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    prefix = "some/prefix/"
    return Kept(
        build_originals(f"s3://{bucket.name}/{prefix}", tmp_path),
        lambda: [key.replace(prefix, "") for key in bucket.contents()],
    )


@pytest.fixture
def key() -> str:
    return original_key(7, uuid4())


async def read(originals: Originals, key: str) -> bytes:
    async with originals.open_path(key) as path:
        return path.read_bytes()


def files_under(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_is_a_store_of_originals(kept: Kept) -> None:
    assert isinstance(kept.originals, Originals)


@pytest.mark.parametrize("size", [0, 1, 65_537, PART - 1, PART, PART + 1, 2 * PART, 41 * MIB])
async def test_gives_back_what_it_took(kept: Kept, key: str, tmp_path: Path, size: int) -> None:
    content = made_bytes(size)
    stored = await kept.originals.put(key, stream_of(content), max_bytes=size)
    assert stored == StoredOriginal(key, size, hashlib.sha256(content).digest())
    assert await read(kept.originals, key) == content
    await kept.originals.get_to(key, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert kept.contents() == [key]


async def test_takes_a_stream_of_single_and_of_no_bytes(kept: Kept, key: str) -> None:
    async def dribble() -> AsyncIterator[bytes]:
        for byte in b"slowly":
            yield b""
            yield bytes([byte])

    assert (await kept.originals.put(key, dribble(), max_bytes=6)).size_bytes == 6
    assert await read(kept.originals, key) == b"slowly"


@pytest.mark.parametrize(("size", "limit"), [(1, 0), (101, 100), (20 * MIB, 17 * MIB)])
async def test_what_is_too_large_is_refused_and_removed(kept: Kept, key: str, size: int, limit: int) -> None:
    with pytest.raises(DocumentError) as refused:
        await kept.originals.put(key, stream_of(made_bytes(size)), max_bytes=limit)
    assert refused.value.reason == "too_large"
    assert kept.contents() == []


@pytest.mark.parametrize("size", [0, 1000, 3 * MIB, 20 * MIB, 40 * MIB])
async def test_cancelled_in_the_middle_leaves_nothing(kept: Kept, key: str, size: int) -> None:
    reached = asyncio.Event()
    putting = asyncio.create_task(
        kept.originals.put(key, standing_stream(made_bytes(size), reached), max_bytes=NO_LIMIT)
    )
    await reached.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert kept.contents() == []


@pytest.mark.parametrize("size", [100, 9 * MIB])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 50, 150, 400])
async def test_cancelled_at_any_moment_leaves_nothing(kept: Kept, key: str, size: int, turns: int) -> None:
    putting = asyncio.create_task(kept.originals.put(key, stream_of(made_bytes(size)), max_bytes=NO_LIMIT))
    for _ in range(turns):
        await asyncio.sleep(0)
    putting.cancel()
    with suppress(asyncio.CancelledError):
        await putting
    assert kept.contents() == ([] if putting.cancelled() else [key])


@pytest.mark.parametrize("size", [0, 1000, 20 * MIB])
@pytest.mark.parametrize("error", [RuntimeError("torn"), FileNotFoundError(2, "theirs"), TimeoutError()])
async def test_an_error_of_the_reader_passes_untouched_and_leaves_nothing(
    kept: Kept, key: str, size: int, error: Exception
) -> None:
    with pytest.raises(type(error)) as raised:
        await kept.originals.put(key, failing_stream(made_bytes(size), error), max_bytes=NO_LIMIT)
    assert raised.value is error
    assert kept.contents() == []


@pytest.mark.parametrize("size", [1000, 20 * MIB])
async def test_an_upload_that_fails_leaves_what_stood_there(kept: Kept, key: str, size: int) -> None:
    await kept.originals.put(key, stream_of(b"first"), max_bytes=5)
    with pytest.raises(RuntimeError):
        await kept.originals.put(key, failing_stream(made_bytes(size), RuntimeError()), max_bytes=NO_LIMIT)
    assert await read(kept.originals, key) == b"first"
    assert kept.contents() == [key]


async def test_many_at_once_do_not_mix(kept: Kept) -> None:
    contents = {original_key(n % 3, uuid4()): made_bytes(100_000 + n, seed=n) for n in range(24)}
    contents[original_key(1, uuid4())] = made_bytes(10 * MIB)
    await asyncio.gather(
        *(kept.originals.put(key, stream_of(c, 8_192), max_bytes=NO_LIMIT) for key, c in contents.items())
    )
    for key, content in contents.items():
        assert await read(kept.originals, key) == content
    assert kept.contents() == sorted(contents)


async def test_of_two_under_one_key_one_stands_whole(kept: Kept, key: str) -> None:
    contents = [made_bytes(9 * MIB + n, seed=n) for n in range(3)]
    await asyncio.gather(*(kept.originals.put(key, stream_of(c), max_bytes=NO_LIMIT) for c in contents))
    assert await read(kept.originals, key) in contents
    assert kept.contents() == [key]


async def test_deleting_twice_is_fine(kept: Kept, key: str) -> None:
    await kept.originals.put(key, stream_of(b"text"), max_bytes=4)
    await kept.originals.delete(key)
    await kept.originals.delete(key)
    assert kept.contents() == []


async def test_what_is_missing_is_said_to_be(kept: Kept, key: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="upload the file again") as opened:
        await read(kept.originals, key)
    assert (opened.value.reason, opened.value.retryable) == ("missing", False)
    with pytest.raises(StorageError) as fetched:
        await kept.originals.get_to(key, tmp_path / "copy")
    assert fetched.value.reason == "missing"
    assert files_under(tmp_path) == set()


@pytest.mark.parametrize(
    "hostile",
    [
        "", "/", "/etc/passwd", "..", "../x", "tenants/../../x", "tenants/1/../../../etc/passwd", "tenants/1/",
        "tenants/1/report.pdf", "tenants//aa", "tenants/-1/6f9619ff-8b86-4011-b42d-00cf4fc964ff",
        "tenants/1/6f9619ff-8b86-4011-b42d-00cf4fc964ff/x", "tenants/1/6f9619ff-8b86-4011-b42d-00cf4fc964ff\n",
        "tenants/1/6F9619FF-8B86-4011-B42D-00CF4FC964FF", "tenants/１/6f9619ff-8b86-4011-b42d-00cf4fc964ff",
        "tenants\\1\\6f9619ff-8b86-4011-b42d-00cf4fc964ff", "tenants/1/\x00", "%2e%2e/tenants/1",
    ],
)  # fmt: skip
async def test_hostile_keys_are_refused(kept: Kept, tmp_path: Path, hostile: str) -> None:
    async def all_older() -> None:
        async for _ in kept.originals.list_older(hostile, datetime.now(UTC)):
            pass

    for attempt in (
        lambda: kept.originals.put(hostile, stream_of(b"x"), max_bytes=1),
        lambda: read(kept.originals, hostile),
        lambda: kept.originals.get_to(hostile, tmp_path / "copy"),
        lambda: kept.originals.delete(hostile),
        *([] if hostile == "tenants/1/" else [all_older]),
    ):
        with pytest.raises(StorageError) as refused:
            await attempt()
        assert refused.value.reason == "bad_key"
    assert kept.contents() == []
    assert files_under(tmp_path) == set()


async def test_lists_what_is_older_under_a_prefix(kept: Kept) -> None:
    keys = sorted(original_key(tenant, uuid4()) for tenant in (1, 1, 11, 2))

    async def older(prefix: str, before: datetime) -> list[str]:
        return sorted([key async for key in kept.originals.list_older(prefix, before)])

    later, earlier = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(hours=1)
    assert await older("tenants/", later) == []
    for key in keys:
        await kept.originals.put(key, stream_of(b"text"), max_bytes=4)
    assert await older("tenants/", later) == keys
    assert await older("tenants/1/", later) == [key for key in keys if key.startswith("tenants/1/")]
    assert await older("tenants/", earlier) == []
    async for key in kept.originals.list_older("tenants/", later):
        await kept.originals.delete(key)
    assert kept.contents() == []


async def test_a_check_passes_and_leaves_nothing(kept: Kept) -> None:
    await asyncio.gather(*(kept.originals.check() for _ in range(5)))
    assert kept.contents() == []
