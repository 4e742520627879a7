"""`make test` runs again what failed beside others, and forgives nothing that fails by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "run_tests.py"

FAILS_ONCE = """
from pathlib import Path

def test_fails_once():
    been_here = Path("been_here")
    is_first = not been_here.exists()
    been_here.touch()
    assert not is_first
"""
FAILS = "def test_fails():\n    assert False\n"
PASSES = "def test_passes():\n    pass\n"


@pytest.mark.parametrize(
    ("other", "status", "said"),
    [(PASSES, 0, "to be mended:\ntest_once.py::test_fails_once"), (FAILS, 1, "1 failed, 1 passed")],
)
def test_what_failed_is_run_again_by_itself(tmp_path: Path, other: str, status: int, said: str) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_once.py").write_text(FAILS_ONCE)
    (tmp_path / "test_other.py").write_text(other)
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "-n", "0"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == status, run.stdout
    assert said in run.stdout
