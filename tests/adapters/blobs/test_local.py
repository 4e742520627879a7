"""The folder of originals: its rights, a full disk, kill -9, flat memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from embedmill.adapters.blobs.store import build_originals
from embedmill.errors import StorageError
from embedmill.ports import original_key
from tests.adapters.blobs.putting_child import KEY
from tests.adapters.blobs.streams import stream_of

MODULE = "tests.adapters.blobs.putting_child"


def put_in_child(data_dir: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", MODULE, str(data_dir), *arguments],
        stdout=subprocess.PIPE, text=True, check=True, timeout=120,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def files_under(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount a disk here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_only_the_account_itself_may_read(tmp_path: Path) -> None:
    put_in_child(tmp_path, "", "1")
    folder = tmp_path / "originals"
    paths = [folder, *folder.rglob("*")]
    assert len(paths) == 4
    assert {oct(path.stat().st_mode & 0o777) for path in paths if path.is_dir()} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in paths if path.is_file()} == {"0o600"}


async def test_a_reader_gets_the_very_file(tmp_path: Path) -> None:
    originals = build_originals(None, tmp_path)
    key = original_key(1, uuid4())
    await originals.put(key, stream_of(b"text"), max_bytes=4)
    async with originals.open_path(key) as path:
        assert path == tmp_path / "originals" / key
    assert files_under(tmp_path) == [path.name]


async def test_a_link_in_the_place_of_an_original_is_not_followed(tmp_path: Path) -> None:
    originals = build_originals(None, tmp_path)
    key = original_key(1, uuid4())
    place = tmp_path / "originals" / key
    place.parent.mkdir(parents=True)
    place.symlink_to("/etc/passwd")
    with pytest.raises(StorageError):
        async with originals.open_path(key):
            pass
    await originals.put(key, stream_of(b"text"), max_bytes=4)
    async with originals.open_path(key) as path:
        assert path.read_bytes() == b"text"


def test_a_full_disk_says_so_and_nothing_is_left_on_it(small_disk: Path) -> None:
    said = put_in_child(small_disk, "", "10")
    assert (said["stored"], said["reason"], said["retryable"]) == (None, "full", True)
    assert "free some" in said["message"]
    assert "EMBEDMILL_ORIGINALS_URL" in said["message"]
    assert files_under(small_disk) == []
    assert put_in_child(small_disk, "", "2")["stored"] == 2 * 1024 * 1024, "there is room again"


async def test_the_check_finds_a_full_and_a_closed_disk(small_disk: Path) -> None:
    originals = build_originals(None, small_disk)
    await originals.check()
    (small_disk / "other").write_bytes(bytes(3 * 1024 * 1024))
    with pytest.raises(OSError, match="No space"):
        (small_disk / "more").write_bytes(bytes(2 * 1024 * 1024))
    with pytest.raises(StorageError) as full:
        await originals.check()
    assert full.value.reason == "full"
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    await asyncio.to_thread(subprocess.run, remount, check=True)
    with pytest.raises(StorageError) as closed:
        await originals.check()
    assert (closed.value.reason, closed.value.retryable) == ("forbidden", False)


def test_a_quota_says_so_and_nothing_is_left(tmp_path: Path) -> None:
    said = put_in_child(tmp_path, "", "10", "--file-limit-mib", "4")
    assert (said["stored"], said["reason"], said["retryable"]) == (None, "full", True)
    assert files_under(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another account")
def test_a_folder_of_another_account_says_whose_right_is_missing() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        said = put_in_child(Path(folder), "", "1", "--as-nobody")
    assert (said["reason"], said["retryable"]) == ("forbidden", False)
    assert "give it the right" in said["message"]


async def test_a_file_where_the_folder_should_be_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "originals").write_text("mine")
    originals = build_originals(None, tmp_path)
    with pytest.raises(StorageError, match="does not work"):
        await originals.check()
    with pytest.raises(StorageError, match="does not work"):
        await originals.put(original_key(1, uuid4()), stream_of(b"x"), max_bytes=1)
    assert (tmp_path / "originals").read_text() == "mine"


async def test_kill_9_never_shows_half_a_file_and_the_remains_are_swept(tmp_path: Path) -> None:
    command = [sys.executable, "-m", MODULE, str(tmp_path), "", "5", "--stand-still"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "standing\n"
        child.send_signal(signal.SIGKILL)
    originals = build_originals(None, tmp_path)
    with pytest.raises(StorageError) as missing:
        async with originals.open_path(KEY):
            pass
    assert missing.value.reason == "missing"
    later = datetime.now(UTC) + timedelta(hours=1)
    remains = [key async for key in originals.list_older("tenants/", later)]
    assert [key.rpartition(".part-")[0] for key in remains] == [KEY]
    await originals.delete(remains[0])
    assert files_under(tmp_path) == []


async def test_files_of_others_are_neither_listed_nor_removable(tmp_path: Path) -> None:
    folder = tmp_path / "originals" / "tenants" / "1"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    originals = build_originals(None, tmp_path)
    later = datetime.now(UTC) + timedelta(hours=1)
    assert [key async for key in originals.list_older("tenants/", later)] == []
    with pytest.raises(StorageError):
        await originals.delete("tenants/1/notes.txt")


def test_memory_is_flat(tmp_path: Path) -> None:
    said = put_in_child(tmp_path, "", "300")
    assert said["stored"] == 300 * 1024 * 1024
    assert said["grown_mb"] < 30
