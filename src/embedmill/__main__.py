"""Where the command `embedmill` (and `python -m embedmill`) begins. Owns what must be set before anything is
imported; the rest is cli/main.py."""

from __future__ import annotations

import gc
import os


def main() -> None:
    """Start the command line fast: `search` is a whole process, and its time is mostly imports."""
    # Collecting while hundreds of modules are imported finds nothing and takes a fifth of a short command's
    # time; a command that goes on for longer switches it on again (cli/running.py: start).
    gc.disable()
    # numpy's linear algebra is never used; its pool of threads costs a tenth of a second at every start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from embedmill.cli.main import main as run  # noqa: PLC0415 - after the lines above

    run()


if __name__ == "__main__":
    main()
