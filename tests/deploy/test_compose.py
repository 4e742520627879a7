"""deploy/compose.yaml and the Dockerfile: their commands, variables, paths and times are those of the program."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from embedmill.api.health import router
from embedmill.api.server import GRACE_SECONDS
from embedmill.database.pool import connect
from embedmill.fleet.seat import SeatOptions
from tests.deploy.shipped import DEPLOY, ROOT, parse_command, unknown_variables

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
OURS = ("migrate", "service", "worker")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def seconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_a_command_that_there_is(name: str) -> None:
    parse_command(COMPOSE["services"][name]["command"])


def test_commands_of_the_comments_and_of_the_image_exist() -> None:
    said = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    runs = re.findall(r"docker compose run --rm service (.*)", said)
    assert runs
    for arguments in runs:
        parse_command(shlex.split(arguments))
    command = re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert command is not None
    parse_command(yaml.safe_load(command[1]))


def test_every_variable_is_a_setting() -> None:
    for path in (
        DEPLOY / "compose.yaml",
        DEPLOY / "Dockerfile",
        *(DEPLOY / "secrets.example").iterdir(),
    ):
        assert unknown_variables(path.read_text(encoding="utf-8")) == set(), path.name


@pytest.mark.parametrize("name", OURS)
def test_containers_may_change_nothing_but_their_volumes(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    volumes = {volume.partition(":")[0] for volume in service["volumes"]}
    assert volumes <= COMPOSE["volumes"].keys()
    assert set(service["secrets"]) <= COMPOSE["secrets"].keys()


def test_the_end_of_a_container_leaves_time_for_the_drain() -> None:
    services = COMPOSE["services"]
    assert seconds(services["worker"]["stop_grace_period"]) > SeatOptions().stop_seconds
    assert seconds(services["service"]["stop_grace_period"]) > GRACE_SECONDS


def test_nothing_starts_before_the_schema_is_there() -> None:
    for name in ("service", "worker"):
        assert COMPOSE["services"][name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"}
        }


def test_example_secrets_are_all_that_compose_wants_and_none_is_real() -> None:
    wanted = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    wanted |= {Path(COMPOSE["services"][name]["env_file"]).name for name in OURS}
    there = {path.name for path in (DEPLOY / "secrets.example").iterdir()}
    assert wanted == there
    for path in (DEPLOY / "secrets.example").iterdir():
        assert "CHANGE-ME" in path.read_text(encoding="utf-8")


def test_the_image_is_checked_where_the_service_answers() -> None:
    health = re.search(r"HEALTHCHECK .*?\n(?=ENTRYPOINT)", DOCKERFILE, re.DOTALL)
    assert health is not None
    path = re.search(r"'(/\w+)'", health[0])
    assert path is not None
    assert path[1] in {route.path for route in router.routes}  # type: ignore[attr-defined]
    code = re.search(r'"(import os.*?)"\]', health[0], re.DOTALL)
    assert code is not None
    compile(code[1], "HEALTHCHECK", "exec")


def test_the_image_runs_as_nobody_in_particular_from_hashed_locks() -> None:
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert copied
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignore[1] == "*", "all that is not named stays out"
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name.strip('./')}" in ignore, f"{name} is copied and ignored"
    installs = re.findall(r"pip install (.*)", DOCKERFILE)
    assert len(installs) == 3
    for arguments in installs:
        assert "--no-deps" in arguments
        assert "--require-hashes" in arguments or arguments.endswith(" .")


def test_the_lock_installs_by_hash_and_without_an_address_as_the_image_does_it(tmp_path: Path) -> None:
    """A part of it, from a wheel that is made here: the real lock would take minutes. That pip refuses another file."""
    wheel = tmp_path / "wheels" / "small-1-py3-none-any.whl"
    make_wheel(wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock = tmp_path / "requirements.lock"

    def install(sha256: str) -> subprocess.CompletedProcess[str]:
        lock.write_text(f"small==1 --hash=sha256:{sha256}\n")
        return subprocess.run(
            [sys.executable, "-m", "pip", "install", "--require-hashes", "--no-deps", "--no-index",
             "--find-links", str(wheel.parent), "--target", str(tmp_path / "site"), "-r", str(lock)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert install(digest).returncode == 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in install("0" * 64).stderr
    for name in ("requirements.lock", "requirements-model.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text, "an address of a registry"
        pinned = re.findall(r"^[\w.\[\]-]+==.*\\$", text, re.MULTILINE)
        assert len(pinned) == len(re.findall(r"^[\w.\[\]-]+[=<>~@ ]", text, re.MULTILINE)), "all are pinned"


def make_wheel(path: Path) -> None:
    import zipfile

    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("small.py", "")
        archive.writestr("small-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1\n")
        archive.writestr(
            "small-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("small-1.dist-info/RECORD", "")


def test_words_of_the_database_come_from_a_file(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The URL of compose.yaml, with a service file as its example has it."""
    url = COMPOSE["x-embedmill"]["environment"]["EMBEDMILL_DATABASE_URL"]
    parts = psycopg.conninfo.conninfo_to_dict(database)
    example = (DEPLOY / "secrets.example" / "pg_service.conf").read_text(encoding="utf-8")
    for key in ("host", "dbname", "user", "password"):
        line = f"{key}={parts.get(key, '')}"
        example, changed = re.subn(rf"^{key}=.*$", lambda _, line=line: line, example, flags=re.MULTILINE)
        assert changed == 1
    if "port" in parts:
        example += f"port={parts['port']}\n"
    file = tmp_path / "pg_service.conf"
    file.write_text(example)
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    with connect(url) as connection:
        row = connection.execute("SELECT current_database()").fetchone()
    assert row == (parts["dbname"],)
