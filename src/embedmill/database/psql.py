"""psql on the database that embedmill uses. Owns which psql, and what it is told; must not show a password to others
who look at this machine's processes."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from embedmill.database.embedded_cluster import MAJOR_VERSION, WHEEL
from embedmill.errors import ConfigurationError


def find_psql() -> str:
    """This machine's psql, which knows its pager and its keys, else that of the embedded PostgreSQL. Raises
    ConfigurationError where there is neither."""
    found = shutil.which("psql")
    if found is not None:
        return found
    spec = importlib.util.find_spec(WHEEL)
    for place in (spec.submodule_search_locations if spec else None) or []:
        program = Path(place) / f"pginstall{MAJOR_VERSION}" / "bin" / "psql"
        if program.exists():
            return str(program)
    raise ConfigurationError(
        "There is no psql here: `pip install 'embedmill[embedded]'` brings one, and so does the package "
        "postgresql-client."
    )


def become_psql(url: str, arguments: Sequence[str]) -> NoReturn:
    """This process is psql from now on, with what the caller gave it on its streams. Raises as find_psql."""
    parts = conninfo_to_dict(url)
    password = parts.pop("password", None)
    environment = dict(os.environ)
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    program = find_psql()
    os.execve(program, [program, make_conninfo("", **parts), *arguments], environment)  # noqa: S606 - as its user asked
