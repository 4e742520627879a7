"""Settings: frozen, typed, read once. The only module that reads the environment; must not know what a setting
is used for. docs/reference/settings.md lists them all, and a test holds that table against this class."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from embedmill.errors import ConfigurationError

PREFIX = "EMBEDMILL_"
_SECRET_NAME = re.compile(r"[A-Z][A-Z0-9_]*(API_KEY|TOKEN)")


def _default_data_dir() -> Path:
    """Where programs keep their data: XDG_DATA_HOME, or ~/.local/share."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "embedmill"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Each field is EMBEDMILL_<NAME> in the environment."""

    database_url: str | None = None
    """Your own PostgreSQL (15 or newer, pgvector 0.8 or newer). Unset: an embedded one under `data_dir`."""
    data_dir: Path = msgspec.field(default_factory=_default_data_dir)
    """Where the embedded database and downloaded models are kept."""
    tenant: str = "default"
    """On whose behalf the command line works."""
    calls_in_flight: Annotated[int, Meta(ge=1, le=256)] = 8
    """Provider calls that a worker has under way at once, for each pipeline."""
    local_threads: Annotated[int, Meta(ge=1)] | None = None
    """Threads of the local model. Unset: one for each core."""
    parser_processes: Annotated[int, Meta(ge=1, le=64)] = 2
    """Documents that are parsed at the same time, each in a process of its own."""
    parse_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 120.0
    """The time a document may take to parse."""
    parse_memory_mb: Annotated[int, Meta(ge=256)] = 2048
    """The address space a parsing process may use, in MiB."""
    max_file_mb: Annotated[float, Meta(gt=0, le=1_048_576)] = 256.0
    """The largest file that is taken in, in MiB."""
    host: str = "127.0.0.1"
    """Where the service listens. Anything but this machine itself needs API keys."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    """The port of the service; 0: any that is free."""
    service_database_url: str | None = None
    """How the service connects, where it has a login of its own (a member of embedmill_service). Unset: as
    everybody else, in the role embedmill_service."""
    originals_url: str | None = None
    """Where uploads are kept: s3://, gs:// or az:// with a bucket. Unset: a folder under `data_dir`."""
    max_request_mb: Annotated[float, Meta(gt=0, le=1_048_576)] = 2048.0
    """The largest request that the service reads, in MiB."""
    max_request_files: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """Files in one request."""
    requests_per_minute: Annotated[int, Meta(ge=1)] = 1200
    """Requests of a tenant that one service process answers in a minute, where the tenant has no limit of its own."""
    max_staged_jobs: Annotated[int, Meta(ge=1)] = 10_000
    """Jobs of a tenant that may wait for a parser, where the tenant has no limit of its own."""
    allowed_hosts: str = ""
    """Private hosts and networks that URLs and webhooks may name all the same, separated by commas."""
    log_level: str = "warning"
    """debug, info, warning or error; logs go to standard error."""
    log_format: str = "console"
    """console or json."""

    @property
    def metrics_dir(self) -> Path:
        return self.data_dir / "metrics"

    @property
    def models_dir(self) -> Path:
        return self.data_dir / "models"

    @property
    def allowed(self) -> list[str]:
        """Hosts and networks of `allowed_hosts`."""
        return [each.strip() for each in self.allowed_hosts.split(",") if each.strip()]

    @property
    def max_file_bytes(self) -> int:
        return int(self.max_file_mb * 1024 * 1024)


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. Raises ConfigurationError naming the variable that is wrong; '' counts as unset."""
    source = os.environ if environment is None else environment
    values = {
        field.name: source[PREFIX + field.name.upper()]
        for field in msgspec.structs.fields(Settings)
        if source.get(PREFIX + field.name.upper())
    }
    try:
        settings = msgspec.convert(values, Settings, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigurationError(_explain(str(error))) from error
    if settings.log_level.lower() not in {"debug", "info", "warning", "error"}:
        raise ConfigurationError(
            f"EMBEDMILL_LOG_LEVEL is debug, info, warning or error, not {settings.log_level!r}"
        )
    if settings.log_format not in {"console", "json"}:
        raise ConfigurationError(f"EMBEDMILL_LOG_FORMAT is console or json, not {settings.log_format!r}")
    return settings


def unknown_variables(environment: Mapping[str, str] | None = None) -> list[str]:
    """EMBEDMILL_ variables that name no setting and no secret: most likely a slip of the pen."""
    source = os.environ if environment is None else environment
    known = {PREFIX + field.name.upper() for field in msgspec.structs.fields(Settings)}
    return sorted(
        name
        for name in source
        if name.startswith(PREFIX) and name not in known and not _SECRET_NAME.fullmatch(name)
    )


def read_secret(name: str, environment: Mapping[str, str] | None = None) -> str | None:
    """The value of a secret, by the name of its variable, or from the file that NAME_FILE names; None where neither
    is set. Raises ConfigurationError for a file that cannot be read.

    Only names that end in API_KEY or TOKEN are read, so that a pipeline cannot be made to send some other
    part of the environment to a server of its maker's choice.
    """
    if not _SECRET_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot hold a key: the name of its environment variable must end in API_KEY or TOKEN"
        )
    source = os.environ if environment is None else environment
    if value := source.get(name):
        return value
    file = source.get(f"{name}_FILE")
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{name}_FILE: the secret cannot be read from {file}: {error}") from error


class OtelSignals(msgspec.Struct, frozen=True):
    """What goes to an OpenTelemetry collector."""

    traces: bool
    metrics: bool


def read_otel(environment: Mapping[str, str] | None = None) -> OtelSignals | None:
    """By OpenTelemetry's own variables, of which the SDK reads the rest: an endpoint (OTEL_EXPORTER_OTLP_ENDPOINT, or
    that of a signal) switches on, OTEL_SDK_DISABLED=true and OTEL_TRACES_EXPORTER=none (METRICS) off. None: nothing."""
    source = os.environ if environment is None else environment
    if source.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None

    def goes_out(signal: str) -> bool:
        endpoint = source.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or source.get(
            "OTEL_EXPORTER_OTLP_ENDPOINT"
        )
        exporter = source.get(f"OTEL_{signal}_EXPORTER", "").strip().lower()
        return bool(endpoint and endpoint.strip()) and exporter in ("", "otlp")

    signals = OtelSignals(goes_out("TRACES"), goes_out("METRICS"))
    return signals if signals.traces or signals.metrics else None


def _decode(kind: type, value: object) -> object:
    if kind is Path:
        return Path(str(value)).expanduser()
    raise NotImplementedError(f"settings of type {kind}")


def _explain(message: str) -> str:
    found = re.search(r"(?P<what>.*) - at `\$\.(?P<field>\w+)`", message)
    if found is None:
        return f"a setting is wrong: {message}"
    return f"{PREFIX}{found['field'].upper()} is wrong: {found['what'][0].lower()}{found['what'][1:]}"
