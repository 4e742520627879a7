"""What `make test` runs: the whole suite, four tests at a time; then, once and one at a time, the few that failed.
Tests here kill real processes and wait for real servers, on machines that others load: one of thousands that misses
its time says nothing of the change that it would stop. A test that fails by itself too ends the run, and so do more
than a few; one that only failed beside others is named at the end, to be mended.

    python scripts/run_tests.py [what pytest takes]
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOST_AGAIN = 5
LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")
_TESTS_FAILED = 1  # pytest's exit status; others say that it could not do its work


def main() -> int:
    chosen = sys.argv[1:]
    LAST_FAILED.unlink(missing_ok=True)
    status = pytest("-n", "4", "--dist", "worksteal", *chosen)
    if status != _TESTS_FAILED:
        return status
    failed = sorted(json.loads(LAST_FAILED.read_text("utf-8")))
    if len(failed) > MOST_AGAIN or not all("::" in test for test in failed):
        return status
    say(f"{len(failed)} failed beside others; now each by itself")
    again = pytest(*failed)
    if again == 0:
        say("they pass by themselves; each hides a race, in the test or in embedmill, to be mended:", *failed)
    return again


def pytest(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def say(*lines: str) -> None:
    print("", *lines, "", sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
