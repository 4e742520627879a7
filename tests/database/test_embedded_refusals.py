"""Where the embedded PostgreSQL cannot run, one sentence says why and what to do."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedmill.database import embedded, embedded_account, embedded_cluster
from embedmill.errors import ConfigurationError, DatabaseError
from tests.support.embedded_processes import START

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another account is switched to")
Mount = Callable[[str], Path]


@pytest.fixture
def mount(data_dir: Path) -> Iterator[Mount]:
    """Mount a small file system of one's own with the given options; skip where that is not allowed."""
    place = data_dir.parent / "mounted"
    place.mkdir()

    def mounted(options: str) -> Path:
        answer = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=False, capture_output=True
        )
        if answer.returncode != 0:
            pytest.skip("file systems cannot be mounted here")
        return place

    yield mounted
    subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)


def test_data_of_another_major_version_are_left_alone(data_dir: Path) -> None:
    embedded.ensure_running(data_dir)
    embedded.stop(data_dir)
    (data_dir / "postgres" / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(DatabaseError, match="made by PostgreSQL 16, and this embedmill brings PostgreSQL 18"):
        embedded.ensure_running(data_dir)


def test_a_missing_wheel_names_the_extra_and_the_other_way(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_cluster, "WHEEL", "no_such_wheel")
    with pytest.raises(
        ConfigurationError, match=r"pip install 'embedmill\[embedded\]'.*EMBEDMILL_DATABASE_URL"
    ):
        embedded.ensure_running(data_dir)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_way_is_named(data_dir: Path, name: str) -> None:
    data_dir.mkdir()
    (data_dir / "file").touch()
    with pytest.raises(DatabaseError, match=r"cannot be used: .* a file.*EMBEDMILL_DATA_DIR"):
        embedded.ensure_running(data_dir / name)


def test_a_full_disk_is_named_and_can_be_mended(mount: Mount) -> None:
    data_dir = mount("size=20m") / "data"
    with pytest.raises(DatabaseError, match=r"is full: free some space.*The log is in"):
        embedded.ensure_running(data_dir)
    assert not (data_dir / "postgres" / "data").exists()
    subprocess.run(["mount", "-o", "remount,size=200m", str(data_dir.parent)], check=True)
    try:
        assert embedded.ensure_running(data_dir)
    finally:
        embedded.stop(data_dir)


def test_a_disk_that_fills_up_later_is_named_at_the_next_start(mount: Mount) -> None:
    data_dir = mount("size=200m") / "data"
    embedded.ensure_running(data_dir)
    embedded.stop(data_dir)
    filler = data_dir.parent / "filler"
    with filler.open("wb") as stream:
        space = os.statvfs(data_dir)
        os.posix_fallocate(stream.fileno(), 0, space.f_bavail * space.f_frsize)
    with pytest.raises(DatabaseError, match=r"disk.* full"):
        embedded.ensure_running(data_dir)
    filler.unlink()
    try:
        assert embedded.ensure_running(data_dir)
    finally:
        embedded.stop(data_dir)


def test_a_read_only_file_system_is_named(mount: Mount) -> None:
    data_dir = mount("size=20m,ro") / "data"
    with pytest.raises(DatabaseError, match=r"read-only file system.*EMBEDMILL_DATA_DIR"):
        embedded.ensure_running(data_dir)


def test_another_accounts_cluster_is_refused_with_its_name(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.ensure_running(data_dir)
    embedded.stop(data_dir)
    owner = pwd.getpwuid((data_dir / "postgres" / "data").stat().st_uid).pw_name
    monkeypatch.setattr(os, "geteuid", lambda: 65533)
    with pytest.raises(DatabaseError, match=f"belongs to the account {owner}: run embedmill as that account"):
        embedded.ensure_running(data_dir)


@root_only
def test_without_useradd_another_unprivileged_account_serves(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_account, "DEDICATED", "no-such-account")
    monkeypatch.setattr(embedded_account, "_create", lambda name: None)
    embedded.ensure_running(data_dir)
    owner = pwd.getpwuid((data_dir / "postgres" / "data").stat().st_uid).pw_name
    assert owner in ("postgres", "nobody")
    monkeypatch.setattr(embedded_account, "FALLBACKS", ())
    with pytest.raises(DatabaseError, match=r"does not run as root.*useradd --system embedmill"):
        embedded.ensure_running(data_dir.with_name("other"))


@root_only
def test_root_opens_a_private_folder_to_the_servers_account_alone(data_dir: Path) -> None:
    home = data_dir.parent
    home.chmod(0o700)
    embedded.ensure_running(data_dir)
    account = embedded_account.choose_account(data_dir, data_dir / "postgres" / "data")
    assert account.uid != 0

    def may_list(uid: int, folder: Path) -> bool:
        command = ["ls", str(folder)]
        return subprocess.run(command, check=False, capture_output=True, user=uid, group=uid).returncode == 0

    def may_pass(uid: int, folder: Path) -> bool:
        command = ["test", "-e", f"{folder}/data/postgres"]
        return subprocess.run(command, check=False, capture_output=True, user=uid, group=uid).returncode == 0

    assert home.stat().st_mode & 0o007 == 0
    assert may_pass(account.uid, home)
    assert not may_list(account.uid, home)
    assert not may_pass(65533, home)
    # Shut again behind our back (sshd, a careful person, pytest): the next start opens it again.
    embedded.stop(data_dir)
    home.chmod(0o700)
    assert not may_pass(account.uid, home)
    embedded.ensure_running(data_dir)
    assert may_pass(account.uid, home)


@root_only
def test_without_access_control_lists_an_unused_group_is_the_way_or_nothing_is(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = data_dir.parent
    grant = embedded_account._grant_passage

    def none_here(folder: Path, facts: os.stat_result, uid: int) -> None:
        if folder == home:  # what embedmill itself is installed in may need them
            raise OSError(95, "not supported")
        grant(folder, facts, uid)

    monkeypatch.setattr(embedded_account, "_grant_passage", none_here)
    home.chmod(0o750)  # its group has rights already: they are not given to another group
    with pytest.raises(DatabaseError, match=f"may not pass through {home}.*EMBEDMILL_DATA_DIR"):
        embedded.ensure_running(data_dir)
    home.chmod(0o700)
    embedded.ensure_running(data_dir)
    assert home.stat().st_mode & 0o777 == 0o710


@root_only
def test_a_folder_of_a_person_is_served_as_that_person(data_dir: Path) -> None:
    data_dir.mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(data_dir, nobody.pw_uid, nobody.pw_gid)
    embedded.ensure_running(data_dir)
    assert (data_dir / "postgres" / "data").stat().st_uid == nobody.pw_uid
    assert (data_dir / "postgres.lock").stat().st_uid == nobody.pw_uid


@root_only
def test_an_owner_without_a_name_still_serves_its_data(data_dir: Path) -> None:
    embedded.ensure_running(data_dir)
    embedded.stop(data_dir)
    # As when a container was made anew and the account of the old one is gone.
    subprocess.run(["chown", "-R", "54321:54321", str(data_dir / "postgres")], check=True)
    embedded.ensure_running(data_dir)
    assert embedded.is_running(data_dir)


@root_only
def test_root_without_the_right_to_look_into_processes_can_still_stop_the_server(data_dir: Path) -> None:
    # As in a container with the usual capabilities.
    limited = ["setpriv", "--bounding-set=-sys_ptrace", sys.executable, "-c"]
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    stop = START.replace("ensure_running", "stop")
    for program, said in ((START, "postgresql://"), (stop, "True"), (stop, "False")):
        answer = subprocess.run(
            [*limited, program, str(data_dir)], check=True, capture_output=True, text=True
        )
        assert answer.stdout.startswith(said)
    assert not embedded.is_running(data_dir)


@root_only
def test_root_writes_through_no_link_that_the_servers_account_left(data_dir: Path, tmp_path: Path) -> None:
    embedded.ensure_running(data_dir)
    embedded.stop(data_dir)
    precious = tmp_path / "precious"
    precious.write_text("root's")
    (data_dir / "postgres" / "embedmill.new").symlink_to(precious)
    (data_dir / "postgres" / "log" / "startup.log").unlink()
    (data_dir / "postgres" / "log" / "startup.log").symlink_to(precious)
    embedded.ensure_running(data_dir)
    embedded.stop(data_dir)
    (data_dir / "postgres" / "server.lock").unlink()
    (data_dir / "postgres" / "server.lock").symlink_to(precious)
    with pytest.raises(DatabaseError, match="a link stands where a file should"):
        embedded.ensure_running(data_dir)
    assert precious.read_text() == "root's"
    assert precious.stat().st_uid == 0
    (data_dir / "postgres" / "server.lock").unlink()
