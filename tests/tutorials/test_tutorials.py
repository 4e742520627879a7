"""Each tutorial, and the page on searching, does what it says: its commands are run, from a bare home folder, and
print what the page shows."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from tests.support.console_blocks import ConsoleSession, plain_environment

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
SEARCH = ROOT / "docs" / "how-to" / "search.md"
# The addresses of the pages, which may be taken on a machine that runs tests.
SERVICE = "127.0.0.1:8080"
RECEIVER = "127.0.0.1:9000"
RECEIVER_IN_PYTHON = '("127.0.0.1", 9000)'


@pytest.mark.parametrize("page", [*TUTORIALS, SEARCH], ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says(page: Path, data_dir: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "embedmill").symlink_to(ROOT)  # the clone that a page takes examples from
    service, receiver = free_ports(2)
    environment = plain_environment(
        home,
        Path(sys.executable).parent,
        EMBEDMILL_DATA_DIR=str(data_dir),
        EMBEDMILL_PORT=str(service),
    )
    stands_for = {
        "/home/you": str(home),
        SERVICE: f"127.0.0.1:{service}",
        RECEIVER: f"127.0.0.1:{receiver}",
        RECEIVER_IN_PYTHON: f'("127.0.0.1", {receiver})',
    }
    with ConsoleSession(home, environment, stands_for) as session:
        assert session.run_page(page) >= 10


def test_there_are_tutorials() -> None:
    assert len(TUTORIALS) >= 4


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, no two the same."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
