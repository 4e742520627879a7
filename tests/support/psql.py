"""psql and curl as a worker in plain SQL needs them. Owns finding curl and running psql; must not assert."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from embedmill.database.psql import find_psql

ROOT = Path(__file__).resolve().parents[2]
CURL_WITH_HEADERS = (7, 84)  # %header{...} in --write-out


def need_curl() -> str:
    """curl, new enough to print a header of the answer."""
    found = shutil.which("curl")
    if found is None:
        raise RuntimeError(
            "no curl, which examples/sql_worker.sql calls the provider with: apt-get install curl"
        )
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.match(r"curl (\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < CURL_WITH_HEADERS:
        raise RuntimeError(f"curl 7.84 or newer is needed (Debian 12 has it), not: {said.splitlines()[0]}")
    return found


def run_psql(
    url: str,
    *arguments: str,
    variables: dict[str, str] | None = None,
    script: str | None = None,
    seconds: float = 120,
) -> subprocess.CompletedProcess[str]:
    """psql as in `psql URL -XqAt`, with variables; the script on its standard input where one is given."""
    command = [find_psql(), url, "-XqAt"]
    for name, value in (variables or {}).items():
        command += ["-v", f"{name}={value}"]
    return subprocess.run(
        [*command, *arguments],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        cwd=ROOT,
        env={**os.environ, "OPENAI_API_KEY": "of no account"},
    )
