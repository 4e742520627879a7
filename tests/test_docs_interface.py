"""What the reference and the site refuse: an interface that nobody has explained, a page that leads nowhere. Each fault
is put into a copy of the repository, as in tests/test_docs.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import copy_repository, replace, run_script

FUNCTIONS = "src/embedmill/database/functions"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return copy_repository(tmp_path)


@pytest.mark.parametrize(
    ("page", "path", "old", "new", "said"),
    [
        (
            "events.md",
            "src/embedmill/webhooks/registry.py",
            '    "job.failed":',
            '    "job.sneezed": "it sneezed",\n    "job.failed":',
            "[event_types] lacks job.sneezed",
        ),
        (
            "events.md",
            "src/embedmill/webhooks/registry.py",
            '    "batch.completed": "the last job of a batch ended",\n',
            "",
            "has batch.completed that nothing tells",
        ),
        (
            "configuration.md",
            "src/embedmill/worker/sweeps.py",
            '        "check_tables": 30.0,',
            '        "check_tables": 30.0,\n        "water_plants": 60.0,',
            "[sweep_tasks] lacks water_plants",
        ),
        (
            "sql.md",
            f"{FUNCTIONS}/60_public.sql",
            "CREATE OR REPLACE FUNCTION embedmill.stop_worker(",
            "\nCREATE OR REPLACE FUNCTION embedmill.stop_worker(",
            "stop_worker has no comment",
        ),
        (
            "sql.md",
            f"{FUNCTIONS}/60_public.sql",
            "-- Says that a worker lives;",
            "-- It is new.\nCREATE OR REPLACE FUNCTION embedmill.brand_new() RETURNS void\nLANGUAGE sql AS $$\n$$;\n\n"
            "-- Says that a worker lives;",
            "schema.txt does not know brand_new",
        ),
        (
            "sql.md",
            f"{FUNCTIONS}/80_source_views.sql",
            "FUNCTION embedmill.search(",
            "FUNCTION embedmill.seek(",
            "80_source_views.sql no longer holds search: it is public, and may not go",
        ),
        (
            "sql.md",
            f"{FUNCTIONS}/80_source_views.sql",
            "ERRCODE = 'EM404'",
            "ERRCODE = 'EM418'",
            "[sqlstates] lacks EM418",
        ),
        (
            "configuration.md",
            f"{FUNCTIONS}/15_config.sql",
            "    ('lease_seconds', '600'",
            "    ('lease_seconds', (SELECT 600)",
            "cannot read lease_seconds in 15_config.sql",
        ),
        (
            "metrics.md",
            "src/embedmill/adapters/telemetry/catalog.py",
            '.",\n',
            '",\n',
            "is not described by a sentence",
        ),
    ],
)
def test_what_nobody_has_explained_stops_the_reference(
    repository: Path, page: str, path: str, old: str, new: str, said: str
) -> None:
    replace(repository / path, old, new)
    status, printed = run_script(repository, "generate_reference.py", page)
    assert status == 1
    assert said in printed


def test_a_new_key_of_the_configuration_is_missed_in_the_page_and_shown(repository: Path) -> None:
    key = "    ('shoe_size', '43', 'integer', 1, 99,\n     'for boots, and a sailor''s hat'),\n    ('lease_seconds'"
    replace(repository / FUNCTIONS / "15_config.sql", "    ('lease_seconds'", key)
    status, printed = run_script(repository, "generate_reference.py", "configuration.md", "--check")
    assert status == 1
    assert re.search(r"^docs/reference: .*\bconfiguration\.md", printed, re.MULTILINE)
    assert "+| `shoe_size` | `43` | whole number, 1 to 99 | for boots, and a sailor's hat |" in printed


def test_the_site_is_not_built_with_a_link_or_a_page_that_leads_nowhere(repository: Path) -> None:
    (repository / "docs" / "lonely.md").write_text(
        "# Lonely\n\n[gone](no-such-page.md) [nowhere](glossary.md#no-such-heading)\n", encoding="utf-8"
    )
    done = subprocess.run(
        [str(Path(sys.executable).with_name("mkdocs")), "build", "--strict"],
        cwd=repository,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "'no-such-page.md'" in done.stderr
    assert "no-such-heading" in done.stderr
    assert "lonely.md" in done.stderr.partition('not included in the "nav"')[2]
