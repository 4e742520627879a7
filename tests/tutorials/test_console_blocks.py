"""The harness that runs pages: it takes what is right, and each kind of untruth in a page fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.console_blocks import ConsoleMismatchError, ConsoleSession, plain_environment
from tests.support.console_pages import Command, steps_of

FIRST = "019385a0-0000-4000-8000-000000000001"
SECOND = "019385a0-0000-4000-8000-000000000002"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[ConsoleSession]:
    home = tmp_path / "home"
    home.mkdir()
    with ConsoleSession(home, plain_environment(home), {"/home/you": str(home)}, seconds=10) as session:
        yield session


def page(session: ConsoleSession, text: str) -> Path:
    path = session.folder.parent / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


def console(*lines: str, word: str = "") -> str:
    return "\n".join([*([f"<!-- {word} -->"] if word else []), "```console", *lines, "```", ""])


def test_commands_share_their_folder_and_their_variables(session: ConsoleSession) -> None:
    text = console(
        "$ mkdir mill && cd mill",
        "$ export NAME='two words'",
        '$ echo "$NAME" in \\',
        "    $PWD",
        "two words in /home/you/mill",
    ) + console("$ wc -l <<'END'", "one", "$ two", "END", "2")
    assert session.run_page(page(session, text)) == 4


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["$ echo one", "two"], "-two\n+one"),
        (["$ echo one"], "+one"),
        (["$ printf 'one\\ntwo\\n'", "one"], "+two"),
        (["$ true", "something"], "-something"),
        (["$ echo told >&2; false", "told"], "it ended with 1, not 0"),
        (["$ false | cat"], "it ended with 1, not 0"),
        (["$ echo 12 chunks", "13 chunks"], "-13 chunks\n+12 chunks"),
        (["$ echo '1.25 apples'", "1.26 apples"], "+1.25 apples"),
        (["$ no-such-command-of-ours", "…"], "it ended with 127"),
        (["$ sleep 60"], "did not end within 10 s"),
    ],
)
def test_what_is_not_so_fails_and_is_shown(session: ConsoleSession, lines: list[str], said: str) -> None:
    with pytest.raises(ConsoleMismatchError) as caught:
        session.run_page(page(session, "# A page\n\n" + console(*lines)))
    assert said in str(caught.value)
    assert str(caught.value).startswith("page.md:4: ")


def test_what_differs_by_its_nature_fits(session: ConsoleSession) -> None:
    session.run_page(
        page(
            session,
            console("$ echo 'took 1.4 s at 2026-11-22 17:26:38'", "took 99 s at 1999-01-01 00:00")
            + console("$ echo 'score 0.0312, named so'", "score …, named so")
            + console("$ seq 5", "1", "…", "5"),
        )
    )


def test_an_id_of_the_page_is_that_of_the_run_in_commands_too(session: ConsoleSession) -> None:
    real = "11111111-2222-4333-8444-555555555555"
    session.run_page(
        page(
            session,
            console(f"$ ID={real}")
            + console("$ echo job $ID", f"job {FIRST}")
            + console(f"$ [ {FIRST} = $ID ] && echo the same", "the same"),
        )
    )
    with pytest.raises(ConsoleMismatchError):
        session.run_page(page(session, console(f"$ echo {SECOND[:-1]}3 is not", f"{FIRST} is not")))


def test_an_exit_status_can_be_said(session: ConsoleSession) -> None:
    session.run_page(page(session, console("$ exit 3", word="run: status 3")))
    with pytest.raises(ConsoleMismatchError, match="ended with 0, not 3"):
        session.run_page(page(session, console("$ true", word="run: status 3")))


def test_a_command_is_awaited_until_it_prints_what_it_should(session: ConsoleSession) -> None:
    awaited = console("$ echo x >> marks; wc -l < marks", "3", word="run: until")
    session.run_page(page(session, awaited))
    with pytest.raises(ConsoleMismatchError):
        session.run_page(page(session, console("$ echo no", "yes", word="run: until")))


def test_a_process_in_the_background_is_watched_and_ended(session: ConsoleSession) -> None:
    (session.folder / "talk").write_text(
        "trap 'exit 0' INT\necho ready; until [ -f go ]; do sleep 0.02; done; echo gone on\n"
        "while true; do sleep 0.02; done\n",
        encoding="utf-8",
    )
    begun = console("$ bash talk", "ready", word="run: background talker")
    watched = "<!-- run: watch talker -->\n```console\ngone on\n```\n"
    ended = "<!-- run: interrupt talker -->\n"
    session.run_page(page(session, begun + console("$ touch go") + watched + ended))
    with pytest.raises(ConsoleMismatchError, match=r"page\.md:3: talker ended"):
        session.run_page(page(session, console("$ echo other", "ready", word="run: background talker")))


def test_a_background_process_that_ends_badly_fails_the_session(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("trap 'exit 7' INT\necho up; while :; do sleep 0.02; done\n")
    session = ConsoleSession(tmp_path, plain_environment(tmp_path), seconds=10)
    session.__enter__()
    session.run(Command("here", "bash bad", ("up",), background="bad"))
    with pytest.raises(ConsoleMismatchError, match="bad ended with 7"):
        session.__exit__(None, None, None)


def test_a_file_of_the_page_is_written_and_what_is_shown_only_is_not_run(session: ConsoleSession) -> None:
    text = (
        "<!-- file: sums/one.py -->\n```python\nprint(1 + 1)\n```\n"
        + console("$ python3 sums/one.py", "2")
        + console("$ rm -rf /home/you", "no", word="run: not, it would hurt")
        + "```sh\nexit 1\n```\n"
    )
    assert session.run_page(page(session, text)) == 1


@pytest.mark.parametrize(
    "word", ["run: somehow", "run: status many", "run: until it rains", "run: background"]
)
def test_a_word_that_is_not_known_is_a_fault_of_the_page(word: str) -> None:
    with pytest.raises(ValueError, match="no such word"):
        list(steps_of(console("$ true", word=word), "page.md"))


def test_a_console_block_without_a_command_is_a_fault_of_the_page() -> None:
    with pytest.raises(ValueError, match="begins with a command"):
        list(steps_of(console("printed"), "page.md"))


def test_a_command_outside_its_block_is_a_fault_of_the_page() -> None:
    with pytest.raises(ValueError, match="a fence is missing"):
        list(steps_of("$ rm -rf /\n```\n", "page.md"))
