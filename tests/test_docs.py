"""The documentation tells the truth, and the scripts that hold it to the code find what does not.

Each fault is put into a copy of the repository, and the copy's own scripts are run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "*.npy", "*.npz", "*.safetensors", "documents", "build", "dist"
)


def copy_repository(to: Path) -> Path:
    """A copy with all that documentation and scripts look at; without git."""
    return Path(shutil.copytree(ROOT, to / "copy", ignore=NOT_COPIED))


def run_script(repository: Path, name: str, *arguments: str) -> tuple[int, str]:
    """Exit status and everything that was printed."""
    command = [sys.executable, str(repository / "scripts" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository)
    return done.returncode, done.stdout + done.stderr


def replace(path: Path, old: str, new: str) -> None:
    """Put a fault in; a text that is not there would make the test prove nothing."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path.name} no longer holds {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return copy_repository(tmp_path)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What check_docs.py says of a copy with one fault of each kind in its prose and files."""
    repository = copy_repository(tmp_path_factory.mktemp("docs"))
    # In two parts, so that this file does not name one.
    registry = "pypi" + ".org"
    (repository / "docs" / "faulty.md").write_text(
        "# Faulty\n\n"
        "[gone](no-such-page.md) [nowhere](glossary.md#no-such-heading) ![](no-such-picture.svg)\n\n"
        "`embedmill conjure`, `embedmill ingest --no-such-option x`, `make no-such-target`, `queue/no_such_file.py`,\n"
        "`queue/items.py: no_such_name`, EMBEDMILL_NO_SUCH_SETTING\n\n"
        "    embedmill status\n\n"
        "```sh\n$ embedmill pipeline destroy papers | head\n"
        "embedmill search 'in quotes --not-an-option' \\\n    --bogus\n```\n\n"
        f"Install from https://{registry}/simple, or look into {repository}/docs.\n",
        encoding="utf-8",
    )
    decisions = repository / "docs" / "decisions"
    (decisions / "0001-the-same-number.md").write_text("# 1. The same number\n", encoding="utf-8")
    replace(repository / "CHANGELOG.md", "## [0.1.0]", "## [0.0.9]")
    replace(repository / "ARCHITECTURE.md", "    [*] --> staged", "    [*] --> started")
    replace(repository / "docs" / "explanation" / "jobs.md", "    [*] --> staged", "    [*] --> begun")
    replace(repository / "docs" / "reference" / "cli.md", "## embedmill doctor", "## embedmill physician")
    status, said = run_script(repository, "check_docs.py")
    assert status == 1
    return said.splitlines()


def test_the_documentation_as_it_stands_has_no_fault(repository: Path) -> None:
    assert run_script(repository, "check_docs.py") == (0, "")


@pytest.mark.parametrize(
    "expected",
    [
        "docs/faulty.md: the link no-such-page.md leads nowhere",
        "docs/faulty.md: the link no-such-picture.svg leads nowhere",
        "docs/faulty.md: the link glossary.md#no-such-heading leads to no heading",
        "docs/faulty.md: `embedmill conjure`: there is no command 'conjure'",
        "docs/faulty.md: `embedmill ingest --no-such-option x`: there is no option --no-such-option",
        "docs/faulty.md: `$ embedmill pipeline destroy papers | head`: there is no command 'destroy'",
        "docs/faulty.md: `make no-such-target`: the Makefile has no such target",
        "docs/faulty.md: `queue/no_such_file.py`: there is no such file",
        "docs/faulty.md: `queue/items.py: no_such_name`: the file holds no such name",
        "docs/faulty.md: EMBEDMILL_NO_SUCH_SETTING is no setting",
        "docs/decisions: 0001-the-same-number.md has the number of 0001-a-vector-table-for-each-generation.md",
        "docs/decisions/README.md does not list 0001-the-same-number.md",
        "CHANGELOG.md has no section for the version 0.1.0",
        "ARCHITECTURE.md: the state diagrams are not those of core/jobs.py: python scripts/draw_states.py",
        "docs/explanation/jobs.md: the state diagrams are not those of core/jobs.py: python scripts/draw_states.py",
        "docs/reference: cli.md not as the code says: python scripts/generate_reference.py",
    ],
)
def test_a_fault_is_told_in_one_line(faults: list[str], expected: str) -> None:
    assert expected in faults


def test_options_are_found_on_continued_lines_and_not_in_quotes(faults: list[str]) -> None:
    assert any(fault.endswith("there is no option --bogus") for fault in faults)
    assert not any("--not-an-option" in fault.rpartition(":")[2] for fault in faults)


def test_the_host_of_a_registry_and_a_path_of_this_machine_are_found(faults: list[str]) -> None:
    leaks = [fault for fault in faults if "belongs to a machine" in fault]
    assert len(leaks) == 1, "both stand on one line of one file, and no other file has any"
    assert re.match(r"docs/faulty\.md:\d+: ", leaks[0])


def test_a_path_of_this_machine_alone_is_found(repository: Path) -> None:
    (repository / "src" / "embedmill" / "leak.py").write_text(f'PATH = "{repository}/x"\n', encoding="utf-8")
    program = "import check_docs; print(*check_docs.leaks(), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=repository / "scripts",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        f"src/embedmill/leak.py:1: {str(repository)!r} belongs to a machine, not into a file"
    ]


def test_a_setting_without_words_stops_the_reference(repository: Path) -> None:
    replace(
        repository / "src/embedmill/settings.py",
        "    log_level: str",
        "    shoe_size: int = 43\n    log_level: str",
    )
    status, said = run_script(repository, "generate_reference.py", "settings.md", "--check")
    assert status == 1
    assert "shoe_size has no docstring" in said


def test_a_setting_that_the_page_lacks_is_found_and_generating_mends_it(repository: Path) -> None:
    field = '    shoe_size: int = 43\n    """For boots."""\n    log_level: str'
    replace(repository / "src/embedmill/settings.py", "    log_level: str", field)
    assert run_script(repository, "generate_reference.py", "settings.md", "--check")[0] == 1
    assert run_script(repository, "generate_reference.py", "settings.md") == (0, "")
    page = (repository / "docs/reference/settings.md").read_text(encoding="utf-8")
    assert "| `EMBEDMILL_SHOE_SIZE` | whole number | `43` | For boots. |" in page
    assert run_script(repository, "generate_reference.py", "settings.md", "--check") == (0, "")


def test_an_option_without_help_stops_the_reference(repository: Path) -> None:
    worker = repository / "src/embedmill/cli/worker.py"
    replace(worker, 'help="End when nothing waits any more."', 'help=""')
    status, said = run_script(repository, "generate_reference.py", "cli.md")
    assert (status, said) == (1, "embedmill worker: --until-empty has no help\n")


def test_a_command_without_help_stops_the_reference(repository: Path) -> None:
    mute = "@app.command()\ndef mute() -> None:\n    pass\n\n\ndef main() -> None:"
    replace(repository / "src/embedmill/cli/main.py", "def main() -> None:", mute)
    status, said = run_script(repository, "generate_reference.py", "cli.md")
    assert (status, said) == (1, "embedmill mute has no help: give its function a docstring\n")


def test_an_error_code_without_a_meaning_stops_the_reference(repository: Path) -> None:
    replace(repository / "src/embedmill/api/problems.py", '"provider_busy"', '"provider_naps"')
    status, said = run_script(repository, "generate_reference.py", "rest.md")
    assert status == 1
    assert "[codes] lacks provider_naps, and has provider_busy that nothing raises" in said


def test_an_endpoint_that_asks_for_no_role_stops_the_reference(repository: Path) -> None:
    endpoint = (
        '\n\n@router.get("/open")\nasync def walk_in() -> Answers:\n'
        '    """Anybody."""\n    return Answers(passages=[])\n'
    )
    search = repository / "src/embedmill/api/search.py"
    search.write_text(search.read_text(encoding="utf-8") + endpoint, encoding="utf-8")
    status, said = run_script(repository, "generate_reference.py", "rest.md")
    assert status == 1
    assert "finds no role that GET /api/v1/open asks for" in said


def test_a_field_of_an_answer_that_the_page_lacks_is_found_and_shown(repository: Path) -> None:
    replace(
        repository / "src/embedmill/api/search.py",
        "class Answers(Wire):\n",
        "class Answers(Wire):\n    shoe_size: int = 43\n",
    )
    status, said = run_script(repository, "generate_reference.py", "rest.md", "--check")
    assert status == 1
    assert "+| `shoeSize` | whole number |" in said
    assert re.search(r'^\+.*"shoeSize": 0', said, re.MULTILINE)


def test_a_column_that_nothing_explains_stops_the_reference(repository: Path) -> None:
    later = repository / "src/embedmill/database/migrations/9999_later.sql"
    later.write_text("ALTER TABLE embedmill.tenants ADD COLUMN hat_size integer;\n", encoding="utf-8")
    status, said = run_script(repository, "generate_reference.py", "tables.md")
    assert status == 1
    assert "tenants.hat_size is explained nowhere" in said


def test_columns_of_later_migrations_come_and_go(repository: Path) -> None:
    later = repository / "src/embedmill/database/migrations/9999_later.sql"
    later.write_text(
        "ALTER TABLE embedmill.tenants ADD COLUMN hat_size integer NOT NULL DEFAULT 7;  -- for the photograph\n"
        "ALTER TABLE embedmill.tenants DROP COLUMN created_at;\n",
        encoding="utf-8",
    )
    assert run_script(repository, "generate_reference.py", "tables.md") == (0, "")
    page = (repository / "docs/reference/tables.md").read_text(encoding="utf-8")
    tenants = page.partition("### tenants")[2].partition("###")[0]
    assert "| hat_size | integer | for the photograph |" in tenants
    assert "created_at" not in tenants


def test_a_change_of_a_table_that_the_reference_cannot_read_is_not_passed_over(repository: Path) -> None:
    later = repository / "src/embedmill/database/migrations/9999_later.sql"
    later.write_text("ALTER TABLE embedmill.tenants RENAME COLUMN slug TO name;\n", encoding="utf-8")
    status, said = run_script(repository, "generate_reference.py", "tables.md")
    assert status == 1
    assert "does not understand: ALTER TABLE embedmill.tenants RENAME COLUMN slug TO name" in said


def test_a_new_way_between_states_is_missed_in_the_diagram_and_drawn(repository: Path) -> None:
    jobs = repository / "src/embedmill/core/jobs.py"
    replace(jobs, 'JobStatus.PARSING: "a parser takes it"', 'JobStatus.PARSING: "a parser: takes it"')
    assert run_script(repository, "draw_states.py", "--check")[0] == 1
    assert run_script(repository, "draw_states.py") == (0, "")
    drawn = (repository / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert "    staged --> parsing: a parser, takes it" in drawn, "a colon would end Mermaid's label"
    assert run_script(repository, "draw_states.py", "--check") == (0, "")
