"""docs/runbook.md as somebody types it at night: each chapter's commands against a real installation that has the
trouble the chapter is about. A renamed option or another answer fails here."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedmill.database import embedded
from tests.docs.runbook_scene import TROUBLES, Installation
from tests.support.console_blocks import ConsoleSession
from tests.support.console_pages import Command, steps_of
from tests.support.postgres import servers_folder
from tests.support.provider import RunningProvider

PAGE = Path(__file__).parents[2] / "docs" / "runbook.md"
TEXT = PAGE.read_text(encoding="utf-8")
CHAPTERS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
# Alert rules and messages lead to these: their names stay.
PROMISED = {
    "First look", "Stuck queue", "No workers", "Failure rate", "Retries", "Dead letters growing", "429 storm",
    "Quota exhausted", "Provider away", "Coverage falling", "Oldest xmin", "Locks", "Budget reached", "Cost explosion",
    "A tenant who floods", "A leaked key", "Webhook failures", "Reprocess by hand", "Roll back", "Back up and restore",
    "Upgrade", "Rotate keys", "Disk full", "Database away", "Lost worker",
}  # fmt: skip
_MOST_NOT_RUN = 1


@pytest.fixture
def installation(provider: RunningProvider) -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(
        prefix="embedmill-runbook-", dir=servers_folder(), ignore_cleanup_errors=True
    ) as folder:
        home, data_dir = Path(folder) / "ann", Path(folder) / "data"
        home.mkdir()
        try:
            with Installation(home, data_dir, provider) as here:
                yield here
        finally:
            embedded.stop(data_dir)


@pytest.mark.timeout(600)
def test_every_command_does_and_prints_what_the_runbook_says(
    installation: Installation, tmp_path: Path
) -> None:
    run = 0
    with ConsoleSession(installation.home, installation.environment, installation.stands_for) as session:
        for title, text in CHAPTERS.items():
            installation.make_trouble(title)
            chapter = tmp_path / f"runbook.md, {title}"
            chapter.write_text(text, encoding="utf-8")
            run += session.run_page(chapter)
    assert run > 40


def test_the_chapters_that_alerts_lead_to_are_there() -> None:
    assert CHAPTERS.keys() >= PROMISED
    assert TROUBLES.keys() <= CHAPTERS.keys(), "a trouble that no chapter is about"
    assert "### Rotate the pepper" in TEXT


def test_almost_everything_is_run() -> None:
    """What is only shown is marked in the source; no command hides in a block of another kind."""
    assert TEXT.count("<!-- run: not,") <= _MOST_NOT_RUN
    kinds = re.findall(r"^```(\w+)$", TEXT, re.MULTILINE)
    assert set(kinds) == {"console"}
    commands = [step for step in steps_of(TEXT, PAGE.name) if isinstance(step, Command)]
    assert len(commands) > 40
