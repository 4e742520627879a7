"""The embedded PostgreSQL after everything was killed, at every moment: it comes back by itself."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import psutil
import psycopg
import pytest

from embedmill.database import embedded
from embedmill.errors import DatabaseError
from tests.support.embedded_processes import (
    kill_everything,
    postmasters,
    server_processes,
    start_in_a_process,
)


def pid_file(data_dir: Path) -> Path:
    return data_dir / "postgres" / "data" / "postmaster.pid"


def write_pid(data_dir: Path, pid: int) -> None:
    """Put another number into postmaster.pid, as if that process had inherited it."""
    lines = pid_file(data_dir).read_text().splitlines(keepends=True)
    pid_file(data_dir).write_text("".join([f"{pid}\n", *lines[1:]]))


def test_five_kills_of_everything_lose_nothing_committed(data_dir: Path) -> None:
    with psycopg.connect(embedded.ensure_running(data_dir)) as connection:
        connection.execute("CREATE TABLE kept (round int, number int)")
    for round_ in range(5):
        # Committed rows, and an open transaction whose rows must not come back.
        with psycopg.connect(embedded.ensure_running(data_dir)) as connection:
            connection.execute("INSERT INTO kept SELECT %s, n FROM generate_series(1, 5000) n", (round_,))
        open_one = psycopg.connect(embedded.ensure_running(data_dir))
        open_one.execute("INSERT INTO kept VALUES (-1, -1)")
        kill_everything(data_dir)
        open_one.close()
        assert not embedded.is_running(data_dir)
        with psycopg.connect(embedded.ensure_running(data_dir)) as connection:
            found = connection.execute("SELECT round, count(*) FROM kept GROUP BY 1 ORDER BY 1").fetchall()
        assert found == [(done, 5000) for done in range(round_ + 1)]
    assert len(postmasters(data_dir)) == 1


def test_a_reused_process_number_in_postmaster_pid_stops_nobody(data_dir: Path) -> None:
    embedded.ensure_running(data_dir)
    owner = (data_dir / "postgres" / "data").stat().st_uid
    kill_everything(data_dir)
    # Of the same account: PostgreSQL itself refuses to start while such a process lives.
    with subprocess.Popen(["sleep", "300"], user=owner if os.geteuid() == 0 else None) as innocent:
        write_pid(data_dir, innocent.pid)
        (data_dir / "postgres" / "socket" / ".s.PGSQL.5432.lock").write_text(f"{innocent.pid}\n")
        try:
            with psycopg.connect(embedded.ensure_running(data_dir)) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            assert embedded.stop(data_dir)
            assert innocent.poll() is None
        finally:
            innocent.kill()


def test_an_unreaped_postmaster_stops_nobody(data_dir: Path) -> None:
    embedded.ensure_running(data_dir)
    kill_everything(data_dir)
    dead = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        assert psutil.Process(dead.pid).status() == psutil.STATUS_ZOMBIE
        write_pid(data_dir, dead.pid)
        (data_dir / "postgres" / "socket" / ".s.PGSQL.5432.lock").write_text(f"{dead.pid}\n")
        assert "host=" in embedded.ensure_running(data_dir)
        assert embedded.is_running(data_dir)
    finally:
        dead.wait()


def test_a_torn_pid_file_stops_nobody(data_dir: Path) -> None:
    embedded.ensure_running(data_dir)
    for content in ("", "12", "garbage\n\n\n", "0\n\n\n\n\n\n\nready\n", "-5\n" * 8):
        kill_everything(data_dir)
        pid_file(data_dir).write_text(content)
        assert not embedded.is_running(data_dir)
        embedded.ensure_running(data_dir)
        assert embedded.is_running(data_dir)


def test_a_backend_that_outlives_its_postmaster_is_ended(data_dir: Path) -> None:
    connection = psycopg.connect(embedded.ensure_running(data_dir), autocommit=True)
    backend = psutil.Process(connection.info.backend_pid)
    # A loop that looks at no signal and no socket, as a long index build does.
    busy = "DO $$ BEGIN WHILE true LOOP END LOOP; END $$"

    def loop() -> None:
        with pytest.raises(psycopg.OperationalError):
            connection.execute(busy)

    runner = threading.Thread(target=loop)
    runner.start()
    (postmaster,) = postmasters(data_dir)
    postmaster.kill()
    postmaster.wait(timeout=60)
    with psycopg.connect(embedded.ensure_running(data_dir)) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)
    runner.join()
    connection.close()
    assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE
    assert len(postmasters(data_dir)) == 1


def test_killed_while_making_the_cluster_it_starts_over(data_dir: Path) -> None:
    root = data_dir / "postgres"
    with start_in_a_process(data_dir) as starter:
        while not list(root.glob("new-*")):
            assert starter.poll() is None, "it ended before it could be killed"
        starter.kill()
    assert not (root / "data").exists()
    with psycopg.connect(embedded.ensure_running(data_dir)) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("embedmill",)
    assert list(root.glob("new-*")) == []
    assert len(postmasters(data_dir)) == 1


def test_killed_while_starting_the_next_one_finds_or_starts_one(data_dir: Path) -> None:
    embedded.ensure_running(data_dir)
    for _ in range(5):
        kill_everything(data_dir)
        with start_in_a_process(data_dir) as starter:
            while not server_processes(data_dir):
                assert starter.poll() is None
            starter.kill()
        with psycopg.connect(embedded.ensure_running(data_dir)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert len(postmasters(data_dir)) == 1


def test_a_swept_socket_or_a_lost_program_makes_it_start_again(data_dir: Path) -> None:
    first = embedded.ensure_running(data_dir)
    (before,) = postmasters(data_dir)
    for file in (data_dir / "postgres" / "socket").iterdir():
        file.unlink()
    assert embedded.ensure_running(data_dir) == first
    (after,) = postmasters(data_dir)
    assert after.pid != before.pid
    options = data_dir / "postgres" / "data" / "postmaster.opts"
    options.write_text(options.read_text().replace("/bin/postgres", "/no-such-bin/postgres"))
    with psycopg.connect(embedded.ensure_running(data_dir), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
    assert postmasters(data_dir) != [after]


def test_a_deleted_folder_is_made_anew_beside_its_dying_server(data_dir: Path) -> None:
    long_one = data_dir.parent / ("y" * 120)  # its socket lies in /tmp, where the old server's still is
    for folder in (data_dir, long_one):
        embedded.ensure_running(folder)
        old = server_processes(folder)
        while folder.exists():  # the server may write a file meanwhile
            subprocess.run(["rm", "-rf", folder], check=False)
        with psycopg.connect(embedded.ensure_running(folder)) as connection:
            connection.execute("CREATE TABLE fresh ()")
        assert embedded.stop(folder)
        for process in old:
            if process.is_running():
                process.kill()


def test_a_recovery_is_waited_for_and_announced(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    embedded.ensure_running(data_dir)
    embedded.stop(data_dir)
    cluster = data_dir / "postgres" / "data"
    go, begun = cluster / "go", cluster / "begun"
    # A recovery that lasts until the test says so.
    with (cluster / "postgresql.conf").open("a") as settings:
        settings.write(
            "hot_standby = off\n"
            "restore_command = 'touch begun; while [ ! -e go ]; do sleep 0.05; done; false'\n"
        )
    (cluster / "recovery.signal").touch()
    os.chown(cluster / "recovery.signal", cluster.stat().st_uid, cluster.stat().st_gid)
    monkeypatch.setattr(embedded, "_NOTICE_SECONDS", 0.0)
    addresses: list[str] = []
    waiter = threading.Thread(target=lambda: addresses.append(embedded.ensure_running(data_dir)))
    waiter.start()
    while "repairs its files" not in caplog.text or not begun.exists():
        waiter.join(timeout=0.05)
        assert waiter.is_alive()
    assert not embedded.is_running(data_dir)
    go.touch()
    waiter.join()
    with psycopg.connect(addresses[0]) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)


def test_after_a_backend_crash_a_failed_connection_is_looked_after(data_dir: Path) -> None:
    victim = psycopg.connect(embedded.ensure_running(data_dir))
    psutil.Process(victim.info.backend_pid).kill()
    victim.close()
    # The server ends all its sessions, recovers and goes on under the same postmaster.
    with psycopg.connect(embedded.ensure_running(data_dir, connection_failed=True)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_server_that_cannot_start_says_why_and_can_be_mended(data_dir: Path) -> None:
    embedded.ensure_running(data_dir)
    embedded.stop(data_dir)
    settings = data_dir / "postgres" / "data" / "postgresql.conf"
    good = settings.read_text()
    settings.write_text(good + "shared_buffers = 'much'\n")
    with pytest.raises(DatabaseError, match=r"could not be started.*shared_buffers.*log is in") as refused:
        embedded.ensure_running(data_dir)
    assert "\n" not in str(refused.value)
    settings.write_text(good)
    embedded.ensure_running(data_dir)
