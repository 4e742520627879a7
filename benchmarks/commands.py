"""Whole commands, as a person waits for them: `embedmill --help` (under 0.3 s) and `embedmill search` with the
local model on a warm database (under 0.5 s), beside the bare start of Python and the import of the driver.

    python -m benchmarks.commands [--runs 15]
"""

from __future__ import annotations

import argparse
import compileall
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import embedmill
from benchmarks.results import save_result, show_table

ROOT = Path(__file__).resolve().parent.parent
EMBEDMILL = str(Path(sys.executable).with_name("embedmill"))


def seconds_of(command: list[str], environment: dict[str, str], runs: int) -> list[float]:
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - started)
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    # As after any first run; an editable install under PYTHONDONTWRITEBYTECODE would compile at every start.
    compileall.compile_dir(str(Path(embedmill.__file__).parent), quiet=1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {**os.environ, "EMBEDMILL_DATA_DIR": folder, "EMBEDMILL_DATABASE_URL": ""}
        documents = str(ROOT / "examples" / "documents")
        subprocess.run([EMBEDMILL, "ingest", documents], env=environment, check=True, capture_output=True)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "python -c 'import psycopg, numpy, onnxruntime'": [
                sys.executable, "-c", "import psycopg, numpy, onnxruntime",
            ],
            "embedmill --help": [EMBEDMILL, "--help"],
            "embedmill status": [EMBEDMILL, "status"],
            "embedmill search (hybrid, local model)": [EMBEDMILL, "search", "what leave can I take?"],
        }  # fmt: skip
        rows = []
        for name, command in commands.items():
            times = seconds_of(command, environment, options.runs)
            rows.append(
                {
                    "command": name,
                    "best_seconds": round(min(times), 3),
                    "median_seconds": round(statistics.median(times), 3),
                }
            )
        subprocess.run([EMBEDMILL, "db", "stop"], env=environment, check=True, capture_output=True)
    show_table("Whole commands (help under 0.3 s, search under 0.5 s)", rows)
    save_result("commands", rows, vars(options))


if __name__ == "__main__":
    main()
