"""Whether a PostgreSQL server will do, in sentences that say what to run. Asks the catalogs only: changes
nothing (what it tries, it rolls back) and knows no table of embedmill."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import conninfo, errors

from embedmill.errors import DatabaseError, DatabaseUnreachableError, DatabaseUnsuitableError

NEEDED_SERVER = 150000
NEEDED_PGVECTOR = (0, 8)

_FACTS = """
SELECT current_setting('server_version_num')::integer,
       current_setting('server_version'),
       current_database(),
       current_user::text,
       current_setting('server_encoding'),
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean,
       has_database_privilege(current_database(), 'CREATE'),
       (SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = 'embedmill'),
       (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
       (SELECT default_version FROM pg_available_extensions WHERE name = 'vector')
"""


@dataclass(frozen=True)
class ServerFacts:
    """A server that will do. `pgvector_installed` is None where the migration will create the extension."""

    version_num: int
    version: str
    database: str
    user: str
    is_superuser: bool
    may_create_schema: bool
    schema_exists: bool
    pgvector_installed: str | None
    pgvector_available: str | None


def check_server(connection: psycopg.Connection[Any]) -> ServerFacts:
    """The facts of a server on which embedmill can run (or be installed).

    The connection must not be inside a failed transaction. Raises DatabaseUnsuitableError with one sentence
    for each thing that is missing: all of them at once, so that an administrator is asked once.
    """
    row = connection.execute(_FACTS).fetchone()
    if row is None:
        raise DatabaseUnsuitableError("The server says nothing about itself: is it a PostgreSQL?")
    (
        number,
        version,
        database,
        user,
        encoding,
        superuser,
        read_only,
        may_create,
        may_use,
        installed,
        offered,
    ) = row
    if number < NEEDED_SERVER:
        # Alone: an old server may lack what the other questions ask about.
        raise DatabaseUnsuitableError(
            f"PostgreSQL 15 or newer is needed, this is {_short(version)}: upgrade the server, or set "
            "EMBEDMILL_DATABASE_URL to another."
        )
    facts = ServerFacts(
        version_num=number,
        version=_short(version),
        database=database,
        user=user,
        is_superuser=superuser,
        may_create_schema=may_create,
        schema_exists=may_use is not None,
        pgvector_installed=installed,
        pgvector_available=offered,
    )
    faults = [
        *_encoding_faults(encoding, database),
        *_writing_faults(read_only),
        *_schema_faults(facts, may_use=may_use),
        *_pgvector_faults(connection, facts, read_only=read_only),
    ]
    if faults:
        raise DatabaseUnsuitableError(" ".join(faults))
    return facts


def describe_connection_error(error: psycopg.Error, url: str) -> DatabaseError:
    """What went wrong with a connection, and what to do, without the password of the URL.

    Returns (does not raise) a DatabaseUnreachableError; `raise describe_connection_error(e, url) from None`
    where even the driver's own words, which may quote the URL, must not be shown.
    """
    said = _without_secret(" ".join(str(error).split()), url)
    target = _target(url)
    if isinstance(error, psycopg.ProgrammingError) or target is None:
        return DatabaseUnreachableError(
            "EMBEDMILL_DATABASE_URL is not an address that PostgreSQL understands: write it as "
            "postgresql://user:password@host:5432/database."
        )
    for sign, sentence in _CONNECTION_FAULTS:
        if found := re.search(sign, said, re.IGNORECASE):
            return DatabaseUnreachableError(f"{target}: " + sentence.format(*found.groups()))
    return DatabaseUnreachableError(f"{target}: no connection could be made ({said}).")


# From the most to the least telling: with several addresses libpq says all of them in one text.
_CONNECTION_FAULTS = (
    (
        r"password authentication failed|SCRAM.*fail",
        "the user name or the password is wrong: check EMBEDMILL_DATABASE_URL.",
    ),
    (
        r"no password supplied|password.*required",
        "a password is needed: put it into EMBEDMILL_DATABASE_URL or ~/.pgpass.",
    ),
    (
        r'database "([^"]*)" does not exist',
        'there is no database "{0}" on the server: make it (`createdb {0}`), or mend EMBEDMILL_DATABASE_URL.',
    ),
    (
        r'role "([^"]*)" does not exist|role "([^"]*)" is not permitted to log in',
        "the server does not know this user, or does not let it log in: check EMBEDMILL_DATABASE_URL.",
    ),
    (
        r"server does not support SSL",
        "the server has no TLS, but EMBEDMILL_DATABASE_URL asks for it (sslmode): change one of them.",
    ),
    (
        r"no pg_hba\.conf entry.*no encryption|server requires SSL|SSL.*required",
        "the server wants TLS: add sslmode=require to EMBEDMILL_DATABASE_URL.",
    ),
    (
        r"no pg_hba\.conf entry|Ident authentication failed|Peer authentication failed",
        "the server does not let this user in from here (pg_hba.conf): ask its administrator.",
    ),
    (
        r"certificate|SSL error|SSL SYSCALL|tls",
        "no TLS connection could be made: check sslmode and sslrootcert in EMBEDMILL_DATABASE_URL.",
    ),
    (
        r"too many clients|too many connections|remaining connection slots",
        "all connections of the server are in use: end some, or raise max_connections.",
    ),
    (
        r"starting up|recovery mode|shutting down|not yet accepting",
        "the server is starting, recovering or stopping: try again in a moment.",
    ),
    (
        r"failed to resolve|could not translate host name|Name or service not known",
        "the host name is not known: check EMBEDMILL_DATABASE_URL and the network.",
    ),
    (
        r"Connection refused|No such file or directory",
        "nothing listens there: is PostgreSQL running, and is the port right?",
    ),
    (
        r"timeout expired|timed out|No route to host|Network is unreachable",
        "the server cannot be reached: check the host, the network and its firewall.",
    ),
)


def _encoding_faults(encoding: str, database: str) -> list[str]:
    if encoding == "UTF8":
        return []
    return [
        f'The database "{database}" is encoded in {encoding}, which cannot hold every text: make one with '
        "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0."
    ]


def _writing_faults(read_only: bool) -> list[str]:
    if not read_only:
        return []
    return ["The server is a read-only standby (or set to read only): connect to the primary."]


def _schema_faults(facts: ServerFacts, *, may_use: bool | None) -> list[str]:
    if may_use is None and not facts.may_create_schema:
        return [
            f'The role "{facts.user}" may not create a schema: ask an administrator to run: '
            f'GRANT CREATE ON DATABASE "{facts.database}" TO "{facts.user}";'
        ]
    if may_use is False:
        return [
            f'The role "{facts.user}" may not use the schema embedmill: connect as the role that made it, or '
            f'ask an administrator to run: GRANT USAGE ON SCHEMA embedmill TO "{facts.user}";'
        ]
    return []


def _pgvector_faults(
    connection: psycopg.Connection[Any], facts: ServerFacts, *, read_only: bool
) -> list[str]:
    needed = ".".join(map(str, NEEDED_PGVECTOR))
    if facts.pgvector_installed is not None:
        if _numbers(facts.pgvector_installed) >= NEEDED_PGVECTOR:
            return []
        cure = "ask an administrator to install a newer one and to run: ALTER EXTENSION vector UPDATE;"
        if _numbers(facts.pgvector_available or "0") >= NEEDED_PGVECTOR:
            cure = (
                f'ask an administrator to run: ALTER EXTENSION vector UPDATE; in database "{facts.database}".'
            )
        return [f"pgvector {needed} or newer is needed, this is {facts.pgvector_installed}: {cure}"]
    if facts.pgvector_available is None:
        return [
            f"pgvector {needed} or newer is not installed on the server: ask an administrator to install it "
            f"(package postgresql-{facts.version_num // 10000}-pgvector) and run: CREATE EXTENSION vector; "
            f'in database "{facts.database}".'
        ]
    if _numbers(facts.pgvector_available) < NEEDED_PGVECTOR:
        return [
            f"pgvector {needed} or newer is needed, the server offers {facts.pgvector_available}: ask an "
            "administrator to install a newer one."
        ]
    if not read_only and not _may_create_extension(connection):
        return [
            f'The role "{facts.user}" may not create the extension pgvector: ask an administrator to run: '
            f'CREATE EXTENSION vector; in database "{facts.database}".'
        ]
    return []


def _may_create_extension(connection: psycopg.Connection[Any]) -> bool:
    """Tried and rolled back: hosted servers let roles create it that no catalog tells of."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("CREATE EXTENSION vector")
    except errors.InsufficientPrivilege:
        return False
    except errors.UniqueViolation:
        return True  # somebody else created it at this moment
    except errors.DuplicateObject:
        return True
    return True


def _target(url: str) -> str | None:
    """Where the URL leads, for a message: host, port, database and user, never the password."""
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return None
    host = parts.get("host") or parts.get("hostaddr") or "the local socket"
    port = parts.get("port")
    place = f"{host}:{port}" if port and not str(host).startswith("/") else str(host)
    database = parts.get("dbname") or parts.get("user")
    return f"PostgreSQL at {place}" + (f', database "{database}"' if database else "")


def _without_secret(text: str, url: str) -> str:
    secrets = {url}
    try:
        secrets.add(str(conninfo.conninfo_to_dict(url).get("password") or ""))
    except psycopg.ProgrammingError:
        secrets.add(url.partition("@")[0].rpartition(":")[2])
    if (quoted := urlsplit(url).password) is not None:
        secrets |= {quoted, unquote(quoted)}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _short(version: str) -> str:
    """'15.18 (Debian 15.18-1.pgdg12+1)' -> '15.18'"""
    return version.split(" ", 1)[0]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
