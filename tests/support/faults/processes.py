"""One worker's process: the installed command, with faults on its path. Owns its start, its signals and what it
left behind; must not know what the faults are for."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psutil

from tests.support.commands import EMBEDMILL
from tests.support.faults.journal import Journal, read_journal

_REPOSITORY = Path(__file__).resolve().parents[3]
_SITE = Path(__file__).resolve().parent / "site"
_AT_WORK = "is at work"


def worker_environment(
    url: str, folder: Path, settings: Mapping[str, object], *, port: int, name: str
) -> dict[str, str]:
    """The environment of a worker that reaches the database of `url` through 127.0.0.1:`port`, and whose sessions
    carry its name. `settings` are EMBEDMILL_ settings by field."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EMBEDMILL_") and k != "OPENAI_API_KEY"}
    path = [str(_SITE), str(_REPOSITORY), *filter(None, [kept.get("PYTHONPATH")])]
    account, _, rest = url.removeprefix("postgresql://").partition("@")
    database = rest.lstrip("/").partition("?")[0]
    options = quote(f"-c crash.worker={name}")
    return {
        **kept,
        **{f"EMBEDMILL_{key.upper()}": str(value) for key, value in settings.items()},
        "EMBEDMILL_DATABASE_URL": f"postgresql://{account}@127.0.0.1:{port}/{database}"
        f"?sslmode=disable&gssencmode=disable&options={options}",
        "EMBEDMILL_DATA_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join(path),
        "CRASH_JOURNAL": str(folder / f"{name}.journal"),
    }


class WorkerProcess:
    """A running `embedmill worker`. `name` is that of its database sessions, too."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._folder = folder
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [EMBEDMILL, "worker"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.pid = self._process.pid
        self.was_killed = environment.get("FAULT") == "kill"
        self.was_told_to_stop = False

    def kill(self) -> None:
        self.was_killed = True
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Ask for a graceful stop."""
        self.was_told_to_stop = True
        self._process.terminate()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def assert_it_ended_as_told(self) -> None:
        """It lives on, or ended because it was told to. One that found no database at its very start is right to
        say so and end."""
        # A second SIGTERM may find it at its very end, when nobody handles signals any more.
        has_stopped = self.was_told_to_stop and "worker stopped" in self.said
        told = {
            None: True,
            0: self.was_told_to_stop,
            -signal.SIGTERM: has_stopped,
            -signal.SIGKILL: self.was_killed,
        }
        is_right = told.get(self.status, False) or (self.status == 1 and not self.is_at_work)
        assert is_right, f"{self.name} ended with {self.status}:\n{self.said[-5000:]}"

    @property
    def status(self) -> int | None:
        """None while it lives; else how it ended."""
        return self._process.poll()

    @property
    def is_frozen(self) -> bool:
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
        except psutil.NoSuchProcess:
            return False

    @property
    def is_at_work(self) -> bool:
        return _AT_WORK in self.said

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def journal(self) -> Journal:
        return read_journal(self._folder / f"{self.name}.journal", self.name)
