"""The command `embedmill`. Owns the list of commands and how errors and interruptions end; each command stands
in its own file and imports what it needs only when it runs, so that --help answers at once."""

from __future__ import annotations

import os
import sys

import typer

from embedmill.cli import database, doctor, ingest, model, pipeline, search, status, worker
from embedmill.errors import EmbedmillError

app = typer.Typer(
    name="embedmill",
    help="Documents in, answers out: vectors that are complete, current and paid for once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ingest")(ingest.ingest)
app.command("search")(search.search)
app.command("status")(status.status)
app.command("worker")(worker.worker)
app.command("doctor")(doctor.doctor)
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(database.app, name="db")
app.add_typer(model.app, name="model")


def _print_version(wanted: bool) -> None:
    if wanted:
        from embedmill import __version__

        print(f"embedmill {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line: 0 done, 1 done with failures or an error told in a sentence, 2 wrong usage,
    130 interrupted."""
    try:
        app()
    except EmbedmillError as error:
        print(f"embedmill: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
