"""`make bench`: the benchmarks of the project alone, against physical limits. Somewhat over half an hour: ratelimit
takes nine minutes of it and starvation eight, for they wait for real minutes. Run by name only, since they fill tables
of millions of rows, install packages or look into other processes: backlog, dashboard, profiles, scaling.

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
    "words",
    "local_engine",
    "local_path",
    "layout",
    "writing",
    "memory",
    "chunking",
    "ratelimit",
    "starvation",
    "uploads",
    "trigger_cost",
    "backfill",
    "trickle",
)


def main() -> int:
    """Each in a process of its own, so that none inherits another's memory."""
    failed = []
    for name in sys.argv[1:] or ALL:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode != 0:
            failed.append(name)
    print(
        "\npython -m benchmarks.report writes these figures into the pages, python -m benchmarks.plots draws them"
    )
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
