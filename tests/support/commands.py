"""Runs the installed command line as its user does. Owns the environment of such a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.forked_commands import run_forked

EMBEDMILL = str(Path(sys.executable).with_name("embedmill"))


class CommandLine:
    """`embedmill` with one database (its own when `url` is None) and one data folder. Its processes are forked from
    one that has imported everything, or, where `is_fresh`, started as a shell starts them."""

    def __init__(
        self, data_dir: Path, url: str | None = None, *, is_fresh: bool = False, **settings: str
    ) -> None:
        self._is_fresh = is_fresh
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith("EMBEDMILL_") and k != "OPENAI_API_KEY"
        }
        self.environment = {**kept, "EMBEDMILL_DATA_DIR": str(data_dir), **settings}
        if url is not None:
            self.environment["EMBEDMILL_DATABASE_URL"] = url

    def run(self, *arguments: str, status: int = 0, seconds: float = 240) -> subprocess.CompletedProcess[str]:
        """Run to the end; anything but `status` fails with what was said."""
        command = [EMBEDMILL, *arguments]
        if self._is_fresh:
            done = subprocess.run(
                command, env=self.environment, capture_output=True, text=True, check=False, timeout=seconds
            )
        else:
            done = run_forked(command, self.environment, seconds=seconds)
        assert done.returncode == status, (
            f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
        )
        return done

    def json(self, *arguments: str, status: int = 0) -> Any:
        """The JSON document that a command prints."""
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command in a session of its own and go on."""
        return subprocess.Popen(
            [EMBEDMILL, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
