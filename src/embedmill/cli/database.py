"""`embedmill db`: the schema, and the embedded database."""

from __future__ import annotations

import typer

app = typer.Typer(help="The database: its schema, and the embedded server.", no_args_is_help=True)


@app.command()
def migrate() -> None:
    """Bring the schema up to date. Safe to run at any time and by several at once."""
    from embedmill.app import migrate_database
    from embedmill.cli.running import start

    report = migrate_database(start())
    if report.changed:
        print(f"schema brought to version {report.to_version}")
    else:
        print(f"schema is up to date at version {report.to_version}")


@app.command()
def url() -> None:
    """Print the URL of the database that embedmill uses, for psql. Starts the embedded one where needed."""
    from embedmill.app import find_database
    from embedmill.cli.running import start

    print(find_database(start()))


@app.command()
def stop() -> None:
    """Stop the embedded server. Any command starts it again."""
    from embedmill.app import stop_database
    from embedmill.cli.running import start

    print("stopped" if stop_database(start()) else "the embedded database was not running")
