"""What a server must be, and what is said of one that will not do."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import psycopg
import pytest

from embedmill.database.migrator import migrate
from embedmill.database.server import check_server, describe_connection_error
from embedmill.errors import DatabaseUnreachableError, DatabaseUnsuitableError
from tests.support.postgres import DEBIAN_15, EXTENSIONS_OF_DEBIAN_15, TestServer, own_postgres, with_database


@pytest.fixture(scope="module")
def without_pgvector() -> Iterator[str]:
    if not (DEBIAN_15 / "postgres").exists():
        pytest.skip("Debian's PostgreSQL 15 is not installed here")
    if (EXTENSIONS_OF_DEBIAN_15 / "vector.control").exists():
        pytest.skip("Debian's PostgreSQL 15 has pgvector here")
    with own_postgres(DEBIAN_15) as url:
        yield url


@pytest.fixture
def role(test_server: TestServer, empty_database: str) -> Iterator[str]:
    """A role without any right but to connect; gone afterwards with all that it was given."""
    with psycopg.connect(empty_database, autocommit=True) as owner:
        owner.execute("CREATE ROLE visitor LOGIN PASSWORD 'visitor'")
        yield "visitor"
        owner.execute("DROP OWNED BY visitor CASCADE")
        owner.execute("DROP ROLE visitor")


def refusal(url: str, role: str | None = None) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        if role:
            connection.execute(f"SET SESSION AUTHORIZATION {role}")
        with pytest.raises(DatabaseUnsuitableError) as refused:
            check_server(connection)
    return str(refused.value)


def test_a_fresh_and_a_migrated_database_will_do(empty_database: str, database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        fresh = check_server(connection)
    assert (fresh.pgvector_installed, fresh.schema_exists, fresh.may_create_schema) == (None, False, True)
    with psycopg.connect(database) as connection:
        migrated = check_server(connection)
    assert migrated.schema_exists
    assert migrated.pgvector_installed == migrated.pgvector_available


def test_one_s_own_postgresql_16_will_do_and_is_migrated(postgres16: str) -> None:
    with psycopg.connect(postgres16, autocommit=True) as connection:
        connection.execute("CREATE DATABASE own")
    own = with_database(postgres16, "own")
    with psycopg.connect(own) as connection:
        assert check_server(connection).version.startswith("16.")
    with psycopg.connect(own) as connection:
        assert migrate(connection).changed


def test_checking_changes_nothing(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        check_server(connection)
        found = connection.execute("SELECT count(*) FROM pg_extension WHERE extname = 'vector'").fetchone()
    assert found == (0,)


def test_a_server_without_pgvector_is_told_what_to_install(without_pgvector: str) -> None:
    said = refusal(without_pgvector)
    assert "pgvector 0.8 or newer is not installed on the server" in said
    assert "postgresql-15-pgvector" in said
    assert 'CREATE EXTENSION vector; in database "postgres"' in said


def test_all_that_is_missing_is_said_at_once(without_pgvector: str) -> None:
    with psycopg.connect(without_pgvector, autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        connection.execute("CREATE ROLE poor")
        connection.execute("ALTER DATABASE latin SET default_transaction_read_only = on")
    said = refusal(with_database(without_pgvector, "latin"), "poor")
    for part in ("LATIN1", "read only", "may not create a schema", "GRANT CREATE ON DATABASE", "pgvector"):
        assert part in said


def test_an_old_server_is_told_its_version(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # No server older than 15 is at hand: the line between old and new is moved instead.
    monkeypatch.setattr("embedmill.database.server.NEEDED_SERVER", 990000)
    said = refusal(empty_database)
    assert re.match(r"PostgreSQL 15 or newer is needed, this is 1\d\.\d+: upgrade the server", said)


def test_a_role_without_rights_is_told_what_an_administrator_must_run(empty_database: str, role: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(empty_database)["dbname"]
    said = refusal(empty_database, role)
    assert f'GRANT CREATE ON DATABASE "{name}" TO "visitor";' in said
    assert f'CREATE EXTENSION vector; in database "{name}"' in said


def test_a_role_without_use_of_the_schema_is_told_so(empty_database: str, role: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as owner:
        migrate(owner)
    assert 'GRANT USAGE ON SCHEMA embedmill TO "visitor"' in refusal(empty_database, role)


def test_a_role_that_may_all_it_needs_will_do(empty_database: str, role: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute("CREATE EXTENSION vector")
        connection.execute(f'GRANT CREATE ON DATABASE "{name}" TO visitor')
        connection.execute("SET SESSION AUTHORIZATION visitor")
        assert not check_server(connection).is_superuser
        assert migrate(connection).changed


def test_an_old_pgvector_is_told_how_to_update(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    assert "pgvector 0.8 or newer is needed, this is 0.7.4" in refusal(empty_database)
    assert "ALTER EXTENSION vector UPDATE; in database" in refusal(empty_database)


def connection_fault(url: str) -> str:
    with pytest.raises(psycopg.Error) as failed:
        psycopg.connect(url, connect_timeout=2)
    described = describe_connection_error(failed.value, url)
    assert isinstance(described, DatabaseUnreachableError)
    return str(described)


def test_each_way_not_to_connect_has_its_sentence(postgres16: str) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(postgres16)
    place = f"127.0.0.1:{parts['port']}"
    cases = {
        f"postgresql://owner:wr0ng@{place}/app": "user name or the password is wrong",
        f"postgresql://owner@{place}/app?passfile=/no/such/file": "a password is needed",
        with_database(postgres16, "nosuch"): 'there is no database "nosuch" on the server: make it',
        f"{postgres16}?sslmode=require": "the server has no TLS",
        "postgresql://me:h1dden@nohost.invalid/app": "host name is not known",
        "postgresql:///app?host=/no/such/folder": "nothing listens there",
    }
    for url, sentence in cases.items():
        said = connection_fault(url)
        assert sentence in said
        assert "EMBEDMILL_DATABASE_URL" in said or "nothing listens" in said


def test_a_closed_port_and_a_silent_host_are_told_apart() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        closed = f"postgresql://me@127.0.0.1:{port}/app"
        assert f"127.0.0.1:{port}" in connection_fault(closed)
        assert "nothing listens there" in connection_fault(closed)
        silent.listen(0)
        assert "cannot be reached" in connection_fault(closed)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:h1dden@127.0.0.1:1/app",
        "postgresql://me:h1dden@127.0.0.1:port/app",
        "postgresql://me:h1dden@127.0.0.1/app?nosuch=h1dden",
        "host=127.0.0.1 port=1 password=h1dden",
        "me:h1dden@127.0.0.1",
        "postgresql://me:h%31dden%20x@127.0.0.1:1/app",
        "postgresql://me:h1dden x@127.0.0.1:1/app",
        "",
    ],
)
def test_no_sentence_gives_the_password_away(url: str) -> None:
    error: psycopg.Error = psycopg.OperationalError(f"echo of {url} with h1dden x and h1dden")
    if url:
        with pytest.raises(psycopg.Error) as failed:
            psycopg.connect(url)
        error = failed.value
    said = str(describe_connection_error(error, url))
    assert not url or ("h1dden" not in said and "h%31dden" not in said)
