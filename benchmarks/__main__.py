"""`make bench`: every benchmark of the project alone, against physical limits. About half an hour: ratelimit takes
nine minutes of it and starvation eight, for they wait for real minutes.

python -m benchmarks [NAME ...]
"""

from __future__ import annotations

import subprocess
import sys

ALL = (
    "commands",
    "originals",
    "embedding_jobs",
    "ranking",
    "local_engine",
    "local_path",
    "writing",
    "memory",
    "chunking",
    "ratelimit",
    "starvation",
    "uploads",
    "trigger_cost",
    "backfill",
)


def main() -> int:
    """Each in a process of its own, so that none inherits another's memory."""
    failed = []
    for name in sys.argv[1:] or ALL:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode != 0:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
