"""The command `embedmill`. Owns the list of commands and how errors and interruptions end; each command stands
in its own file and imports what it needs only when it runs, so that --help answers at once."""

from __future__ import annotations

import os
import sys

import click

from embedmill import __version__
from embedmill.cli import (
    alerts,
    audit,
    backfill,
    budget,
    config,
    database,
    doctor,
    fleet,
    ingest,
    job,
    keys,
    model,
    pipeline,
    queue,
    quota,
    search,
    shards,
    status,
    table,
    tenant,
    up,
    usage,
    webhook,
    worker,
)
from embedmill.errors import EmbedmillError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="embedmill", message="%(prog)s %(version)s")
def app() -> None:
    """Documents in, answers out: vectors that are complete, current and paid for once."""


for command in (
    up.up,
    ingest.ingest,
    job.job,
    search.search,
    status.status,
    alerts.alerts,
    worker.worker,
    fleet.fleet,
    queue.queue,
    config.config,
    quota.quota,
    doctor.doctor,
    pipeline.pipeline,
    table.table,
    backfill.backfill,
    audit.audit,
    usage.usage,
    budget.budget,
    tenant.tenant,
    keys.keys,
    webhook.webhook,
    database.db,
    model.model,
    shards.shards,
):
    app.add_command(command)


def main() -> None:
    """Run the command line: 0 done, 1 done with failures or an error told in a sentence, 2 wrong usage,
    130 interrupted."""
    try:
        app(prog_name="embedmill")
    except EmbedmillError as error:
        print(f"embedmill: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
