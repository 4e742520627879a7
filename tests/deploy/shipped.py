"""Reads what deploy/ ships: command lines, variables, manifests. Owns the reading; must not assert."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from embedmill.cli.main import app
from embedmill.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
VARIABLE = re.compile(rf"{PREFIX}[A-Z0-9_]+")
SETTINGS = {PREFIX + field.name.upper() for field in msgspec.structs.fields(Settings)}
SECRET = re.compile(rf"{PREFIX}[A-Z0-9_]*(API_KEY|TOKEN)")


def unknown_variables(text: str) -> set[str]:
    """EMBEDMILL_ names that are neither a setting nor a secret."""
    return {name for name in VARIABLE.findall(text) if name not in SETTINGS and not SECRET.fullmatch(name)}


def parse_command(arguments: Sequence[str]) -> click.Command:
    """The command that these arguments run, parsed by the real options but not run. Raises click.ClickException."""
    command: click.Command = app
    rest = list(arguments)
    while isinstance(command, click.Group):
        if not rest or rest[0] not in command.commands:
            raise click.UsageError(f"there is no command {rest[:1]} in {command.name}")
        command = command.commands[rest.pop(0)]
    with command.make_context(command.name, rest, resilient_parsing=False):
        return command


def manifests(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file name, manifest) of every document of a folder."""
    for path in sorted(folder.glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield path.name, manifest


def unit(name: str) -> dict[str, list[str]]:
    """The directives of a systemd unit, each with its values in order."""
    directives: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / name).read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            directives.setdefault(key, []).append(value.strip().strip('"'))
    return directives
