"""A database for a benchmark: an embedded server in a temporary folder, stopped and removed afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedmill.app import find_database, stop_database
from embedmill.settings import Settings


@contextmanager
def benchmark_database() -> Iterator[str]:
    """The URL of a fresh embedded server, with the settings that every user gets."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        settings = Settings(data_dir=Path(folder))
        url = find_database(settings)
        try:
            yield url
        finally:
            stop_database(settings)
