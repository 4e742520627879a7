"""The pepper is made once, by whoever comes first, kept from others, and never replaced without a word."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from embedmill.access.pepper import VARIABLE, read_pepper
from embedmill.errors import ConfigurationError


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_it_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "made" / "yet"
    pepper = read_pepper(folder)
    assert len(pepper) == 32
    assert read_pepper(folder) == pepper
    assert stat.S_IMODE((folder / "pepper").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["pepper"], "no draft is left"
    assert read_pepper(tmp_path / "other") != pepper


def test_processes_that_start_together_have_the_same(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from embedmill.access.pepper import read_pepper; "
        "sys.stdin.readline(); print(read_pepper(pathlib.Path(sys.argv[1])).hex())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "data")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=60)[0] for process in started}
    assert len(answers) == 1
    assert answers == {read_pepper(tmp_path / "data").hex() + "\n"}


def test_the_variable_comes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0123456789abcdef" * 2)
    assert read_pepper(tmp_path) == b"0123456789abcdef" * 2
    assert not (tmp_path / "pepper").exists()
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(ConfigurationError, match="too short") as refused:
        read_pepper(tmp_path)
    assert "short:" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "holds 0"), (b"x" * 31, "holds 31"), (b"x" * 33, "holds more")]
)
def test_a_file_that_is_not_whole_is_not_used(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "pepper").write_bytes(content)
    (tmp_path / "pepper").chmod(0o600)
    with pytest.raises(ConfigurationError, match=said):
        read_pepper(tmp_path)
    assert (tmp_path / "pepper").read_bytes() == content, "it is not replaced: the keys hang on it"


def test_one_that_others_can_read_is_refused(tmp_path: Path) -> None:
    read_pepper(tmp_path)
    (tmp_path / "pepper").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_pepper(tmp_path)


def test_what_cannot_be_read_or_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "pepper").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_pepper(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=VARIABLE):
        read_pepper(tmp_path / "file" / "data")
