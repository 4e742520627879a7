"""docs/how-to/back-up-and-restore.md as a reader types it: a real dump, really restored; the same answers, and nothing
paid again."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedmill.database import embedded
from tests.docs.runbook_scene import PAPERS, Installation
from tests.support.console_blocks import ConsoleSession
from tests.support.postgres import servers_folder
from tests.support.provider import RunningProvider

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "back-up-and-restore.md"


@pytest.fixture
def installation(provider: RunningProvider) -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(
        prefix="embedmill-backup-", dir=servers_folder(), ignore_cleanup_errors=True
    ) as folder:
        home, data_dir = Path(folder) / "ann", Path(folder) / "data"
        home.mkdir()
        try:
            with Installation(home, data_dir, provider) as here:
                yield here
        finally:
            for each in (data_dir, home / "restored", home / "files.kept"):
                embedded.stop(each)


def test_a_restored_database_answers_the_same_and_pays_for_nothing_again(
    installation: Installation, provider: RunningProvider
) -> None:
    kept = installation.data_dir / "originals" / "kept"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(b"an original")
    with ConsoleSession(installation.home, installation.environment, installation.stands_for) as session:
        assert session.run_page(PAGE) > 20
    assert set(provider.paid_for([text.strip() for text in PAPERS.values()])) == {1}
    restored = installation.home / "restored"
    assert (restored / "pepper").read_bytes() == (installation.data_dir / "pepper").read_bytes()
    assert (restored / "originals" / "kept").read_bytes() == b"an original"


def test_the_owner_who_is_no_administrator_dumps_all_rows_with_the_option_that_the_page_names(
    installation: Installation, tmp_path: Path
) -> None:
    """And without it pg_dump refuses, rather than leave rows out."""
    assert "pg_dump --enable-row-security" in PAGE.read_text(encoding="utf-8")
    with psycopg.connect(installation.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE mill LOGIN")
        connection.execute("ALTER TABLE embedmill.knowledge_chunks OWNER TO mill")
        connection.execute("ALTER SCHEMA embedmill OWNER TO mill")
    program = shutil.which("pg_dump", path=installation.environment["PATH"])
    assert program is not None
    url = installation.url.replace("postgres@", "mill@")

    def dump(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, "--schema=embedmill", "--data-only", "--table=embedmill.knowledge_chunks", *options, url],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert "would be affected by row-level security policy" in dump().stderr
    # The policy names the owner of before; a migration as the new one would name him.
    with psycopg.connect(installation.url, autocommit=True) as connection:
        connection.execute("ALTER POLICY operator ON embedmill.knowledge_chunks TO mill")
    done = dump("--enable-row-security")
    assert done.returncode == 0, done.stderr
    assert "spring tide" in done.stdout
