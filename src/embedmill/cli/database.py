"""`embedmill db`: the schema, and the embedded database."""

from __future__ import annotations

import click


@click.group()
def db() -> None:
    """The database: its schema, and the embedded server."""


@db.command()
def migrate() -> None:
    """Bring the schema up to date. Safe to run at any time and by several at once."""
    from embedmill.app import migrate_database
    from embedmill.cli.running import read_settings

    report = migrate_database(read_settings())
    if report.changed:
        print(f"schema brought to version {report.to_version}")
    else:
        print(f"schema is up to date at version {report.to_version}")


@db.command()
def url() -> None:
    """Print the URL of the database that embedmill uses, for psql. Starts the embedded one where needed."""
    from embedmill.app import find_database
    from embedmill.cli.running import read_settings

    print(find_database(read_settings()))


@db.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(arguments: tuple[str, ...]) -> None:
    """Open the database in psql, which gets these arguments (-c 'SELECT ...'). The embedded PostgreSQL brings one."""
    from embedmill.app import find_database
    from embedmill.cli.running import read_settings
    from embedmill.database.psql import become_psql

    become_psql(find_database(read_settings()), arguments)


@db.command()
def stop() -> None:
    """Stop the embedded server. Any command starts it again."""
    from embedmill.app import stop_database
    from embedmill.cli.running import read_settings

    print("stopped" if stop_database(read_settings()) else "the embedded database was not running")
